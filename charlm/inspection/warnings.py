"""What of a text should be dealt with before training on it, each with the option that does."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from charlm.config import FEWEST_HELD_OUT, TextConfig
from charlm.data.overlap import PASSAGE
from charlm.data.records import is_table_file, list_fields
from charlm.data.tokenizer import END, MIN_COUNT_FROM
from charlm.inspection.characters import SPACES, Character, mixed_quotes
from charlm.terminal import command_line
from charlm.training.planner import FEWEST

if TYPE_CHECKING:
    from charlm.inspection.facts import Examination

LEAST_REPEATED, LEAST_LEAK, LEAST_SHIFT = 0.05, 0.01, 0.1
LEAST_INNER_SPACES = 0.005
RARE, LEAST_RARE, RARE_SHARE = 5, 20, 0.1
"""Characters that occur less often than RARE are said where they are so many, and such a share of all kept."""
SPARED = 3
"""Other characters that may be spelled in bytes for the sake of controls."""
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing to deal with: an option of `charlm train`, or what else helps."""

    code: str  # stable, for JSON
    text: str
    option: str | None = None
    remedy: str = ""  # what the option does, or what else helps


Found = Iterator[Finding]


def findings(found: "Examination", config: TextConfig) -> list[Finding]:
    """All of them, what costs most first."""
    return [finding for check in _CHECKS for finding in check(found, config)]


def _length(found: "Examination", config: TextConfig) -> Found:
    corpus, marks = found.loaded.corpus, found.look.marks
    assert marks is not None
    if marks.only_space or marks.one_character:
        what = "only white space" if marks.only_space else "one character repeated"
        yield Finding("nothing-to-learn", f"The text is {what}.", None, "give another text")
    if len(corpus.train) < FEWEST:
        text = f"Few characters to train on: {corpus.train_chars:,}; below {FEWEST:,} nothing is counted."
        yield Finding("short", text, None, "give more text")
    if config.val_file is None and config.val and corpus.held_out_chars < FEWEST_HELD_OUT:
        text = f"Too few characters held out to mean much: {corpus.held_out_chars:,}."
        share = ceil(100 * (FEWEST_HELD_OUT + 1) / max(1, corpus.chars)) / 100
        option = f"--val {share:g}" if share <= 0.5 else None
        yield Finding("few-held-out", text, option, "holds out enough" if option else "give more text")


def _boilerplate(found: "Examination", config: TextConfig) -> Found:
    if found.look.boilerplate:
        yield Finding("boilerplate", found.look.boilerplate, "--strip gutenberg", "leaves them out")


def _misread(found: "Examination", config: TextConfig) -> Found:
    marks = found.look.marks
    assert marks is not None
    if found.misread:
        count, codec = found.misread
        text = f"It looks like UTF-8 that was read as {codec} ({count:,} places)."
        if config.encoding is not None:
            yield Finding("misread", text, "--encoding utf-8", "reads it as what it is")
        else:
            yield Finding("misread", text, None, f"undo it: iconv -f utf-8 -t {codec} OLD > NEW")
    if marks.replaced:
        text = f"Replacement characters (U+FFFD): {marks.replaced:,}; what stood there was lost in a decoding before."
        yield Finding("lost", text, "--encoding NAME", "reads the original, if you have it, in its encoding")


def _records(found: "Examination", config: TextConfig) -> Found:
    if config.field is not None:
        return
    lines = found.sampled.split("\n")[:SHOWN]
    if found.look.named and all(map(is_table_file, found.look.named)):
        text = f"It is a table, with the fields {list_fields(dict.fromkeys(found.look.record_fields))}."
        yield Finding("records", text, "--field NAME", "reads one of its columns only")
        return
    try:
        records = [json.loads(line) for line in lines if line.strip(END + " \r")]
    except (ValueError, RecursionError):
        return
    if records and all(isinstance(record, dict) for record in records):
        texts = [key for key, value in records[0].items() if isinstance(value, str)]
        if texts:
            longest = max(texts, key=lambda key: len(records[0][key]))
            text = "Its lines are records of JSON, names and braces included."
            yield Finding("records", text, f"--field {command_line([longest])}", "reads that field only")


def _newlines(found: "Examination", config: TextConfig) -> Found:
    marks = found.look.marks
    assert marks is not None
    if marks.returns:
        ends = {"LF": marks.feeds - marks.crlf, "CRLF": marks.crlf, "CR": marks.returns - marks.crlf}
        met = " and ".join(f"{name} ({count:,})" for name, count in ends.items() if count)
        yield Finding("newlines", f"Lines end in {met}.", "--newlines lf", "makes all of them LF")


def _normal_forms(found: "Examination", config: TextConfig) -> Found:
    forms = found.normal_forms
    if forms.decomposed:
        text = f"Accents that stand as characters of their own after their letter: {forms.decomposed:,}"
        text += (
            f"; letters that have theirs built in: {forms.composed:,}: one letter, two spellings."
            if forms.mixed
            else "."
        )
        yield Finding("normal-forms", text, "--normalize nfc", "makes one character of each")
    elif forms.unstable:
        text = f"Outdated doubles of other characters that look the same: {forms.unstable:,}."
        yield Finding("normal-forms", text, "--normalize nfc", "replaces them")
    elif forms.reordered:
        text = "Where letters have several marks, these do not stand in the usual order."
        yield Finding("normal-forms", text, "--normalize nfc", "puts them in order")
    if found.compatible:
        text = f"Letters and digits in other widths or fonts than the plain ones: {_some(found.compatible)}."
        yield Finding("compatibility", text, "--normalize nfkc", "makes them plain")


