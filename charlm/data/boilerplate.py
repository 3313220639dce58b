"""Project Gutenberg's header and licence around a book: found by their marker lines, counted, and left out on request.

A book stands between a line such as `*** START OF THE PROJECT GUTENBERG EBOOK ... ***` and one such as
`*** END OF ...`, or in older files between `*END*THE SMALL PRINT! ...` and `End of the Project Gutenberg Etext ...`.
Only what these lines delimit is taken for boilerplate: a text without them stays as it is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from charlm.config import TextConfig
from charlm.data.holdout import interleaved
from charlm.data.stream import Block

if TYPE_CHECKING:
    from charlm.data.corpus import Corpus

HEADER, LICENCE = 1 << 15, 1 << 16
"""Characters that a header and a licence have at most; they are about 1,000 (older ones 12,000) and 19,000."""
MARGIN = 2000
"""Characters of the longest marker, which may run over three lines, and of the line before it."""
FOLLOWS = 400
"""Characters after a licence's last line that are another text, not what is left of it."""
_WORDS = ("utenberg", "UTENBERG", "mall print", "MALL PRINT", "newsletter")
_UTF8_WORDS = tuple(word.encode() for word in _WORDS)
_EDGE = 16  # longer than each of those words
_GAP = r"(?:[ \t\xa0]{1,4}|[ \t]?(?:\r\n|\r|\n)[ \t]{0,8})"  # a marker may break between any two words
_NAME = rf"proje[ck]?t{_GAP}gutenberg"
_EDITION = r"(?:[ \t\xa0]?(?:\(?tm\)?|[™®])|-tm)?(?:['’]?s\b|[ \t\xa0]{1,4}(?:e-?(?:text|book)|edition|etext|of\b|(?-i:[A-Z])))"
_START = r"(?:start|begin(?:ning)?|début|debut|anfang|beginn|inicio|inizio)"
_END = r"(?:end|ende|fin|fine)"
_OF = r"(?:of|off|du|de|des|di|del|dieses|diese|des|van|do)\b"
# A title in a marker may run over three lines; where nothing closes the marker, it is one line.
_TITLE = r"(?:[^*\r\n]{0,600}(?:\r?\n[^*\r\n]{1,300}){0,2}\*{2,9}[^\r\n]{0,100}|[^\r\n]{0,600})"
_AT = r"(?:^|(?<=\r))[ \t\f\ufeff]{0,40}"
_LINE = r"[ \t]*(?:\r\n|\r|\n|\Z)"
_STARS = r"\*{2,9}[ \t]{0,4}"
_MARKERS = re.compile(
    rf"{_AT}(?:"
    rf"(?P<start>{_STARS}{_START}{_GAP}{_OF}[^*]{{0,60}}{_NAME}{_TITLE}"
    rf"|(?-i:START OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT))[^\r\n]{{0,300}}"
    rf"|\*end ?\*? ?the small print!{_TITLE})"
    rf"|(?P<print>\*{{2,3}} ?start ?\*{{0,2}} ?the small print!?[^\r\n]{{0,200}})"
    rf"|(?P<end>{_STARS}{_END}{_GAP}{_OF}[^*]{{0,60}}{_NAME}{_TITLE})"
    rf"|(?P<last>{_END} {_OF}[^*\r\n]{{0,20}}{_NAME}{_EDITION}[^\r\n]{{0,300}})"
    rf"|(?P<close>[^\r\n]{{0,400}}\bnewsletter to hear about new ebooks[^\r\n]{{0,40}})"
    rf"|(?P<name>[^\w\r\n]{{0,4}}(?:the )?{_NAME}[^\r\n]{{0,300}})"
    rf"){_LINE}",
    re.IGNORECASE | re.MULTILINE,
)

Span = tuple[int, int]


