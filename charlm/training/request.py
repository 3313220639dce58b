"""A request to train, and its preparation: read the text, choose the model and the plan. Nothing is written yet."""

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from charlm.config import VAL, ModelConfig, TextConfig, TrainingConfig, refuse_transformer_only
from charlm.data.addresses import kept_name
from charlm.errors import RankError, UsageError
from charlm.settings import Settings, settings_of
from charlm.suggestions import setting_meant, time_meant
from charlm.terminal import one_line
from charlm.training.describe import (
    describe_choice,
    describe_model,
    describe_text,
    leak_warning,
    report_origin,
    text_name,
)

if TYPE_CHECKING:  # NumPy and torch are slow to import
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.data.holdout import EarlierText
    from charlm.data.load import Loaded
    from charlm.data.text_rows import TextRows
    from charlm.data.text_scan import TextScan
    from charlm.training.distributed import Ranks
    from charlm.training.finetune import Parent
    from charlm.training.planner import Choice
    from charlm.training.run_corpus import Moved
    from charlm.training.teacher import Teacher

S = TypeVar("S", bound=Settings)
Watch = Callable[[str, int, int | None], None]
"""Told how long work goes on: what is done, how much of it, of how much (None: unknown)."""

DEFAULT_TIME = "2m"
MIN_SECONDS = 5
CONFIGS: tuple[type[Settings], ...] = (ModelConfig, TrainingConfig, TextConfig)
SETTINGS = {setting.name: setting for config in CONFIGS for setting in settings_of(config)}
FILE_SETTINGS = ("encoding", "field", "include", "exclude", "strip")
"""They act on files, and on nothing else."""
COUNTED_BY_ONE = "an n-gram model is counted by one process; start it without --ranks, --gpus and torchrun"
_log = logging.getLogger("charlm")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Messages:
    """Where work reports what it does. By default to the logger `charlm`, which prints nothing until it is set up.

    `progress(what, unit)` is entered around work that may take long, and gives a function to report progress
    to.
    """

    say: Callable[[str], None] = _log.info
    warn: Callable[[str], None] = _log.warning
    progress: Callable[[str, str], AbstractContextManager[Watch]] = lambda what, unit: nullcontext(
        lambda what, done, of: None
    )


