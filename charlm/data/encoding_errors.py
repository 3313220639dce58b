"""Which encodings bytes that are no UTF-8 may be in: each candidate is judged by the text that it gives."""

import codecs
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

MOST = 3
"""Guesses that are shown."""
LEAST_SCORE, LEAST_MEANT, MARGIN = 0.1, 0.3, 0.6
FOREIGN = 0.25
LONGEST_SAMPLE, SEVEN_BIT_SAMPLE = 1 << 12, 1 << 16
WIDTH, BEFORE = 60, 20
"""Characters of a line that are shown, and of them those before what is no UTF-8."""

_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_EBCDIC = ("cp037", "cp500", "cp1140", "cp273", "cp1026", "cp875")
# Of those that read a text alike the first is named.
_CANDIDATES = (
    *(f"cp{page}" for page in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "koi8_r", "koi8_u", "tis_620", "cp874"),
    *(f"iso8859_{part}" for part in (2, 15, 5, 6, 7, 8, 9, 4, 13, 3, 10, 14, 16)),
    *("mac_roman", "mac_cyrillic", "mac_latin2", "mac_greek", "mac_turkish", "mac_iceland"),
    *(
        f"cp{page}"
        for page in (
            437,
            850,
            866,
            1125,
            852,
            855,
            737,
            857,
            775,
            862,
            865,
            861,
            858,
            860,
            863,
            869,
            864,
            720,
        )
    ),
    *("big5hkscs", "johab", "euc_jis_2004", "kz1048", "ptcp154", "koi8_t"),
    *_EBCDIC,
)
_ESCAPES = (
    (
        re.compile(rb"\x1b(?:\$[@AB]|\$\([A-DOPQ]|\([IJ])"),
        [f"iso2022_jp{kind}" for kind in ("", "_1", "_2", "_3", "_ext", "_2004")],
    ),
    (re.compile(rb"\x1b\$\)C"), ["iso2022_kr"]),
    (re.compile(rb"~\{[!-w][!-~](?:[!-w][!-~])*~\}"), ["hz"]),
    (re.compile(rb"\+[A-Za-z0-9+/]{3,}"), ["utf_7"]),
)
# The letters of some languages beside a to z.
_LATIN = {
    "French": "àâæçéèêëîïôœùûüÿ",
    "German": "äöüß",
    "Spanish": "áéíóúüñ",
    "Catalan": "àçèéíïòóúü",
    "Portuguese": "áâãàçéêíóôõú",
    "Italian": "àèéìíòóù",
    "Nordic": "åäöæøé",
    "Icelandic": "áéíóúýðþæö",
    "Dutch": "éèëïóöü",
    "Turkish": "çğıöşüâîûİ",
    "Polish": "ąćęłńóśźż",
    "Czech": "áčďéěíňóřšťúůýž",
    "Slovak": "áäčďéíĺľňóôŕšťúýž",
    "Hungarian": "áéíóöőúüű",
    "Romanian": "ăâîșțşţ",
    "Croatian": "čćđšž",
    "Lithuanian": "ąčęėįšųūž",
    "Latvian": "āčēģīķļņšūž",
    "Estonian": "äöõüšž",
    "Vietnamese": "ăâđêôơưáàãéèíìóòõúùý\u0300\u0301\u0303\u0309\u0323",
    "Maltese": "ċġħżàèìòù",
    "Esperanto": "ĉĝĥĵŝŭ",
    "Welsh": "âêîôûŵŷáéíóúẁẃẅỳÿ",
    "Irish": "áéíóúḃċḋḟġṁṗṡṫ",
    "Sami": "áčđŋšŧž",
}
_SMALL = ("Maltese", "Esperanto", "Welsh", "Irish", "Sami")
# Letters of other scripts, the frequent ones first; after them the others.
_FREQUENT = {
    "CYRILLIC": ("оеаинтсрвлкмдпу", "яыьгзбчйхжшюцщэфъёіїєґўђјљњћџѓќѕ"),
    "GREEK": ("αοιετσνηυρπκμλς", "ωδγχθφβξζψάέήίόύώϊϋΐΰ"),
    "HEBREW": ("יוהלאמתרבשנדםכח", "עפגקצסטזןףךץ"),
    "ARABIC": ("اليمنوتربعةدسفهكقأحج", "شصطخضذثزغظىئءؤإآپچژگکیٱـًٌٍَُِّْ"),
    "THAI": ("กขคงจชดตทนบปผพมยรลวสหอะาำเแโใไิีึืุูัี็่้์", "ซญณถธภฝฟศษฉฎฐฮๆๅ๊๋"),
}
_STROKES = frozenset("─═░▒▓█▄▌▐▀■")
_FRAMES = _STROKES | frozenset("│┌┐└┘├┤┬┴┼║╔╗╚╝╠╣╦╩╬")
"""What boxes and pictures are drawn with on text screens."""
_ENDS = {"HEBREW": ("ךםןףץ", "כמנפצ"), "GREEK": ("ς", "σβγδζθλμπτφχ")}
"""Of scripts the letters that stand at the ends of words only, and those that hardly do."""
_MARKS = frozenset("„“”‘’‚«»‹›–—…•·°§€£©®™№ªº¿¡\u00a0\u00b4\u2019，。、；：？！「」『』（）《》〈〉・")
_FREQUENT_MARKS = "„“”‘’«»–—…€£°©·"
_PLAIN = frozenset(" \t\r\n.,;:!?'\"()-/0123456789&*+=%$#_<>[]")
_RARE_ASCII = frozenset("@`{}|~^\\\x7f") | {
    chr(code) for code in range(32) if chr(code) not in "\t\n\r\f\x1a"
}


