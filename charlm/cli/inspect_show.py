"""What was found in a text, as tables and sentences."""

import sys
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from textwrap import fill
from unicodedata import combining

from charlm.cli.console import count, table
from charlm.data.overlap import PASSAGE
from charlm.evaluation.bootstrap import too_few
from charlm.inspection import measured
from charlm.inspection.characters import Character
from charlm.inspection.facts import Examination
from charlm.inspection.warnings import Finding
from charlm.terminal import one_line
from charlm.training.describe import describe_text, several

FREQUENT, RAREST = 8, 12
PASSAGE_SHOWN, WIDTH, LONGEST = 150, 100, 2000
ACRONYMS = ("CJK",)
NOTHING = "-"


def show(found: Examination, warnings: Sequence[Finding], model: str) -> None:
    """Print it; `model` says what would be trained."""
    table(_text(found))
    _characters(found)
    print()
    table(_repeats(found))
    _entropies(found)
    print()
    _training(found, model)
    _warnings(warnings)


def _text(found: Examination) -> list[tuple[str, str]]:
    look, corpus = found.look, found.loaded.corpus
    marks = look.marks
    assert marks is not None
    rows = [("text", one_line(found.loaded.label)), ("SHA-256", corpus.sha256)]
    if look.partial:
        of = "" if look.total_bytes is None else f" of {count(look.total_bytes)}"
        rows.append(("read", f"{count(look.bytes_read)}{of} bytes, {look.manner}; all below is of these"))
        rows[1] = ("SHA-256", f"{corpus.sha256}, of what was read")
    ends = {"LF": marks.feeds - marks.crlf, "CRLF": marks.crlf, "CR": marks.returns - marks.crlf}
    met = ", ".join(f"{name} {count(n)}" for name, n in ends.items() if n) or "none"
    longest = f"the longest {count(found.longest_line)} characters"
    different = len(found.characters)
    ascii_only = all(c.char.isascii() for c in found.characters)
    rows += [
        ("encoding", _encoding(found) + (", all of it ASCII" if ascii_only else "")),
        ("characters", f"{count(found.chars)}, {count(different)} different"),
        ("letters", _scripts(found)),
        ("lines", f"{count(found.lines)}, {longest}; line ends: {met}"),
    ]
    if corpus.vocabulary.has_end:
        rows.append(("documents", count(sum(corpus.ends))))
    return rows


def _encoding(found: Examination) -> str:
    if not found.look.files:
        return "utf-8"
    ways: dict[str, int] = {}
    for file in found.look.files:
        way = file.codec + " with a byte order mark" * file.marked
        way += f", compressed with {file.compression}" if file.compression else ""
        ways[way] = ways.get(way, 0) + 1
    if len(ways) == 1 and len(found.look.files) == 1:
        return next(iter(ways))
    return "; ".join(f"{way} ({count(n)} file{'s' * (n != 1)})" for way, n in ways.items())


def _scripts(found: Examination) -> str:
    total = sum(found.scripts.values())
    names = {script: script if script in ACRONYMS else script.capitalize() for script in found.scripts}
    said = [f"{names[script]} {_percent(n / total)}" for script, n in list(found.scripts.items())[:4]]
    return ", ".join(said) or "none"


def _characters(found: Examination) -> None:
    frequent = found.characters[:FREQUENT]
    rarest = found.characters[FREQUENT:][-RAREST:]
    between = len(found.characters) - len(frequent) - len(rarest)
    rows = [_row(c, found.chars) for c in frequent]
    if between:
        rows.append(("", "", f"({count(between)} more, all in --json)", "", ""))
    rows += [_row(c, found.chars) for c in rarest]
    print()
    table(rows, header=("", "code", "name", "times", "share"), numbers=(3, 4))


def _row(character: Character, of: int) -> tuple[str, ...]:
    char = character.char
    shown = "" if char.isspace() or character.unseen else ("◌" * bool(combining(char)) + one_line(char))
    return shown, character.code_point, character.name, count(character.count), _percent(character.count / of)


