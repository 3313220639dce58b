"""Carrying a comparison through, for `compare` and `resume`: its runs one by one, then what they say."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import typer

from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.compare_show import show
from charlm.cli.console import say, warn
from charlm.cli.follow import warn_of
from charlm.cli.loading import Bar
from charlm.config import TextConfig, TrainingConfig
from charlm.data.load import Loaded, run_name
from charlm.errors import CharlmError, UsageError
from charlm.experiments import comparison as on_disk
from charlm.experiments.comparison import MOST_RUNS, Comparison
from charlm.experiments.runner import Began, Scored, Scoring, compare, plan_of, unintended
from charlm.experiments.variants import Variant
from charlm.reporting.commands import run_command, text_words
from charlm.reporting.log import MetricsLog
from charlm.reporting.progress import Progress
from charlm.reporting.run_page import write_report
from charlm.reporting.run_summary import figure_rows, repeat_row
from charlm.terminal import command_line, one_line
from charlm.threads import use_threads
from charlm.training.describe import describe_model, several
from charlm.training.device import about_gpu, pick_device
from charlm.training.events import Event
from charlm.training.planner import Budget
from charlm.training.signals import EXIT_CODES, StopSignals
from charlm.training.start import means_of


def prepare(
    root: Path,
    name: str | None,
    loaded: Loaded,
    text: TextConfig,
    variants: Sequence[Variant],
    training: TrainingConfig,
    seeds: int,
    budget: Budget,
) -> tuple[RunFolder, Comparison]:
    """A new comparison in a folder of its own; UsageError for what cannot be, before anything is written."""
    use_threads(training.threads)
    if (idle := about_gpu(training.device)) is not None:
        say(idle)
    device = pick_device(training.device)
    threads, means = means_of(device, training, budget.steps, budget.seconds)
    budget = replace(means, seconds=budget.seconds, compiler=False)  # compiling would take some runs' time
    default = f"{run_name(loaded.sources)}-{'-'.join(variants[0].values)}"
    comparison = Comparison(
        name=name or default,
        variants=tuple(variants),
        seeds=tuple(range(training.seed, training.seed + seeds)),
        budget=budget,
        threads=threads,
        text=replace(text, val_file=text.val_file and str(Path(text.val_file).absolute())),
        label=loaded.label,
        sources=loaded.sources,
        corpus_key=loaded.corpus.key,
        corpus_sha256=loaded.corpus.sha256,
        command=command_line(["charlm", *sys.argv[1:]]),
        created=on_disk.now(),
    )
    if len(comparison.tasks()) > MOST_RUNS:
        raise UsageError(
            f"these are {len(comparison.tasks()):,} runs; a comparison has at most {MOST_RUNS:,}"
        )
    choices = [plan_of(comparison, task, len(loaded.corpus.train)) for task in comparison.tasks()]
    for reason in unintended(comparison, choices):
        warn(f"the plan gives the variants different values of {reason}")
    say(
        f"the first of {len(variants)} variants: {describe_model(choices[0], loaded.corpus.vocabulary)}, chosen {choices[0].why}"
    )
    folder = RunFolder.create(root, name) if name else RunFolder.create_like(root, default)
    comparison = replace(comparison, name=folder.path.name)
    on_disk.write(folder, comparison)
    return folder, comparison


def follow_comparison(folder: RunFolder, comparison: Comparison, loaded: Loaded, *, as_json: bool) -> None:
    """Train and score what is not done yet, then show it all; exits with the code of a signal."""
    use_threads(comparison.threads)
    say(f"comparison {folder.name}, in {one_line(str(folder.path))}: {_long(comparison)}")
    shown = _Shown()
    reason = None
    again = run_command("resume", folder, *text_words(comparison.sources, loaded.corpus))
    try:
        with StopSignals(_announce) as stop:
            for event in compare(folder, comparison, loaded, stop, warn):
                shown(event)
            reason = stop.reason
    except Exception:
        shown.close()
        say("the comparison goes on with:", again)
        raise
    finally:
        shown.close()
        folder.unlock()
    if reason is not None:
        say(f"stopped by {reason}; go on with:", again)
        raise typer.Exit(EXIT_CODES[reason])
    try:
        show(folder, comparison, loaded.corpus, as_json=as_json)
    except KeyboardInterrupt:
        say(f"\nall runs are saved; this shows the results: {run_command('compare', folder)}")
        raise


def _long(comparison: Comparison) -> str:
    """How much there is to do."""
    n, budget = len(comparison.tasks()), comparison.budget
    if all(variant.model.is_ngram for variant in comparison.variants):
        return f"{several(n, 'run')} of counting"
    runs = f"{several(n, 'run')} of "
    if budget.seconds is None:
        return f"{runs}{several(budget.steps or 0, 'step')} each"
    return f"{runs}{budget.seconds:g} s each, {n * budget.seconds / 60:.1f} min and what scoring takes"


def _announce(name: str) -> None:
    key = "; Ctrl-C again to quit now" if name == "SIGINT" else ""
    say(f"\n{name}: finishing what is at hand, saving{key}")


class _Shown:
    """Shows a comparison's events: a heading for each run, its live line, its figure."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []
        self._bar: Progress | None = None
        self._scoring: Bar | None = None
        self._run: Began | None = None

    def __call__(self, event: Began | Event | Scoring | Scored) -> None:
        if isinstance(event, Began):
            self._begin(event)
        elif isinstance(event, Scoring):
            self.close()
            self._scoring = Bar()
            self._scoring("scoring", 0, None)
            self._report()
        elif isinstance(event, Scored):
            self.close()
            result = event.result
            if result.problem is not None:
                warn(f"{event.task.variant.label}, seed {event.task.seed}: {result.problem}")
            else:
                say(
                    f"  {result.nats_per_char / log(2):.4f} bits/char on {result.chars:,} held-out characters"
                )
        else:
            for listener in self._listeners:
                listener(event)

    def close(self) -> None:
        """Take the live line away, whatever happened."""
        for line in (self._bar, self._scoring):
            if line is not None:
                line.close()

    def _begin(self, event: Began) -> None:
        session, task = event.session, event.task
        say(f"run {event.number} of {event.of}: {task.variant.label}, seed {task.seed}")
        self._run = event
        self._bar = Progress(
            session.plan.total_steps,
            session.state.step,
            session.chars_per_step,
            units=session.corpus.vocabulary.units,
        )
        self._listeners = [self._bar, MetricsLog(event.run.path, session.state.step), warn_of]

    def _report(self) -> None:
        """The run's own page, as any run has it, but for the yardsticks that take time."""
        assert self._run is not None
        run, session = self._run.run, self._run.session
        try:
            facts = [("run", run.name), *figure_rows(session), *repeat_row(run, session)]
            write_report(run, session, facts, 0.0, warn=warn)
        except (OSError, CharlmError) as error:
            warn(f"the report of {run.name} could not be written: {error}")