def _unseen(found: "Examination", config: TextConfig) -> Found:
    kept = found.loaded.corpus.vocabulary
    unseen = [c for c in found.characters if c.unseen and c.char in kept.chars]
    if not unseen:
        return
    text = f"Characters that no one sees, each a symbol of the model: {_some(unseen)}."
    counts = dict(zip(kept.chars, kept.counts, strict=False))
    needed = max(counts[c.char] for c in unseen) + 1
    others = sum(1 for char, n in counts.items() if n < needed) - len(unseen)
    if others <= SPARED:
        also = f", and {others} other{'s' * (others > 1)}" if others else ""
        yield Finding("unseen", text, f"--min-count {needed}", f"spells them in bytes{also}")
    else:
        yield Finding("unseen", text, None, "take them out of the text, unless they are meant")


def _spaces(found: "Examination", config: TextConfig) -> Found:
    odd = [c for c in found.characters if c.char in SPACES and c.char != " "]
    if odd and any(c.char == " " for c in found.characters):
        text = f"Spaces of several kinds: {_some(odd)} beside the usual one."
        yield Finding("spaces", text, "--collapse-spaces", "makes every run of spaces and tabs one space")
    share = found.inner_spaces / max(1, found.sampled_chars)
    if share >= LEAST_INNER_SPACES:
        text = f"{100 * share:.1f} % of the text are second and further spaces in a row within lines."
        yield Finding("space-runs", text, "--collapse-spaces", "takes them out, indentation too")


def _alike(found: "Examination", config: TextConfig) -> Found:
    mixed = found.mixed_words
    if mixed.count:
        words = ", ".join(mixed.words[:SHOWN])
        text = f"Words with look-alike letters of another script: {mixed.count:,} ({words}); the letters: {_some(mixed.letters)}."
        yield Finding("mixed-scripts", text, None, "correct them in the text; no option changes letters")
    quotes = [c for row in found.alike if mixed_quotes(row) for c in row]
    if quotes:
        marks = ", ".join(f"{c.char} {c.code_point} ({c.count:,})" for c in quotes)
        text = f"Quotes of the typewriter and of print: {marks}. A prompt may have the wrong ones."
        remedy = "reads a prompt's as those that the model has"
        yield Finding("quotes", text, "charlm sample --map-lookalikes", remedy)


def _rare(found: "Examination", config: TextConfig) -> Found:
    kept = found.loaded.corpus.vocabulary
    rare = sum(1 for n in kept.counts[: len(kept.chars)] if n < RARE)
    long = found.loaded.corpus.train_chars > MIN_COUNT_FROM
    if long and rare >= LEAST_RARE and rare >= RARE_SHARE * len(kept.chars):
        text = f"Of {len(kept.chars):,} characters kept, {rare:,} occur less than {RARE} times: too few to learn them."
        yield Finding("rare", text, f"--min-count {RARE}", "spells them in bytes")


def _repeats(found: "Examination", config: TextConfig) -> Found:
    if found.repeated.share >= LEAST_REPEATED:
        word = found.repeated.word
        text = f"{word}{100 * found.repeated.share:.0f} % of the text stood in it before, in passages of {PASSAGE} characters or more."
        text = text[:1].upper() + text[1:]
        yield Finding("repeated", text, None, "leave copies and boilerplate out, unless they are meant")


def _division(found: "Examination", config: TextConfig) -> Found:
    if found.leak.share >= LEAST_LEAK:
        text = f"{found.leak.word}{100 * found.leak.share:.0f} % of the held-out text stands in the training part too, so its figure will flatter."
        text = text[:1].upper() + text[1:]
        unit = config.documents if config.documents != "none" else _unit(found)
        one_line = unit == "line" and found.lines < 2
        if config.split == "documents" or config.val_file is not None or one_line:
            yield Finding("leak", text, "--val-file FILE", "holds out another text")
        else:
            option = f"--documents {unit} --split documents"
            yield Finding("leak", text, option, "puts equal documents on one side; or --val-file FILE")
    enough = found.loaded.corpus.held_out_chars >= FEWEST_HELD_OUT  # of fewer it is chance
    if found.shift is not None and found.shift >= LEAST_SHIFT and enough:
        text = f"The held-out text has other characters than the rest: {found.shift:.2f} bits/char are lost by that alone."
        if config.split == "tail" and config.val_file is None:
            yield Finding("shift", text, "--split blocks", "holds out some of every part of the text")
        else:
            yield Finding("shift", text, None, "hold out text of the same kind")


def _unit(found: "Examination") -> str:
    """What is likely to be a document."""
    if len(found.look.named) > 1:
        return "file"
    return "blank-line" if "\n\n" in found.sampled or "\r\n\r\n" in found.sampled else "line"


def _some(characters: tuple[Character, ...] | list[Character]) -> str:
    """The most frequent ones by code point, name and count."""
    said = [f"{c.code_point} {c.name} ({c.count:,})" for c in characters[:SHOWN]]
    more = len(characters) - SHOWN
    return ", ".join(said) + (f" and {more:,} more" if more > 0 else "")


_CHECKS: tuple[Callable[["Examination", TextConfig], Found], ...] = (
    _length,
    _boilerplate,
    _misread,
    _records,
    _division,
    _repeats,
    _newlines,
    _normal_forms,
    _unseen,
    _spaces,
    _alike,
    _rare,
)
