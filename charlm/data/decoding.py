"""Decode the bytes of a text strictly; an error says what is wrong, where, and what to do."""

import codecs
import sys
from collections.abc import Iterator
from itertools import chain

import numpy as np

from charlm.data.detection import (
    binary_format,
    byte_order_mark,
    guesses,
    is_valid,
    lines_around,
    utf16_without_mark,
)
from charlm.data.stream import PIECE, Block
from charlm.errors import TextError
from charlm.terminal import one_line

HEAD = 1 << 23
"""Bytes at the beginning of a text that decide how it is read."""


class TextDecoder:
    """Decodes one text strictly, in pieces.

    Known once `blocks` has begun: `codec` and `has_mark` (whether a byte-order mark named it). `notes` for the
    user are complete once the text is read.
    """

    def __init__(self, label: str, encoding: str | None = None, *, inherited: bool = False) -> None:
        """`encoding` None: UTF-8, or what the byte-order mark says.

        An `inherited` encoding, that of a run, gives way to a byte-order mark and to valid UTF-8.
        """
        self._label, self._encoding, self._inherited = label, encoding, inherited
        self.notes: list[str] = []
        self.codec, self.has_mark = encoding or "utf-8", False
        self._head = b""
        self._lines = 0  # line ends decoded so far
        self._last = b""  # the last byte so far, as UTF-8

    def blocks(self, pieces: Iterator[bytes], path: str | None = None) -> Iterator[Block]:
        """Yield the text in blocks, in order, without cutting a character.

        `path`: the file that contains the pieces unchanged, recorded as the blocks' origin. Raises
        TextError for binary formats, bytes that are not valid in the encoding, and lone surrogates.
        """
        head: list[bytes] = []
        for piece in pieces:
            head.append(piece)
            if sum(map(len, head)) > HEAD:
                break
        else:
            path = None  # a short text is not worth reading again
        self._head = b"".join(head)
        mark = self._choose_codec(self._head)
        starts = range(len(mark), len(self._head), PIECE)
        rest = filter(None, chain((self._head[at : at + PIECE] for at in starts), pieces))
        decode = self._decode_utf8 if self.codec == "utf-8" else self._decode_other
        is_empty = True
        for block in decode(chain(rest, [b""]), len(mark), path):
            is_empty = False
            self._count_lines(block.utf8)
            yield block
        if is_empty:
            self.notes.append("empty")

    def _choose_codec(self, head: bytes) -> bytes:
        """Choose the codec by the first bytes of a text. Return the byte-order mark to skip."""
        if found := binary_format(head):
            raise TextError(f"{self._label} is {found[0]}, not text; {found[1]}")
        mark, marked = byte_order_mark(head)
        encoding = self._encoding
        if encoding is not None and self._inherited and head:
            if codecs.lookup(encoding).name == "utf-8":
                encoding = None
            elif mark or (not head.isascii() and is_valid(head, "utf-8")):
                self.notes.append(
                    f"read as {marked}, its actual encoding, not as {encoding} like the run's text"
                )
                encoding = None
            else:
                self.notes.append(f"read as {encoding}, like the run's text")
        if encoding is not None:
            self.codec = codecs.lookup(encoding).name.removesuffix("-sig")
            if mark and marked.startswith(self.codec):
                self.codec = marked
                self.notes.append(_mark_dropped(marked))
            elif mark:
                self.notes.append(f"begins with the byte-order mark of {marked}, but was read as {encoding}")
                mark = b""
            if self.codec in ("utf-16", "utf-32"):  # Python's own incremental decoders require a mark
                self.codec += "-le" if sys.byteorder == "little" else "-be"
            return mark
        self.codec, self.has_mark = marked, bool(mark)
        if mark:
            self.notes.append(_mark_dropped(marked))
        elif wide := utf16_without_mark(head):
            raise TextError(
                f"{self._label} looks like {wide[:6].upper()} without a byte-order mark; read it with --encoding "
                f"{wide}, or with --encoding utf-8 if its NUL characters are intended"
            )
        return mark

    def _decode_utf8(self, pieces: Iterator[bytes], offset: int, path: str | None) -> Iterator[Block]:
        """Decode pieces, the last of them empty."""
        rest = b""
        for piece in pieces:
            data = rest + piece if rest else piece
            decoded = None
            if data.isascii():
                used = len(data)
            else:
                try:
                    decoded, used = codecs.utf_8_decode(data, "strict", not piece)
                except UnicodeDecodeError as error:
                    raise self._invalid(data, error, offset) from None
            if used:
                utf8 = data[:used] if used < len(data) else data
                yield Block(utf8, decoded, (path, offset) if path else None)
            offset, rest = offset + used, data[used:]

    def _decode_other(self, pieces: Iterator[bytes], offset: int, path: str | None) -> Iterator[Block]:
        decoder, chars = codecs.getincrementaldecoder(self.codec)(), 0
        for piece in pieces:
            offset += len(piece)
            try:
                text = decoder.decode(piece, not piece)
                utf8 = text.encode()
            except UnicodeDecodeError as error:
                raise self._invalid(error.object, error, offset - len(error.object)) from None
            except UnicodeEncodeError as error:  # utf-7 and unicode_escape let surrogates through
                raise TextError(
                    f"{self._label}, read as {self.codec}, has the lone surrogate U+{ord(text[error.start]):04X} at "
                    f"character offset {chars + error.start}, which is half a character; remove it, or try another "
                    "--encoding"
                ) from None
            chars += len(text)
            if text:
                yield Block(utf8, text)

    def _count_lines(self, utf8: bytes) -> None:
        self._lines += int(np.count_nonzero(np.frombuffer(utf8, np.uint8) == ord("\n")))
        if b"\r" in utf8:
            self._lines += utf8.count(b"\r") - utf8.count(b"\r\n")
        self._lines -= self._last == b"\r" and utf8.startswith(b"\n")
        self._last = utf8[-1:] or self._last

    def _invalid(self, data: bytes, error: UnicodeDecodeError, offset: int) -> TextError:
        """Return the error for invalid bytes in `data`, which begins at byte `offset` of the text."""
        before = data[: error.start]
        try:
            self._count_lines(before.decode(self.codec, "replace").encode())
        except UnicodeError:  # of codecs that refuse to replace
            self._count_lines(before)
        at = offset + error.start
        if at < len(self._head):
            data, start = self._head, at
        else:  # whole lines: half a character misleads
            data, start = data[: data.rfind(b"\n", error.end) + 1 or None], error.start
        end = max(start + 1, min(start + error.end - error.start, start + 4))
        window = f"{data[max(0, start - 8) : start].hex(' ')} [{data[start:end].hex(' ')}] {data[end : end + 8].hex(' ')}"
        return TextError(
            f"{self._label} is not valid {self.codec.upper()} at byte offset {at}, line {self._lines + 1} (in hex: "
            f"{window.strip()}); {_remedy(data, start, self.codec)}"
        )


