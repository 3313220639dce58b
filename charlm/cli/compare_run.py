"""Running `charlm compare`: training the variants one by one, or scoring two trained runs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from time import sleep

import typer

from charlm.checkpoint.run_folder import CorpusFacts, LockedError, RunFolder, run_command
from charlm.cli.compare_display import is_shown, show
from charlm.cli.console import (
    MESSAGES,
    Bar,
    count,
    foreign,
    given_command,
    load_run,
    print_json,
    say,
    table,
    warn,
    working,
)
from charlm.cli.follow import warn_of
from charlm.cli.workers import Worker
from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded, absolute_name, run_name
from charlm.data.reader import read_texts
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import without_ends
from charlm.errors import CharlmError, TextError, UsageError
from charlm.evaluation.baselines import Baseline
from charlm.evaluation.bootstrap import too_few
from charlm.evaluation.report import evaluate
from charlm.experiments import comparison as on_disk
from charlm.experiments.comparison import MOST_RUNS, Comparison
from charlm.experiments.pairwise import SideBySide, side_by_side
from charlm.experiments.runner import Began, Scored, Scoring, compare, plan_of, unfinished, unintended
from charlm.experiments.variants import Variant
from charlm.inference.context import ContextRule
from charlm.reporting.commands import text_words
from charlm.reporting.log import MetricsLog
from charlm.reporting.progress import Progress
from charlm.reporting.run_page import write_report
from charlm.reporting.run_summary import figure_rows, repeat_row
from charlm.run import text_of_run
from charlm.settings import settings_of
from charlm.terminal import one_line
from charlm.threads import use_threads
from charlm.training.describe import describe_choice, several, text_name
from charlm.training.device import gpu_note
from charlm.training.events import Event
from charlm.training.planner import Choice
from charlm.training.request_text import note_files
from charlm.training.run_corpus import Moved
from charlm.training.signals import EXIT_CODES, StopSignals
from charlm.training.sizes import Budget
from charlm.training.trial import timed_budget, untimed_budget

HIDDEN_BY_PRIOR = {"position", "mixer", "window", "locality", "n_kv_head"}
"""Architecture settings whose effect the n-gram prior hides: rotary and none differ by 0.066 bits only without it."""

LOOK_AGAIN = 0.2  # seconds between looks for another process's plan


def prepare(
    root: Path,
    name: str | None,
    loaded: Loaded,
    text: TextConfig,
    variants: Sequence[Variant],
    training: TrainingConfig,
    seeds: int,
    budget: Budget,
    *,
    shared: bool = False,
) -> tuple[RunFolder, Comparison]:
    """Create a comparison in a folder of its own. Raises UsageError for an impossible one before anything is written.

    If it is `shared`, the first of several processes plans it, and the others read its plan.
    """
    threads = use_threads(training.threads)
    if (gpu := gpu_note(training.device)) is not None:
        say(gpu)
    if len(variants) * seeds > MOST_RUNS:
        raise UsageError(
            f"this comparison would have {len(variants) * seeds:,} runs; the limit is {MOST_RUNS:,}"
        )
    default = f"{run_name(loaded.sources)}-{'-'.join(variants[0].values)}"
    comparison = Comparison(
        name=name or default,
        variants=tuple(variants),
        seeds=tuple(range(training.seed, training.seed + seeds)),
        budget=replace(
            untimed_budget(training, 1), steps=budget.steps, seconds=budget.seconds, compiler=False
        ),
        threads=threads,
        text=replace(text, val_file=text.val_file and absolute_name(text.val_file)),
        corpus=CorpusFacts(
            label=loaded.label,
            sources=loaded.sources,
            key=loaded.corpus.key,
            sha256=loaded.corpus.sha256,
        ),
        command=given_command(),
    )
    if shared:
        return _planned_once(root, comparison, loaded.corpus, training)
    comparison = _planned(comparison, loaded.corpus, training)
    return _written(
        RunFolder.create(root, name) if name else RunFolder.create_like(root, default), comparison
    )


def _planned_once(
    root: Path, wanted: Comparison, corpus: Corpus, training: TrainingConfig
) -> tuple[RunFolder, Comparison]:
    """Open the comparison of that name, which one of several processes plans while the others wait.

    Raises UsageError if one of that name compares something else.
    """
    waited = False
    while (folder := on_disk.find(root, wanted.name)) is None:
        try:
            made = RunFolder.create(root, wanted.name, shared_name=True)
        except LockedError:
            if not waited:
                say(f"another process plans the comparison {one_line(wanted.name)}; waiting for it")
            waited = True
            sleep(LOOK_AGAIN)
        except UsageError:  # a run has that name, or another process was faster
            if on_disk.find(root, wanted.name) is None:
                raise
        else:
            return _written(made, _planned(wanted, corpus, training))
    found = on_disk.read(folder)
    unlike = next((what for what, same in _alike(found, wanted).items() if not same), None)
    if unlike is not None:
        raise UsageError(
            f"the comparison {folder.name} exists already, with other {unlike}; give every share the same options, or "
            "choose another name with --run"
        )
    return folder, found


def _alike(a: Comparison, b: Comparison) -> dict[str, bool]:
    """Return, for each aspect, whether two comparisons agree in it; what was measured does not count."""
    return {
        "variants or settings": a.variants == b.variants,
        "seeds": a.seeds == b.seeds,
        "time or steps": (a.budget.seconds, a.budget.steps) == (b.budget.seconds, b.budget.steps),
        "text": (a.text, a.corpus.key, a.corpus.sha256) == (b.text, b.corpus.key, b.corpus.sha256),
    }


def _planned(comparison: Comparison, corpus: Corpus, training: TrainingConfig) -> Comparison:
    """Complete a comparison with what a time budget needs to know of the machine, and print the plan of its first variant.

    Raises UsageError where no plan is possible.
    """
    if comparison.budget.seconds is not None:
        comparison = _timed(comparison, corpus, training)
    choices = [plan_of(comparison, task, len(corpus.train)) for task in comparison.tasks()]
    for reason in unintended(comparison, choices):
        warn(f"the plan gives the variants different values of {reason}")
    n = len(comparison.variants)
    say(f"plan of the first of {n} variants: {describe_choice(choices[0], corpus.vocabulary)}")
    if set(comparison.axes) & HIDDEN_BY_PRIOR and any(choice.model.prior for choice in choices):
        say(
            "these runs use the n-gram prior, which hides most of the effect of such a choice; "
            "--plain compares plain decoders"
        )
    return comparison


def _written(folder: RunFolder, comparison: Comparison) -> tuple[RunFolder, Comparison]:
    """Write a comparison into its new folder, and unlock that for all that train its runs."""
    comparison = replace(comparison, name=folder.path.name)
    on_disk.write(folder, comparison)
    folder.unlock()
    return folder, comparison


def _timed(comparison: Comparison, corpus: Corpus, training: TrainingConfig) -> Comparison:
    """Add the step time of its first transformer to a comparison, measured once for all runs."""
    task = next((task for task in comparison.tasks() if not task.variant.model.is_ngram), None)
    if task is None:
        return comparison

    def choose_for(budget: Budget) -> Choice:
        return plan_of(replace(comparison, budget=budget), task, len(corpus.train))

    seconds = comparison.budget.seconds
    assert seconds is not None
    threads, means = timed_budget(corpus, training, seconds, choose_for)
    budget = replace(means, compiler=False)  # compiling would take some runs' time
    return replace(comparison, budget=budget, threads=threads)


def follow_comparison(
    folder: RunFolder, comparison: Comparison, loaded: Loaded, worker: Worker, *, as_json: bool
) -> None:
    """Train and score this worker's unfinished runs; show the results once all are done. Exits with a signal's code."""
    use_threads(comparison.threads)
    worker.take_device(comparison.variants[0].training.device)
    share, tasks = worker.share, comparison.tasks()
    say(f"comparison {folder.name}, in {one_line(str(folder.path))}: {_long(comparison, len(tasks))}")
    if share.of > 1:
        mine = len(share.part(tasks))
        say(
            f"share {share}: {_long(comparison, mine) if mine else 'no run, since there are fewer than shares'}"
        )
    shown = _Shown()
    reason = None
    again = run_command("resume", folder, *text_words(comparison.corpus.sources, loaded.corpus))
    try:
        with StopSignals(_announce) as stop:
            for event in compare(folder, comparison, loaded, stop, warn, share):
                shown(event)
            reason = stop.reason
    except Exception:
        shown.close()
        say("resume the comparison with:", again)
        raise
    finally:
        shown.close()
    if reason is not None:
        say(f"stopped by {reason}; resume with:", again)
        raise typer.Exit(EXIT_CODES[reason])
    try:
        _show_if_complete(folder, comparison, loaded.corpus, worker, as_json=as_json)
    except KeyboardInterrupt:
        say(f"\nall runs are saved; show the results with: {run_command('compare', folder)}")
        raise


def _show_if_complete(
    folder: RunFolder, comparison: Comparison, corpus: Corpus, worker: Worker, *, as_json: bool
) -> None:
    """Show the results if no run is missing; of several workers, only the last to finish shows them."""
    folder.lock(wait=True)
    try:
        left = unfinished(folder, comparison)
        if left:
            say(
                f"unfinished: {several(len(left), 'run')} of {len(comparison.tasks())}; the process that finishes the "
                "last one shows the results. If no process trains them any more:",
                run_command("resume", folder),
            )
        elif worker.is_shared and is_shown(folder, comparison):
            say("all runs are finished; this shows the results:", run_command("compare", folder))
        else:
            worker.speak()
            show(folder, comparison, corpus, as_json=as_json)
    finally:
        folder.unlock()


def _long(comparison: Comparison, n: int) -> str:
    """Describe how much work `n` of its runs are."""
    budget = comparison.budget
    if all(variant.model.is_ngram for variant in comparison.variants):
        return f"{several(n, 'run')} that each build an n-gram model"
    runs = f"{several(n, 'run')} of "
    if budget.seconds is None:
        return f"{runs}{several(budget.steps or 0, 'step')} each"
    return f"{runs}{budget.seconds:g} s each, {n * budget.seconds / 60:.1f} min plus scoring"


def _announce(name: str) -> None:
    key = "; Ctrl-C again to quit now" if name == "SIGINT" else ""
    say(f"\n{name}: finishing this step and saving{key}")


class _Shown:
    """Shows a comparison's events: a heading for each run, its progress bar, its figure."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []
        self._line: Progress | Bar | None = None
        self._run: Began | None = None

    def __call__(self, event: Began | Event | Scoring | Scored) -> None:
        if isinstance(event, Began):
            task, session = event.task, event.session
            say(f"run {event.number} of {event.of}: {task.variant.label}, seed {task.seed}")
            plan, units = session.plan, session.corpus.vocabulary.units
            bar = Progress(plan, session.state.step, session.chars_read, units=units)
            self._run, self._line = event, bar
            self._listeners = [bar, MetricsLog(event.run.path, session.state.step), warn_of]
        elif isinstance(event, Scoring):
            self.close()
            self._line = Bar()
            self._line("scoring", 0, None)
            self._report()
        elif isinstance(event, Scored):
            self.close()
            task, result = event.task, event.result
            if result.problem is not None:
                warn(f"{task.variant.label}, seed {task.seed}: {result.problem}")
            else:
                bits = result.nats_per_char / log(2)
                say(f"  {bits:.4f} bits/char on {result.chars:,} held-out characters")
        else:
            for listener in self._listeners:
                listener(event)

    def close(self) -> None:
        """Remove the progress bar, whatever happened."""
        if self._line is not None:
            self._line.close()

    def _report(self) -> None:
        """Write the run's own report, without the baselines that take time."""
        assert self._run is not None
        run, session = self._run.run, self._run.session
        try:
            facts = [("run", run.name), *figure_rows(session), *repeat_row(run, session)]
            write_report(run, session, facts, 0.0, warn=warn)
        except (OSError, CharlmError) as error:
            warn(f"the report of {run.name} could not be written: {error}")


