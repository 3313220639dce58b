"""The plan of a run: its members, schedule and evaluations, and the record of how they were decided."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.config import NO_PRIOR, PRIOR, ModelConfig, TrainingConfig
from charlm.errors import CheckpointError, ResourceError
from charlm.strict_json import from_json, read_as, to_json
from charlm.training.schedule import Schedule

EXTENDED = "more training"
FAR_FEWER = 2  # times fewer steps than first planned are worth a warning
PLAN_FILE = "plan.json"
REGULARISATION = ("dropout", "ngram_embedding_dropout", "prior_dropout")
"""Settings of a model that the plan may change on the way."""


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """A transformer that a run trains: its configurations, complete, and the step at which its training ends."""

    model: ModelConfig
    training: TrainingConfig
    end: int
    share: float = 1.0  # of the time that is left, in proportion to those of the later members
    left_open: tuple[str, ...] = ()  # the settings of REGULARISATION that the plan may change

    @property
    def is_whole(self) -> bool:
        """Is everything chosen that its training needs?"""
        model, training = self.model, self.training
        needed = (training.batch_size, training.learning_rate, training.optimizer)
        return model.complete and model.causal and not model.is_ngram and None not in needed

    def is_like(self, model: ModelConfig, training: TrainingConfig) -> bool:
        """Is it the same but for regularisation and the number of threads?"""
        same = {name: getattr(model, name) for name in REGULARISATION}
        return (
            self.is_whole
            and replace(self.model, **same) == model
            and replace(self.training, threads=training.threads).completed() == training
        )

    @property
    def kind(self) -> str:
        """Its name in `--members`."""
        return PRIOR if self.model.prior else NO_PRIOR


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The members and the schedule in force, how to evaluate, and the record of the decisions that led there."""

    schedule: Schedule  # of all members, one after another
    eval_every: int  # steps
    eval_chars: int  # held-out symbols in each evaluation, approximately
    members: tuple[MemberPlan, ...] = ()  # the transformers; none where an n-gram model is counted
    decisions: tuple[dict[str, Any], ...] = ()  # each with its reasons and outcome; the last is in force

    @property
    def total_steps(self) -> int:
        """The step at which training ends."""
        return self.schedule.end

    @property
    def is_staged(self) -> bool:
        """Does it change settings on the way, which no option can say?"""
        models = {str([m["model"] for m in d["members"]]) for d in self.decisions if d.get("members")}
        return len(self.members) > 1 or len(models) > 1

    @cached_property
    def decided_at(self) -> frozenset[int]:
        """The steps before which something was decided."""
        return frozenset(d["at_step"] for d in self.decisions if type(d.get("at_step")) is int)

    def share_of(self, number: int) -> float:
        """The share that a member has of the time from its beginning on."""
        return self.members[number].share / sum(member.share for member in self.members[number:])

    def with_end_moved(self, number: int, step: int, end: int) -> "Plan":
        """Unchanged up to `step`, in the training of member `number`, which now ends at `end`; later ones move along."""
        later = [member.end - self.members[number].end for member in self.members[number + 1 :]]
        return self._with_ends(number, step, [end, *(end + steps for steps in later)])

    def with_restart(self, number: int, step: int, end: int) -> "Plan":
        """Unchanged up to `step`, in the training of member `number`; then a new warmup, and a cooldown to `end`."""
        later = [member.end - self.members[number].end for member in self.members[number + 1 :]]
        return self._with_ends(number, step, [end, *(end + steps for steps in later)], restart=True)

    def ended(self, number: int, step: int) -> "Plan":
        """The training of member `number`, which is not the last, ends at `step`; later ones move along."""
        later = [member.end - self.members[number].end for member in self.members[number + 1 :]]
        return self._followed_by(self.schedule.before(step), number, [step, *(step + n for n in later)])

    def _with_ends(self, number: int, step: int, ends: Sequence[int], *, restart: bool = False) -> "Plan":
        """The plan with new ends of member `number` and those after it."""
        own = self.schedule.before(self.members[number].end)
        schedule = (own.with_restart if restart else own.with_end_moved)(step, ends[0])
        return self._followed_by(schedule, number, ends)

    def _followed_by(self, schedule: Schedule, number: int, ends: Sequence[int]) -> "Plan":
        """A schedule up to the end of member `number`, and anew for each member after it."""
        for start, end in pairwise(ends):
            schedule = schedule.with_restart(start, end)
        moved = [replace(m, end=end) for m, end in zip(self.members[number:], ends, strict=True)]
        return replace(self, schedule=schedule, members=(*self.members[:number], *moved))

    @property
    def extended_at(self) -> int | None:
        """The step at which the plan was last extended, if it was."""
        steps = [d.get("at_step") for d in self.decisions if d.get("decided") == EXTENDED]
        return steps[-1] if steps and isinstance(steps[-1], int) else None

    @property
    def first_total_steps(self) -> int:
        """The end that was planned when the run began or was last extended: with a time budget, a guess."""
        first = max((i for i, d in enumerate(self.decisions) if d.get("decided") == EXTENDED), default=0)
        return Schedule.parse(str(self.decisions[first].get("schedule"))).end

    @property
    def fell_short(self) -> bool:
        """Is the end far earlier than first planned, because the machine is slower than measured?"""
        begun = self.extended_at or 0
        return (self.total_steps - begun) * FAR_FEWER < self.first_total_steps - begun

    def record(self, **facts: Any) -> "Plan":
        """The same plan with a decision appended: its facts, and the plan as the outcome."""
        facts |= {
            "schedule": str(self.schedule),
            "eval_every": self.eval_every,
            "eval_chars": self.eval_chars,
            "members": [to_json(member) for member in self.members],
        }
        return replace(self, decisions=(*self.decisions, facts))

    def member_at(self, number: int, step: int) -> MemberPlan:
        """What is in force for a member when `step` is taken: a run that goes back follows it again.

        Raises CheckpointError where the plan is damaged.
        """
        for decision in reversed(self.decisions):
            members, at_step = decision.get("members"), decision.get("at_step", 0)
            if members and type(at_step) is int and at_step <= step:
                found = read_as(tuple[MemberPlan, ...], members, PLAN_FILE)
                return found[number] if number < len(found) else self.members[number]
        return self.members[number]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` rebuilds the same plan."""
        return {"decisions": list(self.decisions)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Rebuild from `to_json`: the last decision is in force. Raises ValueError."""
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
        if members and schedule.end != members[-1].end:
            raise ValueError(
                f"the schedule ends at step {schedule.end}, the last member at {members[-1].end}"
            )
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
    """The run's plan. Raises CheckpointError where it is missing or damaged."""
    try:
        return Plan.from_json(read_json(run.path / PLAN_FILE))
    except ValueError as error:
        raise CheckpointError(f"{PLAN_FILE} of {run.name} is damaged: {error}") from None
