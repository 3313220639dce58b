"""A training session: everything that a run's next step depends on (model, optimizer, text, settings, plan, state).

Axes: B windows, T symbols, V symbols of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charlm.checkpoint.run_folder import RunFacts, RunFolder
from charlm.checkpoint.snapshot import Member, Snapshot, read_newest, read_snapshot
from charlm.config import NGRAM, ModelConfig, TrainingConfig
from charlm.data.corpus import BatchSampler, Corpus
from charlm.data.shards import TextIds
from charlm.errors import CheckpointError, UsageError
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.native.library import status
from charlm.ngram.build import Built, TrainingPrior, build, training_folds
from charlm.ngram.kneser_ney import KneserNey
from charlm.rng import mix
from charlm.strict_json import to_json
from charlm.threads import change_threads
from charlm.training.batches import Batches, PriorRows
from charlm.training.device import is_accelerator, pick_device, seed_dropout, send
from charlm.training.distributed import ALONE, Ranks, current, shared_snapshot
from charlm.training.events import Counted, Remembered
from charlm.training.gradient_buckets import GradientBuckets
from charlm.training.guards import Divergence, EarlyStopping
from charlm.training.held_out import HeldOut, ParentText
from charlm.training.model_weights import initial_weights
from charlm.training.optimizer import LearningRates
from charlm.training.plan import MemberPlan, Plan
from charlm.training.planner import ngram_order
from charlm.training.state import RunState, read_state
from charlm.training.teacher import SoftTargets, Teacher

MEMBER_STREAM = 3
"""Separates the seeds of members from the random numbers that draw the windows."""


class Session:
    """A run in memory: everything that its next step depends on. `snapshot` takes a checkpoint of it."""

    device = torch.device("cpu")
    predictor: Predictor
    ngram: bytes | None = None  # the n-gram model, or the prior of a transformer, as a file
    built: Built | None = None  # the prior of a transformer, and what it left out for lack of memory or time
    number: int = 0  # of the member in training, counted from 0
    earlier: tuple[Member, ...] = ()  # the members that were trained before it
    counted: Counted | None = None  # reported when an n-gram model has just been counted
    parent_text: ParentText | None = None  # of the run that this one was fine-tuned from
    ranks: Ranks = ALONE

    def __init__(
        self, corpus: Corpus, model: ModelConfig, training: TrainingConfig, plan: Plan, run: RunFacts
    ) -> None:
        self.corpus, self.plan, self.run = corpus, plan, run
        self.model_config, self.training_config = model, training
        counts = np.array(corpus.vocabulary.counts, dtype=np.float64)
        share = counts / counts.sum()
        self.unigram_nats = float(-(share * np.log(share)).sum())
        self.state = RunState(Divergence(unigram_nats=self.unigram_nats))

    @property
    def chars_per_step(self) -> int:
        """Symbols in a batch, or counted by an n-gram model."""
        raise NotImplementedError

    @property
    def chars_read(self) -> int:
        """Symbols read so far by all members, or counted."""
        raise NotImplementedError

    @property
    def learned(self) -> list[tuple[str, str]]:
        """Symbols read and size of the model, as rows of a table."""
        raise NotImplementedError

    @property
    def is_last(self) -> bool:
        """Is it the last member that is trained? An n-gram model is the only one."""
        return True

    @property
    def member_end(self) -> int:
        """The step at which the training of this member ends."""
        return self.plan.total_steps

    @property
    def begins_again(self) -> bool:
        """Does the plan have another size from the next step on?"""
        return False

    def held_out(self, baseline: KneserNey | None = None) -> HeldOut:
        """Return the evaluation on held-out text, with a baseline."""
        raise NotImplementedError

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Evaluation mode: no dropout inside the block."""
        yield

    def together(self) -> AbstractContextManager[None]:
        """Return a context for predictions of any rank; an n-gram model needs none."""
        return nullcontext()

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return True

    def score_parent_text(self) -> Iterator[Remembered]:
        """Score the parent's held-out text, if there is one."""
        if self.parent_text is None:
            return
        with self.predicting():
            event, self.state.parent_loss = self.parent_text.score(
                self.state.step, self.pooled(), self.state.parent_loss
            )
        self.parent_text = replace(self.parent_text, parent=None, parent_ids=None)  # these may be large
        yield event

    def pooled(self) -> Predictor:
        """Return the predictor of all that is calibrated."""
        return self.predictor

    @property
    def configs(self) -> list[dict[str, Any]]:
        """`model` and `training` of each member that is trained or in training, as JSON."""
        every = [(member.model_config, member.training_config) for member in self.earlier]
        every.append((self.model_config, self.training_config))
        return [{"model": model.to_json(), "training": training.to_json()} for model, training in every]

    def snapshot(self) -> Snapshot:
        """Return the session as a checkpoint."""
        self.state.threads, self.state.kernels = torch.get_num_threads(), kernels_on(self.device)
        self.state.ranks, self.state.shard = self.ranks.size, self.ranks.shards
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