READING = ("field", "encoding", "separator", "normalize", "newlines", "lowercase", "collapse_spaces")
"""Settings that change the characters of a text when it is read."""


def compare_two(
    root: Path,
    names: tuple[str, str],
    on: str | None,
    encoding: str | None,
    field: str | None,
    moved: Moved | None = None,
    *,
    as_json: bool,
) -> None:
    """Score both on the same text and show how they differ. Raises CheckpointError and UsageError."""
    for option, value in (("--encoding", encoding), ("--field", field)):
        if value is not None and on is None:
            raise UsageError(f"{option} has no effect without --on FILE")
    if names[0] == names[1]:
        raise UsageError(f"both runs are {one_line(names[0])}; name two different runs")
    runs = [load_run(root, name) for name in names]
    corpora = [text_of_run(run.snapshot, MESSAGES, needed=on is None, moved=moved) for run in runs]
    if on is None:
        first, second = corpora
        assert first is not None and second is not None
        held_out = [first.held_out_text(), second.held_out_text()]
        if without_ends(held_out[0]) != without_ends(held_out[1]):
            raise UsageError(
                f"{names[0]} and {names[1]} held out different texts; name one text for both with --on FILE"
            )
        named = f"held-out part of {text_name(runs[0].snapshot.run)}"
        read = [[(named, text)] for text in held_out]
    else:
        sources = [read_texts([on], run.text_config, encoding=encoding, field=field) for run in runs]
        note_files(dict.fromkeys(note for source in sources for note in source.notes), MESSAGES)
        read = [list(source.files) for source in sources]
        texts_alone = [[without_ends(text) for _, text in texts] for texts in read]
        if texts_alone[0] != texts_alone[1]:
            raise UsageError(_read_differently(names, [run.text_config for run in runs], on))
    if not any(text for _, text in read[0]):
        raise TextError("there is no text to compare them on; name one with --on FILE")
    pair = zip(runs, read, corpora, strict=True)
    with working("scoring") as watch:
        evaluations = [
            evaluate(
                run.snapshot,
                run.which,
                texts,
                ContextRule.of_model(run.snapshot.model_config),
                corpus,
                run.predictor,
                watch,
            )
            for run, texts, corpus in pair
        ]
        watch("comparing", 0, None)
        found = side_by_side(names, (evaluations[0], evaluations[1]))
    if evaluations[0].figure.ends != evaluations[1].figure.ends:
        warn("one score includes the bits of document ends, but the other does not")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _read_differently(names: tuple[str, str], configs: Sequence[TextConfig], on: str) -> str:
    """Explain why two runs cannot be compared on a file: the settings in which their reading of it differs."""
    settings = [setting for setting in settings_of(TextConfig) if setting.name in READING]
    ways = []
    for name, config in zip(names, configs, strict=True):
        differing = [s for s in settings if len({getattr(c, s.name) for c in configs}) > 1]
        said = ", ".join(f"{s.name} {getattr(config, s.name) or 'none'}" for s in differing)
        ways.append(f"{name} with {said}")
    return (
        f"the two runs read {one_line(on)} differently, so their scores are not comparable: "
        f"{' and '.join(ways)}. "
        "Compare runs that read text the same way"
    )


