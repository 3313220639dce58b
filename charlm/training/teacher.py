"""Distillation: a student learns, besides the text, what another run, its teacher, predicts at each position of it.

Shapes: V symbols of the model, B windows of T symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.checkpoint.run_folder import RunFolder, TeacherFacts, find_run
from charlm.checkpoint.safe_io import NGRAM_FILE, read_manifest
from charlm.checkpoint.snapshot import Snapshot, read_chosen
from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError, UsageError
from charlm.inference.members import own_rule, predictor_of
from charlm.inference.predictor import Edges, Predictor
from charlm.ngram.build import build, spread_chars, training_folds
from charlm.terminal import first_of, one_line
from charlm.training.device import keep_memory, precision_context
from charlm.training.sizes import Budget, Size

MOST_NUMBERS = 1 << 28
"""Limit on the teacher's probabilities that are kept, in float16: half a gigabyte."""
TIME_SHARE = 0.2
"""Most of a time budget, for the teacher's pass over the text."""
NGRAM_SECONDS = 2.5e-6
"""Time that n-grams and the mixture add for each symbol."""


@dataclass(frozen=True)
class Teacher:
    """A checkpoint of any kind whose probabilities another run learns (Hinton et al. 2015, arXiv 1503.02531).

    The student's loss is (1 - w) times the cross-entropy with the text plus w times that with the teacher's
    distribution, which tells which other symbols were likely. The teacher's n-grams leave out the fold of the text
    that a position is in, as in training; its transformers were trained on the text, so they are overconfident there.
    """

    name: str
    snapshot: Snapshot
    weights_sha256: str
    ngram_sha256: str | None

    @classmethod
    def load(cls, run: RunFolder, which: str | None) -> "Teacher":
        """Load a checkpoint of a run: by default the latest, or the best after early stopping. Raises CheckpointError."""
        snapshot = read_chosen(run, which)
        manifest = read_manifest(run.folder(snapshot.step))
        ngram = manifest.run_files.get(NGRAM_FILE)
        weights = manifest.weights_sha256
        return cls(run.path.name, snapshot, weights, None if ngram is None else ngram.sha256)

    @classmethod
    def reload(cls, root: Path, facts: TeacherFacts) -> "Teacher":
        """Load the teacher of a resumed run. Raises CheckpointError if it is missing or has changed."""
        name = one_line(facts.run)
        needed = f"to train this run further, charlm needs its teacher, {name}, at step {facts.step}"
        try:
            found = cls.load(find_run(root, facts.run), str(facts.step))
        except (CheckpointError, UsageError) as error:
            raise CheckpointError(f"{needed}: {error}") from None
        if found.facts() != facts:
            raise CheckpointError(
                f"{needed}, with the weights {facts.weights_sha256[:16]}; those there are others, "
                f"{found.weights_sha256[:16]}"
            )
        return found

    def facts(self) -> TeacherFacts:
        """Return the teacher as run.json records it."""
        return TeacherFacts(
            run=self.name,
            step=self.snapshot.step,
            weights_sha256=self.weights_sha256,
            ngram_sha256=self.ngram_sha256,
        )

    def check_text(self, corpus: Corpus) -> None:
        """Raise UsageError unless the teacher was trained on this text with this split.

        Otherwise the student would learn from its held-out text.
        """
        was, name = self.snapshot.run.corpus, one_line(self.name)
        label = one_line(was.label)
        if corpus.sha256 != was.sha256:
            got = f"it was trained on {label}, SHA-256 {was.sha256[:16]}, and this text has {corpus.sha256[:16]}"
        elif corpus.key != was.key:
            got = f"other parts of {label} were held out, or other characters were spelled in bytes"
        elif corpus.vocabulary != self.snapshot.vocabulary:
            got = (
                f"its vocabulary differs: {first_of(corpus.vocabulary.differences(self.snapshot.vocabulary))}"
            )
        else:
            return
        raise UsageError(
            f"{name} cannot be the teacher: {got}; train it on the same text, divided in the same way"
        )

    def most_chars(self, budget: Budget, n_symbols: int) -> int:
        """Return the most symbols that it can be asked about, within limits of memory and time."""
        most = MOST_NUMBERS // n_symbols
        if budget.seconds is None or self.snapshot.model_config.is_ngram:
            return most
        seconds = NGRAM_SECONDS
        members = [(member.model_config, member.training_config) for member in self.snapshot.earlier]
        for configs in (*members, (self.snapshot.model_config, self.snapshot.training_config)):
            seconds += budget.scoring_seconds(configs[0].kind, Size.of(*configs))
        return max(1, min(most, int(TIME_SHARE * budget.seconds / seconds)))

    def predictor(self, corpus: Corpus) -> tuple[Predictor, Edges | None]:
        """Return its predictor for the training text, and the edges of the folds that its n-grams can leave out."""
        snapshot, ngram = self.snapshot, self.snapshot.kneser_ney()
        if ngram is None:
            return predictor_of(snapshot), None
        training, vocabulary = snapshot.training_config, corpus.vocabulary
        folds = training_folds(len(corpus.train), training.reserved_chars or 0)
        built = build(  # again, since the saved model has no counts of folds
            corpus.train,
            vocabulary.n_symbols,
            ngram.order,
            memory=training.prior_memory << 20,
            most=training.prior_chars,
            folds=folds,
            end=vocabulary.end,
        )
        return predictor_of(snapshot, ngram=built.model), folds


