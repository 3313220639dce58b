"""What to tell the user about bytes that are not valid in an encoding: where, and which encoding they may be in.

A guess is judged by the text it gives: are its letters those of one language, in words, with capitals where
capitals stand? The user sees how a line reads in the likeliest two or three, and chooses.
"""

import codecs
import unicodedata
from dataclasses import dataclass
from functools import cache

from charlm.data.decoding import byte_order_mark, is_valid
from charlm.errors import TextError
from charlm.terminal import one_line

SHOWN = 3
"""Guesses that are shown."""
LEAST_SCORE, MARGIN = 0.1, 0.6
SAMPLE = 1 << 12
"""Bytes before and after the first invalid one that a guess is judged by."""
WIDTH, BEFORE = 60, 20
"""Characters of a line that are shown, and of those the ones before the first invalid byte."""
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
_EAST_ASIAN_SCRIPTS = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}
_SIGNS = "„“”‘’«»–—…€£°©·"
_RARE_SIGNS = "‚‹›•§®™№¿¡\u00a0´，。、；：？！「」『』（）《》"
_ONE_LETTER_WORDS = "àéíóúaæåøöавикусоя"


@dataclass(frozen=True)
class Guess:
    """An encoding, and how a line reads in it."""

    encoding: str
    line: str


def invalid(data: bytes, label: str, codec: str, at: tuple[int, int], offset: int, line: int) -> TextError:
    """The TextError to raise for the bytes `at` (start, end) of `data`, which `codec` cannot decode.

    They stand at the byte offset `offset` of the text, in this line.
    """
    start, end = at
    window = f"{data[max(0, start - 8) : start].hex(' ')} [{data[start:end].hex(' ')}] {data[end : end + 8].hex(' ')}"
    return TextError(
        f"{label} is not valid {codec.upper()} at byte offset {offset}, line {line} (in hex: {window.strip()}). "
        f"{_remedy(data, start, codec)}"
    )


def _remedy(data: bytes, start: int, codec: str) -> str:
    mark, marked = byte_order_mark(data)
    if mark and not codec.startswith(marked[:6]):
        return f"It begins with the byte-order mark of {marked}: leave --encoding out."
    if codec != "utf-8" and is_valid(data, "utf-8", whole=True):
        return "It is valid UTF-8: leave --encoding out."
    if codec.startswith(("utf-16", "utf-32")):
        return "It is cut short or damaged: get the whole file again, or try another --encoding."
    sample = _around(data, start)
    text = sample.decode("utf-8", "replace")
    if sum(char > "\x7f" for char in text) > 2 * text.count("\ufffd"):
        return (
            "The text around it is valid UTF-8, so it is damaged there: repair it, or drop such bytes with "
            "iconv -c -f utf-8 -t utf-8."
        )
    found = guesses(data, start)
    if found:
        best = found[0].encoding
        lines = [f"\n  --encoding {guess.encoding:<14}{one_line(guess.line)}" for guess in found]
        return f"It looks like {best}: to read it that way, add --encoding {best}. A line then reads:{''.join(lines)}"
    if b"\0" in sample:
        return "It has NUL bytes too, so it is probably not text; give a text file instead."
    return "If it is text, name its encoding with --encoding; if not, give a text file instead."


def guesses(data: bytes, at: int) -> list[Guess]:
    """The likeliest encodings of `data`, which is not UTF-8 at the offset `at`, the best first."""
    sample = _around(data, at)
    n_high = sum(byte > 0x7F for byte in sample) or 1  # of few, the common encodings are the likeliest
    scores: dict[str, tuple[float, str]] = {}
    for place, encoding in enumerate((*_WIDE, *_CANDIDATES)):
        text = _decoded(data[: 2 * SAMPLE] if encoding in _WIDE else sample, encoding)
        if text is None or text in scores:
            continue
        score = _plausibility(text, encoding) - 0.0005 * place * (1 + 3 / n_high)
        if score >= LEAST_SCORE and _decoded(data, encoding) is not None:
            scores[text] = score, encoding
    ranked = sorted(scores, key=lambda text: scores[text], reverse=True)
    shown = [text for text in ranked[:SHOWN] if scores[text][0] >= scores[ranked[0]][0] - MARGIN]
    return [Guess(scores[text][1], _line(text, _telling_place(shown))) for text in shown]


def _telling_place(texts: list[str]) -> int:
    """The first place where the texts differ; of a single text, the first character beyond ASCII."""
    columns = enumerate(zip(*texts, strict=False))
    return next(
        (i for i, chars in columns if len(set(chars)) > 1 or (len(texts) == 1 and chars[0] > "\x7f")), 0
    )


def _decoded(data: bytes, encoding: str) -> str | None:
    """The text, which may end within a character; None if the bytes are not valid."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)
        text.encode("utf-8")
    except UnicodeError:
        return None
    return text


def _around(data: bytes, at: int) -> bytes:
    """The lines around an offset, whole ones: half a character misleads."""
    first, last = max(0, at - SAMPLE), at + SAMPLE
    if first:
        first = data.find(b"\n", first, at) + 1 or at
    return data[first : data.rfind(b"\n", at, last) + 1 or last]


def _line(text: str, at: int) -> str:
    """The part of its line around a place in a text."""
    start = max(text.rfind(end, 0, at) for end in "\n\r\x85") + 1
    line = text[start:].splitlines()[0] if text[start:] else ""
    begin = max(0, min(at - start - BEFORE, len(line) - WIDTH))
    return line[begin : begin + WIDTH]


def _plausibility(text: str, encoding: str) -> float:
    """From about -1 to 1: are these letters of one language, in words, with capitals where they may stand?"""
    text = text[:SAMPLE]
    if any(
        char > "\x7f" and char != "\x85" and unicodedata.category(char) in ("Cc", "Cn", "Co")
        for char in set(text)
    ):
        return -1.0
    telling = [
        char
        for char in text
        if char > "\x7f" or char in "@`{}|~^\\\x7f" or (char < " " and char not in "\t\n\r\f")
    ]
    if not telling:
        return 0.0
    scripts = {_script(char) for char in telling}
    languages = [language for language in (*_LATIN, *_SCRIPTS) if language in _LATIN or language in scripts]
    languages += _EAST_ASIAN if scripts & _EAST_ASIAN_SCRIPTS else ()
    languages = [language for language in languages if language != "Vietnamese" or encoding == "cp1258"]
    best = max(sum(_value(char, language) for char in telling) for language in languages)
    foreign = sum(char > "\x7f" and _script(char) not in ("", "LATIN") for char in text)
    latin = sum(char.isascii() and char.isalpha() for char in text)
    odd = 0.25 if 0 < foreign * 4 < latin else 0.0  # single letters of another script in a Latin text
    chars = f"\n{text}\n"
    return (best - sum(map(_oddness, chars, chars[1:], chars[2:]))) / len(telling) - odd


@cache
def _value(char: str, language: str) -> float:
    """What a character says for a language or script, from -1 to 1."""
    script = _script(char)
    if language in _EAST_ASIAN and (script or char not in _SIGNS):
        return _east_asian_value(char, script, language)
    if char in _SIGNS or char in _RARE_SIGNS:
        return 0.8 if char in _SIGNS else 0.5
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
    is_lone = not one and not three and two not in _EAST_ASIAN_SCRIPTS
    return 0.4 if is_lone and b.lower() not in _ONE_LETTER_WORDS else 0.0
