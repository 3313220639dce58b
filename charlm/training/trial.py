"""Trial steps: time the steps of candidate sizes on this machine, to plan a run with a time budget.

A trial trains on the beginning of the run's own text and is then discarded. Only the times in `Budget.timed` remain; they
are recorded in the plan before they decide anything. Of several ranks, rank 0 alone takes trial steps on its share of the
batch; if the weights are sharded, all ranks take them together, by rank 0's clock.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median

import torch

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.text_config import TextConfig
from charlm.native.library import library
from charlm.strict_json import from_json, to_json
from charlm.training.device import (
    has_bf16,
    has_compiler,
    is_accelerator,
    keep_memory,
    pick_device,
    pick_precision,
    wait_for,
)
from charlm.training.distributed import Ranks, current
from charlm.training.plan import Plan
from charlm.training.planner import Choice
from charlm.training.session import TransformerSession
from charlm.training.sizes import GPU_GFLOPS, Budget, Size, StepTime
from charlm.training.step import train_step

CHARS = 30_000
"""Most symbols of the text that trials train on."""
ROUNDS = 5
"""Most rounds of trials: first of the sizes chosen before any step was timed, then of those chosen from timed steps."""
FIRST_SECONDS = 120.0
"""Limit on the budget that the first trial's sizes are chosen for: sizes for a day take minutes per step."""
FEWEST_STEPS, MOST_STEPS = 2, 8
"""Steps that are timed in each trial, after a first step in which memory is allocated."""
LATE = 3.0
"""Even a trial that has begun ends after this many times the time that was left: a single step may take minutes."""
SHARE, MOST_SECONDS, MOST_SHARE = 0.025, 2.0, 0.001
"""No trial begins after SHARE of a time budget, or after MOST_SECONDS (MOST_SHARE of the budget, if that is more)."""
MIN_HALVING_GAIN, MIN_BF16_GAIN = 1.2, 1.1
"""How much faster half the threads, or bf16, must be."""


@dataclass
class _Trial:
    """Trial steps of a member, with a number of threads and in a precision."""

    session: TransformerSession
    threads: int
    times: list[float] = field(default_factory=list)

    @property
    def precision(self) -> str:
        return self.session.training_config.precision

    @property
    def seconds(self) -> float:
        """Median seconds of a step."""
        return median(self.times[1:] or self.times)

    def step(self) -> None:
        """Take a step, and time it."""
        torch.set_num_threads(self.threads)
        started = self.session.ranks.time()
        train_step(self.session, self.session.learning_rates())
        wait_for(self.session.device)
        self.times.append(self.session.ranks.time() - started)
        self.session.state.step += 1

    def result(self) -> StepTime:
        """Return the measured time of a step."""
        session = self.session
        return StepTime(
            kind=session.plan.members[session.number].kind,
            size=Size.of(session.model_config, session.training_config),
            threads=self.threads,
            precision=self.precision,
            seconds=round(self.seconds, 6),
        )


def untimed_budget(training: TrainingConfig, steps: int) -> Budget:
    """Return the budget of a number of steps. Nothing is timed, so that the plan can be repeated."""
    device = pick_device(training.device)
    precision = pick_precision(device) if training.precision == "auto" else training.precision
    kernels = device.type == "cpu" and library() is not None
    return Budget(steps=steps, precision=precision, compiler=has_compiler(device), kernels=kernels)


