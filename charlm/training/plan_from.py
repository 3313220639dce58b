"""Reuse the plan of another run (`--plan-from`): its members, sizes, steps and schedule, for this text and machine."""

from dataclasses import replace
from typing import Any

from charlm.config import TrainingConfig
from charlm.strict_json import from_json, to_json
from charlm.training.plan import PLAN_FROM, THREADS, MemberPlan, Plan
from charlm.training.planner import Choice
from charlm.training.sizes import Budget

OF_THE_MACHINE = ("seed", "patience", "save_every", "device", "threads", "precision", "prior_memory")
"""Training settings that may be given together with another run's plan."""


def take_plan(plan: Plan, source: str, training: TrainingConfig, budget: Budget, n_train: int) -> Choice:
    """Adapt the plan of `source` to this text and machine, keeping its members, sizes, steps and schedule.

    Decisions are repeated at the same steps. Numbers of threads are scaled, so that where all or half of them were used,
    all or half of `training.threads` are. Raises ValueError if the plan does not fit.
    """
    if not plan.members:
        raise ValueError(
            f"the plan of {source} names no sizes; an earlier version of charlm, or an n-gram model, wrote it"
        )
    own = {name: getattr(training, name) for name in OF_THE_MACHINE}
    if training.precision == "auto":
        own["precision"] = budget.precision
    here, most = training.threads or 1, plan.most_threads or 1

    def threads_here(threads: int | None) -> int:
        return max(1, min(here, (threads or most) * here // most))

    def of_here(member: MemberPlan) -> MemberPlan:
        block, reserved = member.model.block_size or 0, member.training.reserved_chars or 0
        if block + reserved >= n_train:
            raise ValueError(
                f"the plan of {source} needs more than {block + reserved:,} symbols to train on; this text has {n_train:,}"
            )
        changed = own | {THREADS: threads_here(member.training.threads)}
        left_open = tuple(name for name in member.left_open if name != THREADS)
        return replace(
            member, training=replace(member.training, **changed), left_open=left_open, step_seconds=None
        )

    decisions = []
    for decision in plan.decisions:
        members = from_json(tuple[MemberPlan, ...], decision.get("members", []))
        threads = decision.get(THREADS)
        changed: dict[str, Any] = {THREADS: threads_here(threads)} if type(threads) is int else {}
        changed |= {PLAN_FROM: source, "members": [to_json(of_here(member)) for member in members]}
        decisions.append(decision | changed)
    plan = replace(plan, members=tuple(map(of_here, plan.members)), decisions=tuple(decisions))
    first = plan.members[0]
    return Choice(model=first.model, training=first.training, plan=plan, why=f"as in the plan of {source}")
