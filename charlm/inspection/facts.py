"""What `charlm inspect` finds in a text before anything is trained on it, as one object."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from charlm.config import FEWEST_HELD_OUT
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.overlap import Overlap, overlap
from charlm.data.text_scan import TextScan
from charlm.data.tokenizer import END, Points, without_ends
from charlm.evaluation.baselines import Yardstick, xz_size
from charlm.inspection import characters as forms
from charlm.inspection import measured
from charlm.inspection.characters import Character, characters, scripts
from charlm.inspection.entropy import Entropy, entropies
from charlm.inspection.repeats import Repeat, longest_repeat, repeated_share, repeated_share_of_samples
from charlm.inspection.shift import is_ngram, shift
from charlm.training.planner import Choice

RUSSIAN = frozenset("абвгдеёжзийклмнопрстуфхцчшщъыьэюя")


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All that was found. What is said of `sampled` text is exact where the sample is the whole of it."""

    loaded: Loaded
    look: TextScan
    characters: tuple[Character, ...]
    scripts: dict[str, int]
    sampled: str  # with END where documents and pieces end
    normal_forms: forms.NormalForms
    compatible: tuple[Character, ...]
    mixed_words: forms.MixedWords
    alike: tuple[tuple[Character, ...], ...]
    inner_spaces: int
    misread: tuple[int, str] | None
    longest: Repeat | None
    repeated: Overlap
    leak: Overlap
    shift: float | None
    entropies: tuple[Entropy, ...]
    xz_bits_per_char: float | None
    counts: Yardstick | None
    expected: tuple[measured.Expected, ...]
    unlike: tuple[str, ...]  # in what the text differs from what was measured on
    choice: Choice  # what would be trained in the time that was asked about

    @property
    def chars(self) -> int:
        """Characters of what was read."""
        return sum(character.count for character in self.characters)

    @property
    def sampled_chars(self) -> int:
        """Characters that repeats, entropies and the forms of words are of."""
        return len(without_ends(self.sampled))

    @property
    def lines(self) -> int:
        """Lines of what was read, an unfinished one at the end included."""
        marks = self.look.marks
        assert marks is not None
        ended = marks.feeds + marks.returns - marks.crlf
        return ended + (0 if self.sampled.rstrip(END)[-1:] in ("\n", "\r") else 1)

    @property
    def longest_line(self) -> int:
        """Characters of the longest line of the sample."""
        plain = self.sampled.replace("\r\n", "\n").replace("\r", "\n")
        return max(len(without_ends(line)) for line in plain.split("\n"))

    @property
    def longest_text(self) -> str:
        """The passage that is repeated."""
        found = self.longest
        return "" if found is None else self.sampled[found.first : found.first + found.length]

    def line_of(self, place: int) -> int:
        """The line in which a place of the sample lies, where the sample is the whole text."""
        before = self.sampled[:place]
        return before.count("\n") + before.count("\r") - before.count("\r\n") + 1


def examine(
    loaded: Loaded, look: TextScan, choice: Choice, watch: Callable[[str], None] = lambda what: None
) -> Examination:
    """Look at a text that was loaded with that look; `watch` is told what is looked at.

    Time and memory are bounded whatever its length: repeats and entropies are of at most two
    million characters, counts of four million symbols.
    """
    corpus, codes = loaded.corpus, look.sample.codes()
    text = _text(codes)
    found = characters(look.counts)
    watch("looking for repeats")
    longest = longest_repeat(codes)
    repeated = repeated_share(codes) if look.sample.whole else repeated_share_of_samples(corpus.train)
    leak = overlap(corpus.train, corpus.held_out)
    watch("measuring entropies, xz and counts alone")
    stick = is_ngram(corpus)
    expects = stick is not None and choice.model.prior
    return Examination(
        loaded=loaded,
        look=look,
        characters=tuple(found),
        scripts=scripts(found),
        sampled=text,
        normal_forms=forms.normal_forms(found, text),
        compatible=tuple(forms.compatible(found)),
        mixed_words=forms.mixed_words(found, text),
        alike=tuple(map(tuple, forms.alike(found))),
        inner_spaces=forms.inner_spaces(text),
        misread=forms.misread(text),
        longest=longest,
        repeated=_of_what_was_read(repeated, look),
        leak=_of_what_was_read(leak, look),
        shift=_per_char(shift(corpus), corpus),
        entropies=tuple(entropies(codes)),
        xz_bits_per_char=_xz_bits(without_ends(text)),
        counts=stick,
        expected=tuple(measured.expected(stick.bits_per_char)) if expects and stick else (),
        unlike=tuple(_unlike(found, corpus.train_chars, stick)) if expects and stick else (),
        choice=choice,
    )


def _per_char(bits: float | None, corpus: Corpus) -> float | None:
    """Of each symbol of the held-out part to each of its characters."""
    return None if bits is None else bits * len(corpus.held_out) / max(1, corpus.held_out_chars)


def _of_what_was_read(found: Overlap, look: TextScan) -> Overlap:
    """The same, known for a lower bound where a part of the text was left unread."""
    if not look.partial:
        return found
    return replace(found, read=found.read * look.bytes_read / max(look.bytes_read + 1, look.total_bytes or 0))


def _text(codes: Points) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _xz_bits(text: str) -> float | None:
    """Bits a character under xz alone; None for too short a text, or where this Python lacks it."""
    if len(text) < FEWEST_HELD_OUT:
        return None  # what is compressed is mostly the format's own bytes
    try:
        return xz_size(text.encode()) * 8 / len(text)
    except ImportError:
        return None


def _unlike(found: list[Character], train_chars: int, stick: Yardstick) -> list[str]:
    letters = max(1, sum(c.count for c in found if c.char.isalpha()))
    english = sum(c.count for c in found if c.char.isalpha() and c.char.isascii())
    russian = sum(c.count for c in found if c.char.lower() in RUSSIAN)
    spaces = sum(c.count for c in found if c.char == " ") / max(1, sum(c.count for c in found))
    return measured.unlike(
        train_chars,
        stick.bits_per_char,
        english=english / letters,
        russian=russian / letters,
        spaces=spaces,
    )
