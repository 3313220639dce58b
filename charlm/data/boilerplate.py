"""Find Project Gutenberg's header and licence around a book by their marker lines, to count them or strip them.

A book stands between a line such as `*** START OF THE PROJECT GUTENBERG EBOOK ... ***` and one such as
`*** END OF ...`, or in older files between `*END*THE SMALL PRINT! ...` and `End of the Project Gutenberg Etext ...`.
Only what these lines delimit counts as boilerplate; a text without them stays as it is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from charlm.data.corpus import Corpus
from charlm.data.holdout import split_blocks
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig

HEADER, LICENCE = 1 << 15, 1 << 16
"""Most characters of a header and of a licence; typical are 1,000 (in older ones 12,000) and 19,000."""
MARGIN = 2000
"""Characters of the longest marker, which may run over three lines, and of the line before it."""
FOLLOWS = 400
"""More characters than this after a licence's last line are another text, not the rest of the licence."""
_KEYWORDS = (b"utenberg", b"UTENBERG", b"mall print", b"MALL PRINT", b"newsletter")
_EDGE = 16  # longer than each keyword
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


@dataclass
class _Licence:
    """A possible licence, which begins with a marker line."""

    begin: int
    marker_end: int
    is_marked: bool  # whether that marker is certainly one, and not a line of a text about Project Gutenberg
    is_certain: bool = False  # whether it is plain that a licence follows the marker, and not another text
    close: int | None = None  # the end of its last line


class _Finder:
    """Finds the spans of boilerplate in a file that is read piece by piece; positions count its characters."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.text, self.end = "", 0  # the kept end of the text read, and the position after it
        self._searched = 0  # the position up to which markers were searched for
        self._header: int | None = None  # where a possible header begins
        self._licence: _Licence | None = None
        self._book: int | None = None  # the end of the last start marker

    def read(self, text: str, *, last: bool = False) -> None:
        """Read the next piece. A marker near its end is searched for again with what follows, unless this is the last."""
        self.text += text
        self.end += len(text)
        start = self.end - len(self.text)
        stop = self.end if last else max(self._searched, self.end - MARGIN)
        at = self._searched if _has_keyword(self.text.encode()) else stop
        while at < stop:
            match = _MARKERS.search(self.text, at - start)
            if match is None or match.start() + start >= stop:
                break
            assert match.lastgroup is not None
            self._pass(match.start() + start)
            self._meet(match.lastgroup, match.start() + start, match.end() + start)
            at = match.end() + start
        self._searched = max(at, stop)
        self._pass(self._searched)
        if last:
            self._finish()

    def skip(self, tail: str, n: int) -> None:
        """Read n characters that cannot contain a marker; `tail`: the last MARGIN of them, or all."""
        self.text = ((self.text if len(tail) == n else "") + tail)[-MARGIN:]
        self.end += n
        self._searched = max(self._searched, self.end - len(self.text))
        self._pass(self._searched)

    @property
    def decided(self) -> int:
        """The position up to which it is known what is boilerplate."""
        undecided = self._header if self._licence is None else self._licence.begin
        return self._searched if undecided is None else min(self._searched, undecided)

    def cut(self, first: int, after: int) -> str:
        """Return the text between two positions, as far as it is kept."""
        start = self.end - len(self.text)
        return self.text[max(0, first - start) : max(0, after - start)]

    def forget(self, position: int) -> None:
        """Drop the text before `position`, except the one character that tells whether a line begins there."""
        keep = self.end - position + 1
        if keep < len(self.text):
            self.text = self.text[-keep:]

    def _meet(self, kind: str, start: int, end: int) -> None:
        """Handle a marker line of this kind, between these positions."""
        licence = self._licence
        if kind == "start":
            first = self._header if licence is None else licence.begin
            self.spans.append((start if first is None else first, end))
            self._header, self._licence, self._book = None, None, end
        elif licence is not None and (kind != "last" or licence.is_marked):
            licence.close = end if kind == "close" else licence.close
            # In a text about Project Gutenberg other lines may begin with its name.
            licence.is_certain = licence.is_certain or licence.is_marked or kind in ("close", "end")
            if kind == "end" and start - licence.begin <= FOLLOWS:
                licence.marker_end, licence.is_marked = end, True
        elif kind in ("end", "last"):
            # A line that only says "End of Project Gutenberg's ..." may stand in a text about it.
            is_marked = kind == "end" or self._header is not None or self._book is not None
            self._header, self._licence = None, _Licence(start, end, is_marked)
        elif kind in ("name", "print") and self._header is None:
            again = self._book is not None and start - self._book <= HEADER
            if kind == "print" or not again:  # a header may have both a marker and small print
                self._header = start

    def _pass(self, position: int) -> None:
        """Handle having read up to `position`: drop a header that is too long, and end a licence that is."""
        if self._header is not None and position - self._header > HEADER:
            self._header = None
        licence = self._licence
        if licence is not None and position - licence.begin > LICENCE:
            if licence.close is not None:
                self.spans.append((licence.begin, licence.close))
            self._licence = None  # without its last line nothing tells where another text begins

    def _finish(self) -> None:
        """Handle the end of the file."""
        licence, end = self._licence, self.end
        if licence is not None:
            last = licence.close or (None if licence.is_certain else licence.marker_end)
            if last is not None and end - last > FOLLOWS:  # another text follows
                end = last if licence.is_marked or licence.is_certain else licence.begin
            if end > licence.begin:
                self.spans.append((licence.begin, end))
        self._header = self._licence = None


class Boilerplate:
    """How much boilerplate the files of a text have, counted while they are read."""

    def __init__(self) -> None:
        self.chars, self.files, self.of_files = 0, 0, 0
        self.spans: list[Span] = []  # in characters of the whole text
        self.chars_read = 0

    def add(self, spans: Sequence[Span]) -> None:
        """Count a file that has these spans."""
        self.spans += [(self.chars_read + a, self.chars_read + b) for a, b in spans]
        self.chars += sum(b - a for a, b in spans)
        self.files += bool(spans)
        self.of_files += 1

    def count_in(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the blocks of a file unchanged, counting; blocks without a keyword cost hardly anything."""
        finder, edge = _Finder(), b""
        for block in blocks:
            across = finder.text.encode() + b" " + edge + block.utf8[:_EDGE]
            if _has_keyword(block.utf8) or _has_keyword(across):
                finder.read(block.text)
                finder.forget(finder.end - MARGIN)
            elif block.utf8:
                tail = block.utf8[-4 * MARGIN :].decode("utf-8", "ignore")[-MARGIN:]
                finder.skip(tail, block.n_chars)
            edge = block.utf8[-_EDGE:]
            yield block
        finder.read("", last=True)
        self.add(finder.spans)
        self.chars_read += finder.end

    def share(self, first: int, after: int) -> float:
        """The share of boilerplate in the text's characters from `first` to before `after`."""
        inside = sum(max(0, min(b, after) - max(a, first)) for a, b in self.spans)
        return inside / max(1, after - first)


