"""Print safely: escape control characters in foreign text, and keep failing output streams from ending a run."""

import io
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

# What a terminal acts on or hides instead of showing: C0 but newline and tab, DEL, C1, bidirectional
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
ENABLE_VIRTUAL_TERMINAL_PROCESSING = 4
_quiet = False
_COMMAND = re.compile(r"(?<=: )charlm [^;]+$")
_WORDS = re.compile(r"`[^`]*`\S*|\S+")
_DIM, _NOT_DIM = "\x1b[2m", "\x1b[22m"


def visible(text: str, *, dim: bool = False) -> str:
    r"""Return `text` with all that could control a terminal escaped, such as `\x1b`.

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
    r"""Return `text` with its escapes decoded: `\n`, `\t`, `\r`, `\\`, `\xHH`, `\uHHHH`, `\UHHHHHHHH`.

    Two `\u` that are a surrogate pair, as JSON writes them, are one character. Any other backslash,
    and an escape that names no character, stays as it is. The escapes that `visible` and `one_line`
    print can therefore be typed back. Raises nothing.
    """
    return _ESCAPED.sub(_read_escape, text)


def width_of(stream: IO[str] | None) -> int | None:
    """Return the width in cells of the terminal that `stream` is; None if it is none. Raises nothing."""
    if stream is None or not _is_terminal(stream):
        return None
    with suppress(OSError, ValueError, AttributeError):
        columns = os.get_terminal_size(stream.fileno()).columns
        if columns > 0:
            return columns
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else 80


def fit(text: str, stream: IO[str] | None, command: str = "") -> str:
    """Return `text` and a command, broken between words where `stream` is a terminal that is too narrow for them.

    The command, and one at the end of the text as in `go on with: charlm resume`, stays in one piece, on a
    line of its own, so that it can be copied. Raises nothing.
    """
    whole, width = f"{text} {command}" if command else text, width_of(stream)
    if width is None or (command and _cells(whole) <= width):
        return whole
    lines = [_broken(line, width) for line in text.split("\n")]
    return "\n".join([*lines, f"  {command}"] if command else lines)


def _broken(line: str, width: int) -> str:
    if _cells(line) <= width:
        return line
    command = _COMMAND.search(line)
    if command and command.start() > 0:
        return f"{_broken(line[: command.start()].rstrip(), width)}\n  {command[0]}"
    indent = line[: len(line) - len(line.lstrip(" "))]
    lines = [indent]
    for word in _WORDS.findall(line):
        more = word if lines[-1] == indent else f" {word}"
        if lines[-1] != indent and _cells(lines[-1] + more) > width:
            lines.append(indent + word)
        else:
            lines[-1] += more
    return "\n".join(lines)


def _cells(text: str) -> int:
    """Return about how many cells a terminal needs for it."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


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
    """Return the first of `parts`, none of them cut, as one visible line of at most so many parts and characters.

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
    """Make standard output and error safe to print to: no failure to write ends a run. Raises nothing.

    A terminal keeps its encoding and shows what that lacks as an escape. Anything else gets UTF-8 and
    unchanged newlines, so that a file holds the text on every platform.
    """
    _reconfigure(sys.stderr, errors="backslashreplace")
    if _is_terminal(sys.stdout):
        _reconfigure(sys.stdout, errors="backslashreplace")
    else:
        _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace", newline="\n")
    sys.stdout = sys.stdout or _Nowhere()
    sys.stderr = _Sturdy(sys.stderr or _Nowhere())


def be_quiet(quiet: bool) -> None:
    """Print only results, warnings and errors from now on; or, if not `quiet`, everything again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress, previews and remarks are left out."""
    return _quiet


def bars_disabled() -> bool | None:
    """Return the value of tqdm's `disable`: True if quiet, else None, for bars on terminals only."""
    return True if _quiet else None


def no_colours() -> None:
    """Turn colours off from now on, as NO_COLOR does, whatever FORCE_COLOR is."""
    os.environ["NO_COLOR"] = "1"
    os.environ.pop("FORCE_COLOR", None)


def colour(stream: IO[str] | None) -> bool:
    """Whether `stream` may be coloured: a terminal, not a dumb one, and NO_COLOR unset or empty.

    Raises nothing.
    """
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and _is_terminal(stream) and _obeys_escapes(stream)


def _obeys_escapes(stream: Any) -> bool:
    """Whether a terminal interprets escapes; a Windows console does once asked to."""
    if sys.platform != "win32":
        return True
    import ctypes
    import msvcrt

    handle, mode = msvcrt.get_osfhandle(stream.fileno()), ctypes.c_ulong()
    kernel = ctypes.windll.kernel32
    if not kernel.GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(kernel.SetConsoleMode(handle, mode.value | ENABLE_VIRTUAL_TERMINAL_PROCESSING))


class _Sturdy:
    """A stream that ignores failed writes: its reader may be gone, and what it shows is not the result."""

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


def percent(share: float) -> str:
    """Format a share between 0 and 1 in percent: `0 %`, `< 0.1 %`, `12.3 %`."""
    if share == 0:
        return "0 %"
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
