"""`charlm inspect`: what a text is like as data, each kind of trouble in it, and what cannot be read."""

import json
import re
import shlex
import unicodedata
from math import log2
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, data, prose, refused

KEYS = {
    *("schema", "text", "files", "newlines", "normal_forms", "characters", "scripts", "unseen", "compatible"),
    *("lookalikes", "sampled_chars", "repeats", "entropy", "xz_bits_per_char", "split", "vocabulary", "plan"),
    *("ngram", "warnings"),
}
WARNING = {"code", "text", "option", "remedy"}
QUICK = ("--time", "5s", "--threads", "1")


def inspect(charlm: Charlm, text: str | bytes, *options: str, name: str = "t.txt") -> dict[str, Any]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = data(charlm("inspect", name, "--json", *QUICK, *options))
    assert isinstance(found, dict)
    return found


def warned(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert all(set(warning) == WARNING for warning in found["warnings"])
    return {warning["code"]: warning for warning in found["warnings"]}


def test_a_sound_text_as_data(charlm: Charlm) -> None:
    text = prose()
    found = inspect(charlm, text)
    assert set(found) == KEYS and found["warnings"] == []
    assert found["schema"] == 4
    assert found["repeats"]["repeated"]["share"] == 0
    about = found["text"]
    assert (about["label"], about["chars"], about["lines"], about["documents"]) == (
        "t.txt",
        len(text),
        300,
        None,
    )
    assert about["bytes_read"] == about["of_bytes"] == len(text.encode()) and about["read"] == "whole"
    assert about["longest_line"] == max(map(len, text.splitlines()))
    assert re.fullmatch("[0-9a-f]{64}", about["sha256"])
    assert found["files"] == [{"name": "t.txt", "codec": "utf-8", "marked": False, "compression": None}]
    assert found["newlines"] == {"lf": 300, "crlf": 0, "cr": 0}
    assert found["scripts"] == {"LATIN": sum(map(str.isalpha, text))}
    assert found["unseen"] == [] and found["compatible"] == []
    assert found["vocabulary"]["chars"] == len(set(text)) == len(found["characters"])


def test_every_character_is_counted_and_named(charlm: Charlm) -> None:
    text = prose(40) + "日本語\u0301 🦆\t"
    found = inspect(charlm, text)["characters"]
    assert {row["char"]: row["count"] for row in found} == {char: text.count(char) for char in set(text)}
    assert [row["count"] for row in found] == sorted((row["count"] for row in found), reverse=True)
    by_char = {row["char"]: row for row in found}
    assert (by_char["é"]["name"], by_char["é"]["code_point"]) == ("LATIN SMALL LETTER E WITH ACUTE", "U+00E9")
    assert all(row["name"] and row["code_point"] == f"U+{ord(row['char']):04X}" for row in found)


def test_the_entropies_are_those_of_the_text(charlm: Charlm) -> None:
    text = prose(60)
    orders = inspect(charlm, text)["entropy"]["orders"]
    assert [row["order"] for row in orders] == list(range(len(orders))) and len(orders) >= 4
    shares = [text.count(char) / len(text) for char in set(text)]
    assert orders[0]["bits_per_char"] == pytest.approx(-sum(p * log2(p) for p in shares))
    assert all(0 <= row["bits_per_char"] <= orders[0]["bits_per_char"] for row in orders)
    assert all(0 <= row["seen_once"] <= 1 for row in orders)


def test_counts_alone_and_the_split_are_those_of_train_and_eval(charlm: Charlm) -> None:
    text = prose()
    found = inspect(charlm, text)
    assert charlm("train", "t.txt", "--steps", "1", *TOY).code == 0
    stick = data(charlm("eval", "--json"))["baselines"]["kneser-ney"]
    assert found["ngram"]["bits_per_char"] == pytest.approx(stick["bits_per_char"])
    assert found["ngram"]["order"] == stick["order"]
    corpus = data(charlm("info", "--json"))["corpus"]
    assert corpus["sha256"] == found["text"]["sha256"]
    for part in ("train_chars", "held_out_chars"):
        assert corpus[part] == found["split"][part]
    assert found["split"]["train_chars"] + found["split"]["held_out_chars"] == len(text)


def test_the_plan_is_a_model_that_train_would_take(charlm: Charlm) -> None:
    plan = inspect(charlm, prose(60))["plan"]
    assert 0 < plan["seconds"] <= 5 and plan["timed"][0]["seconds"] > 0
    assert plan["model"]["n_embd"] % plan["model"]["n_head"] == 0
    assert plan["training"]["batch_size"] > 0 and plan["training"]["learning_rate"] > 0
    shown = charlm("train", "t.txt", "--time", "5s", "--threads", "1", "--dry-run").out
    for name in ("n_layer", "n_embd", "n_head", "block_size"):
        option = "--" + name.replace("_", "-")
        assert re.search(rf"^{option} +{plan['model'][name]}$", shown, re.M), name


RARE = "".join(chr(0x4E00 + i) * 3 for i in range(200))
MENDED: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    # Text with troubles, options to inspect it with, and the codes that must be found.
    (
        prose(150).replace("\n", "\r\n")
        + prose(150, 2)
        + unicodedata.normalize("NFD", prose(50, 3))
        + "eﬀect ｗｉｄｅ\n",
        (),
        ("newlines", "normal-forms", "compatibility"),
    ),
    (
        "\x07a\u200ba\u202ea\x1ba\n" + prose().replace("of ", "of\u00a0").replace("the ", "the    "),
        (),
        ("unseen", "spaces", "space-runs"),
    ),
    ("".join(f"{line}\n" for line in prose(100).splitlines() for _ in range(3)) * 2, (), ("leak",)),
    (prose(15), (), ("few-held-out",)),
    (
        "".join(json.dumps({"id": "x", "text": line}) + "\n" for line in prose(200).splitlines()),
        (),
        ("records",),
    ),
    (prose(), ("--encoding", "cp1252"), ("misread",)),
    (prose(2_800).replace("of the", f"of {RARE} the", 1), (), ("rare",)),
]


