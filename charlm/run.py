"""A trained run, loaded: sample from it, score texts with it, look into its model.

Axes: B texts side by side, T symbols, V symbols of the model.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from html import escape
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.run_folder import find_run as find_named_run
from charlm.checkpoint.snapshot import Snapshot, read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.documents import separator_of
from charlm.data.normalize import normalize
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary, without_ends
from charlm.errors import CheckpointError, TextError, UsageError
from charlm.inference.context import ContextRule
from charlm.inference.generate import Ended, Piece, default_prompt, generate
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.inference.recent import without_recent
from charlm.inference.sampling_config import SamplingConfig
from charlm.settings import settings_of
from charlm.terminal import one_line
from charlm.threads import threads_restored
from charlm.training.describe import joined, text_name
from charlm.training.device import pick_device
from charlm.training.request import Messages, build, refuse_unknown
from charlm.training.request_text import report_moved
from charlm.training.run_corpus import Moved, corpus_of
from charlm.training.state import overview

if TYPE_CHECKING:
    from charlm.data.verbatim import VerbatimReport
    from charlm.evaluation.report import Evaluation
    from charlm.evaluation.surprisal import Unit

OTHER = "\ufffd"
"""The key in `Run.next` for all characters that are encoded in several bytes."""
REPORT, REPORT_HEIGHT = "report.html", 720


def runs_root(checkpoints: str | os.PathLike[str] | None) -> Path:
    """Return the folder of runs."""
    named = os.fspath(checkpoints) if checkpoints is not None else os.environ.get("CHARLM_CHECKPOINTS")
    return Path(os.path.expanduser(named or "checkpoints"))


def find_run(
    run: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    messages: Messages | None = None,
) -> RunFolder:
    """Find the folder of a run by its name, by its path, or the newest. Raises CheckpointError."""
    if run is not None:
        path = Path(os.path.expanduser(os.fspath(run)))
        if len(path.parts) > 1 and (path / "run.json").is_file():
            return RunFolder(path)
    name = None if run is None else os.fspath(run)
    return find_named_run(runs_root(checkpoints), name, (messages or Messages()).warn)


def load(
    run: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | int | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    messages: Messages | None = None,
) -> "Run":
    """Load a trained run: by its name, by its path, or the newest.

    `checkpoint` is "latest", "best" or a step; by default the latest, or the best after early stopping.
    `checkpoints` is the folder of runs, by default $CHARLM_CHECKPOINTS or `checkpoints/`. `device`: where
    transformers run, `cpu`, `cuda`, `mps` or `auto` (a GPU that works, else the CPU). Raises CheckpointError,
    UsageError.
    """
    found = find_run(run, checkpoints, messages)
    return Run(found, None if checkpoint is None else str(checkpoint), device, messages)


class Run:
    """A trained run at one checkpoint. In a notebook it shows its report."""

    def __init__(
        self,
        folder: RunFolder,
        checkpoint: str | None = None,
        device: str = "cpu",
        messages: Messages | None = None,
    ) -> None:
        """Use `load` instead. Raises CheckpointError for a damaged checkpoint, UsageError if there is no such device."""
        self._folder, self._wanted, self._messages = folder, pick_device(device), messages or Messages()
        self.which = checkpoint or "latest"
        """`latest`, `best` or the step."""
        self.snapshot: Snapshot = read_snapshot(folder, self.which)
        if checkpoint is None and self.snapshot.finished == "early":
            self.which = "best"
            self.snapshot = read_snapshot(folder, self.which)
        if device not in ("auto", "cpu") and self.snapshot.model_config.is_ngram:
            raise UsageError(
                f"--device {device} has no effect on {one_line(self.name)}: it is an n-gram model, which computes on the "
                "CPU; leave it out"
            )

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._folder.path.name

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.snapshot.step

    @property
    def text_config(self) -> TextConfig:
        """How the run read and split its text."""
        return self.snapshot.run.text

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor of the run, by the contract of `charlm.inference.predictor`."""
        return predictor_of(self.snapshot, self._wanted, say=self._messages.say)

    @property
    def device(self) -> torch.device:
        """Where the model runs: the CPU also if the GPU cannot run this model."""
        return self.predictor.device

    @property
    def model(self) -> torch.nn.Module:
        """The transformer, in evaluation mode: ids (B, T) to logits (B, T, V).

        UsageError for an n-gram model, and for a mixture.
        """
        predictor = without_recent(self.predictor)
        if not isinstance(predictor, TransformerPredictor):
            mixed = predictor.mixed
            what = f"a mixture of {joined(mixed)}" if mixed else "an n-gram model"
            raise UsageError(f"{self.name} is {what}, which is no torch module; use score, next and sample")
        return predictor.model

    @property
    def tokenizer(self) -> Vocabulary:
        """Its `encode(text)` gives ids (N,), its `decode(ids)` the text."""
        return self.snapshot.vocabulary

    @overload
    def sample(
        self, prompt: str | None = ..., *, length: int = ..., n: None = ..., **settings: Any
    ) -> str: ...
    @overload
    def sample(
        self, prompt: str | None = ..., *, length: int = ..., n: int, **settings: Any
    ) -> list[str]: ...
    def sample(
        self, prompt: str | None = None, *, length: int = 500, n: int | None = None, **settings: Any
    ) -> str | list[str]:
        """Write text that continues a prompt, without the prompt; a list of texts where `n` is given.

        `length` in characters. `settings`: seed, temperature, top_k, top_p and others of `charlm sample`;
        `stop`, a text or several to stop before; `one_document=True` stops where the document ends; `regex`, a
        pattern that each text matches as a whole. The same seed gives the same text on the same machine, the text of
        `charlm sample`. Raises UsageError.
        """
        [written] = self._written([prompt], length, 1 if n is None else n, settings)
        return written[0] if n is None else written

    def sample_each(
        self, prompts: Sequence[str], *, length: int = 500, n: int = 1, **settings: Any
    ) -> list[list[str]]:
        """Write `n` texts for each of many prompts, side by side; a list of them for each prompt.

        Prompt number j, from 0, is continued as `sample` continues it with the seed `seed` + j; the settings are those of
        `sample`. Raises UsageError.
        """
        if isinstance(prompts, str):
            raise UsageError("prompts must be a list of texts; for a single one use sample")
        return self._written(prompts, length, n, settings)

    def _written(
        self, prompts: Sequence[str | None], length: int, n: int, settings: dict[str, Any]
    ) -> list[list[str]]:
        pieces = self._generate(prompts, length, n, settings)
        written = [[""] * n for _ in prompts]
        for piece in pieces:
            written[piece.prompt][piece.sample] += piece.text
        return written

    def stream(self, prompt: str | None = None, *, length: int = 500, **settings: Any) -> Iterator[str]:
        """Yield the text of `sample` in pieces, as it is written. Raises UsageError, at the call."""
        return (piece.text for piece in self._generate([prompt], length, 1, settings))

    def _generate(
        self, prompts: Sequence[str | None], length: int, n: int, settings: dict[str, Any]
    ) -> Iterator[Piece]:
        stop, one_document = settings.pop("stop", ()), bool(settings.pop("one_document", False))
        regex = settings.pop("regex", None)
        refuse_unknown(settings, [setting.name for setting in settings_of(SamplingConfig)])
        for name, value in {"length": length, "n": n}.items():
            if type(value) is not int or value < 1:
                raise UsageError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if regex is not None and not isinstance(regex, str):
            raise UsageError(f"regex is {regex!r}; it must be a pattern, a string")
        config = build(SamplingConfig, settings)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in stops:
            raise UsageError("stop is empty; give the text to stop before")
        given = [None if prompt is None else self.read_prompt(prompt) for prompt in prompts]
        events = self.generate(
            given, config, length=length, n=n, stops=stops, one_document=one_document, regex=regex
        )

        def pieces() -> Iterator[Piece]:
            while True:
                with self._fastest():
                    event = next(events, None)
                if event is None:
                    return
                if isinstance(event, Piece):
                    yield event

        return pieces()

    def generate(
        self,
        prompts: Sequence[str | None],
        config: SamplingConfig,
        *,
        length: int,
        n: int = 1,
        stops: Sequence[str] = (),
        one_document: bool = False,
        regex: str | None = None,
        surprisal: bool = False,
    ) -> Iterator[Piece | Ended]:
        """Continue prompts, which are read as they stand, and yield the text of all samples in pieces.

        `surprisal`: include that of each character. A prompt of None is the default prompt. A `top_k` above the number of
        symbols is lowered to it. Raises UsageError, at the call.
        """
        if regex is not None and (stops or one_document):
            other = "stop" if stops else "one_document"
            raise UsageError(
                f"`{other}` has no effect with `regex`, which says where a sample ends; leave one out"
            )
        if one_document and self.tokenizer.end is None:
            raise UsageError(
                "`one_document` has no effect on this model, which was trained without `documents`; leave it out"
            )
        if config.top_k is not None:
            config = replace(config, top_k=min(config.top_k, self.tokenizer.n_symbols))
        default = default_prompt(self.predictor)
        return generate(
            self.predictor,
            [default if prompt is None else prompt for prompt in prompts],
            config,
            n=n,
            length=length,
            stops=stops,
            one_document=one_document,
            document_separator=separator_of(self.text_config),
            regex=regex,
            surprisal=surprisal,
        )

    @contextmanager
    def _fastest(self) -> Iterator[None]:
        """Use a single torch thread within the block, where that is faster."""
        with threads_restored():
            if self.predictor.single_threaded:
                torch.set_num_threads(1)
            yield

    def read_prompt(self, prompt: str) -> str:
        """Normalize a prompt as the run's text was. Raises UsageError for half of a surrogate pair."""
        _check_valid("the prompt", prompt)
        return normalize(prompt, self.text_config)

    def evaluate(
        self,
        *paths: str | os.PathLike[str],
        texts: Sequence[str] | None = None,
        part: Literal["held-out", "test"] | None = None,
        stride: int | None = None,
        encoding: str | None = None,
        field: str | None = None,
    ) -> "Evaluation":
        """Measure how well the run predicts files, `texts`, or a part of its own text (default: "held-out").

        Returns the object behind `charlm eval --json`: `bits_per_char`, `baselines`, `warnings`, `to_json()`
        and others. `stride`: symbols scored per block, by default half of `block_size`. Raises TextError,
        UsageError, and CheckpointError where the run's own text is needed and gone.
        """
        if (bool(paths) + (texts is not None) + (part is not None)) > 1:
            raise UsageError("give only one of paths, texts and part")
        named: Sequence[tuple[str, str]] | None = None
        if paths:
            from charlm.data.reader import read_texts  # here: not needed to sample

            names = [os.path.expanduser(os.fspath(path)) for path in paths]
            named = list(read_texts(names, self.text_config, encoding=encoding, field=field).files)
        elif texts is not None:
            named = [(f"text {i}", self.read_prompt(text)) for i, text in enumerate(texts)]
            if not all(text for _, text in named):
                raise TextError("one of the texts is empty; leave it out")
        return evaluate_run(self, named, part or "held-out", stride)

    def verbatim(self, texts: Sequence[str]) -> "VerbatimReport":
        """Measure how much of each text is copied word for word from the training text, and how much of held-out text is.

        Raises UsageError where a text is not valid, and CheckpointError where the training text is gone.
        """
        from charlm.data.verbatim import verbatim  # here: not needed to sample

        for text in texts:
            _check_valid("the text", text)
        corpus = text_of_run(self.snapshot, Messages(), needed=True)
        assert corpus is not None, "what is needed and gone is refused"
        work = verbatim(corpus, texts)
        while True:
            try:
                next(work)
            except StopIteration as end:
                report: VerbatimReport = end.value
                return report

    def score(self, text: str) -> NDArray[np.float64]:
        """Return the bits of each character of a text, given those before it: (characters,). `evaluate` reports their mean.

        The text is scored as it stands. Raises UsageError where it is not valid text.
        """
        _check_valid("the text", text)
        if not text:
            return np.empty(0)
        from charlm.evaluation.score import score_text  # here: not needed to sample

        return score_text(self.predictor, "", text).bits

    def surprisal(
        self,
        text: str | Iterable[str],
        *,
        by: Literal["char", "word", "line"] = "word",
        words: Literal["unicode", "whitespace"] | None = None,
        space: Literal["after", "before", "none"] | None = None,
        context: Literal["document", "line"] | None = None,
        groups: Literal["blank-line", "id"] | None = None,
        best: bool = False,
        stride: int | None = None,
    ) -> "Iterator[Unit]":
        """Yield the characters, words or lines of a text with their surprisal and the entropy before them.

        These are the rows of `charlm surprisal`: named tuples with `text`, `bits`, `entropy_bits`, `line`, `offset` and
        others. An iterable of strings is one text in pieces, which may be of any length. The text is scored as it
        stands. Raises UsageError, for wrong arguments at the call.
        """
        from charlm.evaluation.rescoring import surprisal_rows  # here and below: not needed to sample
        from charlm.evaluation.surprisal import Surprisal
        from charlm.evaluation.surprisal_config import SurprisalConfig

        given = {"by": by, "words": words, "space": space, "context": context, "groups": groups, "best": best}
        config = build(SurprisalConfig, given)
        scorer = Surprisal(self.predictor, config, self.context_rule(stride))
        return surprisal_rows(scorer, config, "text", _valid([text] if isinstance(text, str) else text))

    def context_rule(self, stride: int | None = None) -> ContextRule:
        """Return the rule of which context each prediction may see. Raises UsageError if `stride` is not allowed."""
        rule = self.predictor.rule
        if stride is None:
            return rule
        try:
            if self.snapshot.model_config.is_ngram:
                return ContextRule.of_model(self.snapshot.model_config, stride)
            return ContextRule.of(rule.block_size, stride, carried=rule.carried)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def next(self, prompt: str = "", *, recent: bool = True) -> dict[str, float]:
        """Return the probabilities of the next character after a prompt, by character; they sum to one.

        Characters that are encoded in several bytes share the key U+FFFD. Where the model tells documents
        apart, the prompt begins one, and the key "" is its end. `recent=False` leaves recent n-grams out, as samples do.
        """
        vocabulary, predictor = self.tokenizer, self.predictor if recent else without_recent(self.predictor)
        first = [] if vocabulary.end is None else [vocabulary.end]
        ids = np.concatenate((first, vocabulary.encode(self.read_prompt(prompt)))).astype(np.int64)
        with self._fastest():
            _, logp = predictor.step(predictor.start(1), torch.from_numpy(ids)[None])  # (1, V)
        return self.by_character(logp[0])

    def by_character(self, logp: torch.Tensor) -> dict[str, float]:
        """Sum probabilities by character, with the keys of `next`, from log-probabilities (V,) of every id."""
        found: dict[str, float] = {}
        for symbol, p in zip(self._names, logp.double().exp().tolist(), strict=True):
            found[symbol] = found.get(symbol, 0.0) + p
        return found

    @cached_property
    def _names(self) -> list[str]:
        return _symbols(self.tokenizer)

    def __repr__(self) -> str:
        figure = overview(self._folder).get("nats_per_char")
        bits = "" if figure is None else f", {figure / log(2):.4f} bits/char held-out"
        return f"<charlm run {self.name}: step {self.step}{bits}; {one_line(str(self.path))}>"

    def _repr_html_(self) -> str:
        """Return the report in an iframe, or the repr if there is no report."""
        try:
            page = (self.path / REPORT).read_text("utf-8")
        except (OSError, ValueError):
            return f"<pre>{escape(repr(self))}</pre>"
        return (
            f'<iframe srcdoc="{escape(page)}" title="{escape(self.name)}" sandbox '
            f'style="width: 100%; height: {REPORT_HEIGHT}px; border: 0"></iframe>'
        )