class Finder:
    """The spans of boilerplate in a file that is read piece by piece; positions count its characters."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._header: int | None = None  # where what may be a header begins
        self._licence: int | None = None  # where a licence began: what follows belongs to it
        self._close: int | None = None  # the end of that licence's last line
        self._last_line = 0  # the end of the marker that the licence begins with
        self._is_marked = False  # is that marker one, or only a line that may be of a text?
        self._is_licence = False  # is it plain that a licence follows the marker, not another text?
        self._after_start: int | None = None  # the end of the last marker of a beginning

    def marker(self, kind: str, start: int, end: int) -> None:
        """A marker line stands there."""
        self.passed(start)
        if kind == "start":
            first = self._header if self._licence is None else self._licence
            self.spans.append((start if first is None else first, end))
            self._header = self._licence = self._close = None
            self._after_start = end
        elif self._licence is not None and (kind != "last" or self._is_marked):
            self._close = end if kind == "close" else self._close
            # In a text about Project Gutenberg other lines may begin with its name.
            self._is_licence = self._is_licence or self._is_marked or kind in ("close", "end")
            if kind == "end" and start - self._licence <= FOLLOWS:
                self._last_line, self._is_marked = end, True
        elif kind in ("end", "last"):
            # A line that only says "End of Project Gutenberg's ..." may stand in a text about it.
            self._is_marked = kind == "end" or self._header is not None or self._after_start is not None
            self._header, self._licence, self._last_line = None, start, end
            self._is_licence = False
        elif kind in ("name", "print") and self._header is None:
            again = self._after_start is not None and start - self._after_start <= HEADER
            if kind == "print" or not again:  # a header may have both a marker and small print
                self._header = start

    def passed(self, position: int) -> None:
        """The text has been read up to there."""
        if self._header is not None and position - self._header > HEADER:
            self._header = None  # it was only a line about Project Gutenberg
        if self._licence is not None and position - self._licence > LICENCE:
            if self._close is not None:
                self.spans.append((self._licence, self._close))
            self._licence = self._close = (
                None  # another text follows; without the last line nothing tells where
            )

    def finish(self, position: int) -> None:
        """The file ends there."""
        self.passed(position)
        if self._licence is not None:
            known = self._close or (None if self._is_licence else self._last_line)
            if known is not None and position - known > FOLLOWS:  # another text follows
                position = known if self._is_marked or self._is_licence else self._licence
            if position > self._licence:
                self.spans.append((self._licence, position))
        self._header = self._licence = self._close = None

    @property
    def undecided(self) -> int | None:
        """Where what may still turn out to be boilerplate begins."""
        return self._header if self._licence is None else self._licence


class Window:
    """The end of a file's text as far as it must be kept to find markers in it."""

    def __init__(self) -> None:
        self.finder = Finder()
        self.text, self.end = "", 0  # what is kept, and the position in the file after it
        self._scanned = 0  # the position up to which markers were looked for

    def read(self, text: str, *, last: bool = False) -> None:
        """Read on. A marker near the end is looked at again with what follows, unless this is the last piece."""
        self.text += text
        self.end += len(text)
        start = self.end - len(self.text)
        stop = self.end if last else max(self._scanned, self.end - MARGIN)
        at = self._scanned if _has_word(self.text) else stop
        while at < stop:
            match = _MARKERS.search(self.text, at - start)
            if match is None or match.start() + start >= stop:
                break
            assert match.lastgroup is not None
            self.finder.marker(match.lastgroup, match.start() + start, match.end() + start)
            at = match.end() + start
        self._scanned = max(at, stop)
        self.finder.passed(self._scanned)
        if last:
            self.finder.finish(self.end)

    def skip(self, tail: str, n: int) -> None:
        """Read n characters in which no marker can be; `tail`: those of them at the end, MARGIN or all."""
        self.text = ((self.text if len(tail) == n else "") + tail)[-MARGIN:]
        self.end += n
        self._scanned = max(self._scanned, self.end - len(self.text))
        self.finder.passed(self._scanned)

    @property
    def decided(self) -> int:
        """The position up to which it is known what is boilerplate."""
        undecided = self.finder.undecided
        return self._scanned if undecided is None else min(self._scanned, undecided)

    def cut(self, first: int, after: int) -> str:
        """The text between two positions that is still kept."""
        start = self.end - len(self.text)
        return self.text[max(0, first - start) : max(0, after - start)]

    def forget(self, position: int) -> None:
        """Keep what stands from there on, and the character before it: it tells whether a line begins."""
        keep = self.end - position + 1
        if keep < len(self.text):
            self.text = self.text[-keep:]


