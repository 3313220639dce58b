"""The one filter between foreign text and a terminal, and streams that cannot end a run."""

import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

# What a terminal obeys or hides instead of showing: C0 but newline and tab, DEL, C1, bidirectional
# controls, line and paragraph separators, byte order mark, interlinear annotation, lone
# surrogates, tags. Joiners and variation selectors stay: emoji and several scripts need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_ESCAPED = re.compile(
    r"\\(?:(?P<plain>[ntr\\])|x(?P<x>[0-9a-fA-F]{2})|u(?P<pair>[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8}))"
)
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_quiet = False
_DIM, _NOT_DIM = "\x1b[2m", "\x1b[22m"


def visible(text: str, *, dim: bool = False) -> str:
    r"""Return `text` with all that could steer a terminal spelled out, such as `\x1b`.

    Each character is judged alone, so filtering a stream piece by piece equals filtering it whole.
    With `dim`, each escape is shown dim, to tell it from the same characters in the text.
    Raises nothing.
    """
    return _UNSAFE.sub(_dim_escape if dim else _escape, text)


def one_line(text: str, limit: int = 200) -> str:
    r"""Return `text` as one visible line (`\n`, `\t`) of at most `limit` characters.

    What is too long is shortened in the middle, since paths differ at both ends. Raises nothing.
    """
    line = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    if len(line) <= limit:
        return line
    kept = max(limit - 1, 0)
    head = kept - kept // 2
    return line[:head] + "…" + line[len(line) - kept // 2 :]


def unescaped(text: str) -> str:
    r"""Return `text` with its escapes read: `\n`, `\t`, `\r`, `\\`, `\xHH`, `\uHHHH`, `\UHHHHHHHH`.

    Two `\u` that are a surrogate pair, as JSON writes them, are one character. Any other backslash,
    and an escape that names no character, stays as it is. So the escapes that `visible` and `one_line`
    print can be typed back. Raises nothing.
    """
    return _ESCAPED.sub(_read_escape, text)


def shell_word(word: str) -> str:
    r"""Return `word` as it is typed into a shell, on one visible line.

    What is no plain character is written as `$'\n'` and `$'\xff'`, which bash, zsh and ksh read as the same
    bytes: a file name need not be text. Raises nothing.
    """
    if not _UNSAFE.search(word) and "\n" not in word and "\t" not in word:
        return shlex.quote(word)
    plain = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
    return "$'" + "".join(plain.get(c) or (_bytes(c) if _UNSAFE.match(c) else c) for c in word) + "'"


def _bytes(char: str) -> str:
    try:
        data = char.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte of a name
        data = char.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def first_of(parts: Sequence[str], most: int = 20, limit: int = 100) -> str:
    """Return the first of `parts`, none of them cut, as one visible line: so many, of so many characters together.

    `...` stands for the others. Raises nothing.
    """
    shown = ""
    for i, part in enumerate(parts):
        more = one_line(part, limit + 1)
        if i == most or len(shown) + len(more) > limit:
            return shown + "..."
        shown += more
    return shown


def command_line(words: Sequence[str]) -> str:
    """Return `words` as one command that can be pasted into a shell: cmd and PowerShell on Windows, POSIX elsewhere."""
    if os.name != "nt":
        return " ".join(map(shell_word, words))
    import subprocess  # here: slow to import

    return subprocess.list2cmdline(words)


def plain_streams() -> None:
    """Make standard output and error unable to end a run by what is printed. Raises nothing.

    A console keeps its encoding and shows what that lacks as an escape. What is not a terminal
    gets UTF-8 and newlines as they are, so that a file holds the text on every platform.
    """
    _reconfigure(sys.stderr, errors="backslashreplace")
    if _is_terminal(sys.stdout):
        _reconfigure(sys.stdout, errors="backslashreplace")
    else:
        _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace", newline="\n")
    sys.stdout = sys.stdout or _Nowhere()
    sys.stderr = _Sturdy(sys.stderr or _Nowhere())


def be_quiet(quiet: bool) -> None:
    """From now on print only results, warnings and errors, or everything again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress, previews and remarks are left out."""
    return _quiet


def bars_disabled() -> bool | None:
    """What tqdm's `disable` is to be: no bars where it is quiet; else (None) bars on terminals only."""
    return True if _quiet else None


def no_colours() -> None:
    """Colour nothing from now on, as NO_COLOR says it."""
    os.environ["NO_COLOR"] = "1"


def colour(stream: IO[str] | None) -> bool:
    """Whether `stream` may be coloured: a terminal, not a dumb one, and NO_COLOR unset or empty.

    Raises nothing.
    """
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and _is_terminal(stream)


class _Sturdy:
    """A stream that never complains: whoever read it may be gone, and what it tells is not the result."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _Nowhere(io.TextIOBase):
    """Stands in for a stream that was closed before the process began."""

    def write(self, text: str) -> int:
        return len(text)

    def isatty(self) -> bool:
        return False


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _read_escape(match: re.Match[str]) -> str:
    found = match.groupdict()
    if found["plain"]:
        return _PLAIN[found["plain"]]
    if found["pair"]:
        return bytes.fromhex(found["pair"].replace("\\u", "")).decode("utf-16-be")
    code = int(found["x"] or found["u"] or found["U"], 16)
    is_character = code < 0x110000 and not 0xD800 <= code < 0xE000
    return chr(code) if is_character else match.group()


def _dim_escape(match: re.Match[str]) -> str:
    return _DIM + _escape(match) + _NOT_DIM


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # no stream, no such method, closed, gone
        return False


def _reconfigure(stream: Any, **how: str) -> None:
    try:
        stream.reconfigure(**how)
    except (AttributeError, ValueError, OSError):  # no stream, not a text stream, closed, gone
        return
