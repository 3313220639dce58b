"""The bytes of one text -> its characters, or a sentence on why not."""

import codecs
import re

from charlm.data.decompression import compression
from charlm.errors import TextError, UsageError
from charlm.terminal import one_line

_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_OTHER = "Give a file of text instead."
_SAVE = "Save it as plain text (UTF-8) and give that."
_EXPORT = "Export its text (pdftotext does, for a PDF) and give that."
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
    (rb"%PDF-\d\.\d", "a PDF document", _EXPORT),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", _SAVE),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar[\x00 ]", "an archive", _UNPACK),
)
_ZIPPED = (
    (b"word/document.xml", "a Word document (docx)", _SAVE),
    (b"xl/workbook.xml", "an Excel workbook (xlsx)", _SAVE),
    (b"ppt/presentation.xml", "a PowerPoint presentation (pptx)", _SAVE),
    (b"application/epub+zip", "an e-book (epub)", _SAVE),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file", _SAVE),
)


def check_codec(encoding: str) -> None:
    """Raise UsageError unless `encoding` is one that Python reads text with."""
    if _is_text_codec(encoding):
        return
    import difflib
    from encodings.aliases import aliases

    known = sorted(name.replace("_", "-") for name in {*aliases, *aliases.values()})
    near = filter(_is_text_codec, difflib.get_close_matches(encoding.lower(), known))
    hint = f"Did you mean {name}?" if (name := next(near, "")) else "Try utf-8 or cp1252."
    raise UsageError(f"--encoding {one_line(encoding)} is no text encoding. {hint}")


def decode(data: bytes, label: str, encoding: str | None = None) -> tuple[str, list[str]]:
    """Return the characters of `data` and what is to be said of them.

    Read as `encoding`, else as the byte order mark says, else as UTF-8; always strictly. `label`
    is its name as shown to the user. Raises TextError for what is not text, for invalid bytes and
    for lone surrogates.
    """
    refuse_other_formats(data, label)
    if encoding is not None:
        return _decode_as(data, label, encoding)
    mark, codec = mark_of(data)
    if not mark:
        refuse_unmarked(data, label)
    try:
        text = str(memoryview(data)[len(mark) :], codec)  # no copy of the bytes
    except UnicodeDecodeError as error:
        raise invalid(data, label, codec, error, len(mark)) from None
    return text, [dropped(codec)] if mark else unlike_ascii(data)


def dropped(codec: str = "") -> str:
    """What is said where a byte order mark was left out, of the codec it stands for."""
    family = codec.upper().removesuffix("-LE").removesuffix("-BE")
    return f"a {family} byte order mark was dropped" if family else "a byte order mark was dropped"


def unlike_its_mark(data: bytes, encoding: str) -> list[str]:
    """What is to be said where the mark that `data` begins with names another encoding."""
    mark, marked = mark_of(data)
    same = codecs.lookup(encoding).name in ("utf-8-sig", "utf-16", "utf-32")
    said = f"begins with the byte order mark of {marked}, but was read as {encoding}"
    return [said] if mark and not same else []


def _is_text_codec(encoding: str) -> bool:
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError:  # half a character of UTF-16
        return True
    except (LookupError, ValueError):
        return False
    return True


def _decode_as(data: bytes, label: str, encoding: str) -> tuple[str, list[str]]:
    try:
        text = data.decode(encoding)
        text.encode("utf-8")  # raises for the surrogates that utf-7 or unicode_escape let through
    except UnicodeDecodeError as error:
        raise invalid(data, label, encoding, error) from None
    except UnicodeEncodeError as error:
        raise surrogate(label, encoding, text[error.start], error.start) from None
    except UnicodeError as error:  # punycode and idna say no more
        raise TextError(f"{label} cannot be read as {encoding}: {error}.") from None
    if text.startswith("\ufeff"):
        return text[1:], [dropped()]
    return text, unlike_its_mark(data, encoding)


def surrogate(label: str, encoding: str, char: str, at: int) -> TextError:
    """The error to raise for half a character that a codec let through."""
    return TextError(
        f"{label}, read as {encoding}, has the lone surrogate U+{ord(char):04X} at character offset"
        f" {at}, which is no character. Remove it, or try another --encoding."
    )


def mark_of(data: bytes) -> tuple[bytes, str]:
    """The byte order mark that `data` begins with, or none, and the codec to read it with."""
    return next(((m, c) for m, c in _MARKS.items() if data.startswith(m)), (b"", "utf-8"))


def refuse_other_formats(data: bytes, label: str) -> None:
    """Raise TextError where `data` begins as no text does."""
    found = _format(data)
    if found:
        raise TextError(f"{label} is {found[0]}, not text. {found[1]}")


def format_of(data: bytes) -> str | None:
    """The format that `data` begins as, in words, where that is none of text."""
    found = _format(data)
    return found[0] if found else None


def _format(data: bytes) -> tuple[str, str] | None:
    """The format that `data` begins as, and what to do with such a file."""
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        zipped = (kind for kind in _ZIPPED if kind[0] in data)
        return next(zipped, (b"", "a ZIP archive", _UNPACK))[1:]
    if again := compression(data):
        return f"compressed more than once ({again})", "Decompress it first."
    for magic, named, advice in _FORMATS:
        if re.match(magic, data, re.DOTALL):
            return named, advice
    return None


_ISO_2022_CN = re.compile(rb"\x1b\$(?:\)[AEG]|\*H|\+[I-M])[^\x0e]*\x0e")
_CONTROLS = bytes(sorted({*range(32)} - set(b"\b\t\n\v\f\r\x1a\x1b")))  # that text hardly has
_MOST_CONTROLS = 0.01


