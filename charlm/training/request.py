"""A request to train, and its preparation: read the text, choose the model and the plan. Nothing is written yet."""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from charlm.config import ModelConfig, TrainingConfig, refuse_transformer_only
from charlm.data.addresses import kept_name
from charlm.data.text_config import TextConfig
from charlm.errors import RankError, UsageError
from charlm.settings import Settings, settings_of
from charlm.suggestions import setting_meant, time_meant
from charlm.terminal import one_line
from charlm.training.describe import report_origin, text_name
from charlm.training.request_plan import choice_of_first, choose_plan, taken_plan
from charlm.training.request_text import (
    check_file_settings,
    describe_paths,
    load_text,
    moved_text,
    report_text,
    use_customary_split,
    warn_unless_kept,
)

if TYPE_CHECKING:  # NumPy and torch are slow to import
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.data.holdout import EarlierText
    from charlm.data.load import Loaded
    from charlm.data.text_rows import TextRows
    from charlm.training.distributed import Ranks
    from charlm.training.finetune import Parent
    from charlm.training.planner import Choice
    from charlm.training.teacher import Teacher

S = TypeVar("S", bound=Settings)
Watch = Callable[[str, int, int | None], None]
"""Called with the progress of work: what is done, how much of it, of how much (None: unknown)."""

DEFAULT_TIME = "2m"
MIN_SECONDS, MAX_SECONDS = 5, 10**9
CONFIGS: tuple[type[Settings], ...] = (ModelConfig, TrainingConfig, TextConfig)
SETTINGS = {setting.name: setting for config in CONFIGS for setting in settings_of(config)}
COUNTED_BY_ONE = "an n-gram model is counted by one process; start it without --ranks, --gpus and torchrun"
_log = logging.getLogger("charlm")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Messages:
    """Where work reports what it does: by default the logger `charlm`, which prints nothing until it is set up.

    `progress(what, unit)` is a context around work that may take long; it yields the function to report progress to.
    """

    say: Callable[[str], None] = _log.info
    warn: Callable[[str], None] = _log.warning
    progress: Callable[[str, str], AbstractContextManager[Watch]] = lambda what, unit: nullcontext(
        lambda what, done, of: None
    )


def parse_time(text: str) -> float:
    """Parse a time such as 90, 60s, 10m, 2h or 1h30m to seconds. Raises UsageError."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not match or not any(match.groups()):
        meant = time_meant(text)
        hint = f"did you mean {meant}?" if meant else "write it like 60s, 10m, 2h or 1h30m"
        raise UsageError(f"--time {text!r} is not a time; {hint}")
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + rest


def budget_seconds(text: str) -> float:
    """Parse a time budget to seconds. Raises UsageError, also if it is too short to train."""
    budget = parse_time(text)
    if budget < MIN_SECONDS:
        raise UsageError(
            f"--time is {budget:g} s; give at least {MIN_SECONDS} s, because start-up takes about three"
        )
    if budget > MAX_SECONDS:
        raise UsageError(f"--time is {budget:g} s; give at most {MAX_SECONDS} s, which are thirty years")
    return budget


def refuse_unknown(
    names: Iterable[str], known: Collection[str], meanable: Collection[str] | None = None
) -> None:
    """Raise UsageError for an unknown setting, suggesting a similar one of `meanable` (default: known)."""
    for name in names:
        if name not in known:
            meant = setting_meant(name, meanable or known)
            hint = f"; did you mean {meant}?" if meant else ""
            raise UsageError(f"{one_line(repr(name))} is an unknown setting{hint}")


def build(config: type[S], settings: Mapping[str, Any]) -> S:
    """Build a configuration from settings by name. Raises UsageError for a value that is not allowed."""
    try:
        return config(**{s.name: settings[s.name] for s in settings_of(config) if s.name in settings})
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The arguments of `charlm train` and `charlm.train`."""

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
    started: float = field(default_factory=perf_counter)  # start of the time budget, by perf_counter

    @classmethod
    def of(cls, settings: Mapping[str, Any], **others: Any) -> "TrainRequest":
        """Build a request with these settings and the defaults of the others. Raises UsageError for an unknown setting."""
        refuse_unknown(settings, SETTINGS, [*SETTINGS, *cls.__dataclass_fields__])
        values = {name: setting.default for name, setting in SETTINGS.items()} | dict(settings)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(settings=values | lists, given=frozenset(settings), **others)

    @property
    def asked(self) -> dict[str, Any]:
        """The part of the request that run.json records: settings other than the defaults, the budget, the origin."""
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
        """Return the seconds of the time budget; None for a run without one. Raises UsageError for what contradicts it."""
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
        """Raise UsageError for settings that have no effect with `--plan-from`."""
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
    """Everything that is decided before a run writes anything."""

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
    """Read the text, and choose model and plan; of several `ranks` the first one chooses.

    `texts` in memory replace standard input, for one rank. Raises UsageError for settings without effect, TextError for a
    text that cannot be read, CheckpointError for a run to fine-tune that cannot be read.
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

    choice = chosen() if ranks is None else choice_of_first(ranks, chosen, training, timed=budget is not None)
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
    """Read the text; of several ranks on a machine one prepares it, and the others find it in the cache.

    Raises RankError if the ranks read different texts.
    """
    if ranks is None:
        return load_text(
            request.paths, text, messages, verify=request.verify_cache, earlier=earlier, texts=texts
        )
    from charlm.data.corpus import reopen  # here: NumPy is slow to import
    from charlm.data.corpus_cache import prepared_once
    from charlm.data.load import Loaded

    loaded, from_pipe = None, "-" in request.paths  # only one rank can read it
    if ranks.is_first or not from_pipe:
        with prepared_once([*request.paths, str(text.to_json())]):
            loaded = load_text(request.paths, text, messages, verify=request.verify_cache, earlier=earlier)
    if from_pipe:
        key = ranks.broadcast_object(lambda: loaded and loaded.corpus.key)
        corpus = loaded.corpus if loaded else reopen(key)
        if corpus is None:
            raise RankError(
                "rank 0 has read standard input, and this rank does not find its text in the cache; name files"
            )
        loaded = loaded or Loaded(corpus=corpus, notes=(), sources=("-",), label="-")
    assert loaded is not None
    ranks.check_alike({"texts": loaded.corpus.key[:16]}, "give all nodes the same files")
    return loaded


def _origin(request: TrainRequest, messages: Messages) -> "Parent | None":
    """Load the run to fine-tune, if there is one."""
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
    """Load the run to learn from, if there is one."""
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
    """Return the configurations of model, training and text; fine-tuning inherits those of the other run."""
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


def refuse_for_ngram(time: str | None, steps: int | None, training: TrainingConfig) -> None:
    """Raise UsageError for a budget or a setting that has no effect on an n-gram model."""
    for name, value in {"time": time, "steps": steps}.items():
        if value is not None:
            raise UsageError(f"`{name}={value}` has no effect with `model=ngram`")
    try:
        refuse_transformer_only(training)
    except ValueError as error:
        raise UsageError(str(error)) from None


def begun_run(root: Path, name: str) -> "RunFolder | None":
    """Return the run of that name, if it has a checkpoint to resume. Raises UsageError for a comparison."""
    from charlm.checkpoint.run_folder import RunFolder, check_name, run_command

    check_name(name)
    run = RunFolder(root / name)
    if (run.path / "comparison.json").exists():
        raise UsageError(f"{run.name} is a comparison; to resume it: {one_line(run_command('resume', run))}")
    return run if (run.path / "run.json").is_file() and run.steps() else None