def kernels_on(device: torch.device) -> str:
    """Return what computes steps: the clone of the compiled kernels, `none`, or the kind of GPU."""
    return device.type if is_accelerator(device) else status().clone or "none"


class TransformerSession(Session):
    """A run of transformers that are trained one after another; `restore` returns to a checkpoint, bit for bit."""

    predictor: TransformerPredictor

    soft_targets: SoftTargets | None = None  # of a run that has a teacher
    buckets: GradientBuckets | None  # sum the gradients of several ranks

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        run: RunFacts,
        also_counted: Sequence[TextIds] = (),
        number: int = 0,
        start: int = 0,
        *,
        threads_given: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        """`also_counted`: texts that the prior counts besides the training text.

        `number`: the member to train, which begins at step `start`. `threads_given`: keep the current number of threads,
        whatever the plan says. `ranks`: by default all that have joined.
        """
        self.threads_given = threads_given
        self.ranks = ranks or current()
        member = plan.member_at(number, start)
        super().__init__(corpus, member.model, member.training, plan, run)
        self.device = pick_device(member.training.device)
        self.number = number
        self.reserved = member.training.reserved_chars or 0
        self.folds = training_folds(len(corpus.train), self.reserved)
        self.prior: TrainingPrior | None = None
        if self.has_ngrams:
            self.prior = self._count(also_counted)
            self.ngram = self.prior.model.to_bytes()
        self._begin_member(member)

    @property
    def has_ngrams(self) -> bool:
        """Whether any member uses n-grams."""
        kinds = (self.training_config.members or "").split(",")
        return NGRAM in kinds or any(member.model.prior for member in self.plan.members)

    def _count(self, also_counted: Sequence[TextIds]) -> TrainingPrior:
        """Count the n-grams of the training text."""
        corpus, training = self.corpus, self.training_config
        orders = [m.model.prior_order for m in self.plan.members if m.model.prior_order is not None]
        n_symbols = corpus.vocabulary.n_symbols
        self.built = build(
            corpus.train,
            n_symbols,
            max(orders, default=ngram_order(len(corpus.train))),
            memory=training.prior_memory << 20,
            most=training.prior_chars,
            folds=self.folds,
            end=corpus.vocabulary.end,
            beside=also_counted,
        )
        return TrainingPrior(self.built.model, corpus.train, self.folds)

    def _begin_member(self, member: MemberPlan) -> None:
        """Create a member's model, its optimizer and its batches."""
        model, training, vocabulary = member.model, member.training, self.corpus.vocabulary
        assert model.block_size and training.batch_size and training.optimizer
        self.model_config, self.training_config = model, training
        self._check_rows(training.batch_size)
        self._use_threads(training.threads)
        seed = training.seed if self.number == 0 else int(mix(training.seed, self.number, MEMBER_STREAM) >> 1)
        self.batch_sampler = BatchSampler(
            len(self.corpus.train) - self.reserved, model.block_size, training.batch_size, seed
        )
        self.weights = initial_weights(model, vocabulary.n_symbols, seed, self.ranks, self.device)
        self.model = self.weights.model
        self.prior_rows: PriorRows | None = None
        if model.prior:
            assert self.prior is not None
            self.prior_rows = PriorRows(self.prior, self.batch_sampler, model.prior_dropout or 0.0)
        self.batch_source = Batches(
            self.corpus.train,
            self.batch_sampler,
            self.prior_rows,
            self.device,
            self.soft_targets,
            self.ranks.rows,
        )
        accumulator = training.ngram_embedding_accumulator or 0.0
        self.optimizer = self.weights.optimizer_class(
            self.model,
            training.optimizer,
            training.weight_decay,
            ngram_embedding_accumulator=accumulator / self.chars_per_step**2,  # losses are means
            precision=training.precision,
            ranks=self.ranks,
            positions=-(-training.batch_size // self.ranks.size) * model.block_size,
        )
        self.buckets = self.weights.buckets(self.optimizer)
        prior = self.kneser_ney if model.prior else None
        self.predictor = self.weights.predictor(vocabulary, prior)

    def together(self) -> AbstractContextManager[None]:
        """Return a context for predictions of any rank, which all ranks enter if they have divided the weights."""
        return self.weights.together()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load these weights, which are the same on all ranks; if the ranks divide them, rank 0's."""
        self.predictor.forget_arrays()
        self.weights.load(weights)

    def _check_rows(self, batch_size: int) -> None:
        """Raise UsageError if a rank would have nothing to do."""
        if batch_size < self.ranks.size:
            raise UsageError(
                f"a batch of {batch_size} has no window for each of {self.ranks.size} ranks; give --batch-size "
                f"{self.ranks.size} or more, or fewer ranks"
            )

    def learn_from(self, teacher: Teacher, watch: Callable[[int, int], None]) -> None:
        """Ask the run's teacher about the training text; `watch` is called with the progress."""
        self.soft_targets = SoftTargets(teacher, self.corpus, self.training_config, watch)
        self.batch_source.soft_targets = self.soft_targets

    @property
    def is_last(self) -> bool:
        """Whether the member in training is the last one."""
        return self.number == len(self.plan.members) - 1

    @property
    def member_end(self) -> int:
        """The step at which the training of this member ends."""
        return self.plan.members[self.number].end

    @property
    def member_step(self) -> int:
        """Steps that this member has taken."""
        return self.state.step - self.state.member_start

    @property
    def in_first_pass(self) -> bool:
        """Whether the member in training has read each window of its text at most once."""
        return self.member_step * self.batch_sampler.batch_size <= self.batch_sampler.per_epoch

    @property
    def chars_read(self) -> int:
        """Symbols that all members have read."""
        return self.state.chars_before + self.member_step * self.chars_per_step

    def pooled(self) -> Predictor:
        """Return the predictor of all that is calibrated, the member in training included."""
        if self.state.mixture is None:
            return self.predictor
        last = self.predictor if self.ranks.shards else None
        return predictor_of(self.snapshot(), self.device, ngram=self.kneser_ney, last=last)

    def return_to_best(self, run: RunFolder) -> None:
        """Return to weights and optimizer state of this member's best checkpoint. Raises CheckpointError."""
        best = self.state.early_stopping.best_step
        if best is None or best == self.state.step:
            return
        snapshot = shared_snapshot(
            self.ranks, lambda: read_snapshot(run, str(best), training=True, later=self.ranks.shards)
        )
        self.load_weights(snapshot.weights)
        self.optimizer.restore(snapshot.optimizer, read_state(snapshot.state).updates)

    def next_member(self) -> None:
        """Keep the trained member, and begin the next one."""
        assert not self.is_last
        model, training, weights = self.model_config, self.training_config, self.weights.gathered()
        trained = Member(model_config=model, training_config=training, weights=weights)
        self.earlier = (*self.earlier, trained)
        self.number += 1
        self.state.begin_member(self.unigram_nats, self.chars_read)
        self._begin_member(self.plan.member_at(self.number, self.state.step))

    @property
    def begins_again(self) -> bool:
        """Whether the plan has another size from the next step on."""
        step = self.state.step
        if step not in self.plan.decided_at:
            return False
        return not self.plan.member_at(self.number, step).is_like(self.model_config, self.training_config)

    def begin_again(self) -> None:
        """Restart the training of the member, with the size that the plan has from the next step on."""
        self.state.begin_again(self.unigram_nats, self.chars_read)
        self._begin_member(self.plan.member_at(self.number, self.state.step))

    def _use_threads(self, threads: int | None) -> None:
        """Use as many threads as the plan says, if it does."""
        if threads is None:
            return
        self.training_config = replace(self.training_config, threads=threads)
        if not self.threads_given and threads != torch.get_num_threads():
            change_threads(threads)

    def follow_plan(self, step: int) -> None:
        """Apply the plan of a step: regularisation, number of threads and gradient accumulation."""
        member = self.plan.member_at(self.number, step)
        self._use_threads(member.training.threads)
        self.training_config = replace(self.training_config, grad_accum=member.training.grad_accum)
        if member.model == self.model_config:
            return
        self.model_config = member.model
        self.batch_source.forget_ahead()
        self.model.regularise(member.model)
        if self.prior_rows is not None:
            self.prior_rows.dropout = member.model.prior_dropout or 0.0

    @classmethod
    def resumed(
        cls,
        snapshot: Snapshot,
        corpus: Corpus,
        plan: Plan,
        also_counted: Sequence[TextIds] = (),
        *,
        threads_given: bool = False,
    ) -> "TransformerSession":
        """Return the session of a checkpoint, under the current plan. Raises CheckpointError."""
        if not plan.members:  # written by a version that trained one transformer
            end, configs = plan.schedule.end, (snapshot.model_config, snapshot.training_config)
            plan = replace(plan, members=(MemberPlan(model=configs[0], training=configs[1], end=end),))
        number = len(snapshot.earlier)
        if number >= len(plan.members):
            raise CheckpointError(
                f"plan.json is damaged: it has {len(plan.members)} members, the run {number + 1}"
            )
        state = read_state(snapshot.state)
        for step in (state.member_start, state.last_step):
            if not plan.member_at(number, step).is_like(snapshot.model_config, snapshot.training_config):
                raise CheckpointError("plan.json is damaged: its sizes are not those of the checkpoint")
        session = cls(
            corpus, plan, snapshot.run, also_counted, number, state.member_start, threads_given=threads_given
        )
        if session.ngram != snapshot.ngram:
            raise CheckpointError(
                "the n-gram prior of this run differs from the one rebuilt from its text; charlm cannot "
                "resume the run exactly"
            )
        session.restore(snapshot)
        return session

    @property
    def kneser_ney(self) -> KneserNey | None:
        """The n-gram model of the prior, if there is one."""
        return None if self.built is None else self.built.model

    @property
    def learned(self) -> list[tuple[str, str]]:
        """Symbols read and number of weights, as rows of a table."""
        weights = sum(p.numel() for p in self.model.parameters())
        weights += sum(weight.numel() for member in self.earlier for weight in member.weights.values())
        return [
            (f"{self.corpus.vocabulary.unit_noun}s read", f"{self.chars_read:,}"),
            ("weights", f"{weights:,}"),
        ]

    @property
    def chars_per_step(self) -> int:
        """Symbols in a batch."""
        return self.batch_sampler.batch_size * self.batch_sampler.block_size

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Evaluation mode: no dropout inside the block."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Yield the parts of this rank's rows of the next batch, with the dropout seed set.

        Each is ids (B, T + 1), prior (B, T, V) and soft targets (B, T, V).
        """
        parts = self.n_parts
        step = self.member_step + self.state.batch_offset
        batch = self.batch_source.take(step)
        split = (repeat(None, parts) if each is None else each.tensor_split(parts) for each in batch)
        has_dropout = self.model_config.dropout or self.model_config.ngram_embedding_dropout
        for part, (ids, rows, soft) in enumerate(zip(*split, strict=True)):
            if has_dropout:
                others = [self.ranks.rank] * (self.ranks.rank > 0)  # noise of its own
                seed_dropout(int(mix(self.batch_sampler.seed, step, part, *others) >> 1), self.device)
            assert ids is not None
            yield ids, rows, soft
        self.batch_source.make_ahead(step + 1)

    @property
    def n_parts(self) -> int:
        """The number of parts that this rank's rows of a batch are split into, of at least one row each."""
        least = self.batch_sampler.batch_size // self.ranks.size
        return min(self.training_config.grad_accum, least)

    def learning_rates(self) -> LearningRates:
        """Return the learning rates of the next step."""
        factor = self.plan.schedule.factor(self.state.step) * self.state.rate_factor
        config = self.training_config
        assert config.learning_rate is not None
        peaks = (config.learning_rate, config.muon_lr or 0.0, config.ngram_embedding_lr)
        return LearningRates(*(peak * factor for peak in peaks))

    def on_device(self, rates: LearningRates) -> LearningRates:
        """Convert the rates for the optimizer: on a GPU to tensors, for which it need not wait."""
        if not is_accelerator(self.device):
            return rates
        return LearningRates(*send(torch.tensor(rates), self.device).unbind())

    def compute_on_cpu(self, run: RunFolder) -> None:
        """Continue on the CPU from the last checkpoint, since the GPU failed. Raises CheckpointError."""
        self.device = torch.device("cpu")
        self._begin_member(self.plan.member_at(self.number, self.state.member_start))
        self.restore(read_newest(run, lambda _: None))

    def held_out(self, baseline: KneserNey | None = None, predictor: Predictor | None = None) -> HeldOut:
        """Return the evaluation on held-out text, with a baseline: by default the n-gram model of the run.

        `predictor`: by default the member in training alone.
        """
        predictor, baseline = predictor or self.predictor, baseline or self.kneser_ney
        return HeldOut(self.corpus, predictor, baseline, together=self.weights.together)

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return self.weights.is_finite()

    def snapshot(self) -> Snapshot:
        """Return the session as a checkpoint."""
        return replace(
            super().snapshot(),
            weights=self.weights.state_dict(),
            optimizer=self.optimizer.whole_state,
            earlier=self.earlier,
            mixture=self.state.mixture,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a checkpoint of the member in training, which may have had another size. Raises CheckpointError."""
        assert len(snapshot.earlier) == self.number
        state = read_state(snapshot.state)
        member = self.plan.member_at(self.number, state.member_start)
        if not member.is_like(self.model_config, self.training_config):
            self._begin_member(member)
        self.load_weights(snapshot.weights)
        self.earlier, self.state = snapshot.earlier, state
        self.follow_plan(state.last_step)
        self.optimizer.restore(snapshot.optimizer, self.state.updates)

    def roll_back(self, run: RunFolder) -> int:
        """Return to the last checkpoint, with half the learning rate and later batches; return its step.

        The batches between the two steps are skipped from now on. Raises CheckpointError.
        """
        before = self.state
        later = self.ranks.shards
        self.restore(shared_snapshot(self.ranks, lambda: read_newest(run, lambda _: None, later=later)))
        state = self.state
        state.batch_offset = before.batch_offset + before.step - state.step
        state.rate_factor, state.returns = before.rate_factor / 2, before.returns + 1
        state.skipped = before.skipped
        state.divergence.recent, state.divergence.nonfinite_in_row = [], 0
        return state.step

    def begin_extension(self) -> None:
        """Reopen a run to train it further."""
        if self.state.finished and self.state.mixture is not None:
            # A member alone does not compare with what is calibrated, mixed and corrected by recent n-grams.
            self.state.early_stopping = EarlyStopping()
        self.state.finished = None
        self.state.early_stopping.rises = 0
