"""Build command-line options from settings, grouped in the help, and tell where each value came from."""

import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from charlm.cli.console import warn
from charlm.cli.mistakes import TYPED, no_command
from charlm.errors import UsageError
from charlm.settings import Choice, Mark, Range, Setting, Settings, settings_of
from charlm.suggestions import setting_meant
from charlm.terminal import be_quiet, colour, no_colours, one_line

PREFIX = "CHARLM_"
MOST_STEPS = 10**12
"""A limit that only rules out nonsense."""


def threads_option(help_text: str) -> Any:
    """Return the option --threads, which every command that computes has."""
    return typer.Option(
        "--threads", min=1, max=1024, metavar="N", envvar="CHARLM_THREADS", show_envvar=False, help=help_text
    )


Threads = Annotated[
    int | None,
    threads_option("CPU threads. [default: one per core, within the limits of affinity and cgroups]"),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE...",
        help="Files, folders, globs, archives, addresses (https://, s3://, gs://, hf://), or - (standard input). "
        "[default: Python's manual]",
    ),
]
Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Run to use. [default: the newest]")]
RunName = Annotated[str | None, typer.Argument(metavar="RUN", help="Run to use. [default: the newest]")]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="The same as the argument RUN.")]
Which = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="latest|best|STEP",
        help="Checkpoint to use. [default: latest; best after early stopping]",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Fine-tune this run, or an exported hf folder.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="RUN", help="Distil this run: learn its probabilities as well as the text; needs --plain."
    ),
]
ReportTo = Annotated[
    str | None,
    typer.Option(
        metavar="TRACKER,...",
        envvar="CHARLM_REPORT_TO",
        show_envvar=False,
        help="Report to tensorboard, wandb, mlflow or trackio; several joined by commas, or none. A resumed run "
        "keeps its trackers by default.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table or text.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Remove without asking.")]