@pytest.mark.parametrize(("text", "options", "codes"), MENDED, ids=[" ".join(codes) for *_, codes in MENDED])
def test_a_trouble_is_found_and_its_option_mends_it(
    charlm: Charlm, text: str, options: tuple[str, ...], codes: tuple[str, ...]
) -> None:
    found = warned(inspect(charlm, text, *options))
    assert set(codes) <= set(found)
    mending = {found[code]["option"]: None for code in codes}
    assert all(found[code]["remedy"] and option for code, option in zip(codes, mending, strict=False))
    words = [word for option in mending for word in shlex.split(option)]
    if "--normalize nfkc" in mending:  # which does what nfc does, and more
        words = [word for option in mending if option != "--normalize nfc" for word in shlex.split(option)]
    assert not set(codes) & set(warned(inspect(charlm, text, *options, *words)))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (prose() + "Мoscow Mосква\n" * 3 + "it's it’s\nlost \ufffd\n", ("mixed-scripts", "quotes", "lost")),
        (prose().encode().decode("cp1252"), ("misread",)),
        ("a" * 300, ("nothing-to-learn", "short")),
        (" \n" * 300, ("nothing-to-learn",)),
        (prose() * 2, ("repeated", "leak")),
        (prose(5), ("short", "few-held-out")),
    ],
    ids=["look-alikes", "misread", "one character", "white", "repeated", "tiny"],
)
def test_what_no_option_mends_has_a_remedy(charlm: Charlm, text: str, codes: tuple[str, ...]) -> None:
    found = warned(inspect(charlm, text))
    assert set(codes) <= set(found) and all(found[code]["remedy"] for code in codes)


def test_look_alikes_are_named(charlm: Charlm) -> None:
    found = inspect(charlm, prose(40) + "Mосква and Мoscow and Москва\nit's it’s\n")["lookalikes"]
    assert found["words"] == 2 and found["examples"] and found["letters"]
    assert {mark["char"] for row in found["marks"] for mark in row} >= {"'", "’"}


def test_repeats_are_measured(charlm: Charlm) -> None:
    text = prose(100)
    passage = text[2000:2500]
    found = inspect(charlm, text + passage)["repeats"]
    longest = found["longest"]
    assert longest["chars"] >= 500 and longest["times"] == 2 and passage.strip() in longest["text"]
    assert found["repeated"]["share"] == pytest.approx(len(longest["text"]) / (len(text) + 500), abs=0.02)