def stripped(blocks: Iterable[Block], tally: "Tally") -> Iterator[Block]:
    """A file without Project Gutenberg's header and licence; what is left stays as it is."""
    window, passed, number = Window(), 0, 0
    for block in chain(blocks, [None]):
        window.read("" if block is None else block.text, last=block is None)
        decided = window.end if block is None else window.decided
        pieces = []
        for first, after in window.finder.spans[number:]:
            pieces.append(window.cut(passed, first))
            passed = after
        number = len(window.finder.spans)
        pieces.append(window.cut(passed, decided))
        passed = max(passed, decided)
        window.forget(passed)
        text = "".join(pieces)
        if text:
            yield Block(text.encode(), text)
    tally.add(window.finder.spans)


class Tally:
    """The boilerplate in the files of a text, found while they are read."""

    def __init__(self) -> None:
        self.chars, self.files, self.of_files = 0, 0, 0
        self.spans: list[Span] = []  # in characters of the whole text
        self.read = 0  # characters of it

    def add(self, spans: Sequence[Span]) -> None:
        """A file was read that has these spans."""
        self.spans += [(self.read + a, self.read + b) for a, b in spans]
        self.chars += sum(b - a for a, b in spans)
        self.files += bool(spans)
        self.of_files += 1

    def watched(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks of a file, looked at as they pass; nearly for nothing where it is not of Project Gutenberg."""
        window, edge = Window(), b""
        for block in blocks:
            if _has_word(block.utf8) or _has_word(edge + block.utf8[:_EDGE]) or _has_word(window.text):
                window.read(block.text)
                window.forget(window.end - MARGIN)
            elif block.utf8:
                tail = block.utf8[-4 * MARGIN :].decode("utf-8", "ignore")[-MARGIN:]
                window.skip(tail, _length(block))
            edge = block.utf8[-_EDGE:]
            yield block
        window.read("", last=True)
        self.add(window.finder.spans)
        self.read += window.end

    def share(self, first: int, after: int) -> float:
        """What part of the text's characters from `first` to before `after` is boilerplate."""
        inside = sum(max(0, min(b, after) - max(a, first)) for a, b in self.spans)
        return inside / max(1, after - first)


def about(tallies: Sequence[Tally], corpus: "Corpus", config: TextConfig) -> str | None:
    """What is to be said of it: how much there is, and in which part; None for nothing.

    `tallies`: of the text, and of a held-out text of its own.
    """
    chars = sum(tally.chars for tally in tallies)
    files, of_files = sum(tally.files for tally in tallies), sum(tally.of_files for tally in tallies)
    where = f", in {files:,} of {of_files:,} files" if of_files > 1 else ""
    if config.strip is not None:
        if not chars:
            return "--strip gutenberg found no header or licence of Project Gutenberg; nothing was left out."
        return f"Project Gutenberg's header and licence left out: {chars:,} characters{where}."
    if not chars:
        return None
    share = _held_out_share(tallies, corpus, config)
    read = max(1, sum(tally.read for tally in tallies))
    held_out = f", and {_percent(share)} of the held-out part" if share is not None else ""
    return (
        f"Project Gutenberg's header and licence stand in the text: {chars:,} characters{where}, "
        f"{_percent(chars / read)} of it{held_out}."
    )


def _held_out_share(tallies: Sequence[Tally], corpus: "Corpus", config: TextConfig) -> float | None:
    """What part of the held-out text it is; None where it is not known which characters those are."""
    if not corpus.held_out_chars or corpus.respected is not None or config.split == "documents":
        return None
    if config.val_file is not None:
        return tallies[-1].share(0, tallies[-1].read)
    if config.split == "blocks":
        spans = interleaved(tallies[0].read, config)["held_out"]
        inside = sum(tallies[0].share(first, after) * (after - first) for first, after in spans)
        return inside / max(1, sum(after - first for first, after in spans))
    return tallies[0].share(corpus.train_chars, corpus.train_chars + corpus.held_out_chars)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _has_word(text: "str | bytes") -> bool:
    """May a marker be in it?"""
    if isinstance(text, str):
        return any(word in text for word in _WORDS)
    return any(word in text for word in _UTF8_WORDS)


def _length(block: Block) -> int:
    """How many characters a block has."""
    if block.points is not None:
        return len(block.points)
    return len(block.utf8) if block.utf8.isascii() else len(block.text)
