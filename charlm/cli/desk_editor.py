"""The editor of `charlm play`: shows unsafe characters as symbols, and can undo the model's continuations.

In the editor's document a lone surrogate, which no text has and which takes one cell, stands in for each unsafe
character, so that positions, widths and line ends are right whatever the model writes; `contents` is the text itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import TextArea
from textual.widgets.text_area import Edit, EditResult, Location

from charlm.terminal import visible

UNSAFE = [
    char
    for char in map(chr, chain(range(0x3000), range(0xFE00, 0x10000), range(0xE0000, 0xE0100)))
    if visible(char) != char
]
STAND_INS = [chr(0xD800 + i) for i in range(len(UNSAFE))]
HIDDEN = str.maketrans(dict(zip(UNSAFE, STAND_INS, strict=True)))
RESTORED = str.maketrans(dict(zip(STAND_INS, UNSAFE, strict=True)))


def _symbol(char: str) -> str:
    """Return the one-cell symbol for an unsafe character."""
    code = ord(char)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\u2426"


SYMBOLS = str.maketrans(dict(zip(STAND_INS, map(_symbol, UNSAFE), strict=True)))
FRESH = "italic cyan"
"""Style of a continuation while it can be taken back."""


@dataclass
class Written:
    """A continuation in the text; lengths and positions count characters of the document."""

    start: int
    removed: str  # the text that it replaced
    cursor: int  # where the cursor was
    head: str  # the character that was picked to begin it, if one was
    length: int = 0

    @property
    def end(self) -> int:
        """The position at which it ends."""
        return self.start + self.length


class Editor(TextArea):
    """The text, and the continuations in it since the user last typed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.continue", "continue"),
        Binding("escape", "app.take_back", "take back"),
        Binding("ctrl+r,f5,ctrl+enter", "app.again", "again"),
        Binding("f2,ctrl+t", "app.settings", "settings"),
        Binding("f3,alt+down,alt+up,ctrl+n", "app.alternatives", "alternatives"),
        Binding("ctrl+s", "app.save", "save"),
    ]

    def __init__(self, text: str, typed: Callable[[], None]) -> None:
        """`typed` is called before each edit by the user."""
        super().__init__(
            _valid(text).translate(HIDDEN), soft_wrap=True, show_line_numbers=False, compact=True
        )
        self._typed, self._own = typed, False
        self.written: list[Written] = []
        self._end: Location = (0, 0)  # where the last one ends

    @property
    def contents(self) -> str:
        """The text itself."""
        return self.restored(self.text)

    @staticmethod
    def restored(text: str) -> str:
        """Return part of the document with the original characters."""
        return text.translate(RESTORED)

    @property
    def place(self) -> int:
        """The number of characters before the cursor."""
        return self._index(self.cursor_location)

    def begin(self, start: int, end: int, head: str = "") -> None:
        """Begin a continuation that replaces the text from `start` to `end`, with `head` as its first text."""
        written = Written(start, self.text[start:end], self.place, head)
        with self._writing():
            self._end = self.replace("", self._location(start), self._location(end)).end_location
        self.move_cursor(self._end)
        self.written.append(written)
        self.write(head)

    def write(self, text: str) -> None:
        """Append to the last continuation; the cursor follows if it is at its end."""
        follows = self.cursor_location == self._end
        shown = text.translate(HIDDEN)
        with self._writing():
            self._end = self.insert(shown, self._end, maintain_selection_offset=not follows).end_location
        self.written[-1].length += len(shown)
        if follows:
            self.move_cursor(self._end)

    def take_back(self) -> Written:
        """Restore the text and the cursor as they were before the last continuation."""
        last = self.written.pop()
        with self._writing():
            self.replace(last.removed, self._location(last.start), self._location(last.end))
        if self.written:
            self._end = self._location(self.written[-1].end)
        self.move_cursor(self._location(last.cursor))
        self.notify_style_update()
        return last

    def keep(self) -> None:
        """Keep all continuations; they can no longer be taken back."""
        if self.written:
            self.written.clear()
            self.notify_style_update()

    def edit(self, edit: Edit) -> EditResult:
        """Apply an edit; one by the user keeps all continuations, and cannot insert control characters."""
        if not self._own:
            self._typed()
            self.keep()
            edit.text = edit.text.replace("\r\n", "\n").replace("\r", "\n").translate(HIDDEN)
        return super().edit(edit)

    def undo(self) -> None:
        """Undo, which counts as an edit by the user."""
        self._typed()
        self.keep()
        super().undo()

    def redo(self) -> None:
        """Redo, which counts as an edit by the user."""
        self._typed()
        self.keep()
        super().redo()

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is shown."""
        line = Text(_shown(self.document.get_line(line_index)), end="", no_wrap=True)
        if self.written:
            (top, left), (bottom, right) = self._location(self.written[-1].start), self._end
            if top <= line_index <= bottom:
                line.stylize(
                    FRESH, left if line_index == top else 0, right if line_index == bottom else len(line)
                )
        return line

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Mark edits within the block as the model's, not the user's."""
        self._own = True
        try:
            yield
        finally:
            self._own = False

    def _index(self, location: Location) -> int:
        row, column = location
        return sum(len(self.document.get_line(i)) + 1 for i in range(row)) + column

    def _location(self, index: int) -> Location:
        for row in range(self.document.line_count):
            length = len(self.document.get_line(row))
            if index <= length:
                return row, index
            index -= length + 1
        raise AssertionError("no place in the text")


def _valid(text: str) -> str:
    """Replace lone surrogates by U+FFFD."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


@lru_cache(maxsize=256)
def _shown(line: str) -> str:
    return line if line.isascii() else line.translate(SYMBOLS)
