"""Detect what bytes are: their compression, byte-order mark, binary format or likely encodings.

A guess of an encoding is judged by the text it gives: are its letters those of one language, in words, with
capitals where capitals stand? The user sees how a line reads in the likeliest two or three, and chooses.
"""

import codecs
import re
import unicodedata
from collections import Counter
from functools import cache

from charlm.errors import UsageError
from charlm.terminal import one_line

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BZ2_STARTS = (b"1AY&SY", b"\x17rE8P\x90")  # the first block, or none; "BZh9" alone could be text
_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_HOST_NAMES = ("idna", "punycode")  # codecs of names, not of texts
_OTHER = "give a text file instead"
_SAVE = "save it as plain text (UTF-8) and give that"
_TABLE = "name one of its columns with --field"
_UNPACK = "unpack it and give the files or the folder"
# Each must hold bytes that no text begins with; two letters ("MZ") are not enough.
_FORMATS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", _OTHER),
    (rb"\xff\xd8\xff", "a JPEG image", _OTHER),
    (rb"GIF8[79]a.{0,6}[\x00-\x08\x80-\xff]", "a GIF image", _OTHER),
    (rb"\x7fELF", "a program (ELF)", _OTHER),
    (rb"\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe", "a program", _OTHER),
    (rb"MZ[^\x00]{0,62}\x00", "a Windows program", _OTHER),
    (rb"SQLite format 3\x00", "an SQLite database", _OTHER),
    (rb"PAR1", "a Parquet file", _TABLE),
    (rb"ARROW1\x00\x00|\xff\xff\xff\xff.{3}\x00[\x04-\x40]\x00\x00\x00", "an Arrow file", _TABLE),
    (rb"%PDF-\d\.\d", "a PDF document", "export its text (pdftotext does, for a PDF) and give that"),
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


SHOWN = 3
"""Guesses that are shown."""
LEAST_SCORE, MARGIN = 0.1, 0.6
SAMPLE = 1 << 12
"""Bytes before and after the first invalid one that a guess is judged by."""
WIDTH, BEFORE = 60, 20
"""Characters of a line that are shown, and how many of them precede the first invalid byte."""
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_CANDIDATES = (  # the common ones first: they win ties
    *(f"cp{page}" for page in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "koi8_r", "koi8_u", "cp874"),
    *(f"iso8859_{part}" for part in (2, 15, 5, 6, 7, 8, 9)),
    *("mac_roman", "mac_cyrillic", "cp437", "cp850", "cp866", "cp852"),
)
# The letters of some languages beside a to z.
_LATIN = {
    "French": "àâæçéèêëîïôœùûüÿ",
    "German": "äöüß",
    "Spanish and Catalan": "áàéèíïóòúüñç",
    "Portuguese": "áâãàçéêíóôõú",
    "Italian": "àèéìíòóù",
    "Nordic": "åäöæøéáíóúýðþ",
    "Dutch": "éèëïóöü",
    "Turkish": "çğıöşüâîûİ",
    "Polish": "ąćęłńóśźż",
    "Czech and Slovak": "áäčďéěíĺľňóôŕřšťúůýž",
    "Hungarian": "áéíóöőúüű",
    "Romanian": "ăâîșțşţ",
    "Croatian": "čćđšž",
    "Baltic": "āąčēęėģīįķļņšūųžäöõü",
    "Vietnamese": "ăâđêôơưáàãéèíìóòõúùý\u0300\u0301\u0303\u0309\u0323",
}
# The frequent letters of other scripts.
_SCRIPTS = {
    "CYRILLIC": "оеаинтсрвлкмдпуяыьгзбчйхжі",
    "GREEK": "αοιετσνηυρπκμλςωδγχθάέήίόύώ",
    "HEBREW": "יוהלאמתרבשנדםכחעפגקצ",
    "ARABIC": "اليمنوتربعةدسفهكقأحجشصطىئءؤإآ",
    "THAI": "กขคงจชดตทนบปผพมยรลวสหอะาำเแโใไิีึืุูัี็่้์",
}
# The two-byte codec of each language with thousands of characters, and the lead bytes of the common ones.
_EAST_ASIAN = {
    "Japanese": ("euc_jp", 0xB0, 0xCF),
    "Chinese": ("gb2312", 0xB0, 0xD7),
    "Traditional": ("big5", 0xA4, 0xC6),
    "Korean": ("euc_kr", 0xB0, 0xFE),
}
_TELLING_ASCII = "@`{}|~^\\\x7f" + bytes({*range(32)} - set(b"\t\n\r\f")).decode()
"""ASCII characters that are rare in text, and that letters in another encoding may be decoded as."""
_EAST_ASIAN_SCRIPTS = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}
_SIGNS = "„“”‘’«»–—…€£°©·‚‹›•§®™№¿¡\u00a0´，。、；：？！「」『』（）《》"


