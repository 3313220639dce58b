"""Bytes to text: strictly decoded, or refused with what is wrong, where, and what to do."""

import codecs
import re
import sys
from collections.abc import Iterator
from itertools import chain

from charlm.data.stream import PIECE, Block, compression_of
from charlm.errors import TextError, UsageError
from charlm.terminal import one_line

HEAD = 1 << 23
"""Bytes at the beginning of a text that decide how it is read."""
_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_HOST_NAMES = ("idna", "punycode")  # codecs of names, not of texts
_OTHER = "Give a text file instead."
_SAVE = "Save it as plain text (UTF-8) and give that."
_UNPACK = "Unpack it and give the files or the folder."
# Each must hold bytes that no text begins with; two letters ("MZ") are not enough.
_FORMATS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", _OTHER),
    (rb"\xff\xd8\xff", "a JPEG image", _OTHER),
    (rb"GIF8[79]a.{0,6}[\x00-\x08\x80-\xff]", "a GIF image", _OTHER),
    (rb"\x7fELF", "a program (ELF)", _OTHER),
    (rb"\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe", "a program", _OTHER),
    (rb"MZ[^\x00]{0,62}\x00", "a Windows program", _OTHER),
    (rb"SQLite format 3\x00", "an SQLite database", _OTHER),
    (rb"%PDF-\d\.\d", "a PDF document", "Export its text (pdftotext does, for a PDF) and give that."),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", _SAVE),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar[\x00 ]", "an archive", _UNPACK),
    (rb"PK\x03\x04.*word/document\.xml", "a Word document (docx)", _SAVE),
    (rb"PK\x03\x04.*xl/workbook\.xml", "an Excel workbook (xlsx)", _SAVE),
    (rb"PK\x03\x04.*ppt/presentation\.xml", "a PowerPoint presentation (pptx)", _SAVE),
    (rb"PK\x03\x04.*application/epub\+zip", "an e-book (epub)", _SAVE),
    (rb"PK\x03\x04.*application/vnd\.oasis\.opendocument", "an OpenDocument file", _SAVE),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive", _UNPACK),
)
_CONTROLS = bytes(sorted({*range(32)} - set(b"\b\t\n\v\f\r\x1a\x1b")))
"""Control characters that text hardly has."""
_MOST_CONTROLS = 0.01
_UTF16_SAMPLE = 4096


def check_codec(encoding: str) -> None:
    """Raise UsageError unless `encoding` is a text encoding that Python can decode."""
    if _is_text_codec(encoding):
        return
    import difflib
    from encodings.aliases import aliases

    names = sorted(name.replace("_", "-") for name in {*aliases, *aliases.values()})
    near = filter(_is_text_codec, difflib.get_close_matches(encoding.lower(), names))
    hint = f"Did you mean {name}?" if (name := next(near, "")) else "Try utf-8 or cp1252."
    raise UsageError(f"--encoding {one_line(encoding)} is not a text encoding. {hint}")


def _is_text_codec(encoding: str) -> bool:
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError:  # half a character of UTF-16
        return True
    except (LookupError, ValueError):
        return False
    return codecs.lookup(encoding).name not in _HOST_NAMES


def byte_order_mark(data: bytes) -> tuple[bytes, str]:
    """The byte-order mark that `data` begins with (or b"") and the codec for what follows."""
    return next(((mark, codec) for mark, codec in _MARKS.items() if data.startswith(mark)), (b"", "utf-8"))


def is_valid(sample: bytes, codec: str, *, whole: bool = False) -> bool:
    """Whether `codec` can decode the sample, which may end within a character unless it is `whole`."""
    try:
        codecs.getincrementaldecoder(codec)().decode(sample, whole)
    except UnicodeError:
        return False
    return True


def binary_format(data: bytes) -> tuple[str, str] | None:
    """The binary format that `data` begins as, and what to do with such a file; None for what may be text."""
    if again := compression_of(data):
        return f"compressed more than once ({again})", "Decompress it first."
    found = (row for row in _FORMATS if re.match(row[0], data, re.DOTALL))
    return next(((name, advice) for _, name, advice in found), None)


