"""More training for a run: so many steps, or so many seconds."""

from dataclasses import replace

from charlm.checkpoint.run_folder import RunFolder
from charlm.config import ModelConfig, TrainingConfig
from charlm.training.deadline import Pace
from charlm.training.device import measure_gflops
from charlm.training.planner import MORE, Budget, Size, first_guess, write_plan
from charlm.training.session import Session


def by_steps(session: Session, run: RunFolder, steps: int) -> None:
    """Add steps, with a warmup and a cooldown of their own, and write the plan down."""
    _extend(session, run, steps, decided=MORE, steps_more=steps)


def by_seconds(session: Session, run: RunFolder, seconds: float, started: float, afterwards: float) -> Pace:
    """Add as many steps as fit a time that began at `started`: a first guess, then by what is timed.

    `afterwards`: the seconds that the caller needs when training has ended.
    """
    deadline, step = started + seconds, session.state.step
    pace = Pace(budget=seconds, deadline=deadline, afterwards=afterwards, first_step=step)
    gflops = round(measure_gflops(session.device), 1)
    guess = first_guess(
        Budget(seconds=max(1.0, round(pace.left, 2)), gflops=gflops),
        size_of(session.model_config, session.training_config),
    )
    _extend(session, run, guess, decided=MORE, budget_seconds=seconds, gflops=gflops)
    return pace


def _extend(session: Session, run: RunFolder, steps: int, **facts: object) -> None:
    step = session.state.step
    schedule = session.plan.schedule.extended(step, step + steps)
    session.plan = replace(session.plan, schedule=schedule).decided(at_step=step, **facts)
    session.begin_extension()
    write_plan(run, session.plan)


def size_of(model: ModelConfig, training: TrainingConfig, rate_share: float = 1.0) -> Size:
    """A run's size as a row of the plan's table, for what a step of it costs; its rate, or a share of that."""
    assert model.n_layer and model.n_embd and model.block_size and training.batch_size
    return Size(
        tflop=0,
        n_layer=model.n_layer,
        n_embd=model.n_embd,
        n_head=model.n_head or 1,
        block_size=model.block_size,
        batch_size=training.batch_size,
        learning_rate=(training.learning_rate or 0.0) * rate_share,
    )