def parse_time(text: str) -> float:
    """A time such as 90, 60s, 10m, 2h or 1h30m, in seconds. Raises UsageError."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not match or not any(match.groups()):
        meant = time_meant(text)
        hint = f"did you mean {meant}?" if meant else "write it like 60s, 10m, 2h or 1h30m"
        raise UsageError(f"--time {text!r} is not a time; {hint}")
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + rest


def budget_seconds(text: str) -> float:
    """A time that is long enough to train in, in seconds. Raises UsageError."""
    budget = parse_time(text)
    if budget < MIN_SECONDS:
        raise UsageError(
            f"--time is {budget:g} s; give at least {MIN_SECONDS} s, because start-up takes about three"
        )
    return budget


def refuse_unknown(
    names: Iterable[str], known: Collection[str], meanable: Collection[str] | None = None
) -> None:
    """Raise UsageError for a setting that is not known, with the one of `meanable` (default: known) it resembles."""
    for name in names:
        if name not in known:
            meant = setting_meant(name, meanable or known)
            hint = f"; did you mean {meant}?" if meant else ""
            raise UsageError(f"{one_line(repr(name))} is an unknown setting{hint}")


def build(config: type[S], settings: Mapping[str, Any]) -> S:
    """A configuration from settings by name. Raises UsageError for a value that is not allowed."""
    try:
        return config(**{s.name: settings[s.name] for s in settings_of(config) if s.name in settings})
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `charlm train` and `charlm.train` are asked for."""

    paths: tuple[str, ...] = ()  # files, folders, globs or `-`; none: the bundled manual
    settings: dict[str, Any]  # every setting of model, training and text
    given: frozenset[str] = frozenset()  # the names of those that were given
    time: str | None = None
    steps: int | None = None
    run: str | None = None
    root: Path = Path("checkpoints")
    plan_from: str | None = None  # a run, or a plan.json
    from_run: str | None = None  # to fine-tune
    teacher: str | None = None  # a run whose probabilities are learned
    checkpoint: str | None = None  # of `from_run` or `teacher`
    from_text: tuple[str, ...] = ()  # where the text of `from_run` is now
    verify_cache: bool = False
    report_to: tuple[str, ...] | None = None  # trackers; None: none, or those of the run that is resumed
    command: str = ""
    started: float = field(default_factory=perf_counter)  # when the time began, on perf_counter's clock

    @classmethod
    def of(cls, settings: Mapping[str, Any], **others: Any) -> "TrainRequest":
        """A request with these settings and the defaults of the others. Raises UsageError for an unknown one."""
        refuse_unknown(settings, SETTINGS, [*SETTINGS, *cls.__dataclass_fields__])
        values = {name: setting.default for name, setting in SETTINGS.items()} | dict(settings)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(settings=values | lists, given=frozenset(settings), **others)

    @property
    def asked(self) -> dict[str, Any]:
        """What run.json keeps of the request: every setting that is not its default, the budget, the origin."""
        asked = {name: value for name, value in self.settings.items() if value != SETTINGS[name].default}
        timed = self.steps is None and self.plan_from is None
        seconds = budget_seconds(self.time or DEFAULT_TIME) if timed else None
        asked |= {"plan_from": self.plan_from, "time": seconds, "steps": self.steps}
        asked |= {"from": self.from_run, "teacher": self.teacher, "checkpoint": self.checkpoint}
        if asked.get("val_file") is not None:
            asked["val_file"] = kept_name(asked["val_file"])
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return {name: value for name, value in plain.items() if value is not None}

    @property
    def budget_words(self) -> list[str]:
        """The option that gives the budget."""
        if self.settings["model"] == "ngram":
            return []
        if self.plan_from is not None:
            return ["--plan-from", self.plan_from]
        return ["--time", self.time or DEFAULT_TIME] if self.steps is None else ["--steps", str(self.steps)]

    def budget(self, model: ModelConfig, training: TrainingConfig) -> float | None:
        """The seconds that the run has; None for a number of steps, and for an n-gram model. Raises UsageError."""
        if model.is_ngram:
            refuse_for_ngram(self.time, self.steps, training)
            return None
        if self.plan_from is not None:
            self._check_plan_from()
        if self.steps is not None or self.plan_from is not None:
            return None
        budget = budget_seconds(self.time or DEFAULT_TIME)
        if training.schedule is not None:
            raise UsageError(
                "--schedule names steps, so it needs --steps N; a run with a time budget may end at any step"
            )
        return budget

    def _check_plan_from(self) -> None:
        """UsageError for what cannot act beside a plan that is taken from elsewhere."""
        from charlm.training.plan_from import OF_THE_MACHINE

        idle = {"time": self.time, "steps": self.steps, "from": self.from_run}
        for config in (ModelConfig, TrainingConfig):
            idle |= {
                setting.name: self.settings[setting.name]
                for setting in settings_of(config)
                if setting.name in self.given and setting.name not in OF_THE_MACHINE
            }
        for name, value in idle.items():
            if value is not None:
                raise UsageError(
                    f"`{name}={value}` has no effect with --plan-from {one_line(self.plan_from or '')}, which sets "
                    "sizes and steps; leave one out"
                )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a training needs before it writes anything."""

    request: TrainRequest
    text: TextConfig
    loaded: "Loaded"
    choice: "Choice"
    budget: float | None  # seconds
    origin: "Parent | None"
    teacher: "Teacher | None"


def prepare(
    request: TrainRequest,
    messages: Messages,
    ranks: "Ranks | None" = None,
    texts: "Callable[[TextConfig], TextRows] | None" = None,
) -> Prepared:
    """Read the text and choose model and plan; of several `ranks` the first one chooses. `texts` in memory stand in
    place of standard input, for one rank.

    Raises UsageError for what cannot act, TextError for a text that cannot be read, CheckpointError for a run
    to fine-tune that cannot be read.
    """
    from charlm.checkpoint.run_folder import check_free  # here: torch is imported later, if all goes well

    origin, teacher = _origin(request, messages), _teacher(request)
    model, training, text = configure(request, origin, messages)
    if teacher is not None and request.plan_from is None and not model.plain:
        raise UsageError("--teacher trains a plain decoder, so it needs --plain")
    if ranks is not None and model.is_ngram:
        raise UsageError(COUNTED_BY_ONE)
    budget = request.budget(model, training)
    if request.run is not None:
        check_free(request.root, request.run)
    rows = None if texts is None else texts(text)
    if rows is None:
        messages.say(f"reading {describe_paths(request.paths, text)}")
        warn_unless_kept(request.paths, messages)
    earlier = None if origin is None else origin.earlier()
    loaded = _load(request, text, messages, earlier, ranks, rows)
    report_text(loaded, messages, splittable=origin is None)
    if origin is not None:
        origin = origin.with_counting(loaded.corpus)
        report_origin(origin, loaded.corpus, messages)
    if teacher is not None:
        teacher.check_text(loaded.corpus)
        messages.say(f"learning from {one_line(teacher.name)}, step {teacher.snapshot.step}, and the text")

    def chosen() -> "Choice":
        if request.plan_from is not None:
            choice, sentence = taken_plan(loaded, training, request)
        else:
            choice, sentence = choose_plan(
                loaded, model, training, budget, request.steps, request.started, messages, origin, teacher
            )
        messages.say(f"model: {sentence}")
        return choice

    choice = chosen() if ranks is None else _choice_of_first(ranks, chosen, training)
    return Prepared(
        request=request,
        text=replace(text, val_file=text.val_file and kept_name(text.val_file)),
        loaded=loaded,
        choice=choice,
        budget=budget,
        origin=origin,
        teacher=teacher,
    )


def _load(
    request: TrainRequest,
    text: TextConfig,
    messages: Messages,
    earlier: "EarlierText | None",
    ranks: "Ranks | None",
    texts: "TextRows | None",
) -> "Loaded":
    """Read the text: of the ranks on a machine one prepares it, the others find it in the cache.

    Raises RankError where the ranks read different texts.
    """
    if ranks is None:
        return load_text(
            request.paths, text, messages, verify=request.verify_cache, earlier=earlier, texts=texts
        )
    from charlm.data.corpus import reopen  # here: NumPy is slow to import
    from charlm.data.corpus_cache import prepared_once
    from charlm.data.load import Loaded

    loaded, from_pipe = None, "-" in request.paths  # which only one of them can read
    if ranks.is_first or not from_pipe:
        with prepared_once([*request.paths, str(text.to_json())]):
            loaded = load_text(request.paths, text, messages, verify=request.verify_cache, earlier=earlier)
    if from_pipe:
        key = ranks.share(lambda: loaded and loaded.corpus.key)
        corpus = loaded.corpus if loaded else reopen(key)
        if corpus is None:
            raise RankError(
                "rank 0 has read standard input, and this rank does not find its text in the cache; name files"
            )
        loaded = loaded or Loaded(corpus=corpus, notes=(), sources=("-",), label="-")
    assert loaded is not None
    ranks.check_alike("texts", loaded.corpus.key[:16], "give all nodes the same files")
    return loaded


def _choice_of_first(ranks: "Ranks", choose: Callable[[], "Choice"], training: TrainingConfig) -> "Choice":
    """What rank 0 chooses, for all."""
    from charlm.threads import use_threads  # here and below: torch is slow to import
    from charlm.training.plan import Plan
    from charlm.training.planner import Choice

    def as_json() -> dict[str, Any]:
        choice = choose()
        configs = {"model": choice.model.to_json(), "training": choice.training.to_json()}
        return {**configs, "plan": choice.plan.to_json(), "why": choice.why}

    facts = ranks.share(as_json)
    if not ranks.is_first:
        use_threads(training.threads)
    return Choice(
        model=ModelConfig.from_json(facts["model"]),
        training=TrainingConfig.from_json(facts["training"]),
        plan=Plan.from_json(facts["plan"]),
        why=facts["why"],
    )


def _origin(request: TrainRequest, messages: Messages) -> "Parent | None":
    """The run to fine-tune, where there is one."""
    if request.from_run is None:
        if request.from_text:
            raise UsageError("--from-text has no effect without --from RUN; leave it out")
        if request.checkpoint is not None and request.teacher is None:
            raise UsageError(
                f"--checkpoint {one_line(request.checkpoint)} has no effect without --from RUN or --teacher RUN"
            )
        return None
    from charlm.training.finetune import Parent

    origin = Parent.find(request.root, request.from_run, request.checkpoint, moved_text(request.from_text))
    first = f"the first of the {origin.members} members of " * (origin.members > 1)
    messages.say(
        f"fine-tuning {first}{one_line(origin.name)}, step {origin.snapshot.step}, trained on "
        f"{text_name(origin.snapshot.run)}"
    )
    return origin


def _teacher(request: TrainRequest) -> "Teacher | None":
    """The run to learn from, where there is one."""
    if request.teacher is None:
        return None
    if request.from_run is not None:
        raise UsageError("give either --from RUN or --teacher RUN, not both")
    from charlm.checkpoint.run_folder import find_run  # here: torch is slow to import
    from charlm.training.teacher import Teacher

    return Teacher.load(find_run(request.root, request.teacher), request.checkpoint)


def configure(
    request: TrainRequest, origin: "Parent | None", messages: Messages
) -> tuple[ModelConfig, TrainingConfig, TextConfig]:
    """The configurations of model, training and text; fine-tuning inherits those of the other run."""
    settings, given = dict(request.settings), set(request.given)
    check_file_settings(request.paths, settings)
    if origin is not None:
        from charlm.training import finetune  # here: torch is slow to import

        finetune.inherit_text(origin, settings, given)
        finetune.inherit_file_choice(origin, request.paths, settings, given, messages)
    use_customary_split(request.paths, settings, messages)
    model, training = build(ModelConfig, settings), build(TrainingConfig, settings)
    if origin is not None:
        model = finetune.inherit_model(origin, model, given)
        training = finetune.inherit_training(origin, training, given)
    return model, training, build(TextConfig, settings)


def check_file_settings(paths: Sequence[str], settings: Mapping[str, Any]) -> None:
    """UsageError for a setting that acts on files, where none is named."""
    for name in FILE_SETTINGS:
        if settings[name] is not None and not paths:
            raise UsageError(
                f"--{name} has no effect on Python's manual, the default text; name a file to read"
            )


def use_customary_split(paths: Sequence[str], settings: dict[str, Any], messages: Messages) -> None:
    """Split a published text as others do, unless a split was chosen."""
    from charlm.data.datasets import customary

    chosen = tuple(settings[name] for name in ("val", "test", "val_file", "split"))
    if len(paths) != 1 or chosen != (VAL, 0.0, None, "tail") or not os.path.isfile(paths[0]):
        return
    text = customary(os.path.basename(paths[0]), os.path.getsize(paths[0]))
    if text is None or not text.test:
        return
    settings["val"], settings["test"] = text.val, text.test
    messages.say(f"using the customary split of {text.name}: {text.split}; --val and --test change it")


def refuse_for_ngram(time: str | None, steps: int | None, training: TrainingConfig) -> None:
    """UsageError for a budget or a setting that has no effect on an n-gram model."""
    for name, value in {"time": time, "steps": steps}.items():
        if value is not None:
            raise UsageError(f"`{name}={value}` has no effect with `model=ngram`")
    try:
        refuse_transformer_only(training)
    except ValueError as error:
        raise UsageError(str(error)) from None


def moved_text(paths: Sequence[str] | None, val_file: str | None = None) -> "Moved | None":
    """Where the text of a run is now, as the user says; None where nothing was said."""
    if not paths and val_file is None:
        return None
    from charlm.training.run_corpus import Moved  # here: torch is slow to import

    val_file = None if val_file is None else os.path.expanduser(val_file)
    return Moved(tuple(map(os.path.expanduser, paths or ())), val_file)


def report_moved(uncached: str | None, moved: "Moved | None", messages: Messages) -> None:
    """Report that the text was found where it is now, and whether it has to be named again."""
    if moved is None:
        return
    named = one_line(" ".join(moved.texts)) or "its old place"
    if uncached is None:
        messages.say(
            f"found the run's text in {named}; charlm keeps it in the cache, so you need not give --text "
            "again"
        )
    else:
        messages.warn(
            f"found the run's text in {named}; the cache cannot be written ({uncached}), so give --text "
            "again the next time, or set CHARLM_CACHE to a folder that can be written"
        )


def describe_paths(paths: Sequence[str], text: TextConfig) -> str:
    """What is about to be read."""
    from charlm.data import sources

    if not paths:
        return f"{sources.manual_name()}, because you named no file"
    return sources.describe(paths, text.include, text.exclude)


def warn_unless_kept(paths: Sequence[str], messages: Messages) -> None:
    """Before standard input is read, warn if the cache cannot keep its text."""
    if "-" not in paths:
        return
    from charlm.data.corpus_cache import cache_folder, unwritable  # here: NumPy is slow to import

    reason = unwritable()
    if reason is not None:
        messages.warn(
            f"the cache {one_line(str(cache_folder()))} cannot be written ({reason}), so the text from standard input "
            "cannot be kept: `charlm resume`, and `charlm eval` on its held-out part, will need it as a "
            "file, given with --text FILE. To keep it, set CHARLM_CACHE to a folder that can be written, or save "
            "the text and train on the file"
        )


def load_text(
    paths: Sequence[str],
    text: TextConfig,
    messages: Messages,
    *,
    verify: bool = False,
    earlier: "EarlierText | None" = None,
    scan: "TextScan | None" = None,
    texts: "TextRows | None" = None,
) -> "Loaded":
    """`charlm.data.load.load`, its progress reported."""
    from charlm.data.load import load  # here: NumPy is slow to import

    with messages.progress("", "B") as watch:
        return load(paths, text, watch, verify=verify, earlier=earlier, scan=scan, texts=texts)


def report_text(loaded: "Loaded", messages: Messages, *, splittable: bool = True) -> None:
    """Report what was noticed in the files, the size of the text, and leakage; `splittable`: see `leak_warning`."""
    note_files(loaded.notes, messages)
    messages.say(describe_text(loaded.corpus))
    leak = leak_warning(loaded.corpus, splittable=splittable)
    if leak:
        messages.warn(leak)


def note_files(notes: Iterable[str], messages: Messages) -> None:
    """Report what was noticed in reading files."""
    for note in notes:
        messages.warn(one_line(note))


def choose_plan(
    loaded: "Loaded",
    model: ModelConfig,
    training: TrainingConfig,
    budget: float | None,
    steps: int | None,
    started: float,
    messages: Messages,
    origin: "Parent | None" = None,
    teacher: "Teacher | None" = None,
) -> "tuple[Choice, str]":
    """Choose model, training and plan for a text, for `budget` seconds since `started` or a number of steps.

    Returns the choice and a sentence that describes it. Raises UsageError for settings that do not go together.
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
            forecast = forecast_of(budget, means, choose_for, len(corpus.train))
        choice = choose_for(means).record(means, threads, forecast)
    except ValueError as error:
        raise UsageError(str(error)) from None
    busy = f"; on {threads} of {most} threads, because the machine is busy" if threads < most else ""
    return choice, describe_choice(choice, corpus.vocabulary, busy)


def taken_plan(loaded: "Loaded", training: TrainingConfig, request: TrainRequest) -> "tuple[Choice, str]":
    """The plan of another run, or of a file, for this text. Raises UsageError, CheckpointError."""
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


def begun_run(root: Path, name: str) -> "RunFolder | None":
    """The run of that name, if it has a checkpoint to resume. Raises UsageError for a comparison."""
    from charlm.checkpoint.run_folder import RunFolder, check_name, run_command

    check_name(name)
    run = RunFolder(root / name)
    if (run.path / "comparison.json").exists():
        raise UsageError(f"{run.name} is a comparison; to resume it: {one_line(run_command('resume', run))}")
    return run if (run.path / "run.json").is_file() and run.steps() else None
