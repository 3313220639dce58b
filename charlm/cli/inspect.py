"""`charlm inspect`: describe a text and its problems before training."""

import sys
from contextlib import suppress
from shutil import get_terminal_size
from textwrap import fill
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any
from unicodedata import combining

import typer

from charlm.cli.console import MESSAGES, count, print_json, say, table, working
from charlm.cli.mistakes import check_files
from charlm.cli.options import ROOT, AsJson, Texts, Threads, with_settings
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.text_config import TextConfig
from charlm.terminal import one_line, percent
from charlm.training.describe import describe_text, several
from charlm.training.request import DEFAULT_TIME, budget_seconds, build
from charlm.training.request_plan import choose_plan
from charlm.training.request_text import (
    check_file_settings,
    describe_paths,
    load_text,
    note_files,
    use_customary_split,
)

if TYPE_CHECKING:
    from charlm.inspection.facts import Facts

EXAMPLES = """Examples:
  charlm inspect corpus.txt                   its contents, and problems to fix before training
  charlm inspect novels/ --documents file     read as `charlm train` would read it
  charlm inspect corpus.txt --newlines lf     check whether an option solves a problem
  charlm inspect corpus.txt --json            as JSON
Above 1 GB, charlm reads only a sample; the output says so."""
FREQUENT, RAREST = 8, 12
"""How many of the most frequent and of the rarest characters to show."""
PASSAGE_SHOWN, WIDTH, LONGEST = 150, 100, 2000


