"""The plan of a training request: chosen for its budget, taken from another run, or received from rank 0."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from charlm.config import ModelConfig, TrainingConfig
from charlm.errors import UsageError
from charlm.terminal import one_line
from charlm.training.describe import describe_choice, describe_model

if TYPE_CHECKING:  # NumPy and torch are slow to import
    from charlm.data.load import Loaded
    from charlm.training.distributed import Ranks
    from charlm.training.finetune import Parent
    from charlm.training.planner import Choice
    from charlm.training.request import Messages, TrainRequest
    from charlm.training.teacher import Teacher


def choose_plan(
    loaded: "Loaded",
    model: ModelConfig,
    training: TrainingConfig,
    budget: float | None,
    steps: int | None,
    started: float,
    messages: "Messages",
    origin: "Parent | None" = None,
    teacher: "Teacher | None" = None,
) -> "tuple[Choice, str]":
    """Choose model, training and plan for a text, for `budget` seconds since `started` or a number of steps.

    Returns the choice and a sentence that describes it. Raises UsageError for settings that contradict each other.
    """
    from charlm.threads import use_threads  # here: torch is slow to import
    from charlm.training.device import gpu_note
    from charlm.training.finetune import choose_finetuning
    from charlm.training.planner import choose, forecast_of
    from charlm.training.sizes import Budget
    from charlm.training.trial import timed_budget, untimed_budget

    corpus, most = loaded.corpus, use_threads(training.threads)
    if model.is_ngram:
        choice = choose(Budget(), len(corpus.train), model, training).record(Budget(), 1)
        return choice, describe_model(choice, corpus.vocabulary)
    if (gpu := gpu_note(training.device)) is not None:
        messages.say(gpu)

    def choose_for(means: Budget) -> "Choice":
        if origin is not None:
            return choose_finetuning(origin, corpus, means, model, training)
        n_symbols = corpus.vocabulary.n_symbols
        asked = None if teacher is None else teacher.most_chars(means, n_symbols)
        return choose(means, len(corpus.train), model, training, n_symbols=n_symbols, teacher_chars=asked)

    try:
        forecast = None
        if steps is not None:
            threads, means = most, untimed_budget(training, steps)
        else:
            assert budget is not None
            left = max(1.0, budget - (perf_counter() - started))
            threads, means = timed_budget(corpus, training, left, choose_for)
            left = max(1.0, budget - (perf_counter() - started))
            means = replace(means, seconds=round(left, 2))
            if origin is None:  # the law knows nothing of a model that has learned another text
                forecast = forecast_of(budget, means, choose_for, len(corpus.train))
        choice = choose_for(means).record(means, threads, forecast)
    except ValueError as error:
        raise UsageError(str(error)) from None
    busy = f"; on {threads} of {most} threads, because the machine is busy" if threads < most else ""
    return choice, describe_choice(choice, corpus.vocabulary, busy)


def taken_plan(loaded: "Loaded", training: TrainingConfig, request: "TrainRequest") -> "tuple[Choice, str]":
    """Take the plan of another run, or of a file, for this text. Raises UsageError, CheckpointError."""
    from charlm.checkpoint.run_folder import find_run
    from charlm.checkpoint.safe_io import read_json  # here and below: torch is slow to import
    from charlm.threads import use_threads
    from charlm.training.plan import PLAN_FILE, Plan
    from charlm.training.plan_from import take_plan
    from charlm.training.trial import untimed_budget

    named = request.plan_from or ""
    path = Path(os.path.expanduser(named))
    if not path.is_file():
        path = find_run(request.root, named).path / PLAN_FILE
    threads, means = use_threads(training.threads), untimed_budget(training, 1)
    try:
        plan = Plan.from_json(read_json(path))
    except ValueError as error:
        raise UsageError(f"{one_line(named)} holds no plan: {one_line(str(error))}") from None
    try:
        training = replace(training, threads=threads)
        choice = take_plan(plan, one_line(named), training, means, len(loaded.corpus.train))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if (choice.training.teacher_weight is None) != (request.teacher is None):
        has = (
            "has no teacher; leave --teacher out"
            if request.teacher
            else "has a teacher; name it with --teacher RUN"
        )
        raise UsageError(f"the plan of {one_line(named)} {has}")
    return choice, describe_choice(choice, loaded.corpus.vocabulary)


def choice_of_first(
    ranks: "Ranks", choose: Callable[[], "Choice"], training: TrainingConfig, *, timed: bool
) -> "Choice":
    """Return on all ranks what rank 0 chooses. `timed`: by trial steps, which all ranks take if weights are sharded."""
    from charlm.threads import use_threads  # here and below: torch is slow to import
    from charlm.training.plan import Plan
    from charlm.training.planner import Choice

    def as_json() -> dict[str, Any]:
        choice = choose()
        configs = {"model": choice.model.to_json(), "training": choice.training.to_json()}
        return {**configs, "plan": choice.plan.to_json(), "why": choice.why}

    facts = ranks.broadcast_object(as_json, together=timed and ranks.shards)
    if not ranks.is_first:
        use_threads(training.threads)
    return Choice(
        model=ModelConfig.from_json(facts["model"]),
        training=TrainingConfig.from_json(facts["training"]),
        plan=Plan.from_json(facts["plan"]),
        why=facts["why"],
    )