class SoftTargets:
    """The distributions that a student learns: the next symbol of the text, mixed with the teacher's prediction."""

    def __init__(
        self,
        teacher: Teacher,
        corpus: Corpus,
        training: TrainingConfig,
        watch: Callable[[int, int], None],
    ) -> None:
        """Ask the teacher about as much of the training text as `training` says; `watch` is called with the progress."""
        assert training.teacher_weight is not None
        text, V = corpus.train, corpus.vocabulary.n_symbols
        n = len(text) - (training.reserved_chars or 0)
        spans = spread_chars(n, training.teacher_chars or n)
        self.weight = training.teacher_weight
        self.starts, self.ends = np.array(spans).T
        lengths = self.ends - self.starts
        self.n_asked = int(lengths.sum())
        self.offsets = np.cumsum(lengths) - lengths  # of each part in the rows
        self.rows = np.zeros((self.n_asked + 1, V), np.float16)  # the last row: not asked about
        keep_memory()
        with precision_context(torch.device("cpu"), training.precision):
            predictor, folds = teacher.predictor(corpus)
            rule = own_rule(predictor, predictor.rule)
            asked = (range(rule.chunk_of(max(1, a)), rule.chunk_of(b - 1) + 1) for a, b in spans)
            chunks = sorted({k for of_part in asked for k in of_part})
            for i, logp in enumerate(predictor.distributions(text, chunks, rule, folds=folds)):
                part = rule.chunk(chunks[i], len(text))
                rows = self._rows_of(np.arange(part.first, part.end))
                p = torch.softmax(logp[:, :V].float(), dim=-1).numpy()
                self.rows[rows[rows < self.n_asked]] = p[rows < self.n_asked]
                watch(self.n_asked * (i + 1) // len(chunks), self.n_asked)

    def _rows_of(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of these positions of the text."""
        part = np.searchsorted(self.starts, at, side="right") - 1  # the first part begins at 0
        inside = at < self.ends[part]
        return np.where(inside, at - self.starts[part] + self.offsets[part], self.n_asked)

    def batch(self, ids: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the target distributions (B, T, V) of windows of ids (B, T + 1) that start at positions `starts` (B,).

        Where the teacher was not asked, a target is the symbol alone.
        """
        at = starts[:, None] + np.arange(1, ids.shape[1])
        soft = self.rows[self._rows_of(at)].astype(np.float32)
        soft *= self.weight
        symbols = ids[:, 1:, None]
        rest = 1 - soft.sum(axis=-1, keepdims=True)
        np.put_along_axis(soft, symbols, np.take_along_axis(soft, symbols, axis=-1) + rest, axis=-1)
        return soft
