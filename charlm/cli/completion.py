"""`charlm completion`: print a static script by which a shell completes commands, options and their values."""

import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from charlm.config import ModelConfig, TrainingConfig
from charlm.data.text_config import TextConfig
from charlm.evaluation.surprisal_config import SurprisalConfig
from charlm.inference.sampling_config import SamplingConfig
from charlm.settings import Choice, Choices, settings_of

EXAMPLES = """Examples:
  charlm completion bash > ~/.local/share/bash-completion/completions/charlm
  charlm completion zsh > ~/.zfunc/_charlm       with fpath+=~/.zfunc before compinit in ~/.zshrc
  charlm completion fish > ~/.config/fish/completions/charlm.fish
Regenerate the file after updating charlm: it lists the options of this version and runs no Python."""


class Shell(StrEnum):
    """The shells that completion is made for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


class Option(NamedTuple):
    """An option as a shell completes it."""

    names: tuple[str, ...]  # as they are typed: -n, --samples
    help: str
    values: tuple[str, ...]  # the words it may take; none: any
    takes_value: bool


Commands = dict[str, tuple[str, list[Option]]]
"""A line of help and the options of each command."""
SHELLS = " ".join(Shell)
BASH = """# Completion of charlm in bash.
_charlm() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command="" words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -* ]] || { command=${COMP_WORDS[i]}; break; }
    done
    case "$command $prev" in
VALUES
    esac
    if [[ -z $words ]]; then
        case "$command" in
WORDS
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _charlm charlm
"""
ZSH = """#compdef charlm
_charlm() {
    local -a commands=(
COMMANDS
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
WORDS
    esac
}
_charlm "$@"
"""


def command(
    ctx: typer.Context,
    shell: Annotated[
        Shell, typer.Argument(metavar="bash|zsh|fish", help="Shell to generate the script for.")
    ],
) -> None:
    """Print a completion script for bash, zsh or fish."""
    group = ctx.find_root().command
    commands = {name: (_line(each.help), list(_options(each))) for name, each in group.commands.items()}  # type: ignore[attr-defined]
    print(WRITERS[shell.value](commands), end="")


def _options(each: Any) -> Iterator[Option]:
    words = {
        setting.option: setting.limit.words
        for kind in (ModelConfig, TrainingConfig, TextConfig, SamplingConfig, SurprisalConfig)
        for setting in settings_of(kind)
        if isinstance(setting.limit, Choice | Choices)
    }
    for param in each.params:
        if param.param_type_name != "option":
            continue
        names = (*param.opts, *param.secondary_opts)
        yield Option(names, _line(param.help), words.get(param.opts[0], ()), not param.is_flag)
    yield Option(("-h", "--help"), "Show the help.", (), False)


def _line(text: str | None) -> str:
    """Return the first sentence of a help text, without characters that are special in a shell."""
    whole = " ".join((text or "").split())
    return "".join(c for c in whole.split(". ")[0] if c not in "'\"`[]():\\$").rstrip(".")


def bash(commands: Commands) -> str:
    """Return a completion script for bash."""
    values, words = [], [f'            "") words="{" ".join(commands)} --help --version" ;;']
    for command, (_, options) in commands.items():
        for option in options:
            if option.values:
                patterns = "|".join(f'"{command} {name}"' for name in option.names)
                values.append(f'        {patterns}) words="{" ".join(option.values)}" ;;')
        typed = " ".join(name for option in options for name in option.names)
        typed += f" {SHELLS}" * (command == "completion")
        words.append(
            f'            {command}) [[ $cur == -* || $command == completion ]] && words="{typed}" ;;'
        )
    return BASH.replace("VALUES", "\n".join(values)).replace("WORDS\n", "\n".join(words) + "\n")


def zsh(commands: Commands) -> str:
    """Return a completion script for zsh."""
    described, words = [], []
    for command, (text, options) in commands.items():
        described.append(f"        '{command}:{text}'")
        specs = []
        for option in options:
            value = f":value:({' '.join(option.values)})" if option.values else ":value:_files"
            said = f"[{option.help}]{value * option.takes_value}"
            specs += [shlex.quote(name + said) for name in option.names]
        specs.append(f"'*:shell:({SHELLS})'" if command == "completion" else "'*:file:_files'")
        words.append(f"        {command}) _arguments {' '.join(specs)} ;;")
    return ZSH.replace("COMMANDS", "\n".join(described)).replace("WORDS", "\n".join(words))


def fish(commands: Commands) -> str:
    """Return a completion script for fish."""
    lines = ["# Completion of charlm in fish."]
    for command, (text, options) in commands.items():
        lines.append(f"complete -c charlm -n __fish_use_subcommand -f -a {command} -d '{text}'")
        chosen = f"complete -c charlm -n '__fish_seen_subcommand_from {command}'"
        if command == "completion":
            lines.append(f"{chosen} -f -a '{SHELLS}'")
        for names, said, values, takes_value in options:
            typed = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names
            )
            value = " -r" * takes_value + (f" -f -a '{' '.join(values)}'" if values else "")
            lines.append(f"{chosen} {typed}{value} -d '{said}'")
    return "\n".join([*lines, ""])


WRITERS: dict[str, Callable[[Commands], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
