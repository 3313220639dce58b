"""`charlm surprisal`: rows that are the figures of `charlm eval`, unit by unit, whatever the text and its form."""

import csv
import html.parser
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from math import log, log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charlm
from charlm.data import stream
from charlm.data.segmentation import LONGEST_LINE, LONGEST_WORD
from charlm.errors import TextError, UsageError
from charlm.evaluation.surprisal import Unit
from charlm.inference import sliding_window
from charlm.run import Run
from tests.cli.kept import refused, thinned
from tests.cli.models import SCORED, UNSEEN, Charlm, Models

TRICKY = (
    "Naïve foxes can't  swim\t3.14 miles, nobody's\r\n\r\n  10\u202f000 日本語 カタカナ 👨‍👩‍👧 🇩🇪🇫🇷🇩 a\u0301b ' x\n"
    "\n one-two  \u3000three\x85four\n"
)
HOSTILE = "<script>alert('1')</script> \u202eright\u2066 \x1b[31mred\x1b]0;title\x07 & \"quoted\"\n"
COLUMNS = ["file", "line", "unit", "text", "offset", "byte_offset", "bits", "entropy", "length"]


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    Path("unseen.txt").write_bytes(UNSEEN.encode())
    return Models(charlm, tmp_path_factory)


def run_of(models: Models, kind: str) -> Run:
    return charlm.load(kind, checkpoints=models.root(kind))


def rows(models: Models, kind: str, *words: str, **how: Any) -> list[dict[str, Any]]:
    """The rows as JSON."""
    result = models(kind, "surprisal", *words, "--format", "jsonl", **how)
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = result.lines
    return found


def total(models: Models, kind: str, *words: str) -> tuple[float, int]:
    """Bits and characters by `charlm eval`."""
    result = models(kind, "eval", "--json", *words)
    assert result.code == 0, result.err
    return result.json["bits_per_char"] * result.json["chars"], result.json["chars"]


@pytest.mark.parametrize("kind", SCORED)
def test_the_rows_of_every_kind_of_run_are_the_figures_of_eval(models: Models, kind: str) -> None:
    bits, chars = total(models, kind, "unseen.txt")
    found = rows(models, kind, "unseen.txt", "--by", "char")
    assert "".join(row["text"] for row in found) == UNSEEN and chars == len(found)
    assert [row["offset"] for row in found] == list(range(chars))
    assert list(found[0]) == COLUMNS
    for by in ("char", "word", "line"):
        of_unit = found if by == "char" else rows(models, kind, "unseen.txt", "--by", by)
        figure = "bits_space_after" if by == "word" else "bits"
        assert sum(row[figure] for row in of_unit) == pytest.approx(bits, abs=1e-6 * len(of_unit))
        top = log2(run_of(models, kind).tokenizer.n_ids)
        assert all(0 <= row["entropy"] <= top + 1e-6 and row[figure] >= 0 for row in of_unit)
        for row in of_unit:
            at = row["offset"]
            assert UNSEEN[at : at + row["length"]] == row["text"]
            assert row["byte_offset"] == len(UNSEEN[:at].encode())
            assert row["line"] == UNSEEN[:at].count("\n") + 1
            if by != "char":  # the entropy before a unit is that before its first character
                assert row["entropy"] == found[at]["entropy"]


def test_two_hundred_sentences_row_by_row_as_forward_passes_say(models: Models) -> None:
    """Each character by itself, from a forward pass over exactly what the context rule lets it see."""
    run = run_of(models, "plain")
    sentences = (UNSEEN * 8).splitlines(keepends=True)[:200]
    assert len(sentences) == 200
    text = "".join(sentences)
    nats, entropies = plain_passes(run, text)
    at = 0
    for unit, sentence in zip(run.surprisal(text, by="line"), sentences, strict=True):
        assert (unit.text + unit.after, unit.offset) == (sentence, at)
        assert unit.nats == pytest.approx(nats[at : at + len(sentence)].sum(), abs=2e-4)
        assert unit.entropy == pytest.approx(entropies[at], abs=1e-4)
        at += len(sentence)


