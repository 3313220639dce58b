"""What to tell the user about bytes that are not valid in an encoding: where, and which encoding they may be in.

A guess is judged by the text it gives: are its letters those of one language, in words, with capitals where
capitals stand? The user sees how a line reads in the likeliest two or three, and chooses.
"""

import codecs
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise

from charlm.data.decoding import byte_order_mark, is_valid
from charlm.errors import TextError
from charlm.terminal import one_line

SHOWN = 3
"""Guesses that are shown."""
LEAST_SCORE, MARGIN = 0.1, 0.6
SAMPLE, ESCAPES_SAMPLE = 1 << 12, 1 << 16
WIDTH, BEFORE = 60, 20
"""Characters of a line that are shown, and of those the ones before the first invalid byte."""
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_CANDIDATES = (  # the common ones first: they win ties
    *(f"cp{page}" for page in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "koi8_r", "koi8_u", "cp874"),
    *(f"iso8859_{part}" for part in (2, 15, 5, 6, 7, 8, 9)),
    *("mac_roman", "mac_cyrillic", "cp437", "cp850", "cp866", "cp852"),
)
# Escapes that stand in no other text, and the encodings they belong to.
_ESCAPES = {
    rb"\x1b(?:\$[@AB]|\$\([A-DOPQ]|\([IJ])": (
        "iso2022_jp",
        "iso2022_jp_2",
        "iso2022_jp_ext",
        "iso2022_jp_2004",
    ),
    rb"\x1b\$\)C": ("iso2022_kr",),
}
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
_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}
_PRINTED = "„“”‘’‚«»‹›–—…•·°§€£©®™№¿¡\u00a0´，。、；：？！「」『』（）《》"
_FRAMES = "─═░▒▓█▄▌▐▀■│┌┐└┘├┤┬┴┼║╔╗╚╝╠╣╦╩╬"
_WORDS = "àáâèéêíóôåøöæíúавиокусяйієίηοωו"
"""Letters beyond ASCII that are words by themselves in some language."""
_WORD_ENDS = "ςךםןףץ"
"""Letters that stand at the ends of words only."""
_COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这這个個们們来來到时時大地为為子中你说說生国國年着就那和要她出也得里裡后後自以会會"
    "家可下而过過天去能對对小多然于心学學么麼之都好看起发發当當没沒成只如事把还還用第样樣道想作种種开開"
)


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
    sample = _around(data, start)[0]
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
        return f"It looks like {best}: to read it so, add --encoding {best}. A line reads like this:{''.join(lines)}"
    if b"\0" in sample:
        return "It has NUL bytes too, so it is probably not text; give a text file instead."
    return "If it is text, name its encoding with --encoding; if not, give a text file instead."


def escapes_note(data: bytes) -> list[str]:
    """A note about text in ISO-2022, which is valid ASCII but writes other characters as escapes; else none."""
    for escape, encodings in _ESCAPES.items():
        match = re.search(escape, data) if b"\x1b" in data and data.isascii() else None
        if match is None:
            continue
        first = data.rfind(b"\n", 0, match.start()) + 1
        sample = data[first : first + ESCAPES_SAMPLE]
        sample = sample if first + len(sample) == len(data) else sample[: sample.rfind(b"\n") + 1]
        for encoding in encodings:
            text = _decoded(sample, encoding, whole=True)
            if text is not None and not text.isascii():
                at = next(i for i, char in enumerate(text) if char > "\x7f")
                return [
                    f"looks like {encoding}, but was read as ASCII; --encoding {encoding} reads it as: "
                    f"{one_line(_line(text, at))}"
                ]
    return []


def guesses(data: bytes, at: int) -> list[Guess]:
    """The likeliest encodings of `data`, which is not UTF-8 at the offset `at`, the best first."""
    sample, start = _around(data, at)
    n_high = sum(byte > 0x7F for byte in sample) or 1  # of few, the common encodings are the likeliest
    found: dict[str, tuple[float, str, int]] = {}
    for place, encoding in enumerate((*_WIDE, *_CANDIDATES)):
        raw, begin = (data[: 2 * SAMPLE], 0) if encoding in _WIDE else (sample, start)
        text = _decoded(raw, encoding)
        if text is None or text in found:
            continue
        score = _plausibility(text, encoding) - 0.0005 * place * (1 + 3 / n_high)
        if score >= LEAST_SCORE:
            found[text] = (score, encoding, len(_decoded(raw[: at - begin], encoding) or ""))
    ranked = sorted(found.items(), key=lambda item: item[1], reverse=True)
    near = (item for item in ranked if item[1][0] >= ranked[0][1][0] - MARGIN)
    shown = list(islice((item for item in near if _decoded(data, item[1][1]) is not None), SHOWN))
    lines = [_line(text, before) for text, (_, _, before) in shown]
    if len(set(lines)) < len(lines):  # then what tells them apart stands elsewhere
        first = min(_first_difference(shown[0][0], text) for text, _ in shown[1:])
        lines = [_line(text, first) for text, _ in shown]
    return [Guess(encoding, line) for (_, (_, encoding, _)), line in zip(shown, lines, strict=True)]


def _first_difference(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, two) in pairs if one != two), min(len(a), len(b)) - 1)


