"""`charlm eval`: figures that agree with each other, whichever way a text is named and cut."""

import json
import os
import shutil
from math import exp, log, log2
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import keys, refused
from tests.cli.models import ALIKE, SCORED, TEXT, UNSEEN, Charlm, Models, prose

KEYS = keys(
    str="run kind device unit",
    int="schema block_size stride chars bytes document_ends unknown_chars units",
    bool="online selected_on_this_text state_carried",
    list="figures files warnings",
    dict="checkpoint baselines calibration",
    float="nats_per_char bits_per_char bits_per_byte bits_per_unit perplexity",
) | {"members": list, "prior_order": (int, type(None)), "ci95_bits_per_char": (list, type(None))}
BASELINES = {"uniform", "unigram", "xz", "kneser-ney"}
WITH_PRIOR = ("mixture", "prior", "lines", "bytes", "recurrent")


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    Path("unseen.txt").write_bytes(UNSEEN.encode())
    return Models(charlm, tmp_path_factory)


def figures(models: Models, kind: str, *words: str, **how: Any) -> dict[str, Any]:
    """What --json says."""
    result = models(kind, "eval", "--json", *words, **how)
    assert result.code == 0, result.err
    said: dict[str, Any] = result.json
    return said


def per_char(models: Models, kind: str, *words: str) -> list[dict[str, Any]]:
    """The bits of each character, by `charlm surprisal`."""
    result = models(kind, "surprisal", *words, "--by", "char", "--format", "jsonl")
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = result.lines
    return found


def total(said: dict[str, Any]) -> float:
    """Bits of the whole text."""
    bits: float = said["bits_per_char"] * said["chars"]
    return bits


@pytest.mark.parametrize("kind", SCORED)
def test_what_is_said_of_the_held_out_part_agrees_with_itself(models: Models, kind: str) -> None:
    said = figures(models, kind)
    assert said.keys() == KEYS.keys()
    assert all(isinstance(value, KEYS[name]) for name, value in said.items()), said
    assert (said["schema"], said["run"], said["checkpoint"]["which"]) == (1, kind, "latest")
    assert (
        said["kind"] == {"counts": "ngram", "mixture": "mixture"}.get(kind, "transformer")
        and said["online"] is False
    )
    assert (said["block_size"] == 16 and said["stride"] == 8) or kind in ("counts", "recurrent", "mixture")
    assert said["state_carried"] is (kind == "recurrent")
    assert (said["prior_order"] is None) == (kind == "plain")
    assert (said["document_ends"] > 0) == (kind == "lines")

    calibration = said["calibration"]
    assert sum(row["n"] for row in calibration["bins"]) == said["units"] + said["document_ends"]
    assert (
        0 <= calibration["ece"] <= 1
        and abs(calibration["confidence"] - calibration["accuracy"]) <= calibration["ece"] + 1e-12
    )

    bits = said["bits_per_char"]
    assert said["nats_per_char"] == pytest.approx(bits * log(2), rel=1e-12)
    assert said["perplexity"] == pytest.approx(2**bits, rel=1e-9)
    assert said["perplexity"] == pytest.approx(exp(said["nats_per_char"]), rel=1e-9)
    assert said["bits_per_byte"] * said["bytes"] == pytest.approx(total(said), rel=1e-9)
    assert said["bits_per_unit"] * said["units"] == pytest.approx(total(said), rel=1e-9)
    assert said["unit"] == ("byte" if kind == "bytes" else "character")
    assert said["units"] == said["bytes" if kind == "bytes" else "chars"]

    rows = per_char(models, kind)
    text = "".join(row["text"] for row in rows)
    assert (said["chars"], said["bytes"]) == (len(text), len(text.encode())) and said["unknown_chars"] == 0
    assert sum(row["bits"] for row in rows) == pytest.approx(total(said), abs=1e-6 * len(rows))
    [file] = said["files"]
    assert file["chars"] == len(text) and file["bits_per_char"] == pytest.approx(bits, rel=1e-12)
    assert "text.txt" in file["file"]
    assert text in TEXT and 0.07 < len(text) / len(TEXT) < 0.13

    kinds = [(each["kind"], each["online"]) for each in said["figures"]]
    assert kinds == [("ngram", False)] * (kind in WITH_PRIOR) + [("model", False)]
    assert all(each["chars"] == len(text) for each in said["figures"])
    assert said["figures"][-1]["bits_per_char"] == bits
    sticks = said["baselines"]
    assert sticks.keys() == BASELINES
    assert {name for name, stick in sticks.items() if stick["adaptive"]} == {"xz"}
    assert sticks["kneser-ney"]["bits_per_char"] < sticks["unigram"]["bits_per_char"] < log2(256)
    assert bits < sticks["unigram"]["bits_per_char"] < sticks["uniform"]["bits_per_char"]
    assert said["ci95_bits_per_char"] is None  # too few blocks
    if kind == "counts":
        assert bits == pytest.approx(sticks["kneser-ney"]["bits_per_char"], rel=1e-9)

    Path("held-out.txt").write_bytes(text.encode())
    of_file = figures(models, kind, "held-out.txt")
    assert of_file["files"][0]["file"] == "held-out.txt" and of_file["chars"] == said["chars"]
    # The test part begins amid a line: only in the file does a document end there.
    ends = kind == "lines"
    assert of_file["document_ends"] == said["document_ends"] + ends
    assert sum(
        row["bits"] for row in per_char(models, kind, "held-out.txt")[: len(text) - ends]
    ) == pytest.approx(sum(row["bits"] for row in rows[: len(text) - ends]), abs=1e-6 * len(rows))


