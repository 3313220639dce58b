"""`charlm resume`: go on with a run, to the end of its plan or further, or with a comparison."""

from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli.console import checkpoints_root, say, warn
from charlm.cli.loading import working
from charlm.cli.options import (
    MOST_STEPS,
    Checkpoints,
    EventsAsJson,
    MovedText,
    MovedValFile,
    RunName,
    RunOption,
    budget_seconds,
    one_run,
    threads_option,
)
from charlm.cli.select import moved_text, say_moved
from charlm.errors import UsageError

EXAMPLES = """Examples:
  charlm resume                     finish the newest run
  charlm resume poems --time 10m    ten minutes more, with a warmup and a cooldown of their own
  charlm resume poems --steps 500   500 steps more
  charlm resume poems --text ~/new/poems   its text was moved there
  charlm resume poems-position      finish a comparison"""


def command(
    ctx: typer.Context,
    run: RunName = None,
    run_option: RunOption = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Train so much longer, starting included.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=MOST_STEPS, help="Train so many steps more.")
    ] = None,
    threads: Annotated[
        int | None, threads_option("CPU threads. [default: as many as the run began with]")
    ] = None,
    text: MovedText = None,
    val_file: MovedValFile = None,
    as_json: EventsAsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Go on with a run: to the end of its plan, or further; or with a comparison.

    It starts from the last checkpoint that is whole. A finished run needs to be told for how long; if it was
    killed before its report was written, that is made.
    """
    run = one_run(run, run_option)
    if time is not None and steps is not None:
        raise UsageError("--time and --steps were both given; give one of them")
    budget = budget_seconds(time) if time is not None else None
    say(f"resuming {run or 'the newest run'}")
    if run is not None and _comparison(
        ctx, checkpoints_root(checkpoints), run, time, steps, moved_text(text, val_file), as_json
    ):
        return

    from charlm.checkpoint.run_folder import find  # here: only now is torch needed
    from charlm.cli.follow import of_comparison
    from charlm.training.ngram_trainer import CountsSession
    from charlm.training.run_text import corpus_of
    from charlm.training.start import go_on

    folder = find(checkpoints_root(checkpoints), run, warn)
    if (time is not None or steps is not None) and of_comparison(folder):
        raise UsageError(f"{folder.name} is part of a comparison, in which all runs have the same budget")
    moved = moved_text(text, val_file)
    with working("reading"):
        session = go_on(folder, warn, threads, lambda snapshot: corpus_of(snapshot, moved))
    say_moved(session.corpus, moved)
    if isinstance(session, CountsSession):
        for option, value in {"--time": time, "--steps": steps}.items():
            if value is not None:
                raise UsageError(
                    f"{option} cannot act on {folder.name}: it is counts alone, which are complete"
                )
        count_on(folder, session, as_json=as_json)
        return
    if session.state.finished is not None and budget is None and steps is None:
        close(folder, session, as_json=as_json)
        return
    pace = _extended(folder, session, budget, steps, ctx.obj)
    train_on(folder, session, pace, budget, as_json=as_json)


def train_on(folder: Any, session: Any, pace: Any, budget: float | None, *, as_json: bool) -> None:
    """Train to the end of the plan; exits with the code of a signal."""
    from charlm.cli.follow import counts_line, follow, next_commands

    say(f"{folder.name}: from step {session.state.step} to {session.plan.total_steps}")
    code = follow(folder, session, pace, counts_line(session, budget), as_json=as_json)
    if code:
        raise typer.Exit(code)
    next_commands(folder, session)


def close(folder: Any, session: Any, *, as_json: bool) -> None:
    """Write the report that a finished run lacks; UsageError where it lacks nothing."""
    from charlm.cli.follow import close_finished, counts_line, next_commands

    if not lacks_report(folder):
        raise UsageError(
            f"the run {folder.name} is finished, after {session.state.step} steps; to train it further say for "
            f"how long: charlm resume {folder.name} --time 2m"
        )
    say(f"{folder.name} is finished, after {session.state.step} steps; only its report is missing")
    close_finished(folder, session, counts_line(session, None), as_json=as_json)
    next_commands(folder, session)


def lacks_report(folder: Any) -> bool:
    """Has the run no report, since it was killed after its last save?"""
    from charlm.reporting.run_page import NAME

    return not (folder.path / NAME).exists()


def count_on(folder: Any, session: Any, *, as_json: bool) -> None:
    """Counts that were saved are complete; what can be missing is their figure, or the report."""
    from charlm.cli.follow import close_finished, follow, next_commands, print_result

    if session.state.finished is not None:
        say(f"{folder.name} is complete: it is counts alone, and all of its text is counted")
        if lacks_report(folder):
            say("only its report is missing")
            close_finished(folder, session, None, as_json=as_json)
        elif as_json:
            print_result(folder, "done", 0)
    else:
        code = follow(folder, session, None, None, as_json=as_json)
        if code:
            raise typer.Exit(code)
    next_commands(folder, session)


def _extended(folder: Any, session: Any, budget: float | None, steps: int | None, started: float) -> Any:
    """More training for the run, where it was asked for; the pace to keep if that is a time."""
    from charlm.reporting.run_page import report_seconds
    from charlm.training.extend import by_seconds, by_steps

    if steps is not None:
        by_steps(session, folder, steps)
    if budget is None or steps is not None:
        return None
    afterwards = report_seconds(session.corpus, budget, session.plan.total_steps)
    return by_seconds(session, folder, budget, started, afterwards)


def _comparison(
    ctx: Any, root: Path, name: str, time: str | None, steps: int | None, moved: Any, as_json: bool
) -> bool:
    """Go on with the comparison of that name; False where there is none."""
    from charlm.experiments import comparison as on_disk

    folder = on_disk.find(root, name)
    if folder is None:
        return False
    for option, value in {"--time": time, "--steps": steps}.items():
        if value is not None:
            raise UsageError(f"{option} cannot act on a comparison: all its runs have the same budget")
    source = ctx.get_parameter_source("threads").name
    if source != "DEFAULT":
        said = "has no effect on a comparison: all its runs use as many threads as the first"
        if source == "COMMANDLINE":
            raise UsageError(f"--threads {said}")
        warn(f"CHARLM_THREADS {said}")
    from charlm.cli.compare_follow import follow_comparison

    folder.lock()
    comparison = on_disk.read(folder)
    loaded = on_disk.corpus_of(comparison, moved)
    say_moved(loaded.corpus, moved)
    follow_comparison(folder, comparison, loaded, as_json=as_json)
    return True