def plain_passes(run: Run, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The nats and the entropy before each character, (N,), by one forward pass a position.

    The model of the test is `--plain`: with W = block_size and h = W // 2, t is predicted from text[s:t], s = h *
    max(0, ceil((t - W) / h)).
    """
    vocabulary, rule = run.tokenizer, run.predictor.rule
    recent = getattr(run.predictor, "recent", None)
    temperature = getattr(run.predictor, "base", run.predictor).temperature
    ids = vocabulary.encode(text).astype(np.int64)
    assert len(ids) == len(text), "all characters are known"
    W, h, escape = rule.block_size, rule.block_size // 2, 2.0**-16
    nats, entropies = [], []
    for t in range(len(ids)):
        if t == 0:
            p = np.array(vocabulary.counts, float) / sum(vocabulary.counts)
        else:
            s = h * max(0, -((W - t) // h))
            with torch.inference_mode():
                logits = run.model(torch.from_numpy(ids[s:t])[None])[0, -1].double() / temperature
            p = torch.softmax(logits, dim=-1).numpy()
        unseen = vocabulary.n_ids - len(p)
        p = np.concatenate((p * (1 - escape), np.full(unseen, escape / unseen)))
        if t and recent is not None:
            corrected = recent.correct(
                np.log(p)[None], ids, np.array([t]), vocabulary.n_symbols, None, native=False
            )
            p = np.exp(corrected[0].astype(float))
        nats.append(-log(p[ids[t]]))
        entropies.append(-float((p * np.log(p)).sum()))
    return np.array(nats), np.array(entropies)


@pytest.mark.parametrize("kind", thinned(SCORED, "plain", "bytes", "recurrent"))
def test_pieces_of_any_size_change_no_figure(
    models: Models, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sliding_window, "SYMBOLS_AT_ONCE", 100
    )  # so that most of the text is forgotten on the way
    monkeypatch.setattr("charlm.evaluation.surprisal.NUMBERS_AT_ONCE", 5000)
    run, text = run_of(models, kind), TRICKY + UNSEEN + "日本\n"
    state = random.Random(3)

    def pieces() -> Iterator[str]:
        at = 0
        while at < len(text):
            n = state.choice([0, 1, 2, 5, 40, 700])
            yield text[at : at + n]
            at += n

    for how in (
        {"by": "char"},
        {"by": "word"},
        {"by": "word", "space": "before", "words": "whitespace"},
        {"by": "line"},
    ):
        assert list(run.surprisal(pieces(), **how)) == list(run.surprisal(text, **how)), how
    lines = list(run.surprisal(pieces(), by="char", context="line"))
    assert lines == list(run.surprisal(text, by="char", context="line"))


@pytest.mark.parametrize("kind", ["counts", "lines", "recurrent"])
def test_files_are_read_in_pieces_as_eval_reads_them_whole(
    models: Models, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TRICKY * 3 + UNSEEN
    Path("utf8.txt").write_bytes(text.encode())
    Path("wide.txt").write_bytes(text.encode("utf-16"))
    bits, chars = total(models, kind, "utf8.txt")
    with monkeypatch.context() as tiny:
        tiny.setattr(stream, "PIECE", 7)
        tiny.setattr("charlm.data.decoding.PIECE", 7)
        tiny.setattr(sliding_window, "SYMBOLS_AT_ONCE", 64)
        found = rows(models, kind, "utf8.txt", "--by", "char")
        wide = rows(models, kind, "wide.txt", "--by", "char")
        piped = rows(models, kind, "-", "--by", "char", stdin=text)
    assert len(found) == chars
    assert sum(row["bits"] for row in found) == pytest.approx(bits, abs=1e-6 * chars)
    for other in (wide, piped):
        assert [{**row, "file": ""} for row in other] == [{**row, "file": ""} for row in found]


@pytest.mark.parametrize("words", ["unicode", "whitespace"])
def test_words_partition_the_text_under_both_rules_for_spaces(models: Models, words: Any) -> None:
    run = run_of(models, "counts")
    chars = np.array([unit.nats for unit in run.surprisal(TRICKY, by="char")])
    for space in ("after", "before"):
        units = list(run.surprisal(TRICKY, words=words, space=space))
        assert "".join(unit.before + unit.text + unit.after for unit in units) == TRICKY
        for unit in units:
            begin = unit.offset - len(unit.before)
            end = unit.offset + len(unit.text + unit.after)
            assert unit.nats == pytest.approx(chars[begin:end].sum(), abs=1e-9)
            other = unit.after if space == "before" else unit.before
            assert not (unit.before + unit.after).strip() and (not other or not unit.text)
    alone = list(run.surprisal(TRICKY, words=words, space="none"))
    assert [unit.text for unit in alone] == [unit.text for unit in units if unit.text]
    for unit in alone:
        assert unit.nats == pytest.approx(chars[unit.offset : unit.offset + unit.length].sum(), abs=1e-9)
    if words == "whitespace":
        assert [unit.text for unit in alone] == TRICKY.split()
    else:
        assert {
            "can't",
            "3.14",
            "nobody's",
            "カタカナ",
            "👨‍👩‍👧",
            "🇩🇪",
            "🇫🇷",
            "a\u0301b",
            ",",
            "one",
            "-",
        } <= {u.text for u in alone}


def test_the_header_names_the_rule_for_spaces_and_the_base(models: Models) -> None:
    names = {"after": "bits_space_after", "before": "bits_space_before", "none": "bits_no_space"}
    for space, name in names.items():
        out = models("counts", "surprisal", "unseen.txt", "--space", space).out
        assert out.splitlines()[0].split("\t")[6] == name
    bits = rows(models, "counts", "unseen.txt", "--by", "line")
    for base, name, per_bit in (("e", "nats", log(2)), ("10", "hartleys", log(2) / log(10))):
        found = rows(models, "counts", "unseen.txt", "--by", "line", "--base", base)
        for row, other in zip(found, bits, strict=True):
            assert row[name] == pytest.approx(other["bits"] * per_bit, abs=2e-6)
            assert row["entropy"] == pytest.approx(other["entropy"] * per_bit, abs=2e-6)


@pytest.mark.parametrize("kind", ["counts", "lines", "prior"])
def test_a_line_by_itself_is_scored_as_a_file_of_its_own(models: Models, kind: str) -> None:
    lines = UNSEEN.splitlines(keepends=True)[:5]
    Path("lines.txt").write_text("".join(lines))
    found = rows(models, kind, "lines.txt", "--by", "line", "--context", "line")
    for number, (line, row) in enumerate(zip(lines, found, strict=True), start=1):
        Path("line.txt").write_text(line)
        assert row["bits"] == pytest.approx(total(models, kind, "line.txt")[0], abs=2e-6)
        assert (row["line"], row["text"] + "\n") == (number, line)
    other = rows(models, kind, "lines.txt", "--by", "line", "--context", "document")
    assert other[0]["bits"] == pytest.approx(found[0]["bits"], abs=2e-6)
    assert sum(row["bits"] for row in other) != pytest.approx(sum(row["bits"] for row in found), abs=1)


def test_no_unit_crosses_the_end_of_a_document(models: Models) -> None:
    run = run_of(models, "lines")
    Path("two.txt").write_text("the old duck\nfar away\n")
    for unit in rows(models, "lines", "two.txt", "--space", "before"):
        assert unit["line"] in (1, 2)
    found = rows(models, "lines", "two.txt", "--space", "before")
    assert [row["text"] for row in found] == ["the", "old", "duck", "", "far", "away", ""]
    assert run.tokenizer.has_end


GROUPS = [["the old duck", "teh old duck", "the odl duck"], ["far away", "fra away"], ["one day"]]


@pytest.mark.parametrize("form", ["blank-line", "id"])
@pytest.mark.parametrize("kind", ["counts", "plain"])
def test_the_best_of_each_group_is_what_brute_force_finds(models: Models, kind: str, form: str) -> None:
    run = run_of(models, kind)
    if form == "id":
        text = "".join(f"s{i}\t{line}\n" for i, group in enumerate(GROUPS) for line in group)
    else:
        text = "\n\n".join("\n".join(group) + "\n" for group in GROUPS)
    text = text.removesuffix("\n")  # the last candidate is not favoured by its missing newline
    Path("candidates.txt").write_text(text)
    costs = [[run.score(f"{line}\n").sum() for line in group] for group in GROUPS]
    ranked = rows(models, kind, "candidates.txt", "--by", "line", "--groups", form)
    best = rows(models, kind, "candidates.txt", "--by", "line", "--best", "--groups", form)
    assert [row for row in ranked if row["rank"] == 1] == best
    for (label, found), group, cost in zip(
        groupby(ranked, lambda row: row["group"]), GROUPS, costs, strict=True
    ):
        found = list(found)
        order = sorted(range(len(group)), key=cost.__getitem__)
        assert [row["text"] for row in found] == [group[i] for i in order]
        assert [row["rank"] for row in found] == list(range(1, len(group) + 1))
        assert [row["bits"] for row in found] == pytest.approx([cost[i] for i in order], abs=2e-6)
        for row in found:
            assert text[row["offset"] :].startswith(row["text"])
            assert text.split("\n")[row["line"] - 1].endswith(row["text"])
        assert label in ("1", "2", "3", "s0", "s1", "s2")
    if form == "blank-line":
        assert rows(models, kind, "candidates.txt", "--by", "line", "--best") == best


def test_a_last_line_without_a_newline_is_noted(models: Models) -> None:
    Path("open.txt").write_text("one day\nfar away")
    said = models("counts", "surprisal", "open.txt", "--by", "line")
    assert said.code == 0 and "line 2 of open.txt does not end with a newline" in said.err
    assert "newline" not in models("counts", "surprisal", "open.txt", "--by", "line", "--best").err


def test_tables_say_the_same_in_every_form(models: Models) -> None:
    Path("odd.txt").write_text('a "quoted", tab\there\nand = so\n')
    for words in (("--by", "char"), ("--by", "word"), ("--by", "line")):
        wanted = [
            {name: str(value) for name, value in row.items()}
            for row in rows(models, "counts", "odd.txt", *words)
        ]
        for form, delimiter in (("csv", ","), ("tsv", "\t")):
            out = models("counts", "surprisal", "odd.txt", *words, "--format", form).out
            assert list(csv.DictReader(io.StringIO(out, newline=""), delimiter=delimiter)) == wanted


class Parsed(html.parser.HTMLParser):
    """The text in the page's spans, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self._in_pre = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_pre |= tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._in_pre &= tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data * self._in_pre


@pytest.mark.parametrize("by", ["char", "word", "line"])
def test_hostile_text_is_shown_and_obeyed_by_nobody(models: Models, by: str) -> None:
    name = "<b>\x1b[32m.txt" if os.name != "nt" else "b.txt"
    Path(name).write_text(HOSTILE + UNSEEN[:100])
    page = models("counts", "surprisal", name, "--by", by, "--format", "html").out
    found = Parsed(page)
    assert "default-src 'none'" in page and not {"script", "img", "link", "b"} & set(found.tags)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2066]", page)
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066").replace("\x1b", "\\x1b")
    assert found.text.strip("\n").startswith(shown.replace("\x07", "\\x07"))
    assert not re.search("https?:", page)
    painted = models("counts", "surprisal", name, "--by", by, "--format", "ansi").out
    bare = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2066]", bare)
    assert "\\x1b[31mred\\x1b]0;title\\x07" in bare and "<script>" in bare
    assert set(re.findall(r"\x1b\[([0-9;]*)m", painted)) <= {
        "0",
        *(f"38;5;{a};48;5;{b}" for a in (16, 231) for b in range(256)),
    }


