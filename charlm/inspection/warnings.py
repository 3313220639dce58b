"""Find problems of a text to solve before training on it, each with the option that solves it."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from charlm.config import FEWEST_HELD_OUT
from charlm.data.load import Loaded
from charlm.data.overlap import PASSAGE
from charlm.data.records import is_table_file, list_fields
from charlm.data.text_config import TextConfig
from charlm.data.text_scan import TextMarks, TextScan
from charlm.data.tokenizer import END, MIN_COUNT_FROM, Vocabulary, text_of
from charlm.inspection.characters import SPACES, Character, is_invisible, misread
from charlm.inspection.facts import Facts, TextWarning
from charlm.terminal import command_line
from charlm.training.planner import PRIOR_MIN_CHARS

LEAST_REPEATED, LEAST_LEAK, LEAST_INNER_SPACES = 0.05, 0.01, 0.005
RARE, LEAST_RARE, RARE_SHARE = 5, 20, 0.1
"""Characters that occur fewer than RARE times are reported if there are this many, and this share of all."""
SPARED = 3
"""Most other characters that may be encoded as bytes along with invisible ones."""
SHOWN = 3
INNER_SPACES = re.compile(r"(?<=\S)[ \t\u00a0\u2007\u2009\u202f]{2,}(?=\S)")


@dataclass(frozen=True)
class Source:
    """What the checks need besides the facts."""

    vocabulary: Vocabulary
    scan: TextScan
    sampled: str  # with END after documents, and after pieces of a sample
    config: TextConfig

    @property
    def marks(self) -> TextMarks:
        """Counts of characters that deserve a warning."""
        assert self.scan.marks is not None
        return self.scan.marks

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each character of the vocabulary occurs."""
        kept = self.vocabulary
        return {char: kept.counts[kept.id_of_point[ord(char)]] for char in kept.chars}


Found = Iterator[TextWarning]


def with_warnings(facts: Facts, loaded: Loaded, scan: TextScan, config: TextConfig) -> Facts:
    """Add all problems to the facts, the most costly first."""
    source = Source(loaded.corpus.vocabulary, scan, text_of(scan.sample.codes()), config)
    return replace(facts, warnings=tuple(warning for check in _CHECKS for warning in check(facts, source)))


def _length(facts: Facts, source: Source) -> Found:
    split, config = facts.split, source.config
    if source.marks.only_space or source.marks.one_character:
        what = "only white space" if source.marks.only_space else "one character repeated"
        yield TextWarning("nothing-to-learn", f"The text is {what}.", None, "give another text")
    if split.train_chars < PRIOR_MIN_CHARS:
        text = (
            f"Only {split.train_chars:,} characters to train on; below {PRIOR_MIN_CHARS:,} charlm "
            "trains without an n-gram prior."
        )
        yield TextWarning("short", text, None, "give more text")
    if config.val_file is None and config.val and split.held_out_chars < FEWEST_HELD_OUT:
        text = f"Too few held-out characters for a reliable score: {split.held_out_chars:,}."
        share = ceil(100 * (FEWEST_HELD_OUT + 1) / max(1, facts.text.chars)) / 100
        option = f"--val {share:g}" if share <= 0.5 else None
        yield TextWarning("few-held-out", text, option, "holds out enough" if option else "give more text")


def _boilerplate(facts: Facts, source: Source) -> Found:
    if source.scan.boilerplate:
        yield TextWarning("boilerplate", source.scan.boilerplate, "--strip gutenberg", "leaves them out")


def _misread(facts: Facts, source: Source) -> Found:
    found = misread(source.sampled)
    if found:
        count, codec = found
        text = f"The text looks like UTF-8 that was decoded as {codec} ({count:,} places)."
        if source.config.encoding is not None:
            yield TextWarning("misread", text, "--encoding utf-8", "decodes it correctly")
        else:
            yield TextWarning("misread", text, None, f"undo it: iconv -f utf-8 -t {codec} OLD > NEW")
    if source.marks.replaced:
        text = f"Replacement characters (U+FFFD): {source.marks.replaced:,}; another program could not decode the original."
        yield TextWarning("lost", text, "--encoding NAME", "decodes the original, if you have it")


def _records(facts: Facts, source: Source) -> Found:
    if source.config.field is not None:
        return
    lines = source.sampled.split("\n")[:SHOWN]
    if source.scan.named and all(map(is_table_file, source.scan.named)):
        text = f"The text is a table with the fields {list_fields(dict.fromkeys(source.scan.record_fields))}."
        yield TextWarning("records", text, "--field NAME", "reads one of its columns only")
        return
    try:
        records = [json.loads(line) for line in lines if line.strip(END + " \r")]
    except (ValueError, RecursionError):
        return
    if records and all(isinstance(record, dict) for record in records):
        texts = [key for key, value in records[0].items() if isinstance(value, str)]
        if texts:
            longest = max(texts, key=lambda key: len(records[0][key]))
            text = "The lines are JSON records; charlm reads their names and braces too."
            yield TextWarning("records", text, f"--field {command_line([longest])}", "reads that field only")


def _split(facts: Facts, source: Source) -> Found:
    leak, config = facts.split.in_training_too, source.config
    if leak.share < LEAST_LEAK:
        return
    text = _sentence(
        f"{leak} of the held-out part also occurs in the training part, so its score will be too good."
    )
    several = len(source.scan.named) > 1
    blank_lines = "\n\n" in source.sampled or "\r\n\r\n" in source.sampled
    likely = "file" if several else "blank-line" if blank_lines else "line"
    unit = config.documents if config.documents != "none" else likely
    one_line = unit == "line" and facts.text.lines < 2
    if config.split == "documents" or config.val_file is not None or one_line:
        yield TextWarning("leak", text, "--val-file FILE", "holds out another text")
    else:
        option = f"--documents {unit} --split documents"
        yield TextWarning(
            "leak", text, option, "keeps identical documents in the same part; or --val-file FILE"
        )


