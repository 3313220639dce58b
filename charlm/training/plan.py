"""The plan of a run: its members, schedule and evaluations, and the record of how they were decided."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import CheckpointError, ResourceError
from charlm.strict_json import from_json, read_as, to_json
from charlm.training.events import ON_TRIAL, RESIZED, TRIED
from charlm.training.schedule import Schedule

EXTENDED = "more training"
ENDED_EARLY = "a member ended early"
PLAN_FROM = "plan_from"
"""The run or file that a decision is taken from: what was measured and extended there was not here."""
FAR_FEWER = 2  # times fewer steps than first planned are worth a warning
PLAN_FILE = "plan.json"
REGULARISATION = ("dropout", "ngram_embedding_dropout", "prior_dropout")
"""Model settings that the plan may change during a run."""
SIZE_SETTINGS = ("n_layer", "n_embd", "block_size", "batch_size")
"""The settings that make up a size. If steps are far faster or slower than expected, the plan may choose another size."""
OPEN_SETTINGS = (
    *REGULARISATION,
    *SIZE_SETTINGS,
    *("n_head", "ngram_embedding_rows", "learning_rate", "ngram_embedding_accumulator"),  # follow from a size
)
"""Settings of which the plan records whether the user left them open, besides the threads."""
THREADS = "threads"


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """A transformer that a run trains: its configurations, complete, and the step at which its training ends."""

    model: ModelConfig
    training: TrainingConfig
    end: int
    share: float = 1.0  # of the remaining time, relative to the shares of later members
    left_open: tuple[str, ...] = ()  # of OPEN_SETTINGS and THREADS, those that the user did not give
    step_seconds: float | None = None  # expected when the size was chosen; None: nothing was timed

    def __post_init__(self) -> None:
        if self.step_seconds is not None and self.step_seconds <= 0:
            raise ValueError(f"step_seconds is {self.step_seconds:g}; it must be above 0")

    @property
    def is_whole(self) -> bool:
        """Whether all settings that its training needs are chosen."""
        model, training = self.model, self.training
        needed = (training.batch_size, training.learning_rate, training.optimizer)
        return model.complete and model.causal and not model.is_ngram and None not in needed

    @property
    def is_size_open(self) -> bool:
        """Whether the plan may choose another size."""
        return set(SIZE_SETTINGS) <= set(self.left_open)

    def is_like(self, model: ModelConfig, training: TrainingConfig) -> bool:
        """Whether it equals these, apart from regularisation, number of threads and gradient accumulation."""
        same = {name: getattr(model, name) for name in REGULARISATION}
        return (
            self.is_whole
            and replace(self.model, **same) == model
            and replace(self.training, threads=training.threads, grad_accum=training.grad_accum).completed()
            == training.completed()
        )

    def reopened(self, names: Collection[str] = OPEN_SETTINGS) -> tuple[ModelConfig, TrainingConfig]:
        """Return its configurations, with those of `names` reset that the user left open."""
        both = ModelConfig, TrainingConfig
        open_again = [
            {name: None for name in names if name in self.left_open and name in config.__dataclass_fields__}
            for config in both
        ]
        model = {name: None for name in open_again[0] if getattr(self.model, name) is not None}
        return ModelConfig(**{**vars(self.model), **model}), TrainingConfig(
            **{**vars(self.training), **open_again[1]}
        )

    @property
    def kind(self) -> str:
        """Its name in `--members`."""
        return self.model.kind


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The loss at which a longer run is expected to end."""

    seconds: float
    ratio: float  # of its loss to that of this run

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 1e12 or not 0 < self.ratio <= 1e3:
            raise ValueError("the seconds and the ratio of a forecast must be above 0, and not endless")

    def bits_lower(self, bits_per_char: float) -> float:
        """Return how many bits per character lower it ends than this run, which ended at `bits_per_char`."""
        return max(0.0, (1 - self.ratio) * bits_per_char)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The members, the learning-rate schedule and the evaluations of a run, and the decisions that led to them."""

    schedule: Schedule  # of all members, one after another
    eval_every: int  # steps
    eval_chars: int  # held-out symbols in each evaluation, approximately
    members: tuple[MemberPlan, ...] = ()  # the transformers; none where an n-gram model is counted
    decisions: tuple[dict[str, Any], ...] = ()  # each with its reasons and outcome; the last one applies

    @property
    def total_steps(self) -> int:
        """The step at which training ends."""
        return self.schedule.end

    def as_begun(self) -> "Plan":
        """Return the plan as it was before the first step, without later decisions."""
        first, *later = self.decisions
        return Plan.from_json({"decisions": [first, *(d for d in later if d.get("at_step") == 0)]})

    def closed(self) -> "Plan":
        """Return the same plan, in which only regularisation and the number of steps may still change."""
        members = [
            replace(m, left_open=tuple(name for name in m.left_open if name in REGULARISATION))
            for m in self.members
        ]
        return replace(self, members=tuple(members))

    @property
    def is_staged(self) -> bool:
        """Whether settings change during the run, which options cannot express."""
        configs = {
            str([(m["model"], m["training"]) for m in d["members"]])
            for d in self.decisions
            if d.get("members")
        }
        tried = any(d.get("decided") == ON_TRIAL for d in self.decisions)
        return len(self.members) > 1 or len(configs) > 1 or tried

    @cached_property
    def decided_at(self) -> frozenset[int]:
        """The steps before which a decision takes effect, or a trial ends."""
        steps = (d.get(name) for d in self.decisions for name in ("at_step", "until_step"))
        return frozenset(step for step in steps if type(step) is int)

    @property
    def most_threads(self) -> int | None:
        """The largest number of threads among its decisions; None if none is recorded."""
        found = [d.get(THREADS) for d in self.decisions]
        return max((n for n in found if type(n) is int), default=None)

    def share_of(self, number: int) -> float:
        """Return a member's share of the time that is left when its training begins."""
        return self.members[number].share / sum(member.share for member in self.members[number:])

    def with_end_moved(self, number: int, step: int, end: int) -> "Plan":
        """Return the plan with member `number`'s end moved to `end`, unchanged up to `step`; later members move along."""
        return self._with_ends(number, step, self._ends(number, end))

    def with_restart(self, number: int, step: int, end: int) -> "Plan":
        """Return the plan with a restart at `step`, in member `number`: a new warmup, and a cooldown to `end`."""
        return self._with_ends(number, step, self._ends(number, end), restart=True)

    def begun_again(self, number: int, step: int, member: MemberPlan) -> "Plan":
        """Return the plan in which `member` replaces member `number` at `step`, where its training begins."""
        assert step < member.end
        ends, own = self._ends(number, member.end), self.schedule.before(self.members[number].end)
        plan = replace(self, members=(*self.members[:number], member, *self.members[number + 1 :]))
        return plan._followed_by(own.with_restart(step, member.end, 0.0), number, ends)

    def with_threads(self, number: int, threads: int) -> "Plan":
        """Return the plan with the members from `number` on trained with so many threads."""
        changed = (replace(m, training=replace(m.training, threads=threads)) for m in self.members[number:])
        return replace(self, members=(*self.members[:number], *changed))

    def with_parts(self, number: int, parts: int) -> "Plan":
        """Return the plan with batches of member `number` computed in so many parts (gradient accumulation)."""
        member = self.members[number]
        member = replace(member, training=replace(member.training, grad_accum=parts))
        return replace(self, members=(*self.members[:number], member, *self.members[number + 1 :]))

    def ended(self, number: int, step: int) -> "Plan":
        """Return the plan with member `number`, which is not the last, ended at `step`; later members move along."""
        return self._followed_by(self.schedule.before(step), number, self._ends(number, step))

    def _ends(self, number: int, end: int) -> list[int]:
        """Return the ends of member `number`, which is `end`, and of later members, which move along."""
        was = self.members[number].end
        return [end + member.end - was for member in self.members[number:]]

    def _with_ends(self, number: int, step: int, ends: Sequence[int], *, restart: bool = False) -> "Plan":
        """Return the plan with new ends of member `number` and of those after it."""
        own = self.schedule.before(self.members[number].end)
        schedule = (own.with_restart if restart else own.with_end_moved)(step, ends[0])
        return self._followed_by(schedule, number, ends)

    def _followed_by(self, schedule: Schedule, number: int, ends: Sequence[int]) -> "Plan":
        """Return the plan with `schedule` up to the end of member `number`, and a restart for each later member."""
        for start, end in pairwise(ends):
            schedule = schedule.with_restart(start, end)
        moved = [replace(m, end=end) for m, end in zip(self.members[number:], ends, strict=True)]
        return replace(self, schedule=schedule, members=(*self.members[:number], *moved))

    def ended_early(self, step: int) -> bool:
        """Whether the training of a member ended at `step` because it overfitted."""
        return any(d.get("decided") == ENDED_EARLY and d.get("at_step") == step for d in self.decisions)

    def eval_every_at(self, step: int) -> int:
        """The steps between evaluations that were in force at `step`: each member has its own."""
        for later, decision in enumerate(reversed(self.decisions)):
            every, at_step = decision.get("eval_every"), decision.get("at_step", 0)
            if type(at_step) is int and at_step <= step:
                return every if later and type(every) is int and every > 0 else self.eval_every
        return self.eval_every

    @property
    def begun_again_at(self) -> tuple[int, ...]:
        """The steps at which the training of a member restarted with another size."""
        steps = {d.get("at_step") for d in self.decisions if d.get("decided") == RESIZED}
        return tuple(sorted(step for step in steps if type(step) is int))

    @property
    def extended_at(self) -> int | None:
        """The step at which the plan was last extended, if it was."""
        extended = [d for d in self.decisions if d.get("decided") == EXTENDED and PLAN_FROM not in d]
        steps = [d.get("at_step") for d in extended]
        return steps[-1] if steps and isinstance(steps[-1], int) else None

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of a longer run, if this one has a time budget and was not extended. Raises CheckpointError."""
        first = self.decisions[0] if self.decisions else {}
        data = None if PLAN_FROM in first or self.extended_at is not None else first.get("forecast")
        return None if data is None else read_as(Forecast, data, PLAN_FILE)

    @property
    def first_total_steps(self) -> int:
        """The end that was first planned when the run began, was restarted with another size or was extended."""
        return Schedule.parse(str(self._expected_by.get("schedule"))).end

    @property
    def fell_short(self) -> bool:
        """Whether the end is far earlier than first planned, because the machine is slower than measured."""
        if PLAN_FROM in self._expected_by or any(d.get("decided") == ENDED_EARLY for d in self.decisions):
            return False  # then that is why there are fewer
        at_step = self._expected_by.get("at_step", 0)
        begun = at_step if isinstance(at_step, int) else 0
        return (self.total_steps - begun) * FAR_FEWER < self.first_total_steps - begun

    @property
    def _expected_by(self) -> dict[str, Any]:
        """The decision whose end the current one is compared with."""
        found = [d for d in self.decisions if d.get("decided") in (EXTENDED, RESIZED)]
        return found[-1] if found else self.decisions[0]

    def record(self, **facts: Any) -> "Plan":
        """Return the plan with a decision appended: its facts, and the plan as the outcome."""
        facts |= {
            "schedule": str(self.schedule),
            "eval_every": self.eval_every,
            "eval_chars": self.eval_chars,
            "members": [to_json(member) for member in self.members],
        }
        return replace(self, decisions=(*self.decisions, facts))

    def member_at(self, number: int, step: int) -> MemberPlan:
        """Return a member's plan as it applies to `step`, so that a run that goes back repeats the same decisions.

        Raises CheckpointError if the plan is damaged.
        """
        for decision in reversed(self.decisions):
            members, at_step = decision.get("members"), decision.get("at_step", 0)
            if members and type(at_step) is int and at_step <= step:
                found = read_as(tuple[MemberPlan, ...], members, PLAN_FILE)
                return self._tried(found[number] if number < len(found) else self.members[number], step)
        return self.members[number]

    def _tried(self, member: MemberPlan, step: int) -> MemberPlan:
        """Return the member with the threads of a trial, if one is on at a step."""
        for decision in reversed(self.decisions):
            decided, at_step, until = (decision.get(name) for name in ("decided", "at_step", "until_step"))
            if decided not in (ON_TRIAL, TRIED) or type(at_step) is not int or at_step > step:
                continue
            if decided == TRIED or type(until) is not int or until <= step:
                break
            threads = read_as(int, decision.get(THREADS), PLAN_FILE)
            try:
                return replace(member, training=replace(member.training, threads=threads))
            except ValueError as error:
                raise CheckpointError(f"{PLAN_FILE} is damaged: {error}") from None
        return member

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, from which `from_json` rebuilds the same plan."""
        return {"decisions": list(self.decisions)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Rebuild a plan from `to_json`: the last decision applies. Raises ValueError."""
        decisions = data.get("decisions")
        if not isinstance(decisions, list) or not all(isinstance(each, dict) for each in decisions or [None]):
            raise ValueError("decisions must be a list of objects, at least one")
        last = decisions[-1]
        every, chars = last.get("eval_every"), last.get("eval_chars")
        if not all(type(value) is int and value > 0 for value in (every, chars)):
            raise ValueError("eval_every and eval_chars must be whole numbers above 0")
        schedule = Schedule.parse(str(last.get("schedule")))
        members = from_json(tuple[MemberPlan, ...], last.get("members", []))
        if not all(member.is_whole for member in members):
            raise ValueError("the configuration of a member is incomplete, or not of a transformer")
        ends = [member.end for member in members]
        if members and (schedule.end != ends[-1] or not all(a < b for a, b in pairwise([0, *ends]))):
            raise ValueError(f"the schedule ends at step {schedule.end}, the members at {ends}")
        return cls(
            schedule=schedule, eval_every=every, eval_chars=chars, members=members, decisions=tuple(decisions)
        )


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Replace the run's plan and wait for the disk. Raises ResourceError."""
    try:
        write_json(run.path / PLAN_FILE, plan.to_json())
    except OSError as error:
        raise ResourceError(f"the plan of {run.name} cannot be written: {error.strerror}") from None


def read_plan(run: RunFolder) -> Plan:
    """Read the run's plan. Raises CheckpointError if it is missing or damaged."""
    try:
        return Plan.from_json(read_json(run.path / PLAN_FILE))
    except ValueError as error:
        raise CheckpointError(f"{PLAN_FILE} of {run.name} is damaged: {error}") from None