def strip_boilerplate(blocks: Iterable[Block], found: Boilerplate) -> Iterator[Block]:
    """Yield the blocks of a file without boilerplate, which is counted in `found`."""
    finder, passed, number = _Finder(), 0, 0
    for block in chain(blocks, [None]):
        finder.read("" if block is None else block.text, last=block is None)
        decided = finder.end if block is None else finder.decided
        pieces = []
        for first, after in finder.spans[number:]:
            pieces.append(finder.cut(passed, first))
            passed = after
        number = len(finder.spans)
        pieces.append(finder.cut(passed, decided))
        passed = max(passed, decided)
        finder.forget(passed)
        if text := "".join(pieces):
            yield Block.of(text)
    found.add(finder.spans)


def boilerplate_note(found: Sequence[Boilerplate], corpus: Corpus, config: TextConfig) -> str | None:
    """A sentence on how much boilerplate there is, and in which part; None if there is nothing to say.

    `found`: that of the text, and that of a separate held-out text if there is one.
    """
    chars, of_files = sum(each.chars for each in found), sum(each.of_files for each in found)
    where = f", in {sum(each.files for each in found):,} of {of_files:,} files" if of_files > 1 else ""
    if config.strip is not None:
        if not chars:
            return "--strip gutenberg found no header or licence of Project Gutenberg; nothing was left out."
        return f"Project Gutenberg's header and licence left out: {chars:,} characters{where}."
    if not chars:
        return None
    share = _held_out_share(found, corpus, config)
    held_out = f" and {_percent(share)} of the held-out part" if share is not None else ""
    total = max(1, sum(each.chars_read for each in found))
    return (
        f"The text contains Project Gutenberg's header and licence: {chars:,} characters{where}, "
        f"{_percent(chars / total)} of it{held_out}."
    )


def _held_out_share(found: Sequence[Boilerplate], corpus: Corpus, config: TextConfig) -> float | None:
    """The share of boilerplate in the held-out text; None where it is not known which characters those are."""
    if not corpus.held_out_chars or corpus.inherited_split is not None or config.split == "documents":
        return None
    if config.val_file is not None:
        return found[-1].share(0, found[-1].chars_read)
    if config.split == "blocks":
        spans = split_blocks(found[0].chars_read, config)["held_out"]
        inside = sum(found[0].share(first, after) * (after - first) for first, after in spans)
        return inside / max(1, sum(after - first for first, after in spans))
    return found[0].share(corpus.train_chars, corpus.train_chars + corpus.held_out_chars)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _has_keyword(utf8: bytes) -> bool:
    """Whether the bytes may contain a marker."""
    return any(word in utf8 for word in _KEYWORDS)
