"""Explain an invalid command line in one sentence: what is wrong, and what was probably meant."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from charlm.errors import TextError, UsageError
from charlm.suggestions import command_meant, number_meant, option_like, option_meant, plain, time_meant
from charlm.terminal import command_line, one_line

TYPED = "charlm.typed"
"""Key under which a context keeps the words its command was given."""
UNITS_OF_TIME = re.compile(r"(s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours)\.?")
EXTRA = {
    "runs": "charlm info RUN shows one run",
    "compress": "it takes one FILE; name the output file with -o OUT",
    "decompress": "it takes one FILE; name the output file with -o OUT",
    "data": "charlm data get NAME downloads one text",
    "explain": "it takes one topic",
}


def usage_message(error: Any) -> str:
    """Translate an error of the command-line library into our words."""
    kind, ctx = type(error).__name__, getattr(error, "ctx", None)
    if ctx is None:
        return one_line(str(error.format_message()), 500)
    if kind == "NoSuchOption":
        return _no_option(ctx, _as_typed(ctx, error.option_name))
    if kind == "MissingParameter":
        return _missing(ctx, error.param)
    if kind == "BadOptionUsage":
        return _bad_use(ctx, error)
    if kind == "BadParameter" and error.param is not None:
        return _bad_value(ctx, error)
    if str(error.message).startswith("Got unexpected extra argument"):
        return _extra(ctx, str(error.message).partition("(")[2].partition("(")[2].removesuffix(")"))
    return one_line(str(error.format_message()), 500)


def no_command(name: str, ctx: Any) -> UsageError:
    """Return the error for an unknown command."""
    shown, commands = one_line(name), ctx.command.commands
    if os.path.exists(name) and plain(name) not in commands:
        return UsageError(f"there is no command {shown}; to train on that text: charlm train {quoted(name)}")
    meant = command_meant(name, commands)
    if meant is None:
        return UsageError(f"there is no command {shown}; available commands: {', '.join(commands)}")
    return UsageError(f"there is no command {shown}; did you mean charlm {meant}?")


def quoted(word: str) -> str:
    """Quote a word for a shell, as one visible line."""
    return one_line(command_line([word]))


def _as_typed(ctx: Any, option: str) -> str:
    """Return the whole word in which a letter was taken for an unknown option: `-rnn_size` for `-r`."""
    if option.startswith("--") or len(option) != 2:
        return option
    words = [w for w in ctx.meta.get(TYPED, ()) if re.match(r"-[^-]", w) and option[1] in w.split("=")[0]]
    return words[0].split("=")[0] if words else option


def _options(command: Any) -> set[str]:
    """Return the options of a command, without their dashes."""
    return {
        o.lstrip("-") for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")
    } | {"help"}


def _no_option(ctx: Any, name: str) -> str:
    if os.path.isfile(name):
        return f"there is no option {one_line(name)}; to name the file, write {quoted('./' + name)}"
    return f"there is no option {one_line(name)}; {_meant(ctx, name)}"


def _meant(ctx: Any, name: str) -> str:
    """Suggest what was meant by an option that the command does not have."""
    command, here = ctx.info_name or "", _options(ctx.command)
    top = ctx.find_root().command
    elsewhere = {n: _options(c) for n, c in getattr(top, "commands", {}).items() if n != command}
    everywhere = set().union(*elsewhere.values())
    found = option_meant(name, here, command)
    if found is None and plain(name) in everywhere:
        return _belongs(f"--{plain(name)}", elsewhere)
    if found is not None and found.startswith("="):
        takes_files = any("FILE" in str(p.metavar) or p.name == "corpus" for p in ctx.command.params)
        return found[1:].replace("charlm train FILE", f"charlm {command if takes_files else 'train'} FILE")
    found = found or option_like(name, here)
    if found is not None:
        return f"did you mean {found}?"
    other = option_meant(name, everywhere) or option_like(name, everywhere, 0.8)
    if other is None:
        return f"see {ctx.command_path} --help"
    return other[1:] if other.startswith("=") else _belongs(other, elsewhere)


def _belongs(option: str, commands: dict[str, set[str]]) -> str:
    """Say which commands have an option, or one of several."""
    first = option.split()[0].lstrip("-")
    owners = [name for name, options in commands.items() if first in options]
    if len(owners) > 4:
        owners = [*owners[:3], "others"]
    named = owners[0] if len(owners) == 1 else f"{', '.join(owners[:-1])} and {owners[-1]}"
    verb = "belong" if " or " in option else "belongs"
    return f"{option.replace(' or ', ' and ')} {verb} to charlm {named}"


def _name(param: Any) -> str:
    """Return a parameter as it is typed."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name).upper()
    long = [opt for opt in param.opts if opt.startswith("--")]
    return str((long or param.opts)[0])


