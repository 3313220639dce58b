"""The windows of `charlm play`: settings, alternatives, saving, quitting and the list of keys."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from charlm import files
from charlm.cli.options import as_options
from charlm.errors import UsageError
from charlm.inference.desk_config import DeskConfig
from charlm.settings import Setting, settings_of
from charlm.terminal import one_line, percent, unescaped

R = TypeVar("R")
MOST_ALTERNATIVES = 100
BETWEEN = "|"
"""Separates several stop texts in their field."""
KEYS = (
    ("Tab", "continue the text at the cursor"),
    ("Esc", "stop the continuation; then take the last one back"),
    (
        "Ctrl+R, F5",
        "take it back and write another one (Ctrl+Enter too, if the terminal tells it from Enter)",
    ),
    ("typing", "keeps the continuation (Ctrl+Z undoes)"),
    ("F2, Ctrl+T", "settings: temperature, top-k, top-p, min-p, seed, length, stop texts"),
    ("F3, Alt+Down, Ctrl+N", "alternatives for the character at the cursor"),
    ("Ctrl+S", "save the text to a file"),
    ("Ctrl+C", "stop the continuation; copy what is selected; else quit"),
    ("Ctrl+Q", "quit"),
    ("F1, Ctrl+G", "these keys"),
)


class Window(ModalScreen[R | None]):
    """A window with a title; Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "close")]
    title_text = ""

    def compose(self) -> ComposeResult:
        """Lay out the title, the widgets of the window, and a line for errors."""
        with VerticalScroll(id="window", can_focus=False):
            yield Label(self.title_text, id="heading", markup=False)
            yield from self.parts()
            yield Label("", id="problem", markup=False)

    def parts(self) -> ComposeResult:
        """The widgets of this window."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Show an error."""
        self.query_one("#problem", Label).update(one_line(why, 500))


class Help(Window[None]):
    """The list of keys."""

    title_text = "Keys (Esc closes)"

    def parts(self) -> ComposeResult:
        """Show a row for each key, wrapped where the window is narrow."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for row in KEYS:
            table.add_row(*map(Text, row))
        yield Static(table)


class SettingsWindow(Window[DeskConfig]):
    """A field for each setting; returns the changed settings."""

    title_text = "Settings (Enter accepts, Esc cancels, Tab and arrows move)"
    BINDINGS: ClassVar[list[BindingType]] = [("down", "app.focus_next"), ("up", "app.focus_previous")]

    def __init__(self, config: DeskConfig) -> None:
        super().__init__()
        self._config = config

    def parts(self) -> ComposeResult:
        """The fields."""
        for setting in settings_of(DeskConfig):
            limit = (
                f" ({setting.limit})"
                if setting.limit
                else f" (several: {BETWEEN} between)" * setting.repeated
            )
            yield Label(setting.name.replace("_", "-") + limit, markup=False)
            yield Input(_written(getattr(self._config, setting.name)), id=setting.name, compact=True)

    def on_input_submitted(self) -> None:
        """Accept the values, if they are valid."""
        try:
            values = {
                each.name: _read(each, self.query_one(f"#{each.name}", Input).value)
                for each in settings_of(DeskConfig)
            }
            config = DeskConfig(**values)
        except ValueError as error:
            self.refuse(as_options(str(error)))
        else:
            self.dismiss(config)


def _written(value: Any) -> str:
    """Format a value for its field."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return BETWEEN.join(
            one_line(stop.replace("\\", "\\\\").replace(BETWEEN, "\\x7c"), 1000) for stop in value
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(setting: Setting, text: str) -> Any:
    """Parse the value in a field. Raises ValueError that names the setting."""
    if setting.repeated:
        return tuple(map(unescaped, text.split(BETWEEN))) if text else None
    if not text.strip():
        return setting.default
    try:
        return setting.type(text)
    except ValueError:
        what = "whole number" if setting.type is int else "number"
        raise ValueError(f"`{setting.name}` is {one_line(text)}; it must be a {what}") from None


class Alternatives(Window[str]):
    """Alternatives for a character, with the model's probabilities; returns the one that was picked."""

    def __init__(self, probabilities: Mapping[str, float], now: str) -> None:
        """`now`: the character at that position, empty at the end."""
        super().__init__()
        self.title_text = "Alternatives (Enter picks one and goes on from there, Esc closes)"
        ranked = sorted(probabilities.items(), key=lambda item: -item[1])
        self._ranked, self._now = ranked[:MOST_ALTERNATIVES], now
        if now in probabilities and now not in dict(self._ranked):
            self._ranked.append((now, probabilities[now]))

    def parts(self) -> ComposeResult:
        """Show the list, the likeliest first; what cannot be picked is dim."""
        options = [
            Option(
                Text(f"{_named(char):<26}{percent(p):>9}" + "  <- here" * (bool(char) and char == self._now)),
                disabled=not pickable(char),
            )
            for char, p in self._ranked
        ]
        yield OptionList(*options, markup=False, compact=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Return the character that was picked."""
        self.dismiss(self._ranked[event.option_index][0])


def pickable(char: str) -> bool:
    """Whether it is a single character: not the end of the document, nor all those that are encoded in bytes."""
    return char not in ("", "\ufffd")


def _named(char: str) -> str:
    names = {"": "end of the document", "\ufffd": "spelled in bytes", " ": "space"}
    return names.get(char) or one_line(char)


class Save(Window[Path]):
    """Asks for a name and writes the text; returns the path. Overwrites only after a second Enter."""

    title_text = "Save as (Enter saves, Esc cancels)"

    def __init__(self, text: str, name: str) -> None:
        super().__init__()
        self._text, self._name = text, name
        self._confirmed: str | None = None

    def parts(self) -> ComposeResult:
        """The field for the name."""
        yield Input(self._name, placeholder="name of the file", id="name", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Write the file, or show why not."""
        try:
            path = save(self._text, event.value, overwrite=self._confirmed == event.value)
        except FileExistsError:
            self._confirmed = event.value
            self.refuse("this file exists already; Enter again overwrites it, or give another name")
        except UsageError as error:
            self.refuse(str(error))
        except OSError as error:
            self.refuse(f"cannot be written: {error.strerror or error}")
        else:
            self.dismiss(path)


def save(text: str, name: str, *, overwrite: bool) -> Path:
    """Write a text atomically. Raises FileExistsError unless `overwrite`, UsageError, OSError."""
    if not name.strip():
        raise UsageError("give the name of a file")
    if "\0" in name:
        raise UsageError("a name of a file has no null character")
    path = Path(os.path.realpath(os.path.expanduser(name)))  # a link is followed, not replaced
    if path.exists() and not path.is_file():
        raise UsageError("this is no regular file; give another name")
    if path.exists() and not overwrite:
        raise FileExistsError
    files.replace(path, text.encode())
    return path


Answer = Literal["save", "print", "discard", "stay"]
ANSWERS: dict[Answer, str] = {
    "save": "save the text to a file, and quit",
    "print": "print the text to standard output, and quit",
    "discard": "quit without the text",
    "stay": "go on writing",
}


class Quit(Window[Answer]):
    """Asks what to do with unsaved text."""

    title_text = "The text is not saved"

    def parts(self) -> ComposeResult:
        """The answers."""
        yield OptionList(*ANSWERS.values(), markup=False, compact=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Return the answer."""
        self.dismiss(list(ANSWERS)[event.option_index])