def _mark_dropped(codec: str) -> str:
    return f"a {codec.upper().removesuffix('-LE').removesuffix('-BE')} byte-order mark was dropped"


def _remedy(data: bytes, start: int, codec: str) -> str:
    """Advise what to do about bytes that `codec` cannot decode, the first of them at `start`."""
    mark, marked = byte_order_mark(data)
    if mark and not codec.startswith(marked[:6]):
        return f"it begins with the byte-order mark of {marked}: leave --encoding out"
    if codec != "utf-8" and is_valid(data, "utf-8", whole=True):
        return "it is valid UTF-8: leave --encoding out"
    if codec.startswith(("utf-16", "utf-32")):
        return "it is cut short or damaged: get the whole file again, or try another --encoding"
    sample = lines_around(data, start)
    text = sample.decode("utf-8", "replace")
    if sum(char > "\x7f" for char in text) > 2 * text.count("\ufffd"):
        return (
            "the text around it is valid UTF-8, so it is damaged there: repair it, or drop such bytes with "
            "iconv -c -f utf-8 -t utf-8"
        )
    if found := guesses(data, start):
        best = found[0][0]
        lines = [f"\n  --encoding {encoding:<14}{one_line(line)}" for encoding, line in found]
        return f"it looks like {best}: to read it that way, add --encoding {best}; a line then reads:{''.join(lines)}"
    if b"\0" in sample:
        return "it has NUL bytes too, so it is probably not text; give a text file instead"
    return "if it is text, name its encoding with --encoding; if not, give a text file instead"
