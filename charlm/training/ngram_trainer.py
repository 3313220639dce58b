"""A run of the n-gram model alone: its single step is counting."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError, ResourceError
from charlm.evaluation.score import score_slice, spread
from charlm.inference.context import ContextRule
from charlm.inference.predictor import NgramPredictor
from charlm.ngram.build import Built, fit, spread_chars
from charlm.ngram.kneser_ney import KneserNey
from charlm.terminal import one_line
from charlm.training.events import Counted, Evaluated, Event, Finished, Saved
from charlm.training.guards import Divergence
from charlm.training.planner import Plan
from charlm.training.session import unigram_nats
from charlm.training.signals import Stop
from charlm.training.state import RunState, figure_of


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
        self.model_config = replace(model, prior=True, prior_order=counts.order)
        self.predictor = NgramPredictor(counts, corpus.vocabulary)
        self.counts = counts.to_bytes()
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
            model.prior_order,
            memory=training.prior_memory << 20,
            most=training.prior_chars,
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
        if counts.order != snapshot.model_config.prior_order:
            raise CheckpointError("the counts of this run are not of the order that its configuration says")
        session = cls(corpus, snapshot.model_config, snapshot.training_config, plan, snapshot.run, counts)
        session.state = RunState.from_json(snapshot.step, snapshot.state)
        return session

    @property
    def chars_per_step(self) -> int:
        """Symbols counted."""
        n = len(self.corpus.train)
        return sum(end - start for start, end in spread_chars(n, self.training_config.prior_chars or n))

    @property
    def learned(self) -> list[tuple[str, str]]:
        """What was counted, and how large that is."""
        order, size = self.model_config.prior_order, len(self.counts) / 1e6
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
            ngram=self.counts,
            state={**self.state.to_json(), "threads": torch.get_num_threads()},
        )


BLOCK = 64
"""Symbols whose scores are summed, so that the figure's error is judged by stretches of text, as others' is."""


class CountsTrainer:
    """Carries such a run to its end: the counts are scored on the held-out part, and saved."""

    def __init__(self, session: CountsSession, run: RunFolder) -> None:
        self.session, self.run_folder, self.predictor = session, run, session.predictor

    @property
    def step(self) -> int:
        """The one step, which was the counting."""
        return self.session.state.step

    def run(self, stop: Stop) -> Iterator[Event]:
        """Score and save; the last event is Finished. Raises ResourceError where it cannot be saved.

        What is stopped before it was scored is saved too, and scored when it is resumed.
        """
        session, state = self.session, self.session.state
        if session.limits is not None:
            chars, seconds = session.chars_per_step, state.seconds
            yield Counted(step=self.step, chars=chars, seconds=seconds, limits=session.limits)
        yield from self._evaluate(stop)
        state.finished = None if stop.is_set() else "done"
        yield self._save()
        reason = (stop.reason if stop.is_set() else None) or "done"
        best, total = state.memorising.best_step, session.plan.total_steps
        yield Finished(step=self.step, reason=reason, best_step=best, total_steps=total)

    def _evaluate(self, stop: Stop) -> Iterator[Event]:
        """Score the whole held-out part."""
        corpus, started = self.session.corpus, perf_counter()
        rule = ContextRule(self.predictor.rule.block_size + BLOCK - 1, BLOCK)  # the same, many at a time
        n = len(corpus.held_out)
        part = spread(rule, n, n + BLOCK, corpus.held_out_chars)  # every window
        estimate = score_slice(self.predictor, corpus.held_out, part, stop.is_set, rule)
        if estimate is None or not part.windows:
            return
        self.session.state.last_figure = figure_of(self.step, estimate, part, None)
        self.session.state.memorising.see(self.step, estimate.blocks)  # the best: there is no other
        yield Evaluated(
            step=self.step,
            nats_per_char=estimate.nats_per_char,
            standard_error=estimate.standard_error,
            compared_nats_per_char=estimate.nats_per_char,
            baseline_nats_per_char=None,
            difference=None,
            difference_error=None,
            chars=estimate.chars,
            of_chars=corpus.held_out_chars,
            blocks=len(part.windows),
            is_best=True,
            rises=0,
            final=True,
            seconds=perf_counter() - started,
        )

    def _save(self) -> Saved:
        started, snapshot = perf_counter(), self.session.snapshot()
        best = self.session.state.memorising.best_step == self.step
        try:
            path = self.run_folder.save(self.step, snapshot.files(), snapshot.run_files(), best=best)
        except OSError as error:
            raise ResourceError(
                f"the counts could not be written to {one_line(str(self.run_folder.path))} "
                f"({error.strerror or error}); make room, and train again"
            ) from None
        return Saved(step=self.step, path=str(path), seconds=perf_counter() - started)
