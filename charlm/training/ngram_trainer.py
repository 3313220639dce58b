"""A run of an n-gram model alone: counting the text is its single step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import perf_counter

import torch

from charlm.checkpoint.run_folder import RunFacts, RunFolder
from charlm.checkpoint.snapshot import Snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError, ResourceError
from charlm.inference.context import ContextRule
from charlm.inference.predictor import NgramPredictor
from charlm.ngram.build import Built, fit, spread_chars
from charlm.ngram.kneser_ney import KneserNey
from charlm.strict_json import to_json
from charlm.terminal import one_line
from charlm.training.events import Counted, Event, Finished, Saved
from charlm.training.guards import Divergence
from charlm.training.held_out import HeldOut
from charlm.training.planner import Plan
from charlm.training.session import unigram_nats
from charlm.training.signals import Stop
from charlm.training.state import RunState, read_state

BLOCK = 64
"""Symbols per block of the evaluation, for the standard error and for speed."""


class NgramSession:
    """An n-gram model in memory, counted from a text or read from a checkpoint."""

    built: Built | None = None  # the prior of a transformer
    device = torch.device("cpu")

    def __init__(
        self,
        corpus: Corpus,
        model: ModelConfig,
        training: TrainingConfig,
        plan: Plan,
        run: RunFacts,
        ngram: KneserNey,
    ) -> None:
        self.corpus, self.plan, self.run, self.training_config = corpus, plan, run, training
        self.model_config = replace(model, prior=True, prior_order=ngram.order)
        self.predictor = NgramPredictor(ngram, corpus.vocabulary)
        self.ngram = ngram.to_bytes()
        self.state = RunState(Divergence(unigram_nats(corpus.vocabulary)), step=plan.total_steps)
        self.limits: str | None = None  # what memory or time left out, if it was counted just now

    @classmethod
    def counted(
        cls, corpus: Corpus, model: ModelConfig, training: TrainingConfig, plan: Plan, run: RunFacts
    ) -> "NgramSession":
        """Count the training part. If the order is not given, the one that predicts its end best is chosen."""
        started, vocabulary = perf_counter(), corpus.vocabulary
        built = fit(
            corpus.train,
            vocabulary.n_symbols,
            model.prior_order,
            memory=training.prior_memory << 20,
            most=training.prior_chars,
            end=vocabulary.end,
        )
        session = cls(corpus, model, training, plan, run, built.model)
        session.state.seconds, session.limits = perf_counter() - started, built.limits
        return session

    @classmethod
    def resumed(cls, snapshot: Snapshot, corpus: Corpus, plan: Plan) -> "NgramSession":
        """The session of a checkpoint; nothing is counted again. Raises CheckpointError."""
        ngram = snapshot.kneser_ney()
        assert ngram is not None, "a checkpoint of an n-gram model is not read without it"
        if ngram.order != snapshot.model_config.prior_order:
            raise CheckpointError("the order of the n-gram model differs from prior_order in config.json")
        session = cls(corpus, snapshot.model_config, snapshot.training_config, plan, snapshot.run, ngram)
        session.state = read_state(snapshot.state)
        return session

    @property
    def chars_per_step(self) -> int:
        """Symbols counted."""
        n = len(self.corpus.train)
        return sum(end - start for start, end in spread_chars(n, self.training_config.prior_chars or n))

    @property
    def learned(self) -> list[tuple[str, str]]:
        """Symbols counted and size of the model, as rows of a table."""
        order, size = self.model_config.prior_order, len(self.ngram) / 1e6
        word = self.corpus.vocabulary.word
        return [
            (f"{word}s counted", f"{self.chars_per_step:,}"),
            ("n-grams", f"{order} {word}s of context, {size:.1f} MB"),
        ]

    def predicting(self) -> AbstractContextManager[None]:
        """An n-gram model has no training mode."""
        return nullcontext()

    def snapshot(self) -> Snapshot:
        """The session as a checkpoint."""
        self.state.threads = torch.get_num_threads()
        return Snapshot(
            step=self.state.step,
            model_config=self.model_config,
            training_config=self.training_config,
            vocabulary=self.corpus.vocabulary,
            weights={},
            run=self.run,
            ngram=self.ngram,
            state=to_json(self.state),
        )


class NgramTrainer:
    """Evaluates an n-gram model on the held-out part and saves it."""

    def __init__(self, session: NgramSession, run: RunFolder) -> None:
        self.session, self.run_folder = session, run

    @property
    def step(self) -> int:
        """The single step, which was the counting."""
        return self.session.state.step

    def run(self, stop: Stop) -> Iterator[Event]:
        """Evaluate and save; the last event is Finished. Raises ResourceError where it cannot be saved.

        If stopped before the evaluation, the run is saved too, and evaluated when it is resumed.
        """
        session, state = self.session, self.session.state
        if session.limits is not None:
            chars, seconds = session.chars_per_step, state.seconds
            yield Counted(step=self.step, chars=chars, seconds=seconds, limits=session.limits)
        yield from self._evaluate(stop)
        state.finished = None if stop.is_set() else "done"
        yield self._save()
        reason = (stop.reason if stop.is_set() else None) or "done"
        best, total = state.early_stopping.best_step, session.plan.total_steps
        yield Finished(step=self.step, reason=reason, best_step=best, total_steps=total)

    def _evaluate(self, stop: Stop) -> Iterator[Event]:
        """Score the whole held-out part."""
        session, started = self.session, perf_counter()
        held_out = HeldOut(session.corpus, session.predictor, None)
        # The same predictions as with the model's own rule, of BLOCK symbols at a time.
        held_out.rule = ContextRule(held_out.rule.block_size + BLOCK - 1, BLOCK)
        part = held_out.windows(len(session.corpus.held_out) + BLOCK)  # all
        estimate = held_out.score(part, stop.is_set)
        if estimate is None:
            return
        session.state.early_stopping.update(self.step, estimate.blocks)
        yield held_out.record(
            session.state,
            part,
            estimate,
            None,
            compared=estimate,
            is_best=True,
            final=True,
            seconds=perf_counter() - started,
        )

    def _save(self) -> Saved:
        started, snapshot = perf_counter(), self.session.snapshot()
        best = self.session.state.early_stopping.best_step == self.step
        try:
            path = self.run_folder.save(self.step, snapshot.files(), snapshot.run_files(), best=best)
        except OSError as error:
            raise ResourceError(
                f"the n-gram model could not be written to {one_line(str(self.run_folder.path))} "
                f"({error.strerror or error}); free some space, and train again"
            ) from None
        return Saved(step=self.step, path=str(path), seconds=perf_counter() - started)