@dataclass(frozen=True)
class Guess:
    """An encoding, and a line as it would read."""

    encoding: str
    line: str


def guesses(data: bytes, at: int) -> list[Guess]:
    """The likeliest encodings of `data`, which is no UTF-8 at the offset `at`, the best first."""
    sample, start = _sample(data, at)
    n_high = sum(byte > 0x7F for byte in sample) or 1  # of few, the common encodings are the likeliest
    found: dict[str, tuple[float, str, int]] = {}
    for place, encoding in enumerate((*_WIDE, *_CANDIDATES)):
        raw, begins = (data[: 2 * LONGEST_SAMPLE], 0) if encoding in _WIDE else (sample, start)
        text = decoded(raw, encoding)
        if text is None or text in found:
            continue
        score = _plausibility(text, encoding) - 0.0005 * place * (1 + 3 / n_high)
        if score >= LEAST_SCORE:
            found[text] = (score, encoding, len(decoded(raw[: at - begins], encoding) or ""))
    ranked = sorted(found.items(), key=lambda item: item[1], reverse=True)
    near = (item for item in ranked if item[1][0] >= ranked[0][1][0] - MARGIN)
    whole = (item for item in near if decoded(data, item[1][1]) is not None)
    shown = [item for item, _ in zip(whole, range(MOST), strict=False)]
    lines = [_line(text, before) for text, (_, _, before) in shown]
    if len(set(lines)) < len(lines):  # then what tells them apart stands elsewhere
        apart = min(_first_difference(shown[0][0], text) for text, _ in shown[1:])
        lines = [_line(text, apart) for text, _ in shown]
    return [Guess(encoding, line) for (_, (_, encoding, _)), line in zip(shown, lines, strict=True)]


def _first_difference(a: str, b: str) -> int:
    return next(
        (i for i, (one, two) in enumerate(zip(a, b, strict=False)) if one != two), min(len(a), len(b)) - 1
    )