def test_the_colours_go_from_light_to_dark_and_say_what_they_mean(models: Models) -> None:
    from charlm.reporting.surprisal_colours import COLOURS

    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    steps = [lightness(colour.background) for colour in COLOURS]
    assert all(light > 1.15 * dark for light, dark in pairwise(steps))
    for colour, light in zip(COLOURS, steps, strict=True):
        ink = lightness(colour.text)
        assert (max(ink, light) + 0.05) / (min(ink, light) + 0.05) > 4.5  # the contrast that text needs
    for form in ("html", "ansi"):
        said = models("counts", "surprisal", "unseen.txt", "--format", form).out
        assert (
            "bits per character" in said and "8 or more" in said and "white space after a word counts" in said
        )


def test_without_files_the_held_out_part_is_scored(models: Models) -> None:
    bits, chars = total(models, "counts")
    found = rows(models, "counts", "--by", "char")
    assert len(found) == chars and sum(row["bits"] for row in found) == pytest.approx(bits, abs=1e-6 * chars)
    assert "held-out part of text.txt" in found[0]["file"]
    bits, chars = total(models, "counts", "--part", "test")
    assert len(rows(models, "counts", "--by", "char", "--part", "test")) == chars


def test_stride_field_and_several_files_are_those_of_eval(models: Models) -> None:
    lines = UNSEEN.splitlines()[:20]
    Path("posts.jsonl").write_text("".join(json.dumps({"id": 7, "body": line}) + "\n" for line in lines))
    for words in (
        ("unseen.txt", "--stride", "5"),
        ("posts.jsonl", "--field", "body"),
        ("unseen.txt", "posts.jsonl"),
    ):
        bits, chars = total(models, "plain", *words)
        found = rows(models, "plain", *words, "--by", "char")
        assert len(found) == chars and sum(row["bits"] for row in found) == pytest.approx(
            bits, abs=1e-6 * chars
        )
    assert {row["file"] for row in found} == {"unseen.txt", "posts.jsonl"}