def is_binary(head: bytes) -> bool:
    """Is a file that begins so clearly no text, in UTF-8, UTF-16, UTF-32 or an 8-bit encoding?

    Text may have a few control characters.
    """
    odd = len(head) - len(head.translate(None, _CONTROLS))
    if not odd or byte_order_mark(head)[0] or utf16_without_mark(head):
        return False
    return odd > _MOST_CONTROLS * len(head) or not is_valid(head, "utf-8")


def utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 or UTF-32, judged by the places of NUL bytes in data without a byte-order mark; else None."""
    sample = data[:_UTF16_SAMPLE]
    nul = [sample[i::4].count(0) for i in range(4)]
    quarter = len(sample) // 4
    if len(sample) % 4 == 0 and quarter and sum(nul) < len(sample):
        if nul[3] == quarter and nul[2] > 0.9 * quarter:
            return "utf-32-le"
        if nul[0] == quarter and nul[1] > 0.9 * quarter:
            return "utf-32-be"
    big, little = nul[0] + nul[2], nul[1] + nul[3]
    more, fewer = max(big, little), min(big, little)
    # Scripts beyond Latin-1 show NUL bytes at spaces only; as UTF-8 they are mostly control characters.
    controls = sum(byte < 9 or 13 < byte < 32 for byte in sample)
    if controls * 5 < len(sample) and is_valid(sample, "utf-8"):
        return None
    if len(sample) % 2 or more < 2 or fewer * 10 > more or more * 100 < len(sample):
        return None
    codec = "utf-16-le" if little > big else "utf-16-be"
    return codec if is_valid(sample, codec) else None


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
        self._last = b""  # the byte before, as UTF-8

    def blocks(self, pieces: Iterator[bytes], path: str | None = None) -> Iterator[Block]:
        """Yield the text in blocks, in order, no character cut.

        `path`: the file in which the pieces stand as they are, to be named as the blocks' origin. Raises
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
        """Decide how a text that begins so is decoded. Return the byte-order mark to skip."""
        if found := binary_format(head):
            raise TextError(f"{self._label} is {found[0]}, not text. {found[1]}")
        mark, marked = byte_order_mark(head)
        encoding = self._encoding
        if encoding is not None and self._inherited and head:
            if codecs.lookup(encoding).name == "utf-8":
                encoding = None
            elif mark or (not head.isascii() and is_valid(head, "utf-8")):
                self.notes.append(f"read as {marked}, which it is, not as {encoding} like the run's text")
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
            if self.codec in ("utf-16", "utf-32"):  # Python's own would not begin without a mark
                self.codec += "-le" if sys.byteorder == "little" else "-be"
            return mark
        self.codec, self.has_mark = marked, bool(mark)
        if mark:
            self.notes.append(_mark_dropped(marked))
        elif wide := utf16_without_mark(head):
            raise TextError(
                f"{self._label} looks like {wide[:6].upper()} without a byte-order mark. Read it with --encoding "
                f"{wide}, or with --encoding utf-8 if its NUL characters are meant."
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
                    f"character offset {chars + error.start}, which is half a character. Remove it, or try another "
                    "--encoding."
                ) from None
            chars += len(text)
            if text:
                yield Block(utf8, text)

    def _count_lines(self, utf8: bytes) -> None:
        import numpy as np

        self._lines += int(np.count_nonzero(np.frombuffer(utf8, np.uint8) == ord("\n")))
        if b"\r" in utf8:
            self._lines += utf8.count(b"\r") - utf8.count(b"\r\n")
        self._lines -= self._last == b"\r" and utf8.startswith(b"\n")
        self._last = utf8[-1:] or self._last

    def _invalid(self, data: bytes, error: UnicodeDecodeError, offset: int) -> TextError:
        """The error for bytes that are not valid, `offset` bytes of the text before `data`."""
        from charlm.data.encoding_errors import invalid  # here: only for what is no text so far

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
        return invalid(data, self._label, self.codec, (start, end), at, self._lines + 1)


def _mark_dropped(codec: str) -> str:
    return f"a {codec.upper().removesuffix('-LE').removesuffix('-BE')} byte-order mark was dropped"