def compression_of(data: bytes) -> str | None:
    """The compression that `data` begins with: gzip, bz2, xz or zstd; None for other data."""
    if data[:3] == b"BZh" and data[4:10] in _BZ2_STARTS:
        return "bz2"
    return next((kind for magic, kind in _COMPRESSED.items() if data.startswith(magic)), None)


def check_codec(encoding: str) -> None:
    """Raise UsageError unless `encoding` is a text encoding that Python can decode."""
    if _is_text_codec(encoding):
        return
    import difflib
    from encodings.aliases import aliases

    names = sorted(name.replace("_", "-") for name in {*aliases, *aliases.values()})
    near = filter(_is_text_codec, difflib.get_close_matches(encoding.lower(), names))
    hint = f"did you mean {name}?" if (name := next(near, "")) else "try utf-8 or cp1252"
    raise UsageError(f"--encoding {one_line(encoding)} is not a text encoding; {hint}")


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
    """Return the binary format of `data` and what to do with such a file; None for what may be text."""
    if again := compression_of(data):
        return f"compressed more than once ({again})", "decompress it first"
    return next((row[1:] for row in _FORMATS if re.match(row[0], data, re.DOTALL)), None)


def archive_format(head: bytes) -> str | None:
    """Return zip or tar for the beginning of an archive; None for others, and for documents that are zip files."""
    kind = (binary_format(head) or ("",))[0]
    if kind == "an archive" and head[257:262] == b"ustar":
        return "tar"
    return "zip" if kind == "a ZIP archive" else None


def table_format(head: bytes) -> str | None:
    """Return parquet, arrow or arrow-stream for the beginning of a Parquet file, an Arrow file or an Arrow stream, or None."""
    kind = (binary_format(head) or ("",))[0]
    if kind == "an Arrow file":
        return "arrow" if head.startswith(b"ARROW1") else "arrow-stream"
    return "parquet" if kind == "a Parquet file" else None


def is_binary(head: bytes) -> bool:
    """Whether a file that begins with `head` is clearly not text in UTF-8, UTF-16, UTF-32 or an 8-bit encoding.

    Text may have a few control characters.
    """
    odd = len(head) - len(head.translate(None, _CONTROLS))
    if not odd or byte_order_mark(head)[0] or utf16_without_mark(head):
        return False
    return odd > _MOST_CONTROLS * len(head) or not is_valid(head, "utf-8")


def utf16_without_mark(data: bytes) -> str | None:
    """Recognise UTF-16 or UTF-32 without a byte-order mark by where NUL bytes occur; None for other data."""
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


def guesses(data: bytes, at: int) -> list[tuple[str, str]]:
    """Guess the encoding of `data`, which is not UTF-8 at the offset `at`: the likeliest first, each with a line decoded."""
    sample = lines_around(data, at)
    scores: dict[str, tuple[float, str]] = {}
    for place, encoding in enumerate((*_WIDE, *_CANDIDATES)):
        text = _decoded(data[: 2 * SAMPLE] if encoding in _WIDE else sample, encoding)
        if text is None or text in scores:
            continue
        score = _plausibility(text) - 0.0005 * place  # the common encodings win ties
        if score >= LEAST_SCORE and _decoded(data, encoding) is not None:
            scores[text] = score, encoding
    ranked = sorted(scores, key=lambda text: scores[text], reverse=True)
    shown = [text for text in ranked[:SHOWN] if scores[text][0] >= scores[ranked[0]][0] - MARGIN]
    columns = enumerate(
        zip(*shown, strict=False)
    )  # the line to show has the first character that differs, or is beyond ASCII
    tells = (i for i, chars in columns if len(set(chars)) > 1 or (len(shown) == 1 and chars[0] > "\x7f"))
    place = next(tells, 0)
    return [(scores[text][1], _line(text, place)) for text in shown]