def _decoded(data: bytes, encoding: str, *, whole: bool = False) -> str | None:
    """The text, which may end within a character unless it is whole; None if the bytes are not valid."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, whole)
        text.encode("utf-8")
    except UnicodeError:
        return None
    return text


def _around(data: bytes, at: int) -> tuple[bytes, int]:
    """The lines around an offset, and the offset at which they begin: half a character misleads."""
    first = max(0, at - SAMPLE)
    if first:
        first = data.find(b"\n", first, at) + 1 or at
    last = at + SAMPLE
    return data[first : data.rfind(b"\n", at, last) + 1 or last], first


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
        char > "\x7f" and char != "\x85" and unicodedata.category(char)[0] == "C" and char != "\u200c"
        for char in set(text)
    ):
        return -1.0
    telling = [
        char
        for char in text
        if char > "\x7f" or char in "@`{}|~^\\\x7f" or (char < " " and char not in "\t\n\r\f\x1a")
    ]
    if not telling:
        return 0.0
    scripts = {_script(char) for char in telling}
    kinds = [kind for kind in (*_LATIN, *_SCRIPTS) if kind in _LATIN or kind in scripts]
    kinds += ["Japanese", "Chinese", "Traditional", "Korean"] if scripts & _ASIAN else []
    kinds = [kind for kind in kinds if kind != "Vietnamese" or encoding == "cp1258"]
    best = max(sum(_value(char, kind) for char in telling) for kind in kinds) / len(telling)
    foreign = sum(char > "\x7f" and _script(char) not in ("", "LATIN") for char in text)
    latin = sum(char.isascii() and char.isalpha() for char in text)
    odd = 0.25 if 0 < foreign * 4 < latin else 0.0  # single letters of another script in a Latin text
    chars = f"\n{text}\n"
    disorder = sum(_clash(a, b) for a, b in pairwise(chars)) + sum(
        map(_is_astray, chars, chars[1:], chars[2:])
    )
    return best - odd - disorder / len(telling)


@cache
def _value(char: str, kind: str) -> float:
    """What a character says for a language or script, from -1 to 1."""
    script = _script(char)
    if char in _FRAMES:
        return 0.85
    if kind in ("Japanese", "Chinese", "Traditional", "Korean") and script in (*_ASIAN, ""):
        return _asian_value(char, script, kind)
    if char in _PRINTED:
        return 0.8 if char in "„“”‘’«»–—…€£°©·" else 0.5
    if kind in _LATIN and script in ("LATIN", "COMBINING"):
        return 1.0 if char.lower() in _LATIN[kind] or char in _LATIN[kind] else -0.3
    if script == kind:
        return 1.0 if char.lower() in _SCRIPTS[kind] else 0.2
    return -1.0


def _asian_value(char: str, script: str, kind: str) -> float:
    """The value for one of the languages that are written with several thousands of characters."""
    if "\uff61" <= char <= "\uff9f":  # katakana of half the width: what other bytes look like in Shift JIS
        return -0.5
    if script == "":
        return 0.5 if "\u3000" <= char <= "\u301f" or "\uff00" <= char <= "\uff5e" else -0.5
    if kind == "Korean":
        return 0.9 if script == "HANGUL" and _lead_byte(char, "euc_kr") >= 0xB0 else -0.7
    if script in ("HIRAGANA", "KATAKANA"):
        return 1.0 if kind == "Japanese" else -0.6
    if script != "CJK":
        return -1.0
    if kind == "Japanese":
        return 0.6 if 0xB0 <= _lead_byte(char, "euc_jp") <= 0xCF else -0.7
    if char in _COMMON_CHINESE:
        return 1.2
    codec, low, high = ("gb2312", 0xB0, 0xD7) if kind == "Chinese" else ("big5", 0xA4, 0xC6)
    return 0.5 if low <= _lead_byte(char, codec) <= high else -0.7


def _lead_byte(char: str, codec: str) -> int:
    """The first of its two bytes, lower for common characters; 0 if the codec lacks it."""
    try:
        data = char.encode(codec)
    except UnicodeError:
        return 0
    return data[0] if len(data) == 2 else 0


@cache
def _script(char: str) -> str:
    """The script of a letter or mark, by its Unicode name; empty for other characters."""
    if not (char.isalpha() or unicodedata.category(char)[0] == "M"):
        return ""
    return unicodedata.name(char, "").split(" ")[0].split("-")[0]


@cache
def _clash(a: str, b: str) -> float:
    """How little two characters can stand side by side: a capital after a small letter, two scripts."""
    one, two = _script(a), _script(b)
    if unicodedata.category(b) == "Mn" and not one:  # an accent or a vowel sign on no letter
        return 1.0
    if not one or not two:
        return 0.0
    if (a.islower() and b.isupper()) or (one != two and not {one, two} & {*_ASIAN, "COMBINING"}):
        return 1.0
    return 0.15 if one == two == "LATIN" and a > "\x7f" and b > "\x7f" else 0.0


def _is_astray(a: str, b: str, c: str) -> float:
    """How little the middle one of three characters can stand there: a sign in a word, a lone letter."""
    if b <= "\x7f":
        return 0.0
    script, alone = _script(b), not (_script(a) or _script(c))
    if script in ("LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC"):
        if (a.isupper() and b.isupper() and c.islower()) or a == b == c:
            return 0.3
        lone = alone and b not in _WORDS and not (b.lower() in _WORDS and a == "\n")
        return 0.5 if lone or (b in _WORD_ENDS and _script(c)) else 0.0
    if script or b in "’·\u00ad":
        return 0.0
    if b in _FRAMES:
        return 1.0 if _script(a) or _script(c) else 0.0
    return 1.0 if _script(a) and _script(c) else 0.0