def _show(found: SideBySide) -> None:
    rows = []
    for name, evaluation in zip(found.names, found.evaluations, strict=True):
        figure, interval = evaluation.figure, evaluation.interval_bits
        around = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else too_few(figure.chars)[2:]
        rows.append((name, f"{figure.bits_per_char:.4f}", around, evaluation.context))
    for name, baseline in found.evaluations[0].baselines.items():
        if isinstance(baseline, Baseline):
            adaptive = "adapts to this text" * baseline.adaptive
            rows.append((name, f"{baseline.bits_per_char:.4f}", "", adaptive))
    table(rows, header=("run", "bits/char", "95 %", "context"), numbers=(1,))
    print(f"\n{_difference(found)}")
    for name, other, passages in zip(found.names, reversed(found.names), found.better, strict=True):
        print(
            f"\nwhere {name} is better than {other} (bits of {found.names[0]}, bits of "
            f"{found.names[1]}, offset, text):"
            if passages
            else f"\n{name} is not better on any passage"
        )
        for passage in passages:
            bits, text = passage.bits, foreign(passage.text.replace("\n", "⏎"))
            print(f"  {bits[0]:6.1f} and {bits[1]:6.1f}  at {count(passage.offset):>9}  {text}")
    for warning in dict.fromkeys(w for e in found.evaluations for w in e.warnings):
        warn(warning)


def _difference(found: SideBySide) -> str:
    a, b = found.names
    better, worse = (a, b) if found.difference <= 0 else (b, a)
    gap = abs(found.difference)
    chars = f"on {count(found.evaluations[0].figure.chars)} characters"
    if found.interval is None:
        return f"{better} is better than {worse} by {gap:.4f} bits/char {chars}: too few for an interval"
    low, high = sorted(map(abs, found.interval)) if found.interval[0] * found.interval[1] > 0 else (0.0, 0.0)
    about = (
        f"95 % interval: {low:.4f} to {high:.4f}, which reflects the choice of text only; "
        "other seeds would also change the result"
        if high
        else "the 95 % interval contains zero: another text could reverse the order"
    )
    return f"{better} is better than {worse} by {gap:.4f} bits/char {chars} ({about})"