def decoded(data: bytes, encoding: str, *, whole: bool = False) -> str | None:
    """The text, which may end within a character unless it is whole; None where the bytes are none of that encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, whole)
        text.encode("utf-8")
    except UnicodeError:
        return None
    return text


def seven_bit(data: bytes) -> Guess | None:
    """The encoding of text that is all ASCII, but only by escapes: ISO-2022, HZ or UTF-7; None for other text."""
    for found, encodings in _ESCAPES:
        match = found.search(data) if data.isascii() else None
        if match is None:
            continue
        first = data.rfind(b"\n", 0, match.start()) + 1
        end = first + SEVEN_BIT_SAMPLE
        sample = data[first:] if end >= len(data) else data[first : data.rfind(b"\n", first, end) + 1 or end]
        for encoding in encodings:
            text = decoded(sample, encoding, whole=True)
            if text is not None and _is_meant(text, encoding):
                at = next(i for i, char in enumerate(text) if char > "\x7f")
                return Guess(encoding, _line(text, at))
    return None


def _is_meant(text: str, encoding: str) -> bool:
    """Did the escapes stand for letters of a language? Ordinary text with a few tildes and signs gives others."""
    letters = [char for char in text if char > "\x7f" and char.isalpha()]
    if encoding.startswith("iso2022"):  # whose escapes stand in no other text
        return not text.isascii()
    usual = any(char < "\u0180" or char in _COMMON_CHINESE or char in _COMMON_KOREAN for char in letters)
    return (usual or len(set(letters)) > 2) and _plausibility("".join(letters), "") >= LEAST_MEANT


def _sample(data: bytes, at: int) -> tuple[bytes, int]:
    """What stands around an offset, and where that begins: with a line, since half a character misleads."""
    first = max(0, at - LONGEST_SAMPLE)
    if first:
        first = data.find(b"\n", first, at) + 1 or at
    return data[first : at + LONGEST_SAMPLE], first


def _line(text: str, at: int) -> str:
    """What stands around a place of a text, in its line."""
    start = max(text.rfind(end, 0, at) for end in "\n\r\x85") + 1
    line = text[start:].splitlines()[0] if text[start:] else ""
    begin = max(0, min(at - start - BEFORE, len(line) - WIDTH))
    return line[begin : begin + WIDTH]


def _plausibility(text: str, encoding: str) -> float:
    """From about -1 to 1: are these letters of one language, in words, with capitals where they may stand?"""
    text = text[:LONGEST_SAMPLE]
    if any(_is_nothing(char) for char in set(text)):
        return -1.0
    telling = [char for char in text if char > "\x7f" or char in _RARE_ASCII]
    if encoding in _EBCDIC:
        telling = [char for char in text if not char.isspace()]
        if not 0.04 < sum(map(str.isspace, text)) / max(1, len(text)) < 0.4:
            return -1.0
    if not telling:
        return 0.0
    kinds = [kind for kind in _kinds(telling) if kind != "Vietnamese" or encoding == "cp1258"]
    best = max(_language(telling, kind, encoding in _EBCDIC) for kind in kinds)
    others = sum(char > "\x7f" and _script(char) not in ("", "LATIN") for char in text)
    latin = sum(char.isascii() and char.isalpha() for char in text)
    odd = (
        FOREIGN if encoding not in _EBCDIC and 0 < others * 4 < latin else 0.0
    )  # one letter of a script in a Latin text
    return best - odd - _disorder(text) / len(telling)


def _is_nothing(char: str) -> bool:
    """Is it a control beyond ASCII, or not even a character?"""
    return char > "\x7f" and char != "\x85" and unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs")


def _kinds(telling: Iterable[str]) -> list[str]:
    """The languages and scripts to judge by: those that have one of the characters."""
    scripts = {_script(char) for char in telling}
    kinds = [name for name in _FREQUENT if name in scripts]
    if scripts & {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}:
        kinds += ["Japanese", "Chinese", "Traditional", "Korean"]
    return [*kinds, *_LATIN]


def _language(telling: list[str], kind: str, ebcdic: bool) -> float:
    """The mean value of characters in a text of that language or script."""
    value = _value_of(kind)
    total = sum(1.0 if ebcdic and (char.isascii() and char.isalpha()) else value(char) for char in telling)
    return total / len(telling)


@cache
def _value_of(kind: str):  # type: ignore[no-untyped-def]
    """What each character says for a language or script, from -1 to 1."""
    known: dict[str, float] = dict.fromkeys(_MARKS, 0.5) | dict.fromkeys(_FREQUENT_MARKS, 0.8)
    known |= dict.fromkeys(_PLAIN, 0.5) | dict.fromkeys(_FRAMES, 0.85)
    other = -1.0
    if kind in _LATIN:
        every = "".join(_LATIN.values())
        known |= _both_cases(every, -0.3)
        known |= _both_cases(_LATIN[kind], 0.9 if kind in _SMALL else 1.0)
    elif kind in _FREQUENT:
        often, seldom = _FREQUENT[kind]
        known |= _both_cases(seldom, 0.4)
        known |= _both_cases(often, 1.0)

    @cache
    def value(char: str) -> float:
        if char in known:
            return known[char]
        script = _script(char)
        if kind in ("Japanese", "Chinese", "Traditional", "Korean"):
            return _asian(char, script, kind)
        return -0.2 if script == kind else other

    return value


def _asian(char: str, script: str, kind: str) -> float:
    """What a character says for one of the languages that are written in several thousands of them."""
    if "\uff61" <= char <= "\uff9f":  # katakana of half the width: what other bytes look like in Shift JIS
        return -0.5
    if "\uff00" <= char <= "\uff5e" or "\u3000" <= char <= "\u301f":
        return 0.5
    if kind == "Korean":
        if script == "HANGUL":
            return 1.0 if char in _COMMON_KOREAN else 0.75 if _lead(char, "euc_kr") >= 0xB0 else -0.7
        return -0.8
    if script in ("HIRAGANA", "KATAKANA") or char == "ー":
        return 1.0 if kind == "Japanese" else -0.6
    if script != "CJK":
        return -1.0
    if kind == "Japanese":
        return 0.6 if 0xB0 <= _lead(char, "euc_jp") <= 0xCF else -0.7
    if char in _COMMON_CHINESE:
        return 1.2
    if kind == "Chinese":
        return 0.5 if 0xB0 <= _lead(char, "gb2312") <= 0xD7 else -0.7
    return 0.5 if 0xA4 <= _lead(char, "big5") <= 0xC6 else -0.7


_WORDS = "àáâèéêíóòôåøöæíú"
"""Letters with accents that are words by themselves in some language."""
_OTHER_WORDS = "авиокусяйієжбњъсэојουηωו"
"""Letters of other scripts that are."""
_COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这這个個们們来來到时時大地为為子中你说說生国國年着就那和要她出也得里裡后後自以会會"
    "家可下而过過天去能对對小多然于心学學么麼之都好看起发發当當没沒成只如事把还還用第样樣道想作种種开開"
)
_COMMON_KOREAN = frozenset("이다는의에가을하고지기로사한를은도리대인자어시서해나스정아수그라전일과보제만")


def _lead(char: str, codec: str) -> int:
    """The first byte of a character of two: the tables begin with the common ones; 0 for one that is not there."""
    try:
        data = char.encode(codec)
    except UnicodeError:
        return 0
    return data[0] if len(data) == 2 else 0


def _both_cases(letters: str, value: float) -> dict[str, float]:
    return dict.fromkeys((*letters, *letters.upper(), *(letter.title() for letter in letters)), value)


@cache
def _script(char: str) -> str:
    """The script of a letter, by its name; empty for other characters."""
    if not (char.isalpha() or unicodedata.category(char)[0] == "M"):
        return ""
    return unicodedata.name(char, "").split(" ")[0].split("-")[0]


def _disorder(text: str) -> float:
    """How much stands side by side that cannot: a capital after a small letter, two scripts, a sign in a word."""
    chars = f"\n{text}\n"
    pairs = sum(_clash(a, b) for a, b in pairwise(chars))
    return pairs + sum(map(_is_astray, chars, chars[1:], chars[2:]))


@cache
def _clash(a: str, b: str) -> float:
    one, two = _script(a), _script(b)
    if unicodedata.category(b) == "Mn" and not one:  # an accent or a vowel sign on no letter
        return 1.0
    if not one or not two:
        return 0.0
    if a.islower() and b.isupper():
        return 1.0
    if one != two and not {one, two} & {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "COMBINING"}:
        return 1.0
    return 0.15 if one == two == "LATIN" and a > "\x7f" and b > "\x7f" else 0.0


def _is_astray(a: str, b: str, c: str) -> float:
    """Is it a sign within a word, or a letter with an accent where few stand?"""
    if b <= "\x7f":
        return 0.0
    script, alone = _script(b), not (_script(a) or _script(c))
    if script == "LATIN":
        if (a.isupper() and b.isupper() and c.islower()) or (b == "þ" and a.isalpha()):
            return 0.3
        return 0.4 if alone and b not in _WORDS and not (b.lower() in _WORDS and a == "\n") else 0.0
    if script in ("CYRILLIC", "GREEK", "HEBREW", "ARABIC"):
        last, inner = _ENDS.get(script, ("", ""))
        if a == b == c or (alone and b.lower() not in _OTHER_WORDS):
            return 0.5
        if not alone and (b in last if _script(c) else b in inner):
            return 0.5
        return 0.0
    if b in _FRAMES:
        mixed = c in _FRAMES and c != b and not {b, c} & _STROKES
        return 1.0 if _script(a) or _script(c) else 0.5 if mixed else 0.0
    return 1.0 if _script(a) and _script(c) and not _script(b) and b not in "’·\u00ad" else 0.0