@with_settings({"Text": TextConfig}, basic=("time", "threads", "as_json"))
def command(
    corpus: Texts = None,
    time: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Time budget of the training to plan.",
            envvar="CHARLM_TIME",
            show_envvar=False,
        ),
    ] = DEFAULT_TIME,
    threads: Threads = None,
    as_json: AsJson = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Inspect a text before training, and list its problems.

    The output has the encoding, characters, repeats, entropies, the n-gram baseline, what `charlm train`
    would choose, and the problems, each with an option or advice to solve it.
    """
    names = corpus or []
    check_files("inspect", names, ROOT, time)
    budget, training = budget_seconds(time), TrainingConfig(threads=threads)
    check_file_settings(names, settings)
    use_customary_split(names, settings, MESSAGES)
    config = build(TextConfig, settings)
    say(f"reading {describe_paths(names, config)}")
    from charlm.data import corpus_cache as cache  # here and below: numpy and torch are slow to import
    from charlm.data.text_scan import TextScan
    from charlm.inspection.facts import examine
    from charlm.inspection.warnings import with_warnings

    scan = TextScan()
    loaded = load_text(names, config, MESSAGES, scan=scan)
    try:
        among_warnings = set(scan.marks.warnings() if scan.marks else ())
        note_files((note for note in loaded.notes if note not in among_warnings), MESSAGES)
        choice, model = choose_plan(loaded, ModelConfig(), training, budget, None, perf_counter(), MESSAGES)
        with working("examining") as bar:

            def watch(what: str) -> None:
                say(what)
                bar(what, 0, None)

            facts = with_warnings(examine(loaded, scan, choice, watch), loaded, scan, config)
        if as_json:
            from dataclasses import asdict

            print_json(asdict(facts))
        else:
            _show(facts, describe_text(loaded.corpus), model, loaded.corpus.vocabulary.unit_noun)
    finally:
        if scan.partial:
            with suppress(OSError):
                cache.remove(loaded.corpus.key)  # a sample is never used again


def _show(facts: "Facts", text: str, model: str, unit: str) -> None:
    """Print the facts; `text` and `model` describe what would be trained."""
    table(_text_rows(facts))
    print()
    _characters(facts)
    print()
    table(_repeat_rows(facts, unit))
    print()
    _entropies(facts)
    print()
    part = "" if facts.text.read == "whole" else "For the part that was read, "
    _paragraph(f"{part}charlm train --time {facts.plan['seconds']:.0f}s would use {text}.")
    _paragraph(f"It would train {model}.")
    if facts.ngram is not None:
        order = several(facts.ngram["order"] or 0, unit)
        limits = f" ({facts.ngram['limits']})" if facts.ngram["limits"] else ""
        figure = f"{facts.ngram['bits_per_char']:.3f} bits/char"
        _paragraph(
            f"Baseline on the held-out part: {figure} from n-grams with {order} of context{limits}"
            f"{_few(facts.split.held_out_chars)}."
        )
    print()
    rows: list[tuple[str, str]] = []
    for i, warning in enumerate(facts.warnings):
        what = f"{warning.option}: {warning.remedy}" if warning.option else warning.remedy
        rows += [(f"{i + 1}.", warning.text), ("", f"-> {what}")]
    print("Problems to fix before training:" if rows else "No problems found.")
    if rows:
        table(rows, longest=LONGEST)


def _text_rows(facts: "Facts") -> list[tuple[str, str]]:
    text = facts.text
    rows = [("text", one_line(text.label)), ("SHA-256", text.sha256)]
    if text.read != "whole":
        of = "" if text.of_bytes is None else f" of {count(text.of_bytes)}"
        rows[1] = ("SHA-256", f"{text.sha256}, of the part that was read")
        rows.append(
            (
                "read",
                f"{count(text.bytes_read)}{of} bytes, {text.read}; everything below describes only these",
            )
        )
    ends = ", ".join(f"{name.upper()} {count(n)}" for name, n in facts.newlines.items() if n) or "none"
    ascii_only = all(c.char.isascii() for c in facts.characters)
    letters = sum(facts.scripts.values())
    shares = [
        f"{script if script == 'CJK' else script.capitalize()} {percent(n / letters)}"
        for script, n in list(facts.scripts.items())[:4]
    ]
    longest = f"the longest {count(text.longest_line)} characters"
    rows += [
        ("encoding", _encoding(facts) + (", all of it ASCII" if ascii_only else "")),
        ("characters", f"{count(text.chars)}, {count(len(facts.characters))} different"),
        ("letters", ", ".join(shares) or "none"),
        ("lines", f"{count(text.lines)}, {longest}; line ends: {ends}"),
    ]
    if text.documents is not None:
        rows.append(("documents", count(text.documents)))
    return rows


def _encoding(facts: "Facts") -> str:
    files: dict[str, int] = {}
    for file in facts.files:
        how = file.codec + " with a byte-order mark" * file.marked
        how += f", compressed with {file.compression}" if file.compression else ""
        files[how] = files.get(how, 0) + 1
    if len(facts.files) <= 1:
        return next(iter(files), "utf-8")
    return "; ".join(f"{how} ({several(n, 'file')})" for how, n in files.items())


def _characters(facts: "Facts") -> None:
    def row(c: Any) -> tuple[str, ...]:
        hidden = c.char.isspace() or c.code_point in facts.unseen
        shown = "" if hidden else "◌" * bool(combining(c.char)) + one_line(c.char)
        return shown, c.code_point, c.name, count(c.count), percent(c.count / facts.text.chars)

    frequent = facts.characters[:FREQUENT]
    rarest = facts.characters[FREQUENT:][-RAREST:]
    between = len(facts.characters) - len(frequent) - len(rarest)
    more = [("", "", f"({count(between)} more, all in --json)", "", "")] if between else []
    rows = [*map(row, frequent), *more, *map(row, rarest)]
    table(rows, header=("", "code", "name", "times", "share"), numbers=(3, 4))


def _repeat_rows(facts: "Facts", unit: str) -> list[tuple[str, str]]:
    longest, repeated, leak = facts.repeats.longest, facts.repeats.repeated, facts.split.in_training_too
    whole = facts.sampled_chars == facts.text.chars
    sampled = "" if whole else f", in a sample of {count(facts.sampled_chars)} characters"
    rows = [("longest repeat", f"none{sampled}")]
    if longest is not None:
        where = f", in lines {count(longest.lines[0])} and {count(longest.lines[1])}" if longest.lines else ""
        length = f"{count(longest.chars)} characters, {count(longest.times)} times{where}{sampled}"
        rows = [("longest repeat", length), ("", one_line(longest.text, PASSAGE_SHOWN))]
    passages = f"in passages of {repeated.passage} characters or more"
    rows.append(("repeated", f"{repeated} of the text occurs earlier in it, {passages}"))
    if facts.split.held_out_chars:
        share = f"{leak} of it also occurs in the training part"
        rows.append(("held out", f"{share}, in passages of {leak.passage} {unit}s or more"))
    return rows


def _entropies(facts: "Facts") -> None:
    rows = [
        (str(e.order), "-" if e.bits_per_char is None else f"{e.bits_per_char:.3f}", percent(e.seen_once))
        for e in facts.entropy.orders
    ]
    table(rows, header=("order", "bits/char", "contexts seen once"), numbers=(0, 1, 2))
    sampled = facts.sampled_chars
    part = "the text" if sampled == facts.text.chars else f"{count(sampled)} characters of the text"
    xz = facts.xz_bits_per_char
    _paragraph(
        f"Conditional empirical entropy of {part}, from its own n-gram frequencies{_few(sampled)}. After a "
        "context that occurs only once, the next character looks certain; many such contexts make "
        "the entropy far too low." + ("" if xz is None else f" xz compresses it to {xz:.3f} bits/char.")
    )


def _few(chars: int) -> str:
    from charlm.evaluation.bootstrap import too_few

    return too_few(chars)


def _paragraph(text: str) -> None:
    """Print text wrapped to the width of the terminal."""
    width = get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    print(fill(one_line(text, LONGEST), max(20, width - 1)))