def test_the_output_is_whole_and_replaces_no_input(models: Models) -> None:
    shown = models("counts", "surprisal", "unseen.txt")
    assert models("counts", "surprisal", "unseen.txt", "-o", "rows.tsv").code == 0
    assert Path("rows.tsv").read_bytes().decode() == shown.out
    for name in ("unseen.txt", "./unseen.txt"):
        refused(models("counts", "surprisal", "unseen.txt", "-o", name), 2, "-o", "unseen.txt", "input")
    of_run = str(models.root("counts").parent / "text.txt")
    refused(models("counts", "surprisal", "unseen.txt", "-o", of_run), 2, "-o", "text.txt")
    Path("bad.txt").write_bytes(UNSEEN.encode() * 20 + b"\xff\xfe\n")
    refused(models("counts", "surprisal", "bad.txt", "-o", "other.tsv"), 3, "bad.txt", "UTF-8")
    assert Path("unseen.txt").read_bytes().decode() == UNSEEN and not Path("other.tsv").exists()
    assert not list(Path().glob(".tmp-*"))


def test_words_and_lines_that_never_end_are_cut_or_refused(models: Models) -> None:
    run = run_of(models, "counts")
    long = "a" * (LONGEST_WORD + 10) + " b"
    for words in ("unicode", "whitespace"):
        units = list(run.surprisal(long, words=words))  # type: ignore[arg-type]
        assert [unit.length for unit in units] == [LONGEST_WORD, 10, 1]
    with pytest.raises(TextError, match=r"line 1 of text has more than 1,048,576 characters"):
        list(run.surprisal(("a" * 1000 for _ in range(LONGEST_LINE // 1000 + 2)), by="line", context="line"))


def test_the_python_api_gives_the_same_rows(models: Models) -> None:
    run = run_of(models, "prior")
    units = list(run.surprisal(UNSEEN))
    assert isinstance(units[0], Unit)
    for unit, row in zip(units, rows(models, "prior", "unseen.txt"), strict=True):
        assert (unit.text, unit.line, unit.unit, unit.offset) == (
            row["text"],
            row["line"],
            row["unit"],
            row["offset"],
        )
        assert row["bits_space_after"] == pytest.approx(unit.bits, abs=1e-6)
        assert row["entropy"] == pytest.approx(unit.entropy_bits, abs=1e-6)
    np.testing.assert_allclose(
        [unit.bits for unit in run.surprisal(UNSEEN, by="char")], run.score(UNSEEN), atol=1e-9
    )
    assert list(run.surprisal("")) == []
    wrong: list[Callable[[], object]] = [
        lambda: run.surprisal("a", by="sentence"),  # type: ignore[arg-type]
        lambda: run.surprisal("a", by="char", space="after"),
        lambda: run.surprisal("a", stride=99),
        lambda: list(run.surprisal("a\ud800")),
    ]
    for call in wrong:
        with pytest.raises(UsageError):
            call()


BAD = [
    (("unseen.txt", "--by", "words"), 2, ("--by", "words", "word", "did you mean word")),
    (("unseen.txt", "--by", "char", "--space", "before"), 2, ("--space before", "--by char")),
    (("unseen.txt", "--by", "line", "--words", "unicode"), 2, ("--words unicode", "--by line")),
    (("unseen.txt", "--best"), 2, ("--best", "--by word", "--by line")),
    (("unseen.txt", "--by", "char", "--groups", "id"), 2, ("--groups id", "--by line")),
    (("unseen.txt", "--by", "line", "--best", "--context", "document"), 2, ("--context document", "--best")),
    (("unseen.txt", "--base", "3"), 2, ("--base", "3", "2, e, 10")),
    (("unseen.txt", "--format", "json"), 2, ("--format", "jsonl")),
    (("unseen.txt", "--format", "ansi", "--no-color"), 2, ("--format ansi", "--no-color")),
    (("unseen.txt", "--json"), 2, ("--json", "--format jsonl")),
    (("unseen.txt", "--part", "test"), 2, ("--part", "test")),
    (("--part", "nosuch"), 2, ("--part", "nosuch")),
    (("--encoding", "utf-8"), 2, ("--encoding",)),
    (("--field", "body"), 2, ("--field",)),
    (("unseen.txt", "--text", "unseen.txt"), 2, ("--text",)),
    (("unseen.txt", "--stride", "0"), 2, ("--stride", "0")),
    (("unseen.txt", "--stride", "17"), 2, ("stride", "17", "1 to 16")),
    (("unseen.txt", "-o", "nowhere/rows"), 2, ("-o", "nowhere/rows")),
    (("nosuch.txt",), 3, ("nosuch.txt",)),
    (("unseen.txt", "--by", "line", "--groups", "id"), 3, ("line 1 of unseen.txt", "has no id")),
    (("empty.txt",), 3, ("nothing to score",)),
    (("--run", "nosuch"), 4, ("nosuch",)),
]


@pytest.mark.parametrize(("words", "code", "facts"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_what_cannot_act_is_refused_by_name(
    models: Models, words: tuple[str, ...], code: int, facts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "")  # --no-color sets it
    Path("empty.txt").write_bytes(b"")
    refused(models("plain", "surprisal", *words), code, *facts)


def test_who_types_the_old_option_gets_the_command_that_replaces_it(models: Models) -> None:
    for typed in ("--per-char", "--per_char"):
        said = models("counts", "eval", "unseen.txt", typed, "bits.jsonl")
        refused(said, 2, typed, "charlm surprisal FILE --by char --format jsonl")
        assert said.err.count("\n") == 1