EventsAsJson = Annotated[bool, typer.Option("--json", help="Print events as JSON Lines, the result last.")]
ROOT = Path("checkpoints")
Checkpoints = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        envvar="CHARLM_CHECKPOINTS",
        parser=lambda text: Path(os.path.expanduser(text or ROOT)),
        show_default=False,
        show_envvar=False,
        help="Folder of runs. [default: checkpoints]",
    ),
]
MovedText = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="PATH",
        help="Current path of the run's text, if you moved it or it came from standard input; charlm checks "
        "its hash. Repeatable.",
    ),
]
MovedValFile = Annotated[
    str | None,
    typer.Option(
        "--val-file", metavar="FILE", help="Current path of the run's held-out file, if you moved it."
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Symbols scored in each block: fewer give each symbol more context, but take longer. "
        "[default: half a block]",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(metavar="held-out|test", help="Part of the run's text to score. [default: held-out]"),
]

Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of the files. [default: UTF-8 where they are valid UTF-8, else the "
        "encoding that the run was trained with]",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Field to score in JSON Lines, .json, .csv and .tsv files. [default: the one the run was "
        "trained on; other files are read as plain text]",
    ),
]
VerifyCache = Annotated[
    bool,
    typer.Option(
        "--verify-cache",
        help="Verify the whole text and its whole cache, not only sizes, times and samples.",
    ),
]
"""Options, some of which several commands share."""

PATHS = {"val_file"}
"""Settings that are paths: ~ is expanded here, since no shell expands it in a file or a variable."""
METAVARS = {"val_file": "FILE", "field": "NAME", "encoding": "NAME"}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _flag(names: str, help_text: str, act: Callable[[Any], Any], *, eager: bool = False) -> TyperOption:
    """Return a switch that calls `act` with the command's context as soon as it is parsed."""
    return TyperOption(
        param_decls=names.split(),
        is_flag=True,
        is_eager=eager,
        expose_value=False,
        callback=lambda ctx, param, wanted: act(ctx) if wanted else None,
        help=help_text,
    )


def _everywhere() -> list[TyperOption]:
    """Return the options that are allowed before and after the name of a command."""
    return [
        _flag("-q --quiet", "Print only results, warnings and errors.", lambda ctx: be_quiet(True)),
        _flag(
            "--no-color",
            "Print without colours; the environment variable NO_COLOR has the same effect.",
            lambda ctx: no_colours(),
        ),
    ]


ALL_OPTIONS = "charlm.all_options"
"""Key under which a command's context records that its help is to show every option."""


def _show_all(ctx: Any) -> None:
    ctx.meta[ALL_OPTIONS] = True
    typer.echo(ctx.get_help())
    raise typer.Exit


class Command(TyperCommand):
    """A command whose help groups the options under headings and keeps the lines of its examples.

    If it has many settings, its help shows the basic ones, and `--help-all` all of them.
    """

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.params += _everywhere()
        self._basic: frozenset[str] | None = getattr(self.callback, "basic", None)
        if self._basic is not None:
            self.params.append(_flag("--help-all", "Show the help with every option.", _show_all, eager=True))

    def get_help(self, ctx: Any) -> str:
        """The help page, coloured where that is shown."""
        return in_colours(super().get_help(ctx)) if colour(sys.stdout) else super().get_help(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, and keep them for explaining mistakes; `help` alone asks for the help."""
        if args == ["help"] and not os.path.exists("help"):
            args = ["--help"]
        ctx.meta[TYPED] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # some of the library's errors know no command
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error about a value that was not typed says where it was set."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise UsageError(with_sources(str(error), ctx)) from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line, without the library's braces around required ones."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options under its own heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        short = self._basic is not None and ALL_OPTIONS not in ctx.meta
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            left_out = short and param.param_type_name == "option" and param.name not in (self._basic or ())
            if record is not None and not left_out:
                panel = getattr(param, "rich_help_panel", None)
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                name, said = record
                name = name.split(" / ")[0] if short else name  # without its --no-... form
                groups.setdefault(panel or kind, []).append((name, with_one_bracket(said)))
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they stand."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("\n".join(self.epilog.splitlines()) + "\n")
        if getattr(self, "_basic", None) is not None and ALL_OPTIONS not in ctx.meta:
            formatter.write(f"\n{ctx.command_path} --help-all shows all {len(self.params)} options.\n")


class Group(TyperGroup):
    """The group of commands, listed in the order of definition."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.params += _everywhere()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words up to the command; no word at all, or `help`, shows the help."""
        if args[:1] == ["help"]:
            args = [*args[1:2], "--help"]
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. Raises UsageError with a suggestion for an unknown one."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise no_command(args[0], ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of definition."""
        return list(self.commands)

    def get_help(self, ctx: Any) -> str:
        """The help page, coloured where that is shown."""
        return in_colours(super().get_help(ctx)) if colour(sys.stdout) else super().get_help(ctx)

    format_epilog = Command.format_epilog


def with_one_bracket(text: str) -> str:
    """Merge the brackets at the end of a help text: its range, its default, and whether it is required."""
    found = re.fullmatch(r"(.*?)((?:\s+\[[^][]*\])*)", text, re.DOTALL)
    assert found is not None
    parts = [part for group in re.findall(r"\[([^][]*)\]", found[2]) for part in group.split("; ")]
    for part in [part for part in parts if re.search("<=x|x>=", part)]:  # a range, as the library writes it
        numbers = [int(number) for number in re.findall(r"\d+", part)]
        parts.remove(part)
        parts.insert(0, str(Range(numbers[0], numbers[1] if numbers[1:] else math.inf)))
    return f"{found[1]} [{'; '.join(parts)}]" if parts else text


BOLD, CYAN, PLAIN = "\033[1m", "\033[36m", "\033[0m"


def in_colours(text: str) -> str:
    """Colour a help page: headings bold, options and commands in cyan."""
    text = re.sub(r"^(\w[\w -]*:)", rf"{BOLD}\1{PLAIN}", text, flags=re.M)
    return re.sub(r"^(  ?(?! )(?:-[^ ].*?|[a-z]+))(?=  |$)", rf"{CYAN}\1{PLAIN}", text, flags=re.M)


def with_settings(
    panels: Mapping[str, type[Settings]], basic: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each setting; it receives them as one dict, `settings`.

    `basic`: own parameters that its short help shows besides the basic settings; if there are none, its help
    shows every option.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "settings"]
        made = [_parameter(s, panel) for panel, kind in panels.items() for s in settings_of(kind)]
        names = [p.name for p in made]

        @wraps(function)
        def command(**values: Any) -> Any:
            settings = {name: values.pop(name) for name in names}
            settings |= {name: tuple(v) or None for name, v in settings.items() if isinstance(v, list)}
            for name in PATHS & settings.keys():
                settings[name] = settings[name] and os.path.expanduser(settings[name])
            return function(**values, settings=settings)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *made)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        if basic:
            shown = {s.name for kind in panels.values() for s in settings_of(kind) if Mark.BASIC in s.marks}
            command.basic = frozenset(shown | {*basic, "help"})  # type: ignore[attr-defined]
        return command

    return decorate


def source_of(ctx: Any, name: str) -> str:
    """Return where the value of an option comes from: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP (the file) or DEFAULT."""
    source = ctx.get_parameter_source(name)
    return "DEFAULT" if source is None else str(source.name)


def one_run(argument: str | None, option: str | None) -> str | None:
    """Return the run named as an argument or by `--run`. Raises UsageError if both name different ones."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(
            f"you named two different runs, {one_line(argument)} and --run {one_line(option)}; name only one"
        )
    return argument if option is None else option


def check_part(part: str | None, files: Sequence[str] | None, **reading: str | None) -> None:
    """Raise UsageError for an unknown part, a part together with files, or options on reading files without files."""
    if part is not None and files:
        raise UsageError(
            f"--part {one_line(part)} selects a part of the run's own text, but you also named files; leave "
            "one out"
        )
    if part not in (None, "held-out", "test"):
        raise UsageError(f"--part {one_line(part)} is unknown; allowed: held-out, test")
    for name, value in reading.items():
        if value is not None and not files:
            raise UsageError(f"--{name} {one_line(value)} applies to files, but you named none")


def _parameter(setting: Setting, panel: str) -> inspect.Parameter:
    said = [] if setting.limit is None else [str(setting.limit)]
    default = f"{setting.default:g}" if isinstance(setting.default, float) else setting.default
    default = "planned" if Mark.PLANNED in setting.marks else "on" if default is True else default
    said += [] if default is None or default is False else [f"default: {default}"]
    # The help may already end with the default.
    text, bracket, told = setting.help.removesuffix("]").partition(" [default: ")
    said += [f"default: {told}"] if bracket else []
    word = "NAME" if isinstance(setting.limit, Choice) else "TEXT"
    switch = f"/--no-{setting.option[2:]}" if setting.type is bool else ""
    option = typer.Option(
        setting.default,
        setting.option + switch,
        help=f"{text} [{'; '.join(said)}]" if said else text,
        envvar=PREFIX + setting.name.upper(),
        show_envvar=False,
        show_default=False,
        rich_help_panel=panel,
        metavar=METAVARS.get(setting.name, {int: "N", float: "X", str: word}.get(setting.type)),
    )
    kind: Any = list[setting.type] if setting.repeated else setting.type  # type: ignore[name-defined]
    annotation: Any = kind | None if setting.optional else kind
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


NO_OPTION = ("CHARLM_CACHE", "CHARLM_DEBUG", "CHARLM_NATIVE")
"""Environment variables that belong to no option."""
CONFIG_FILE = "charlm.config_file"
"""Key under which a command's context keeps the name of its `--config` file and the line of each setting."""


def as_options(message: str) -> str:
    """Write the settings that a message names as options: `n_layer` is --n-layer, `prior=False` is --no-prior."""

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if value == "False":
            return f"--no-{name}"
        return f"--{name}" if value in (None, "True") else f"--{name} {value}"

    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", option, message)


def with_sources(message: str, ctx: Any) -> str:
    """Add to a message where each option in it that was not typed was set."""
    message = as_options(message)
    found = [] if ctx is None else [_source(param, ctx) for param in _mentioned(message, ctx)]
    return "; ".join([message.rstrip("."), *found]) if found else message


def _mentioned(message: str, ctx: Any) -> list[Any]:
    """Return the options in a message whose values were not typed."""
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", message))
    return [
        param
        for param in ctx.command.params
        if words & {*param.opts[:1], *param.secondary_opts}
        and source_of(ctx, param.name) in ("ENVIRONMENT", "DEFAULT_MAP")
    ]


def _source(param: Any, ctx: Any) -> str:
    option = param.opts[0]
    if source_of(ctx, param.name) == "ENVIRONMENT":
        return f"{option} was set by the variable {param.envvar}"
    path, lines = ctx.meta[CONFIG_FILE]
    return f"{option} was set in {one_line(path)}, line {lines[param.name]}"


def note_unknown_variables(group: Any) -> None:
    """Warn of CHARLM_* variables that no command reads."""
    known = {
        str(param.envvar) for command in group.commands.values() for param in command.params if param.envvar
    }
    known |= set(NO_OPTION)
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            endings = [other.removeprefix(PREFIX).lower() for other in known]
            meant = setting_meant(name.removeprefix(PREFIX).lower(), endings)
            hint = f"; did you mean {PREFIX}{meant.upper()}?" if meant else ""
            warn(f"the variable {one_line(name)} is unknown and has no effect{hint}")