def _repeats(found: Examination) -> list[tuple[str, str]]:
    rows = []
    sampled = "" if found.look.sample.whole else f", in a sample of {count(found.sampled_chars)} characters"
    if found.longest is None:
        rows.append(("longest repeat", f"none{sampled}"))
    else:
        passage, longest = found.longest_text, found.longest
        where = ""
        if found.look.sample.whole and not found.look.partial:
            places = (found.line_of(longest.first), found.line_of(longest.again))
            where = f", in lines {count(places[0])} and {count(places[1])}"
        length = f"{count(longest.length)} characters, {count(longest.times)} times{where}{sampled}"
        rows += [("longest repeat", length), ("", one_line(passage, PASSAGE_SHOWN))]
    before, leak = found.repeated, found.leak
    passages = f"in passages of {PASSAGE} characters or more"
    rows.append(("stood before", f"{before.word}{_percent(before.share)} of the text, {passages}"))
    if leak.of_symbols:
        share = f"{leak.word}{_percent(leak.share)} of it stands in the training part too"
        word = found.loaded.corpus.vocabulary.word
        rows.append(("held out", f"{share}, in passages of {PASSAGE} {word}s or more"))
    return rows


def _entropies(found: Examination) -> None:
    print()
    rows = [(str(e.order), _bits(e.bits_per_char), _percent(e.seen_once)) for e in found.entropies]
    table(rows, header=("order", "bits/char", "contexts seen once"), numbers=(0, 1, 2))
    whole = "the text" if found.look.sample.whole else f"{count(found.sampled_chars)} characters of the text"
    xz = found.xz_bits_per_char
    _say(
        f"Conditional empirical entropy of {whole}, by its own counts. A context seen once looks certain: where "
        "those are many, the figure is far too low."
        + ("" if xz is None else f" xz makes {xz:.3f} bits/char of it.")
        + (f" {few[2:].capitalize()}." if (few := too_few(found.sampled_chars)) else "")
    )


def _training(found: Examination, model: str) -> None:
    decided = found.choice.plan.decisions[-1]
    part = "Of the part that was read, " if found.look.partial else ""
    _say(
        f"{part}charlm train --time {decided['seconds']:.0f}s would take {describe_text(found.loaded.corpus)}."
    )
    _say(f"It would train {model}.")
    if found.counts is None:
        return
    stick = found.counts
    of = several(stick.order or 0, found.loaded.corpus.vocabulary.word)
    few = too_few(found.loaded.corpus.held_out_chars)
    rows = [(f"counts alone, of {of}", f"{stick.bits_per_char:.3f}{few}")]
    rows += [(f"after {_time(row.seconds)} of training", _range(row)) for row in found.expected]
    print()
    table(rows, header=("expect, held out", "bits/char"))
    if stick.limits:
        _say(f"Counts alone: {stick.limits}.")
    if found.expected:
        texts = [f"{text.name} ({count(text.train_chars)})" for text in measured.TEXTS]
        _say(
            f"As measured on {', '.join(texts[:-1])} and {texts[-1]} characters to train on, the best training and "
            f"the worst, on {measured.MACHINE} (this machine now: {decided['gflops']:.0f})."
        )
    if found.unlike:
        _say(f"This text is unlike those: {'; '.join(found.unlike)}. Take the figures for a guess.")


def _warnings(warnings: Iterable[Finding]) -> None:
    print()
    rows: list[tuple[str, str]] = []
    for i, warning in enumerate(warnings):
        what = f"{warning.option}: {warning.remedy}" if warning.option else warning.remedy
        rows += [(f"{i + 1}.", warning.text), ("", f"-> {what}")]
    if rows:
        print("To deal with before training:")
        table(rows, longest=LONGEST)
    else:
        print("Nothing to deal with before training.")


def _say(text: str) -> None:
    """A paragraph, its lines as long as the terminal's."""
    width = get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    print(fill(one_line(text, LONGEST), max(20, width - 1)))


def _bits(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _range(row: measured.Expected) -> str:
    """From the best training to the worst, and how many there were."""
    of = f"({several(row.trainings, 'training')})"
    return f"{row.low:.3f} {of}" if row.trainings == 1 else f"{row.low:.3f} to {row.high:.3f} {of}"


def _time(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds > 60 else f"{seconds} s"


def _percent(share: float) -> str:
    if share == 0:
        return "0 %"
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