def binary(head: bytes) -> str | None:
    """What a file that begins so is, where it is plainly no text in UTF-8 or an older encoding of bytes.

    UTF-16 and UTF-32 are text, with a byte order mark or without. Text may have a few control characters.
    """
    odd = len(head) - len(head.translate(None, _CONTROLS))
    if not odd or mark_of(head)[0] or _unmarked(head[:4096]):
        return None
    if odd > _MOST_CONTROLS * len(head) or not reads(head, "utf-8"):
        return "binary data"
    return None


def refuse_unmarked(data: bytes, label: str) -> None:
    """Raise TextError where `data`, without a mark, looks like UTF-16 or UTF-32."""
    codec = _unmarked(data[:4096])
    if codec:
        raise TextError(
            f"{label} looks like {codec[:6].upper()} without a byte order mark. Read it with"
            f" --encoding {codec}, or with --encoding utf-8 if its NUL characters are meant."
        )


def _unmarked(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 by where its NUL bytes stand; text of UTF-8 has none, or few anywhere."""
    nul = [sample[i::4].count(0) for i in range(4)]
    quarter = len(sample) // 4
    if len(sample) % 4 == 0 and quarter and sum(nul) < len(sample):
        if nul[3] == quarter and nul[2] > 0.9 * quarter:
            return "utf-32-le"
        if nul[0] == quarter and nul[1] > 0.9 * quarter:
            return "utf-32-be"
    big, little = nul[0] + nul[2], nul[1] + nul[3]
    more, fewer = max(big, little), min(big, little)
    # Scripts beyond Latin-1 show NUL bytes at spaces only; as UTF-8 they are mostly controls.
    controls = sum(byte < 9 or 13 < byte < 32 for byte in sample)
    if controls * 5 < len(sample) and reads(sample, "utf-8"):
        return None
    if len(sample) % 2 or more < 2 or fewer * 10 > more or more * 100 < len(sample):
        return None
    codec = "utf-16-le" if little > big else "utf-16-be"
    return codec if reads(sample, codec) else None


def reads(sample: bytes, codec: str, *, whole: bool = False) -> bool:
    """Whether `codec` reads the sample; unless it is `whole`, it may end within a character."""
    try:
        codecs.getincrementaldecoder(codec)().decode(sample, whole)
    except UnicodeError:
        return False
    return True


def invalid(
    data: bytes,
    label: str,
    codec: str,
    error: UnicodeDecodeError,
    skipped: int = 0,
    *,
    offset: int = 0,
    lines: int = 0,
) -> TextError:
    """The error to raise for bytes that `codec` cannot read, `skipped` bytes into `data`.

    `offset` bytes and `lines` lines of the text stand before `data`.
    """
    codec, start = codecs.lookup(codec).name, error.start + skipped
    end = max(start + 1, min(error.end + skipped, start + 4))
    try:
        before = data[skipped:start].decode(codec, "replace")
    except UnicodeError:  # of codecs that refuse to replace
        before = data[skipped:start].decode("latin-1")
    line = lines + before.count("\n") + before.count("\r") - before.count("\r\n") + 1
    window = f"{data[max(0, start - 8) : start].hex(' ')} [{data[start:end].hex(' ')}]"
    window = f"{window} {data[end : end + 8].hex(' ')}".strip()
    return TextError(
        f"{label} is not valid {codec.upper()} at byte offset {offset + start}, line {line}"
        f" (in hex: {window}). {_remedy(data, start, codec)}"
    )


def _remedy(data: bytes, start: int, codec: str) -> str:
    mark, marked = mark_of(data)
    if mark and not codec.startswith(marked[:6]):
        return f"It begins with the byte order mark of {marked}: leave --encoding out."
    if codec != "utf-8" and reads(data, "utf-8", whole=True):
        return "It is valid UTF-8: leave --encoding out."
    if codec.startswith(("utf-16", "utf-32")):
        return "It is cut short or damaged: get the whole file again, or try another --encoding."
    sample = _lines_around(data, start)
    text = sample.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(c > "\x7f" for c in text) > 2 * damaged:
        return (
            "The text around it is valid UTF-8, so it is damaged there: repair it, or drop such"
            " bytes with iconv -c -f utf-8 -t utf-8."
        )
    from charlm.data.encoding_errors import guesses  # here: only for what is no text so far

    found = guesses(data, start)
    if found:
        best = found[0].encoding
        lines = [f"\n  --encoding {guess.encoding:<14}{one_line(guess.line)}" for guess in found]
        return f"It looks like {best}; to read it so, add --encoding {best}. A line as it would read:{''.join(lines)}"
    if b"\0" in sample:
        return "It has NUL bytes too, so it is probably not text; give a file of text instead."
    return "If it is text, name its encoding with --encoding; if not, give a file of text instead."


def unlike_ascii(data: bytes) -> list[str]:
    """What is said of text that is ASCII only because its encoding writes other characters by escapes."""
    from charlm.data.encoding_errors import seven_bit

    if data.isascii() and _ISO_2022_CN.search(data):
        return [
            "looks like ISO-2022-CN, and was read as the ASCII that writes it; Python has no such codec: convert it "
            "first, with iconv -f ISO-2022-CN -t UTF-8"
        ]
    guess = seven_bit(data) if data.isascii() else None
    if guess is None:
        return []
    return [
        f"looks like {guess.encoding}, and was read as the ASCII that writes it; --encoding {guess.encoding} "
        f"reads it as: {one_line(guess.line)}"
    ]


def _lines_around(data: bytes, start: int) -> bytes:
    first, last = max(0, start - 4096), start + 4096
    if first:  # whole lines, since half a character misleads
        first = data.find(b"\n", first, start) + 1 or first
    return data[first : data.rfind(b"\n", start, last) + 1 or last]