def _missing(ctx: Any, param: Any) -> str:
    """Say what a command needs, with an example."""
    needed = [p for p in ctx.command.params if p.required]
    names = [_name(p) if p.param_type_name == "argument" else f"{p.opts[0]} {p.metavar}" for p in needed]
    lacking = f"; {names[needed.index(param)]} is missing" if len(needed) > 1 and param in needed else ""
    examples = [line for line in (ctx.command.epilog or "").splitlines() if line.startswith("  charlm ")]
    example = re.split(r" {2,}", examples[0].strip())[0] if examples else f"{ctx.command_path} --help"
    return f"{ctx.info_name} needs {' and '.join(names)}{lacking}. For example: {example}"


def _bad_use(ctx: Any, error: Any) -> str:
    """Explain an option without the value that it takes, or with one that it does not take."""
    option = str(error.option_name)
    param = next((p for p in ctx.command.params if option in (*p.opts, *p.secondary_opts)), None)
    if param is None:
        return one_line(str(error.format_message()), 500)
    if "requires" in str(error.message):
        return f"{option} needs a value: {option} {param.metavar or param.type.name.upper()}; see {ctx.command_path} --help"
    values = [w.partition("=")[2] for w in ctx.meta.get(TYPED, ()) if w.startswith(f"{option}=")]
    off = bool(values) and values[0].lower() in ("false", "no", "0", "off", "none")
    if off == (option in param.opts):
        meant = param.secondary_opts[0] if off and param.secondary_opts else param.opts[0]
    else:
        meant = option
    if off and not param.secondary_opts:
        return f"{option} takes no value; leave it out"
    return f"{option} takes no value; did you mean {meant}?"


def _bad_value(ctx: Any, error: Any) -> str:
    """Explain a value that is not a number, or out of range."""
    param, message = error.param, str(error.message)
    wrong = re.fullmatch(r"'(.*)' is not a valid (\w+)( range)?\.", message, re.DOTALL)
    if wrong is None:
        return one_line(
            f"{_name(param)} is {_outside(message) or message.rstrip('.').replace(' is not one of ', '; allowed: ')}",
            500,
        )
    value, whole = wrong[1], wrong[2].startswith("int")
    for short in (opt for opt in param.opts if re.fullmatch("-[^-]", opt)):
        if (
            short + value in ctx.meta.get(TYPED, ()) and value[:1].isalpha()
        ):  # -num_layers, read as -n um_layers
            return _no_option(ctx, short + value)
    meant = number_meant(value, whole=whole)
    hint = f"; did you mean {meant}?" if meant is not None else ""
    return f"{_name(param)} is {one_line(value)!r}; it must be a {'whole ' * whole}number{hint}"


def _outside(message: str) -> str | None:
    """Say what was given and what is allowed, for a number out of range or a word that is neither yes nor no."""
    no_boolean = re.match(r"('.*') is not a valid boolean\.", message, re.DOTALL)
    if no_boolean:
        return f"{no_boolean[1]}; allowed: true or false"
    outside = re.fullmatch(r"(\S+) is not in the range (?:(\S+?)<=)?x(?:>=(\S+?))?(?:<=(\S+?))?\.", message)
    if outside is None:
        return None
    least, most = outside[2] or outside[3], outside[4]
    allowed = f"{least} to {most}" if least and most else f"at least {least}" if least else f"at most {most}"
    return f"{outside[1]}; allowed: {allowed}"


