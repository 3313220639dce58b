"""`charlm inspect`: each defect is found and its option mends it; text and JSON say the same; nothing foreign escapes."""

import json
import re
import shlex
import sys
import unicodedata
from collections.abc import Callable
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cli.main import run as main
from charlm.data import cache
from charlm.data.encode import TextCounter, codes_of
from charlm.data.stream import Block
from charlm.data.tokenizer import code_points
from charlm.inspection import measured
from charlm.inspection.characters import CONTROLS, Character, characters, mixed_words, normal_forms

ROOT = Path(__file__).parent.parent
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def charlm(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command; the machine is taken to be of one speed."""
    monkeypatch.setattr("charlm.training.start.measure_threads", lambda device, **_: (1, 100.0))
    monkeypatch.setattr("charlm.training.start.pick_precision", lambda device, timed: "fp32")

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["charlm", *args])
        capsys.readouterr()
        code = main(perf_counter())
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def inspect(charlm: Call, *args: str) -> dict[str, Any]:
    code, out, err = charlm("inspect", "t.txt", "--json", *args)
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def prose(n_lines: int = 300, seed: int = 1) -> str:
    """Lines of words, no two alike."""
    rng = np.random.default_rng(seed)
    words = ["the", "of", "and", "a", "to", "in", "he", "was", "that", "it", "his", "for", "had", "café"]
    return "".join(" ".join(rng.choice(words, 12)) + f" {seed}.{i}\n" for i in range(n_lines))


def write(text: str, encoding: str = "utf-8") -> None:
    Path("t.txt").write_bytes(text.encode(encoding))


RARE = "".join(chr(0x4E00 + i) * 3 for i in range(200))
DEFECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "newlines": (prose().replace("\n", "\r\n"), ()),
    "normal-forms": (unicodedata.normalize("NFD", prose(100)) + prose(200, 2), ()),
    "compatibility": (prose() + "eﬀect ｗｉｄｅ\n", ()),
    "unseen": ("\x07a\u200ba\u202ea\x1ba\n" + prose(), ()),
    "spaces": (prose().replace("of ", "of\u00a0"), ()),
    "space-runs": (prose().replace("the ", "the    "), ()),
    "rare": (prose(2_800).replace("of the", f"of {RARE} the", 1), ()),
    "leak": ("".join(f"{line}\n" for line in prose(100).splitlines() for _ in range(3)) * 2, ()),
    "shift": (prose(4_000) + prose(800).upper(), ()),
    "few-held-out": (prose(15), ()),
    "records": (
        "".join(json.dumps({"id": "x", "text": line}) + "\n" for line in prose(200).splitlines()),
        (),
    ),
    "misread": (prose(), ("--encoding", "cp1252")),
}


@pytest.mark.parametrize("code", DEFECTS)
def test_a_defect_is_found_and_its_option_mends_it(charlm: Call, code: str) -> None:
    text, args = DEFECTS[code]
    write(prose())
    sound = {warning["code"] for warning in inspect(charlm)["warnings"]}
    assert code not in sound
    write(text)
    warning = next(w for w in inspect(charlm, *args)["warnings"] if w["code"] == code)
    assert warning["text"].endswith(".") and warning["remedy"]
    options = shlex.split(warning["option"])
    assert options
    assert code not in {w["code"] for w in inspect(charlm, *args, *options)["warnings"]}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (prose() + "Мoscow Mосква\n" * 3, "mixed-scripts"),
        (prose() + "it's it’s\n", "quotes"),
        (prose() + "lost \ufffd\n", "lost"),
        (prose().encode().decode("cp1252"), "misread"),
        ("a" * 300, "nothing-to-learn"),
        (prose(500) * 2, "repeated"),
        (prose(5), "short"),
    ],
)
def test_what_no_option_mends_has_a_remedy(charlm: Call, text: str, code: str) -> None:
    write(text)
    warning = next(w for w in inspect(charlm)["warnings"] if w["code"] == code)
    assert warning["remedy"]


def test_the_table_says_what_json_says(charlm: Call) -> None:
    write(prose(1_000) + "é\u0301\u0416x\n" * 3)
    found = inspect(charlm)
    code, out, err = charlm("inspect", "t.txt")
    assert code == 0 and err.startswith("reading t.txt")
    out = " ".join(out.split())  # sentences are wrapped
    figures = [f"{entropy['bits_per_char']:.3f}" for entropy in found["entropy"]["orders"]]
    figures += [f"{found['xz_bits_per_char']:.3f}", f"{found['counts']['bits_per_char']:.3f}"]
    for row in found["expected"]["rows"]:
        ends = [f"{bits:.3f}" for bits in row["bits_per_char"]]
        figures.append(" to ".join(ends if row["trainings"] > 1 else ends[:1]))
    figures += [f"{row['count']:,}" for row in found["characters"][:8]]
    figures += [row["name"] for row in found["characters"][-3:]]
    figures += [f"{found['repeats']['longest']['chars']:,} characters", found["text"]["sha256"]]
    figures += [warning["option"] for warning in found["warnings"] if warning["option"]]
    figures += [f"{found['text']['chars']:,}, {len(found['characters'])} different"]
    figures += [f"{found['split']['train_chars']:,} to train on"]
    model = found["plan"]["model"]
    figures += [f"{model['n_layer']} layers of width {model['n_embd']}"]
    for figure in figures:
        assert figure in out, figure
    assert found["schema"] == 2 and sum(row["count"] for row in found["characters"]) == found["text"]["chars"]
    assert found["text"]["lines"] == 1_003 and found["newlines"] == {"lf": 1_003, "crlf": 0, "cr": 0}


def test_the_model_is_the_one_that_train_would_choose(charlm: Call) -> None:
    write(prose(1_000))
    plan = inspect(charlm, "--time", "60s")["plan"]
    code, out, _ = charlm("train", "t.txt", "--time", "60s", "--dry-run")
    assert code == 0
    rows = (line.strip().partition(" ") for line in out.splitlines() if line.startswith("--"))
    shown = {option: value.strip() for option, _, value in rows}
    for kind in ("model", "training"):
        for name, value in plan[kind].items():
            option = "--" + name.replace("_", "-")
            if (
                value is not None and option in shown and name != "ngram_embedding_accumulator"
            ):  # which is of the seconds left
                assert shown[option] == ("" if value is True else str(value)), name
    assert shown["--n-embd"].strip() == str(plan["model"]["n_embd"])


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2028\x00\x08\r"


@pytest.mark.parametrize("more", [(), ("--documents", "line")])
def test_nothing_that_steers_a_terminal_comes_through(charlm: Call, more: tuple[str, ...]) -> None:
    write((prose(20) + HOSTILE * 20 + "\n") * 3)
    code, out, err = charlm("inspect", "t.txt", *more)
    assert code == 0
    steers = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
    assert not re.findall(steers, out + err)
    assert "ESCAPE" in out and "RIGHT-TO-LEFT OVERRIDE" in out


@pytest.mark.parametrize(
    ("data", "args", "said"),
    [
        (None, (), "t.txt does not exist"),
        (b"", (), "empty"),
        (b"x", (), "at least 2"),
        (b"\x7fELF\x02\x01" + bytes(range(256)) * 9, (), "a program"),
        (b"caf\xe9 au lait, s'il vous pla\xeet\r\n" * 30, (), "--encoding cp1252"),
        (b"a text", ("--encoding", "klingon"), "not a text encoding"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(
    charlm: Call, data: bytes | None, args: tuple[str, ...], said: str
) -> None:
    if data is not None:
        Path("t.txt").write_bytes(data)
    code, out, err = charlm("inspect", "t.txt", *args)
    assert code == (2 if args else 3) and not out
    error, *guesses = err[err.index("error: ") :].strip().splitlines()
    assert said in error and all(line.startswith("  --encoding ") for line in guesses)


def test_of_a_long_text_a_sample_is_read_and_said(charlm: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.data.text_scan.READ_WHOLE", 10_000)
    monkeypatch.setattr("charlm.data.text_scan.PIECE_BYTES", 1_000)
    write(prose(4_000))
    before = {entry.key for entry in cache.entries()}
    size = Path("t.txt").stat().st_size
    code, out, _ = charlm("inspect", "t.txt")
    assert code == 0 and f"of {size:,} bytes, in pieces spread evenly" in out
    found = inspect(charlm)["text"]
    assert found["bytes_read"] <= 64_000 and found["of_bytes"] == size
    assert found["read"] == "in pieces spread evenly"
    assert {entry.key for entry in cache.entries()} == before  # nobody asks for a sample again
    assert f"{len(prose(4_000)):,} characters" in charlm("train", "t.txt", "--dry-run")[2]


def test_without_a_name_it_is_the_manual(charlm: Call) -> None:
    pytest.importorskip("pydoc_data.topics")
    code, out, _ = charlm("inspect", "--val", "0.02")
    assert code == 0 and "the manual of Python" in out


def test_counts_alone_are_those_of_eval(charlm: Call) -> None:
    write(prose(600))
    toy = shlex.split("--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4 --steps 2")
    assert charlm("train", "t.txt", *toy)[0] == 0
    stick = json.loads(charlm("eval", "--json")[1])["baselines"]["kneser-ney"]
    found = inspect(charlm)
    assert found["counts"]["bits_per_char"] == pytest.approx(stick["bits_per_char"])
    low, high = found["expected"]["rows"][-1]["bits_per_char"]
    assert low <= high < found["counts"]["bits_per_char"]


@given(st.text(min_size=1))
def test_every_character_is_counted_and_named(text: str) -> None:
    counter = TextCounter()
    counter.add(codes_of(Block(text.encode(), text)))
    found = characters(counter.counts())
    assert {c.char: c.count for c in found} == {char: text.count(char) for char in set(text)}
    assert [c.count for c in found] == sorted((c.count for c in found), reverse=True)
    assert all(c.name and c.code_point == f"U+{ord(c.char):04X}" for c in found)


@given(st.text(alphabet="eéaå\u0301\u030a\u0323\u05b8\u05bcÅ\u212b한\u1112\u1161"))
def test_a_text_is_in_its_composed_form_or_said_not_to_be(text: str) -> None:
    found = [Character(char, text.count(char)) for char in set(text)]
    assert normal_forms(found, text).is_nfc == unicodedata.is_normalized("NFC", text)


def test_look_alike_letters_are_told_from_units_and_names() -> None:
    def odd(text: str) -> str:
        found = mixed_words([Character(char, text.count(char)) for char in set(text)], text)
        return "".join(c.char for c in found.letters)

    assert odd("\u041co\u0441\u043a\u0432\u0430 \u041c\u043e\u0441\u043a\u0432\u0430") == "o"
    assert odd("\u041c\u043e\u0441k\u0432\u0430") == ""  # k is no look-alike
    assert odd("5 \u03bcm, the \u0394ABC, \u041f\u0440\u0438\u0432\u0435\u0442 hello, \u0430 a") == ""
    assert odd("\u039dame") == "\u039d"


def test_names_of_controls_are_of_those_without_one() -> None:
    assert all(not unicodedata.name(chr(point), "") for point in CONTROLS)


def test_the_measured_rows_are_those_of_the_notes() -> None:
    notes = (
        (ROOT / "benchmarks" / "NOTES.md").read_text("utf-8").split("what a training gains on its counts")[1]
    )
    notes = notes.split("\n## ")[0]
    first, *others = measured.TEXTS
    for seconds, seeds in first.trained.items():
        time = f"{seconds} s" if seconds < 600 else f"{seconds // 60} min"
        assert f"| {time} | " + ", ".join(f"{nats:.4f}" for nats in seeds) in notes
    assert f"{first.kneser_ney:.4f}" in notes
    for text in others:
        row = next(line for line in notes.splitlines() if line.startswith(f"| {text.name} |"))
        assert f"| {text.kneser_ney:.4f} |" in row
        for nats in text.trained.values():
            assert f"| **{nats[0]:.4f}** (" in row


def test_all_measured_texts_were_trained_for_the_same_times() -> None:
    """Else a row of the table would be of other texts than the one above it."""
    assert len({tuple(text.trained) for text in measured.TEXTS}) == 1


def test_a_text_is_unlike_only_what_none_of_those_measured_is_like() -> None:
    for text in measured.TEXTS:
        bits = text.kneser_ney / log(2)
        english = 1.0 if text.language == "English" else 0.0
        how = {"english": english, "russian": 1 - english, "spaces": 0.17}
        assert not measured.unlike(text.train_chars, bits, **how)
        assert len(measured.unlike(text.train_chars // 100, bits, **how)) == 1
        assert len(measured.unlike(text.train_chars, bits * 3, **{**how, "spaces": 0.5})) == 2
    assert measured.unlike(10**6, 2.0, english=0.5, russian=0.0, spaces=0.17)


def test_entropy_of_a_text_is_that_of_its_codes(charlm: Call) -> None:
    text = prose(40)
    write(text)
    from charlm.inspection.entropy import entropies

    orders = inspect(charlm)["entropy"]["orders"]
    assert [row["bits_per_char"] for row in orders] == [e.bits_per_char for e in entropies(code_points(text))]
