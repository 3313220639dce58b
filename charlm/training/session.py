"""The session: all that a run's next step depends on (model, optimizer, text, configurations, plan, state).

They are a pure function of the step, so that it does not matter when they are made, or by whom.
Axes: B windows, T symbols, V symbols of the model.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus, Windows
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.errors import CheckpointError
from charlm.inference.predictor import TransformerPredictor
from charlm.model.transformer import LanguageModel, initialise
from charlm.native import compiler as compiled
from charlm.native.compiler import Compilation
from charlm.ngram.build import Built
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.prior import LogRows, TrainingPrior
from charlm.rng import uniform
from charlm.threads import threads
from charlm.training.device import pick_device
from charlm.training.forgetting import OldText
from charlm.training.guards import Divergence
from charlm.training.optimizer import Optimizer, Rates
from charlm.training.planner import Plan
from charlm.training.state import RunState

LEFT_OUT = 2
"""Tells the random numbers here from those that windows are drawn by."""


class PriorRows:
    """What the counts say at every position of a batch, each without its own fold of the text.

    What is being compiled to make them faster is used from when it is there; they are the same without.
    """

    def __init__(
        self, prior: TrainingPrior, windows: Windows, dropout: float, compiling: Compilation | None = None
    ) -> None:
        self.prior, self.windows, self.dropout = prior, windows, dropout
        self._compiling = compiling
        self._thread = ThreadPoolExecutor(1) if threads() > 1 else None
        self._ahead: tuple[int, Future[LogRows]] | None = None

    def batch(self, step: int) -> LogRows:
        """Of `step`: (B, T, V). Where there is a thread to spare, those of the next step are begun."""
        ahead, self._ahead = self._ahead, None
        rows = ahead[1].result() if ahead is not None and ahead[0] == step else self.made(step)
        if self._thread is not None:
            self._ahead = (step + 1, self._thread.submit(self.made, step + 1))
        return rows

    def made(self, step: int) -> LogRows:
        """The same, made here and now. Some windows are left without: their rows are zeros."""
        windows = self.windows
        if self._compiling is not None and not self._compiling.waits:
            library, self._compiling = self._compiling.library(), None
            self.prior.model.use_library(library)
        rows = self.prior.log_rows(windows.starts(step), windows.block_size)
        if self.dropout:
            draws = uniform(windows.seed, step, np.arange(windows.batch_size), LEFT_OUT)
            rows[draws < self.dropout] = 0
        return rows


class Session:
    """A run in memory. `snapshot` takes it out, `restore` puts it back, bit for bit."""

    def __init__(
        self,
        corpus: Corpus,
        model: ModelConfig,
        training: TrainingConfig,
        plan: Plan,
        run: dict[str, Any],
        beside: Sequence[Ids] = (),
    ) -> None:
        """`beside`: texts of before that are counted too, where the model begins from counts."""
        assert model.block_size and training.batch_size
        self.old_text: OldText | None = None  # of the run that this one goes on from
        self.corpus, self.plan, self.run = corpus, plan, run
        self.model_config, self.training_config = model, training
        self.device = pick_device(training.device)
        self.windows = Windows(len(corpus.train), model.block_size, training.batch_size, training.seed)
        self.model = LanguageModel(model, corpus.vocabulary.n_symbols)
        initialise(self.model, torch.Generator().manual_seed(training.seed))
        self.model.to(self.device).train()
        compiling = compiled.compile_ngram_rows() if model.prior else None  # while the text is counted
        self.prior = self._counted(beside)
        self.counts = None if self.prior is None else self.prior.model.to_bytes()
        self.prior_rows = (
            None
            if self.prior is None
            else PriorRows(self.prior, self.windows, model.prior_dropout or 0.0, compiling)
        )
        assert training.optimizer is not None
        self.optimizer = Optimizer(
            self.model,
            training.optimizer,
            training.weight_decay,
            ngram_embedding_accumulator=(training.ngram_embedding_accumulator or 0.0)
            / self.chars_per_step**2,  # a step's loss is a mean
            precision=training.precision or "fp32",
        )
        self.state = RunState(Divergence(unigram_nats(corpus.vocabulary)))
        self.predictor = TransformerPredictor(self.model, corpus.vocabulary, prior=self.kneser_ney)

    @classmethod
    def resumed(cls, snapshot: Snapshot, corpus: Corpus, plan: Plan, beside: Sequence[Ids] = ()) -> "Session":
        """The session that a checkpoint was taken of, under the plan in force."""
        session = cls(corpus, snapshot.model_config, snapshot.training_config, plan, snapshot.run, beside)
        if session.counts != snapshot.ngram:
            raise CheckpointError("the counts of this run are not those of its text; it cannot go on exactly")
        session.restore(snapshot)
        return session

    def _counted(self, beside: Sequence[Ids]) -> TrainingPrior | None:
        """The training text's counts, for a model that begins from them."""
        config, training = self.model_config, self.training_config
        if not config.prior:
            return None
        assert config.prior_order is not None
        return TrainingPrior.of(
            self.corpus.train,
            self.corpus.vocabulary.n_symbols,
            config.prior_order,
            memory=training.prior_memory << 20,
            most=training.prior_chars,
            end=self.corpus.vocabulary.end,
            beside=beside,
        )

    @property
    def kneser_ney(self) -> KneserNey | None:
        """The counts that the model begins from, if it does."""
        return self.prior.model if self.prior is not None else None

    @property
    def built(self) -> Built | None:
        """The same with what memory or time made of the wish."""
        return self.prior.built if self.prior is not None else None

    @property
    def learned(self) -> list[tuple[str, str]]:
        """How much was read, and into how many weights."""
        read, weights = self.state.step * self.chars_per_step, sum(p.numel() for p in self.model.parameters())
        return [(f"{self.corpus.vocabulary.word}s read", f"{read:,}"), ("weights", f"{weights:,}")]

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Within it nothing is dropped, as training does."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    @property
    def chars_per_step(self) -> int:
        """Symbols learned from in one step."""
        return self.windows.batch_size * self.windows.block_size

    def learning_rates(self) -> Rates:
        """Those of the next step."""
        factor = self.plan.schedule.factor(self.state.step) * self.state.rate_factor
        config = self.training_config
        assert config.learning_rate is not None
        highest = (config.learning_rate, config.muon_lr or 0.0, config.ngram_embedding_lr)
        return Rates(*(rate * factor for rate in highest))

    def is_finite(self) -> bool:
        """Are all weights finite numbers?"""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def snapshot(self) -> Snapshot:
        """This moment of the run, as a checkpoint keeps it."""
        return Snapshot(
            step=self.state.step,
            model_config=self.model_config,
            training_config=self.training_config,
            vocabulary=self.corpus.vocabulary,
            weights=dict(self.model.state_dict()),
            optimizer=self.optimizer.state,
            run=self.run,
            ngram=self.counts,
            state={**self.state.to_json(), "threads": torch.get_num_threads()},
        )

    def begin_extension(self) -> None:
        """A finished run goes on."""
        self.state.finished = None
        self.state.memorising.rises = 0

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a moment that `snapshot` took."""
        self.model.load_state_dict(snapshot.weights)
        self.state = RunState.from_json(snapshot.step, snapshot.state)
        self.optimizer.restore(snapshot.optimizer, self.state.updates)


def unigram_nats(vocabulary: Vocabulary) -> float:
    """Nats a symbol of the training part for a model that only counts symbols."""
    counts = np.array(vocabulary.counts, dtype=np.float64)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