def test_line_ends_and_marks_are_counted(charlm: Charlm) -> None:
    found = inspect(charlm, "\ufeff" + "one\r\ntwo\nthree\rfour\r\n" * 30)
    assert found["newlines"] == {"lf": 30, "crlf": 60, "cr": 30}
    assert found["files"][0]["marked"] is True and found["files"][0]["codec"].startswith("utf-8")
    assert "\ufeff" not in {row["char"] for row in found["characters"]}, "a mark is no part of the text"
    found = inspect(charlm, prose(40).encode("utf-16"))
    assert found["files"][0]["marked"] is True and found["files"][0]["codec"].startswith("utf-16")
    assert found["text"]["chars"] == len(prose(40))


def test_markup_of_a_book_is_found(charlm: Charlm) -> None:
    """Project Gutenberg's header and licence, which an option leaves out."""
    head = "The Project Gutenberg eBook of Ducks\n\n*** START OF THE PROJECT GUTENBERG EBOOK DUCKS ***\n"
    tail = "*** END OF THE PROJECT GUTENBERG EBOOK DUCKS ***\n"
    book = head + prose() + tail
    found = warned(inspect(charlm, book))
    assert found["boilerplate"]["option"] == "--strip gutenberg"
    stripped = inspect(charlm, book, "--strip", "gutenberg")
    assert "boilerplate" not in warned(stripped)
    assert stripped["text"]["chars"] == pytest.approx(len(prose()), abs=3)


def test_documents_are_counted(charlm: Charlm) -> None:
    assert inspect(charlm, TEXT, "--documents", "line")["text"]["documents"] == 60


def test_several_files_are_one_text(charlm: Charlm) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text(prose(20), "utf-8")
    Path("texts/b.txt").write_text(prose(20, 2), "utf-8")
    found = data(charlm("inspect", "texts", "--json", *QUICK))
    assert [Path(file["name"]).name for file in found["files"]] == ["a.txt", "b.txt"]
    assert found["text"]["chars"] == len(prose(20) + prose(20, 2))
    piped = data(charlm("inspect", "-", "--json", *QUICK, stdin=prose(40)))
    assert piped["text"]["chars"] == len(prose(40))


@pytest.mark.parametrize(
    ("content", "options", "code", "facts"),
    [
        (None, (), 3, ("t.txt",)),
        (b"", (), 3, ("t.txt",)),
        (b"x", (), 3, ("1 character", "2")),
        (b"\x7fELF\x02\x01" + bytes(range(256)) * 9, (), 3, ("t.txt",)),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), (), 3, ("t.txt", "PNG")),
        (b"caf\xe9 au lait, s'il vous pla\xeet\r\n" * 30, (), 3, ("--encoding cp1252",)),
        (b"a text", ("--encoding", "klingon"), 2, ("klingon",)),
        (b"a text", ("--val", "2"), 2, ("0.9",)),
        (b"a text", ("--time", "1s"), 2, ("--time", "5 s")),
    ],
)
def test_what_cannot_be_read_gets_one_error(
    charlm: Charlm, content: bytes | None, options: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    if content is not None:
        Path("t.txt").write_bytes(content)
    refused(charlm("inspect", "t.txt", *options), code, *facts)


def test_the_table_says_what_the_data_says_and_nothing_steers_a_terminal(charlm: Charlm) -> None:
    text = prose(100) + "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2028\x00\x08\n" * 20
    found = inspect(charlm, text)
    result = charlm("inspect", "t.txt", *QUICK)
    assert result.code == 0
    steers = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
    assert not re.findall(steers, result.out + result.err)
    shown = " ".join(result.out.split())  # sentences are wrapped
    facts = [f"{row['bits_per_char']:.3f}" for row in found["entropy"]["orders"]]
    facts += [f"{row['count']:,}" for row in found["characters"][:8]]
    facts += [warning["option"] for warning in found["warnings"] if warning["option"]]
    facts += [found["text"]["sha256"], f"{found['text']['chars']:,}", "RIGHT-TO-LEFT OVERRIDE"]
    facts += [f"{found['ngram']['bits_per_char']:.3f}", f"{found['split']['train_chars']:,}"]
    for fact in facts:
        assert fact in shown, fact
    assert [path.name for path in Path().iterdir()] == ["t.txt"], "nothing is written beside the text"