def _repeats(facts: Facts, source: Source) -> Found:
    repeated = facts.repeats.repeated
    if repeated.share >= LEAST_REPEATED:
        text = f"{repeated} of the text repeats earlier text, in passages of {PASSAGE} characters or more."
        yield TextWarning(
            "repeated", _sentence(text), None, "remove copies and boilerplate, unless they are meant"
        )


def _newlines(facts: Facts, source: Source) -> Found:
    if source.marks.returns:
        met = " and ".join(f"{name} ({n:,})" for name, n in source.marks.line_ends.items() if n)
        yield TextWarning("newlines", f"Lines end in {met}.", "--newlines lf", "makes all of them LF")


def _normal_forms(facts: Facts, source: Source) -> Found:
    forms, code = facts.normal_forms, "normal-forms"
    if forms.decomposed:
        text = f"Accents encoded as separate characters after their letter: {forms.decomposed:,}"
        mixed = f"; letters with a built-in accent: {forms.composed:,}. The same letter has two encodings."
        yield TextWarning(code, text + (mixed if forms.mixed else "."), "--normalize nfc", "composes them")
    elif forms.unstable:
        text = f"Deprecated duplicates of other characters: {forms.unstable:,}."
        yield TextWarning(code, text, "--normalize nfc", "replaces them")
    elif forms.reordered:
        text = "Where letters have several marks, the marks are not in canonical order."
        yield TextWarning(code, text, "--normalize nfc", "puts them in order")
    if facts.compatible:
        found = [c for c in facts.characters if c.code_point in facts.compatible]
        text = f"Letters and digits in unusual widths or fonts: {_most_frequent(found)}."
        yield TextWarning("compatibility", text, "--normalize nfkc", "makes them plain")


def _invisible(facts: Facts, source: Source) -> Found:
    counts = source.counts
    found = [c for c in facts.characters if c.char in counts and is_invisible(c.char)]
    if not found:
        return
    text = f"Invisible characters, each of which becomes a symbol of the model: {_most_frequent(found)}."
    needed = max(counts[c.char] for c in found) + 1
    others = sum(1 for n in counts.values() if n < needed) - len(found)
    if others <= SPARED:
        also = f", and {others} other{'s' * (others > 1)}" if others else ""
        yield TextWarning("unseen", text, f"--min-count {needed}", f"encodes them as bytes{also}")
    else:
        yield TextWarning("unseen", text, None, "remove them from the text, unless they are meant")


def _spaces(facts: Facts, source: Source) -> Found:
    odd = [c for c in facts.characters if c.char in SPACES and c.char != " "]
    if odd and any(c.char == " " for c in facts.characters):
        text = f"Several kinds of spaces: {_most_frequent(odd)} in addition to the usual one."
        yield TextWarning("spaces", text, "--collapse-spaces", "makes every run of spaces and tabs one space")
    saved = sum(len(run.group()) - 1 for run in INNER_SPACES.finditer(source.sampled))
    share = saved / max(1, facts.sampled_chars)
    if share >= LEAST_INNER_SPACES:
        text = f"{100 * share:.1f} % of the text is repeated spaces within lines."
        yield TextWarning("space-runs", text, "--collapse-spaces", "removes them, indentation too")


def _lookalikes(facts: Facts, source: Source) -> Found:
    found = facts.lookalikes
    if found.words:
        text = f"Words with look-alike letters of another script: {found.words:,} ({', '.join(found.examples[:SHOWN])})"
        text += f"; the letters: {_most_frequent(found.letters)}."
        yield TextWarning("mixed-scripts", text, None, "correct them in the text; no option changes letters")
    quotes = [c for row in found.marks if _mixes_quotes(row) for c in row]
    if quotes:
        marks = ", ".join(f"{c.char} {c.code_point} ({c.count:,})" for c in quotes)
        text = f"Both straight and typographic quotes: {marks}. A prompt may have the wrong ones."
        yield TextWarning("quotes", text, "charlm sample --map-lookalikes", "replaces them in prompts")


def _rare(facts: Facts, source: Source) -> Found:
    chars = len(source.counts)
    rare = sum(n < RARE for n in source.counts.values())
    if facts.split.train_chars > MIN_COUNT_FROM and rare >= max(LEAST_RARE, RARE_SHARE * chars):
        few = f"{rare:,} occur fewer than {RARE} times: too few to learn them."
        text = f"Of {chars:,} distinct characters, {few}"
        yield TextWarning("rare", text, f"--min-count {RARE}", "encodes them as bytes")


def _mixes_quotes(row: Sequence[Character]) -> bool:
    """Whether a row of look-alikes has a straight quote and a typographic one."""
    chars = {character.char for character in row}
    return any(mark in chars and len(chars - {mark, "`", "´"}) for mark in "'\"")


def _most_frequent(characters: Sequence[Character]) -> str:
    shown = [f"{c.code_point} {c.name} ({c.count:,})" for c in characters[:SHOWN]]
    more = len(characters) - SHOWN
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


_CHECKS: tuple[Callable[[Facts, Source], Found], ...] = (
    _length,
    _boilerplate,
    _misread,
    _records,
    _split,
    _repeats,
    _newlines,
    _normal_forms,
    _invisible,
    _spaces,
    _lookalikes,
    _rare,
)
