"""A run of counts alone: its single step is the counting, and is done when the run is in memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.counts import table_file
from charlm.counts.build import Built, fit, spread
from charlm.counts.kneser_ney import KneserNey
from charlm.counts_predictor import CountsPredictor
from charlm.errors import CheckpointError
from charlm.text.corpus import Corpus
from charlm.training.plan import Plan
from charlm.training.session import unigram_nats
from charlm.training.state import RunState
from charlm.training.watch import Divergence


class CountsSession:
    """Counts in memory, of a text or as a checkpoint has them."""

    built: Built | None = None  # no transformer begins from them
    device = torch.device("cpu")

    def __init__(
        self,
        corpus: Corpus,
        model: ModelConfig,
        training: TrainingConfig,
        plan: Plan,
        run: dict[str, Any],
        counts: KneserNey,
    ) -> None:
        self.corpus, self.plan, self.run, self.training_config = corpus, plan, run, training
        self.model_config = replace(model, counts=True, counts_order=counts.order)
        self.predictor = CountsPredictor(counts, corpus.vocabulary)
        self.counts = table_file.dump(counts)
        self.state = RunState(Divergence(unigram_nats(corpus.vocabulary)), step=plan.total_steps)
        self.limits: str | None = None  # what was left out of them, in words, where they were just made

    @classmethod
    def counted(
        cls, corpus: Corpus, model: ModelConfig, training: TrainingConfig, plan: Plan, run: dict[str, Any]
    ) -> "CountsSession":
        """Count the training part. Where the order was left open, what predicts its end best is taken."""
        started, vocabulary = perf_counter(), corpus.vocabulary
        built = fit(
            corpus.train,
            vocabulary.n_symbols,
            model.counts_order,
            memory=training.counts_memory << 20,
            most=training.counts_chars,
            end=vocabulary.end,
        )
        session = cls(corpus, model, training, plan, run, built.model)
        session.state.seconds, session.limits = perf_counter() - started, built.limits
        return session

    @classmethod
    def resumed(cls, snapshot: Snapshot, corpus: Corpus, plan: Plan) -> "CountsSession":
        """The counts that a checkpoint has, which need not be counted again."""
        counts = snapshot.kneser_ney()
        assert counts is not None, "a checkpoint is not read without the counts that it is made of"
        if counts.order != snapshot.model_config.counts_order:
            raise CheckpointError("the counts of this run are not of the order that its configuration says")
        session = cls(corpus, snapshot.model_config, snapshot.training_config, plan, snapshot.run, counts)
        session.state = RunState.from_json(snapshot.step, snapshot.state)
        return session

    @property
    def chars_per_step(self) -> int:
        """Symbols counted."""
        n = len(self.corpus.train)
        return sum(end - start for start, end in spread(n, self.training_config.counts_chars or n))

    @property
    def learned(self) -> list[tuple[str, str]]:
        """What was counted, and how large that is."""
        order, size = self.model_config.counts_order, len(self.counts) / 1e6
        word = self.corpus.vocabulary.word
        return [
            (f"{word}s counted", f"{self.chars_per_step:,}"),
            ("counts", f"{order} {word}s of context, {size:.1f} MB"),
        ]

    def predicting(self) -> AbstractContextManager[None]:
        """Counts do nothing else."""
        return nullcontext()

    def snapshot(self) -> Snapshot:
        """This moment of the run, as a checkpoint keeps it."""
        return Snapshot(
            step=self.state.step,
            model_config=self.model_config,
            training_config=self.training_config,
            vocabulary=self.corpus.vocabulary,
            weights={},
            run=self.run,
            counts=self.counts,
            state={**self.state.to_json(), "threads": torch.get_num_threads()},
        )