def _extra(ctx: Any, words: str) -> str:
    """Explain more arguments than the command takes."""
    command = str(ctx.info_name)
    if command == "sample":
        text = " ".join(filter(None, (ctx.params.get("name"), words)))
        return text_is_prompt(text)
    advice = EXTRA.get(command, f"it takes one RUN; see {ctx.command_path} --help")
    return f"{command} does not take the argument {one_line(words)!r}; {advice}"


def text_is_prompt(text: str) -> str:
    """Explain an argument of `sample` that names no run."""
    option = "--prompt-file" if os.path.isfile(text) else "--prompt"
    what = "to read the prompt from that file" if os.path.isfile(text) else "to use it as the prompt"
    return f"there is no run named {one_line(text)!r}; {what}: charlm sample {option} {quoted(text)}"


RUN_INSTEAD = {
    "train": "to fine-tune it on a text: charlm train FILE --from {0}; to train it further: charlm resume {0}",
    "inspect": "to see it: charlm info {0}",
    "compare": "to compare it with another: charlm compare {0} RUN, without --vary",
    "eval": "to score that run: charlm eval --run {0}",
    "surprisal": "to score with that run: charlm surprisal FILE --run {0}",
    "compress": "to compress with it: charlm compress FILE -o OUT --run {0}",
    "decompress": "to decompress with it: charlm decompress FILE -o OUT --run {0}",
}


ONE_LOCAL_FILE = ("compress", "decompress")
"""Commands that read the bytes of one local file."""


def check_files(command: str, names: Iterable[str], root: Path, time: str | None = None) -> None:
    """Raise UsageError or TextError for a missing file whose name tells what was meant.

    A file always wins over a run of the same name. `time` is what `--time` was given.
    """
    from charlm.checkpoint.run_folder import RunFolder, folder_words, has_run  # here: not needed for help
    from charlm.data.addresses import address_advice, address_of

    for name in names:
        if name in ("", "-") or os.path.lexists(name):
            continue
        reads = command not in ONE_LOCAL_FILE
        if reads and address_of(name) is not None:
            continue
        address = address_advice(name, reads=reads)
        if address is not None:
            raise TextError(address)
        if re.search(r"[*?[]", name):
            continue
        shown = one_line(name)
        if has_run(root, name):
            run = one_line(command_line([name, *folder_words(RunFolder(root / name))]))
            raise UsageError(
                f"there is no file {shown}, but there is a run of that name; {RUN_INSTEAD[command].format(run)}"
            )
        if command in ("train", "inspect", "compare"):
            _check_number(shown, time)
        _check_text(name)


def _check_number(shown: str, time: str | None) -> None:
    """Raise UsageError if a time, its unit or a number of steps was given instead of a file."""
    if time is not None and UNITS_OF_TIME.fullmatch(shown.lower()):
        wanted = time_meant(f"{time} {shown}") or "60s"
        raise UsageError(f"there is no file {shown}; write the time as one word: --time {wanted}")
    if shown.isdecimal():
        raise UsageError(f"there is no file {shown}; to set a number of steps: --steps {shown}")
    meant = time_meant(shown) if shown[:1].isdecimal() else None
    if meant is not None:
        raise UsageError(f"there is no file {shown}; to set a time: --time {meant}")


def _check_text(name: str) -> None:
    """Raise TextError for a published text that is not here yet, or a file with a similar name."""
    from charlm.data.datasets import TEXTS

    shown, wanted = one_line(name), Path(name)
    if name.lower() in TEXTS:
        raise TextError(f"{shown} does not exist here; to download it: charlm data get {name.lower()}")
    with suppress(OSError):
        others = sorted(other for other in os.listdir(wanted.parent) if not other.startswith("."))
        stem = wanted.name.split(".")[0].lower()
        same = [other for other in others if other.split(".")[0].lower() == stem]
        near = same or get_close_matches(wanted.name, others, 1, 0.75)
        if near:
            raise TextError(f"{shown} does not exist; did you mean {one_line(str(wanted.parent / near[0]))}?")