@pytest.mark.parametrize(
    "kind", ["prior", "bytes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("plain", "lines"))]
)
def test_every_stride_scores_every_character_once(models: Models, kind: str) -> None:
    seen = {}
    for stride in ("1", "5", "16"):
        said = figures(models, kind, "unseen.txt", "--stride", stride)
        rows = per_char(models, kind, "unseen.txt", "--stride", stride)
        assert "".join(row["text"] for row in rows) == UNSEEN and said["chars"] == len(UNSEEN)
        assert sum(row["bits"] for row in rows) == pytest.approx(total(said), abs=1e-6 * len(rows))
        assert said["stride"] == int(stride)
        seen[stride] = total(said)
    assert len(set(seen.values())) == 3  # it acts
    refused(models(kind, "eval", "unseen.txt", "--stride", "17"), 2, "stride", "17", "1 to 16")


@pytest.mark.parametrize("kind", ["counts", "recurrent"])
def test_a_model_without_blocks_has_no_stride(models: Models, kind: str) -> None:
    refused(models(kind, "eval", "unseen.txt", "--stride", "5"), 2, "stride", "5")


@pytest.mark.parametrize("kind", ["counts", "plain"])
def test_a_long_text_has_an_interval_that_contains_its_figure(models: Models, kind: str) -> None:
    """From 20 blocks of 1,000 characters on: with fewer no interval can be trusted."""
    text = prose(20_000, seed=5)
    Path("long.txt").write_bytes(text.encode())
    said = figures(models, kind, "long.txt")
    low, high = said["ci95_bits_per_char"]
    assert low < said["bits_per_char"] < high < low + 0.2
    for chars in (19_999, 900):
        Path("short.txt").write_bytes(text[:chars].encode())
        assert figures(models, kind, "short.txt")["ci95_bits_per_char"] is None


@pytest.mark.parametrize("kind", ["prior", "counts", "lines", "recurrent"])
def test_several_files_are_scored_each_alone(models: Models, kind: str) -> None:
    Path("one.txt").write_bytes(UNSEEN[:700].encode())
    Path("two.txt").write_bytes(UNSEEN[700:].encode())
    both = figures(models, kind, "one.txt", "two.txt")
    alone = [figures(models, kind, name) for name in ("one.txt", "two.txt")]
    assert [file["file"] for file in both["files"]] == ["one.txt", "two.txt"]
    for file, said in zip(both["files"], alone, strict=True):
        assert file["chars"] == said["chars"]
        assert file["bits_per_char"] == pytest.approx(said["bits_per_char"], rel=1e-6)
    assert total(both) == pytest.approx(sum(map(total, alone)), rel=1e-6)
    rows = per_char(models, kind, "one.txt", "two.txt")
    assert [(row["file"], row["offset"]) for row in rows] == [
        *(("one.txt", i) for i in range(700)),
        *(("two.txt", i) for i in range(len(UNSEEN) - 700)),
    ]


@pytest.mark.parametrize("kind", ["prior", "bytes"])
def test_standard_input_is_a_text(models: Models, kind: str) -> None:
    of_file, piped = figures(models, kind, "unseen.txt"), figures(models, kind, "-", stdin=UNSEEN)
    assert {**piped, "files": None} == {**of_file, "files": None}


@pytest.mark.parametrize("kind", SCORED)
def test_unknown_characters_are_counted_and_scored(models: Models, kind: str) -> None:
    text = "The old 漢 went ø far.\r\n漢\n"
    Path("new.txt").write_bytes(text.encode())
    said = figures(models, kind, "new.txt")
    rows = per_char(models, kind, "new.txt")
    bits = {row["text"]: row["bits"] for row in rows}
    assert (said["chars"], said["bytes"], said["unknown_chars"]) == (len(text), len(text.encode()), 4)
    assert min(bits["漢"], bits["ø"], bits["\r"]) > max(bits["o"], bits["."]) and bits["漢"] < 200
    assert sum(row["bits"] for row in rows) == pytest.approx(total(said), abs=1e-4)
    assert any(str(len(text)) in warning for warning in said["warnings"])  # so few characters mean little


@pytest.mark.parametrize("kind", SCORED)
def test_one_character_has_a_figure_and_none_has_not(models: Models, kind: str) -> None:
    Path("one.txt").write_bytes(b"T")
    Path("empty.txt").write_bytes(b"")
    said = figures(models, kind, "one.txt")
    [row] = per_char(models, kind, "one.txt")
    assert said["chars"] == 1 and row["bits"] == pytest.approx(said["bits_per_char"], abs=1e-6)
    assert said["baselines"]["xz"] is None and any("xz" in warning for warning in said["warnings"])
    refused(models(kind, "eval", "empty.txt"), 3, "empty.txt", "empty")
    refused(models(kind, "eval", "-", stdin=""), 3, "empty")
    beside = models(kind, "eval", "empty.txt", "one.txt", "--json")
    assert beside.json["chars"] == 1 and "empty.txt" in beside.err
    assert [file["file"] for file in beside.json["files"]] == ["one.txt"]


def test_the_test_part_follows_the_held_out_part(models: Models) -> None:
    parts = []
    for words in ((), ("--part", "held-out"), ("--part", "test")):
        said = figures(models, "prior", *words)
        assert (words[-1] if words else "held-out") in said["files"][0]["file"]
        parts.append("".join(row["text"] for row in per_char(models, "prior", *words)))
    assert parts[0] == parts[1] and TEXT.endswith(parts[1] + parts[2]) and len(parts[2]) > 2000
    refused(models("controls", "eval", "--part", "test"), 3, "--test")  # a run without one


def test_online_figures_stand_beside_those_of_the_run(models: Models) -> None:
    usual, said = (figures(models, "prior", "unseen.txt", *words) for words in ((), ("--online",)))
    assert said.keys() == KEYS.keys()
    assert said["figures"][:2] == usual["figures"] and said["bits_per_char"] == usual["bits_per_char"]
    learned = said["figures"][2:]
    assert [(each["kind"], each["online"]) for each in learned] == [("ngram", True), ("model", True)]
    for each in learned:
        assert each["chars"] == len(UNSEEN)
        assert each["nats_per_char"] == pytest.approx(each["bits_per_char"] * log(2), rel=1e-9)
    # The text is like that of the training, and not yet known: what learns from it does better.
    assert learned[0]["bits_per_char"] < usual["figures"][0]["bits_per_char"]
    of_plain = figures(models, "plain", "unseen.txt", "--online")
    assert of_plain["figures"][-1]["bits_per_char"] < of_plain["bits_per_char"]
    refused(models("counts", "eval", "--online"), 2, "--online")
    refused(models("lines", "eval", "--online"), 2, "--online", "documents")


def test_a_text_of_the_training_is_no_test(models: Models) -> None:
    Path("seen.txt").write_bytes(TEXT[:3000].encode())
    assert any("100 %" in warning for warning in figures(models, "prior", "seen.txt")["warnings"])
    assert not any("100 %" in warning for warning in figures(models, "prior", "unseen.txt")["warnings"])


@pytest.mark.parametrize("which", ["latest", "best", "15", "30"])
def test_the_checkpoint_is_the_one_asked_for(models: Models, which: str) -> None:
    said = figures(models, "plain", "--checkpoint", which)
    step = int(which) if which.isdecimal() else 30
    assert said["checkpoint"] == {"which": which, "step": step}
    last = figures(models, "plain")["bits_per_char"]
    assert (said["bits_per_char"] == last) == (step == 30)
    if which != "15":  # chosen because it did best on this very text: that is said
        assert said["selected_on_this_text"] is (which in ("best", "30"))
    assert figures(models, "plain", "unseen.txt", "--checkpoint", which)["selected_on_this_text"] is False


def test_encoding_says_how_a_file_is_read(models: Models) -> None:
    Path("western.txt").write_bytes(UNSEEN.encode("cp1252"))
    of_utf8 = figures(models, "counts", "unseen.txt")
    named = figures(models, "counts", "western.txt", "--encoding", "cp1252")
    assert total(named) == total(of_utf8) and named["bytes"] == of_utf8["bytes"]
    misread = figures(models, "counts", "unseen.txt", "--encoding", "cp1252")
    assert misread["chars"] == len(UNSEEN.encode()) and misread["unknown_chars"] > 0
    assert not any("--encoding" in warning for warning in misread["warnings"])  # most of it is still known
    Path("plain.txt").write_text("plain words " * 40)
    warnings = figures(models, "counts", "plain.txt", "--encoding", "utf-16")["warnings"]
    assert any("vocabulary" in warning and "--encoding" in warning for warning in warnings)
    refused(models("counts", "eval", "unseen.txt", "--encoding", "klingon"), 2, "--encoding", "klingon")
    refused(models("counts", "eval", "western.txt", "--encoding", "utf-8"), 3, "western.txt")


def test_field_scores_one_field_of_records(models: Models) -> None:
    lines = UNSEEN.splitlines()[:20]
    Path("posts.jsonl").write_text("".join(json.dumps({"id": 7, "body": line}) + "\n" for line in lines))
    said = figures(models, "counts", "posts.jsonl", "--field", "body")
    scored = "".join(row["text"] for row in per_char(models, "counts", "posts.jsonl", "--field", "body"))
    assert scored.split() == " ".join(lines).split() and said["unknown_chars"] == 0
    assert figures(models, "counts", "posts.jsonl")["chars"] > said["chars"]  # as plain text, else
    refused(models("counts", "eval", "posts.jsonl", "--field", "nosuch"), 3, "nosuch")


@pytest.fixture
def moved(charlm: Charlm) -> Charlm:
    """The command, beside a run whose text and held-out file were moved, with nothing in the cache."""
    Path("was").mkdir()
    Path("was/text.txt").write_bytes(TEXT.encode())
    Path("was/val.txt").write_bytes(UNSEEN.encode())

    def command(*words: str) -> Any:
        return charlm(*words, env={**ALIKE, "CHARLM_CACHE": os.path.abspath(f"cache-{words[0]}")})

    trained = command(
        "train", "was/text.txt", "--val-file", "was/val.txt", "--run", "r", "--model", "ngram", "-q"
    )
    assert trained.code == 0, trained.err
    shutil.move("was", "now")
    return command


def test_a_moved_text_is_named_and_checked_by_its_hash(moved: Charlm, models: Models) -> None:
    refused(moved("eval"), 4, "text.txt", "--text")
    Path("other.txt").write_bytes(TEXT[:-1].encode())
    wrong = moved("eval", "--text", "other.txt", "--val-file", "now/val.txt")
    refused(wrong, 4, "--text", "other.txt", "SHA-256")
    refused(moved("eval", "--text", "nosuch.txt", "--val-file", "now/val.txt"), 3, "nosuch.txt")
    # The figure of a file needs no text of the run, but the yardsticks of that are missing.
    alone = moved("eval", "unseen.txt", "--json").json
    assert alone["baselines"]["xz"] is None and alone["baselines"]["kneser-ney"] is not None
    said = moved("eval", "--json", "--text", "now/text.txt", "--val-file", "now/val.txt").json
    assert said["chars"] == len(UNSEEN)
    assert said["bits_per_char"] == pytest.approx(alone["bits_per_char"], rel=1e-9)
    assert said["baselines"]["xz"] is not None
    again = moved("eval", "--json").json  # it is kept in the cache
    assert again["bits_per_char"] == said["bits_per_char"]


def test_the_table_has_the_same_figures(models: Models) -> None:
    said, shown = figures(models, "prior"), models("prior", "eval", "--no-color").out
    for name in ("bits_per_char", "nats_per_char", "bits_per_byte"):
        assert f"{said[name]:.4f}" in shown
    assert f"{said['perplexity']:.3f}" in shown and f"{said['chars']:,}" in shown
    for name, stick in said["baselines"].items():
        assert any(name in line and f"{stick['bits_per_char']:.4f}" in line for line in shown.splitlines())
    quiet = models("prior", "eval", "-q")
    assert quiet.out == shown and "using" not in quiet.err


def test_threads_change_no_figure(models: Models) -> None:
    one, two = (figures(models, "plain", "unseen.txt", "--threads", n) for n in ("1", "2"))
    assert one["bits_per_char"] == pytest.approx(two["bits_per_char"], rel=1e-6)


BAD = [
    (("nosuch.txt",), 3, ("nosuch.txt",)),
    (("--checkpoint", "7"), 2, ("7", "latest", "best", "15", "30")),
    (("--run", "nosuch"), 4, ("nosuch", "plain")),
    (("--run", "../plain"), 4, ("../plain",)),
    (("--stride", "0"), 2, ("--stride", "0", "at least 1")),
    (("--stride", "x"), 2, ("--stride", "x")),
    (("--part", "nosuch"), 2, ("--part", "nosuch", "held-out", "test")),
    (("unseen.txt", "--part", "test"), 2, ("--part", "test")),
    (("--encoding", "utf-8"), 2, ("--encoding", "utf-8")),
    (("--field", "body"), 2, ("--field", "body")),
    (("unseen.txt", "--field", "body"), 3, ("unseen.txt", "body")),
    (("--threads", "0"), 2, ("--threads", "0", "1 to 1024")),
    (("--threads", "1025"), 2, ("--threads", "1025", "1 to 1024")),
    (("--text", "unseen.txt"), 4, ("--text", "unseen.txt", "SHA-256")),
    (("--val-file", "unseen.txt"), 2, ("--val-file", "unseen.txt")),
    (("--checkpoints", "nowhere"), 4, ("nowhere",)),
    (("--nosuch",), 2, ("--nosuch",)),
]


@pytest.mark.parametrize(("words", "code", "facts"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_a_wrong_value_is_refused_by_name(
    models: Models, words: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    refused(models("plain", "eval", *words), code, *facts)