def timed_budget(
    corpus: Corpus, training: TrainingConfig, seconds: float, choose: Callable[[Budget], Choice]
) -> tuple[int, Budget]:
    """Return the number of threads to use, and the budget of `seconds` with the times of trial steps.

    The members that `choose` would train are timed: the last one, which gets most of the time, with all threads and
    with half of them, in fp32 and in bf16 if the processor has it; then those that it would train given these times.
    """
    keep_memory()
    ranks, budget = _trial_ranks(), replace(untimed_budget(training, 1), seconds=seconds, steps=None)
    on_cpu = not is_accelerator(pick_device(training.device))
    if not on_cpu:
        budget = replace(budget, gflops=GPU_GFLOPS)
    precisions = [budget.precision]
    if training.precision == "auto" and has_bf16(pick_device(training.device)):
        precisions = ["fp32", "bf16"]
    rest, precisions, most = ranks.broadcast_object(
        lambda: [to_json(budget), precisions, torch.get_num_threads()]
    )
    budget, started = from_json(Budget, rest), ranks.time()
    numbers = [most, most // 2] if on_cpu and most > 1 and training.threads is None else [most]
    until = started + min(SHARE * seconds, max(MOST_SECONDS, MOST_SHARE * seconds))
    for rounds in range(ROUNDS):
        plan = choose(budget if rounds else replace(budget, seconds=min(seconds, FIRST_SECONDS))).plan
        for number in reversed(range(len(plan.members))):
            member = plan.members[number]
            size = Size.of(member.model, member.training)
            ends = ranks.time() + budget.step_seconds(member.kind, size)
            if budget.is_timed(member.kind, size) or (rounds and ends >= until):
                continue
            timed = _timed(corpus, plan, number, precisions, numbers, until)
            numbers, precisions = [timed.threads], [timed.precision]
            budget = replace(budget, precision=timed.precision, timed=(*budget.timed, timed))
    torch.set_num_threads(numbers[0])
    return numbers[0], budget


def step_time(session: TransformerSession) -> StepTime:
    """Time a step of the member in training, whose weights do not change."""
    precision, threads = session.training_config.precision, torch.get_num_threads()
    now = _trial_ranks().time()
    return _timed(session.corpus, session.plan, session.number, [precision], [threads], now)


def _timed(
    corpus: Corpus, plan: Plan, number: int, precisions: list[str], numbers: list[int], until: float
) -> StepTime:
    """Time a member in each precision with each number of threads; return the fastest, and free the memory."""
    found = _fastest(corpus, plan, number, precisions, numbers, until)
    if current().shards:
        gc.collect()  # modules under FSDP are in reference cycles
    return found


def _fastest(
    corpus: Corpus, plan: Plan, number: int, precisions: list[str], numbers: list[int], until: float
) -> StepTime:
    sessions = [_session(corpus, plan, number, precision) for precision in precisions]
    trials = [_Trial(session, threads) for session, threads in product(sessions, numbers)]
    _in_turns(trials, until, _trial_ranks())
    return _best(trials, numbers[0]).result()


def _session(corpus: Corpus, plan: Plan, number: int, precision: str) -> TransformerSession:
    """Build a session of one member, on the beginning of the text."""
    member = plan.members[number]
    training = replace(
        member.training, precision=precision, reserved_chars=0, prior_chars=None, teacher_weight=None
    )
    member = replace(member, training=training)
    assert member.model.block_size
    few = corpus.train[: max(CHARS, 2 * member.model.block_size + 2)]
    facts = CorpusFacts(label="", sources=(), key=corpus.key, sha256=corpus.sha256)
    run = RunFacts(name="", command="", created="", corpus=facts, text=TextConfig())
    alone = replace(plan, members=(member,), decisions=())
    return TransformerSession(
        replace(corpus, train=few), alone, run, threads_given=True, ranks=_trial_ranks()
    )


def _trial_ranks() -> Ranks:
    """Return the ranks that take trial steps: all if the weights are sharded, else this one alone."""
    return current() if current().shards else current().without_others()


def _in_turns(trials: Sequence[_Trial], until: float, ranks: Ranks) -> None:
    """Take steps of all trials in turn, so that a busy moment of the machine affects all."""
    now = ranks.time()
    late = now + LATE * max(0.0, until - now)
    for steps in range(1 + MOST_STEPS):
        if steps > FEWEST_STEPS and ranks.time() >= until:
            return
        for trial in trials:
            if trials[0].times and ranks.time() >= late:
                return
            trial.step()


def _best(tried: Sequence[_Trial], most: int) -> _Trial:
    """Return the fastest that took a step; bf16, and fewer threads than `most`, only if they are clearly faster."""
    trials = [trial for trial in tried if trial.times]
    costs = {"fp32": 1.0, "bf16": MIN_BF16_GAIN}
    fastest = min(trials, key=lambda trial: trial.seconds * costs[trial.precision])
    of_precision = [trial for trial in trials if trial.precision == fastest.precision]
    return min(of_precision, key=lambda t: t.seconds * (1.0 if t.threads == most else MIN_HALVING_GAIN))