def _decoded(data: bytes, encoding: str) -> str | None:
    """Decode data that may end within a character; None if it is not valid."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)
        text.encode("utf-8")
    except UnicodeError:
        return None
    return text


def lines_around(data: bytes, at: int) -> bytes:
    """Return the whole lines around an offset: half a character would mislead."""
    first, last = max(0, at - SAMPLE), at + SAMPLE
    if first:
        first = data.find(b"\n", first, at) + 1 or at
    return data[first : data.rfind(b"\n", at, last) + 1 or last]


def _line(text: str, at: int) -> str:
    """Return the part of a line around a position in a text."""
    start = max(text.rfind(end, 0, at) for end in "\n\r\x85") + 1
    line = text[start:].splitlines()[0] if text[start:] else ""
    begin = max(0, min(at - start - BEFORE, len(line) - WIDTH))
    return line[begin : begin + WIDTH]


def _plausibility(text: str) -> float:
    """Score from about -1 to 1 how likely this is text: letters of one language, in words, capitals where they belong."""
    text = text[:SAMPLE]
    high = {char for char in text if char > "\x7f" and char != "\x85"}
    if any(unicodedata.category(char) in ("Cc", "Cn", "Co") for char in high):
        return -1.0
    telling = [char for char in text if char > "\x7f" or char in _TELLING_ASCII]
    if not telling:
        return 0.0
    counts = Counter(telling)
    languages = (*_LATIN, *_SCRIPTS, *_EAST_ASIAN)
    best = max(sum(_value(char, language) * n for char, n in counts.items()) for language in languages)
    chars = f"\n{text}\n"
    return (best - sum(map(_oddness, chars, chars[1:], chars[2:]))) / len(telling)


@cache
def _value(char: str, language: str) -> float:
    """Score from -1 to 1 how well a character fits a language or script."""
    script = _script(char)
    if language in _EAST_ASIAN and (script or char not in _SIGNS):
        return _east_asian_value(char, script, language)
    if char in _SIGNS:
        return 0.8
    if language in _LATIN and script in ("LATIN", "COMBINING"):
        return 1.0 if char in _LATIN[language] or char.lower() in _LATIN[language] else -0.3
    if script == language:
        return 1.0 if char.lower() in _SCRIPTS[language] else 0.2
    return -1.0


def _east_asian_value(char: str, script: str, language: str) -> float:
    if script == "":
        return 0.5 if "\u3000" <= char <= "\u301f" or "\uff00" <= char <= "\uff5e" else -0.5
    if script in ("HIRAGANA", "KATAKANA"):
        half_width = "\uff61" <= char <= "\uff9f"  # what other bytes look like in Shift JIS
        return 1.0 if language == "Japanese" and not half_width else -0.6
    if script != ("HANGUL" if language == "Korean" else "CJK"):
        return -1.0
    codec, low, high = _EAST_ASIAN[language]
    try:
        data = char.encode(codec)
    except UnicodeError:
        return -0.7
    common = 0.9 if language == "Korean" else 0.6
    return common if len(data) == 2 and low <= data[0] <= high else -0.7


@cache
def _script(char: str) -> str:
    """The script of a letter or mark, by its Unicode name; empty for other characters."""
    if not (char.isalpha() or unicodedata.category(char)[0] == "M"):
        return ""
    return unicodedata.name(char, "").split(" ")[0].split("-")[0]


@cache
def _oddness(a: str, b: str, c: str) -> float:
    """How unlikely b is between a and c: next to another script, a capital in a word, a sign in a word, alone."""
    one, two, three = map(_script, (a, b, c))
    if one and two and a.islower() and b.isupper():
        return 1.0
    if one and two and one != two and not {one, two} & {*_EAST_ASIAN_SCRIPTS, "COMBINING"}:
        return 1.0
    if b <= "\x7f":
        return 0.0
    if not two:
        return 1.0 if one and three and b not in "’·\u00ad" else 0.0
    return 0.4 if not one and not three and two not in _EAST_ASIAN_SCRIPTS else 0.0
