"""Any raw text the user names -> characters, read once and kept exactly as they are."""

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line
from charlm.text.decoding import check_codec, decode
from charlm.text.decompression import compression, decompress
from charlm.text.finding import (
    STDIN,
    Note,
    describe,
    expand,
    find_files,
    kind_unless_regular,
    trouble,
)

__all__ = ["FileText", "SourceText", "describe", "file_bytes", "find_files", "read_source"]


@dataclass(frozen=True, kw_only=True)
class FileText:
    """One file, decoded."""

    name: str  # as the user named it, or its path below a folder; "-" is standard input
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceText:
    """All that was named, in order, and what is to be said of it."""

    files: tuple[FileText, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The files joined in order, with nothing between them."""
        return "".join(file.text for file in self.files)


def read_source(
    names: Sequence[str], *, encoding: str | None = None, stdin: BinaryIO | None = None
) -> SourceText:
    """Read what `names` mean: files, folders, patterns, "-" for `stdin`; gzip, bz2 and xz too.

    Decoded strictly, as `encoding` or by the byte order mark or as UTF-8; newlines stay as they
    are. Raises UsageError for an encoding there is not or when nothing is named, ResourceError
    when memory ends, TextError for what is missing, unreadable, changing, not text or empty.
    """
    if encoding is not None:
        check_codec(encoding)
    paths, notes = expand(names)
    files = []
    for path in paths:
        label = "Standard input" if path == STDIN else one_line(path)
        try:
            text, said = _read(path, label, encoding, stdin)
        except MemoryError:
            raise ResourceError(
                f"{label} does not fit into memory. Give less text, or use a larger machine."
            ) from None
        files.append(FileText(name=path, text=text))
        notes += [(path, note) for note in said]
    _refuse_empty(files)
    return SourceText(files=tuple(files), notes=(*_grouped(notes), *_remarks(files)))


def _read(path: str, label: str, encoding: str | None, stdin: BinaryIO | None) -> tuple[str, list[str]]:
    data = _stdin_bytes(stdin) if path == STDIN else file_bytes(path, label)
    compressed = compression(data)
    said = [f"decompressed from {compressed}"] if compressed else []
    text, more = decode(decompress(data, label), label, encoding)
    return text, said + more + ([] if text else ["empty"])


def file_bytes(path: str, label: str) -> bytes:
    """The bytes of a regular file, as they are; TextError where there is none, or it changes meanwhile."""
    try:
        _refuse_special(os.stat(path), label)  # before opening, which a named pipe would block
        with open(path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            data = file.readall()
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise trouble(label, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise TextError(
            f"{label} changed while it was read. Wait until nothing writes to it, or give a copy."
        )
    return data


def _refuse_special(status: os.stat_result, label: str) -> None:
    kind = kind_unless_regular(status)
    if kind:
        raise TextError(f"{label} is {kind}, not a regular file. Give a file, or - to read a pipe.")


def _stdin_bytes(stdin: BinaryIO | None) -> bytes:
    stream = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise TextError("Standard input is closed. Give a file, or connect a pipe.")
    _refuse_endless(stream)
    try:
        return stream.read()
    except (OSError, ValueError) as error:
        raise trouble("Standard input", error) from error


def _refuse_endless(stream: BinaryIO) -> None:
    try:
        endless = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty()
    except (AttributeError, OSError, ValueError):  # not a stream of the operating system
        return
    if endless:
        raise TextError("Standard input is a device, not a text. Give a file, or connect a pipe.")


def _refuse_empty(files: Sequence[FileText]) -> None:
    if any(file.text for file in files):
        return
    if len(files) > 1:
        named = f"The {len(files)} files are"
    else:
        named = "Standard input is" if files[0].name == STDIN else f"{one_line(files[0].name)} is"
    raise TextError(f"{named} empty: 0 characters. Give a text with at least one.")


def _grouped(notes: Sequence[Note]) -> list[str]:
    """One line a remark, however many files it is about."""
    by_remark: dict[str, list[str]] = {}
    for name, remark in notes:
        by_remark.setdefault(remark, []).append("Standard input" if name == STDIN else name)
    return [
        f"{one_line(of[0])}{f' and {len(of) - 1:,} more' if of[1:] else ''}: {remark}."
        for remark, of in by_remark.items()
    ]


def _remarks(files: Sequence[FileText]) -> list[str]:
    """What a reader of the joined text should know before training on it."""
    remarks = []
    pairs, returns, feeds = (_count(files, mark) for mark in ("\r\n", "\r", "\n"))
    ends = {"LF": feeds - pairs, "CRLF": pairs, "CR": returns - pairs}
    met = [f"{name} ({count:,})" for name, count in ends.items() if count]
    if returns:
        remarks.append(f"Lines end in {' and '.join(met)}; kept as they are.")
    if nul := _count(files, "\0"):
        remarks.append(f"NUL characters (U+0000) in the text: {nul:,}; kept.")
    if lost := _count(files, "\ufffd"):
        remarks.append(
            f"Replacement characters (U+FFFD) in the text: {lost:,}; what stood there was lost"
            " before, when another program decoded it."
        )
    if not any(file.text and not file.text.isspace() for file in files):
        remarks.append("The text is only white space.")
    if _is_one_char(files):
        remarks.append("The text is one character repeated; there is nothing to learn.")
    return remarks


def _is_one_char(files: Sequence[FileText]) -> bool:
    first = next(file.text[0] for file in files if file.text)
    return sum(len(file.text) for file in files) > 1 and all(
        file.text.count(first) == len(file.text) for file in files
    )


def _count(files: Sequence[FileText], mark: str) -> int:
    return sum(file.text.count(mark) for file in files)