def evaluate_run(
    run: Run,
    texts: Sequence[tuple[str, str]] | None,
    part: str,
    stride: int | None,
    *,
    moved: Moved | None = None,
    messages: Messages | None = None,
) -> "Evaluation":
    """Score named texts, or a part of the run's own text if there are none, and compute baselines."""
    messages = messages or Messages()
    corpus = text_of_run(run.snapshot, messages, needed=texts is None, moved=moved)
    if texts is None:
        assert corpus is not None
        texts = [_part(run, corpus, part)]
    rule = run.context_rule(stride)
    from charlm.evaluation.report import evaluate  # here: not needed to sample

    with messages.progress("scoring", " symbols") as watch:
        return evaluate(run.snapshot, run.which, texts, rule, corpus, run.predictor, watch)


def part_of_run(run: Run, part: str, moved: Moved | None, messages: Messages) -> tuple[str, str]:
    """Return the name and the text of a part of the run's own text. Raises CheckpointError where it is gone, TextError."""
    corpus = text_of_run(run.snapshot, messages, needed=True, moved=moved)
    assert corpus is not None
    return _part(run, corpus, part)


def _part(run: Run, corpus: Corpus, part: str) -> tuple[str, str]:
    text = corpus.test_text() if part == "test" else corpus.held_out_text()
    if not without_ends(text):
        missing = (
            "has no test part; train with --test 0.05 to create one, or"
            if part == "test"
            else "has no held-out part;"
        )
        raise TextError(f"this run {missing} name a file to score")
    return f"{part} part of {text_name(run.snapshot.run)}", text


def text_of_run(
    snapshot: Snapshot, messages: Messages, *, needed: bool, moved: Moved | None = None
) -> Corpus | None:
    """Open the text that a run was trained on; None if it is gone and not `needed`. Raises CheckpointError.

    `moved`: where it is now, which makes it needed.
    """
    try:
        corpus = corpus_of(snapshot, moved)
    except CheckpointError as error:
        if needed or moved is not None:
            raise
        messages.warn(
            f"{error}; without that text, charlm cannot compute baselines or find passages seen in training"
        )
        return None
    report_moved(corpus.uncached, moved, messages)
    return corpus


def _valid(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a text. Raises UsageError for half of a surrogate pair."""
    for piece in pieces:
        _check_valid("the text", piece)
        yield piece


def _check_valid(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not valid text: it contains half of a surrogate pair") from None


def _symbols(vocabulary: Vocabulary) -> list[str]:
    """Return what each id stands for, (V,), as `Run.next` names it."""
    found = [spelling.decode("utf-8", "replace") for spelling in vocabulary.spellings]
    for byte in range(128):
        if chr(byte) in vocabulary.chars:  # then its byte alone never encodes it
            found[vocabulary.id_of_byte[byte]] = OTHER
    return found
