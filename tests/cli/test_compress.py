"""`charlm compress` and `decompress`: the original bytes, as few as the model promises, or a refusal."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import keys, refused, thinned
from tests.cli.models import SCORED, TEXT, UNSEEN, Charlm, Models

KEYS = keys(
    int="schema bytes chars compressed_bytes streams",
    str="run",
    dict="checkpoint",
    float="bits_per_char seconds chars_per_second",
)
MIXED = "The fox went 漢 far.\r\nOne day ø\x00\x1b[0m ".encode() + b"\xff\xfe\xe2\x82" + UNSEEN[:200].encode()
BYTES = {
    "empty": b"",
    "a character": b"T",
    "a byte that is no text": b"\x80",
    "every byte": bytes(range(256)) * 2,
    "text": UNSEEN[:300].encode(),
    "unknown characters": "Über 漢字, 😀 ducks\u2028\ufffd.\n".encode(),
    "CRLF": UNSEEN[:200].replace("\n", "\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + UNSEEN[:100].encode(),
    "UTF-16": UNSEEN[:100].encode("utf-16"),
    "cut character": UNSEEN[:100].encode() + b"\xe2\x82",
    "surrogate": b"duck \xed\xa0\x80 duck",
    "overlong": b"duck \xc0\xaf duck",
    "Latin-1": UNSEEN[:200].encode("latin-1"),
    "a compressed file's magic": b"charlm\x01 and no more",
}


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    Path("unseen.txt").write_bytes(UNSEEN.encode())
    return Models(charlm, tmp_path_factory)


def done(models: Models, kind: str, command: str, *words: str, **how: Any) -> dict[str, Any]:
    """What --json says of a command that succeeds."""
    result = models(kind, command, "--json", *words, **how)
    assert result.code == 0, result.err
    said: dict[str, Any] = result.json
    return said


@pytest.fixture
def packed(models: Models) -> Models:
    """The command, beside `small.clm`, which the plain run made of `small.txt`."""
    Path("small.txt").write_bytes(UNSEEN[:300].encode())
    done(models, "plain", "compress", "small.txt", "-o", "small.clm")
    return models


@pytest.mark.parametrize("name", BYTES)
def test_any_bytes_come_back(models: Models, name: str) -> None:
    Path("in").write_bytes(BYTES[name])
    for kind in ("prior", "bytes"):
        made = done(models, kind, "compress", "in", "--out", f"{kind}.clm")
        back = done(models, kind, "decompress", f"{kind}.clm", "--out", f"{kind}.back")
        assert Path(f"{kind}.back").read_bytes() == BYTES[name]
        assert made["bytes"] == back["bytes"] == len(BYTES[name])
        assert made["compressed_bytes"] == Path(f"{kind}.clm").stat().st_size
        if not BYTES[name]:
            assert made["chars"] == 0 and made["bits_per_char"] is None


@pytest.mark.parametrize("kind", SCORED)
def test_every_kind_of_run_gives_back_what_it_compressed(models: Models, kind: str) -> None:
    Path("in").write_bytes(MIXED)
    made = done(models, kind, "compress", "in", "-o", "out.clm")
    back = done(models, kind, "decompress", "out.clm", "-o", "back")
    assert Path("back").read_bytes() == MIXED
    assert made.keys() == KEYS.keys() | {"warnings"} and back.keys() == KEYS.keys()
    for said in (made, back):
        assert all(isinstance(said[key], kinds) for key, kinds in KEYS.items()), said
        assert (said["schema"], said["run"]) == (1, kind) and said["checkpoint"]["which"] == "latest"
        assert said["bits_per_char"] == pytest.approx(8 * said["compressed_bytes"] / said["chars"])
    timed = ("seconds", "chars_per_second", "warnings")
    assert all(back[key] == made[key] for key in KEYS if key not in timed)
    assert made["warnings"] == []
    again = done(models, kind, "compress", "in", "-o", "again.clm")
    assert Path("again.clm").read_bytes() == Path("out.clm").read_bytes()
    assert again["compressed_bytes"] == made["compressed_bytes"]


@pytest.mark.parametrize(
    "kind", thinned([kind for kind in SCORED if kind != "lines"], "plain", "bytes", "recurrent")
)
def test_the_size_is_what_eval_says_within_two_percent_and_a_header(models: Models, kind: str) -> None:
    """Not where documents are kept apart: compress reads a file as one, so that it comes back whole."""
    Path("empty").write_bytes(b"")
    header = done(models, kind, "compress", "empty", "-o", "empty.clm")["compressed_bytes"]
    size = done(models, kind, "compress", "unseen.txt", "-o", "out.clm")["compressed_bytes"]
    scored = models(kind, "eval", "--json", "unseen.txt").json
    bits = scored["bits_per_char"] * scored["chars"]
    assert header < 600
    assert (
        0.98 * bits / 8 < size - header < 1.02 * bits / 8 + 24
    )  # which lengths, hashes of other digits may take


def test_lines_are_compressed_as_one_text_and_that_is_said(models: Models) -> None:
    result = models("lines", "compress", "unseen.txt", "-o", "out.clm")
    assert result.code == 0 and "documents" in result.err


def test_a_text_of_the_training_is_told(models: Models) -> None:
    Path("seen.txt").write_bytes(TEXT[:1000].encode())
    assert any(
        "100 %" in said for said in done(models, "counts", "compress", "seen.txt", "-o", "x")["warnings"]
    )
    assert done(models, "counts", "compress", "unseen.txt", "-o", "y")["warnings"] == []


def test_bytes_that_are_no_text_are_told_with_their_offset(models: Models) -> None:
    Path("in").write_bytes(b"fox " * 300 + b"\xff")
    assert "1,200" in models("counts", "compress", "in", "-o", "out").err


def test_the_table_has_the_same_figures(packed: Models) -> None:
    said = done(packed, "plain", "decompress", "small.clm", "-o", "a")
    for command, file in (("compress", "small.txt"), ("decompress", "small.clm")):
        shown = packed("plain", command, file, "-o", f"{command}.out")
        figures = (
            f"{said['bits_per_char']:.4f}",
            f"{said['bytes']:,} bytes",
            f"{said['compressed_bytes']} bytes",
        )
        assert all(figure in shown.out for figure in figures) and f"{command}.out" in shown.err
        quiet = packed("plain", command, file, "-o", f"{command}.quiet", "-q", "--no-color")
        assert quiet.err == "" and figures[0] in quiet.out


@pytest.mark.parametrize("where", [0, 3, 6, 8, 10, 20, 60, -40, -1])
def test_a_damaged_file_is_refused(packed: Models, where: int) -> None:
    data = bytearray(Path("small.clm").read_bytes())
    data[where] ^= 0x10
    Path("bad.clm").write_bytes(data)
    refused(packed("plain", "decompress", "bad.clm", "-o", "back"), 3, "bad.clm")
    assert not Path("back").exists()


@pytest.mark.parametrize("left", [0, 1, 6, 12, 13, 100, -1])
def test_a_file_cut_short_is_refused(packed: Models, left: int) -> None:
    Path("cut.clm").write_bytes(Path("small.clm").read_bytes()[:left])
    Path("back").write_bytes(b"kept")
    refused(packed("plain", "decompress", "cut.clm", "-o", "back", "--force"), 3, "cut.clm")
    assert Path("back").read_bytes() == b"kept"


def test_a_file_with_more_at_its_end_and_one_of_another_format_are_refused(packed: Models) -> None:
    Path("long.clm").write_bytes(Path("small.clm").read_bytes() + b"!!")
    refused(packed("plain", "decompress", "long.clm", "-o", "back"), 3, "long.clm", "2")
    refused(packed("plain", "decompress", "small.txt", "-o", "back"), 3, "small.txt", "charlm compress")
    data = bytearray(Path("small.clm").read_bytes())
    data[6] = 9  # after the six letters of the magic: the version of the format
    Path("new.clm").write_bytes(data)
    refused(packed("plain", "decompress", "new.clm", "-o", "back"), 3, "new.clm", "version 9", "2")
    assert not Path("back").exists()


@pytest.mark.parametrize("kind", [kind for kind in SCORED if kind != "plain"])
def test_another_run_is_refused(packed: Models, kind: str) -> None:
    refused(packed(kind, "decompress", "small.clm", "-o", "back"), 4, "small.clm", "--run", "--checkpoint")
    assert not Path("back").exists()


def test_another_checkpoint_is_refused_and_the_same_is_taken(packed: Models) -> None:
    refused(packed("plain", "decompress", "small.clm", "-o", "back", "--checkpoint", "15"), 4, "step 30")
    said = done(packed, "plain", "decompress", "small.clm", "-o", "back", "--checkpoint", "30")
    assert said["checkpoint"] == {"which": "30", "step": 30}
    made = done(packed, "plain", "compress", "small.txt", "-o", "early.clm", "--checkpoint", "15")
    assert made["checkpoint"] == {"which": "15", "step": 15}
    refused(packed("plain", "decompress", "early.clm", "-o", "back", "--force"), 4, "early.clm", "step 15")


def test_the_file_names_the_threads_it_was_made_with(packed: Models) -> None:
    done(packed, "plain", "compress", "small.txt", "-o", "two.clm", "--threads", "2")
    assert Path("two.clm").read_bytes() != Path("small.clm").read_bytes()
    unset: dict[str, str | None] = {"CHARLM_THREADS": None}
    done(packed, "plain", "decompress", "two.clm", "-o", "a", env=unset)
    done(packed, "plain", "decompress", "two.clm", "-o", "b", "--threads", "2")
    assert Path("a").read_bytes() == Path("b").read_bytes() == Path("small.txt").read_bytes()
    refused(packed("plain", "decompress", "two.clm", "-o", "c", "--threads", "1"), 2, "--threads", "1", "2")
    # A variable is for all commands: it gives way to the file.
    given = packed("plain", "decompress", "two.clm", "-o", "d", env={"CHARLM_THREADS": "3"})
    assert given.code == 0 and "CHARLM_THREADS" in given.err and "3" in given.err
    done(packed, "plain", "compress", "small.txt", "-o", "one.clm", env=unset)
    assert Path("one.clm").read_bytes() == Path("small.clm").read_bytes()  # one, unless told


def to_stdout(models: Models, monkeypatch: pytest.MonkeyPatch, *words: str, **how: Any) -> tuple[bytes, str]:
    """Standard output as bytes, and standard error."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8"))
        result = models("plain", *words, **how)
        sys.stdout.flush()
        written = raw.getvalue()
    assert result.code == 0, result.err
    return written, result.err


def test_both_streams_may_be_standard_ones(packed: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    data, small = Path("small.txt").read_bytes(), Path("small.clm").read_bytes()
    made, err = to_stdout(packed, monkeypatch, "compress", "-", "-o", "-", stdin=data)
    assert made == small
    assert "bits" in err  # the table
    back, err = to_stdout(packed, monkeypatch, "decompress", "-", "-o", "-", stdin=small)
    assert back == data and "bits" in err
    done(packed, "plain", "compress", "-", "-o", "out.clm", stdin=MIXED)
    done(packed, "plain", "decompress", "out.clm", "-o", "back")
    assert Path("back").read_bytes() == MIXED
    refused(packed("plain", "decompress", "-", "-o", "no", stdin=small[:-1]), 3, "standard input")


def test_what_is_there_is_kept_unless_forced(packed: Models) -> None:
    for command, file in (("compress", "small.txt"), ("decompress", "small.clm")):
        Path("out").write_bytes(b"kept")
        refused(packed("plain", command, file, "-o", "out"), 2, "out", "--force")
        assert Path("out").read_bytes() == b"kept"
        assert packed("plain", command, file, "-o", "out", "--force").code == 0
        assert Path("out").read_bytes() != b"kept"
        before = Path(file).read_bytes()
        refused(packed("plain", command, file, "-o", file, "--force"), 2, file)
        assert Path(file).read_bytes() == before


def test_compressed_bytes_go_to_no_terminal_unless_forced(
    packed: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        no = packed("plain", "compress", "small.txt", "-o", "-")
        yes = packed("plain", "compress", "small.txt", "-o", "-", "--force")
    os.close(ours)
    assert (no.code, yes.code) == (2, 0) and "terminal" in no.err and "--force" in no.err


BAD = [
    ((), 2, ("-o",)),
    (("-o", "-", "--json"), 2, ("-o -", "--json")),
    (("-o", "nowhere/x"), 2, ("nowhere/x",)),
    (("-o", "."), 2, ("-o .",)),
    (("-o", "x" * 300), 2, ("-o", "255")),
    (("-o", "x", "--checkpoint", "7"), 2, ("7", "latest", "best", "15", "30")),
    (("-o", "x", "--run", "nosuch"), 4, ("nosuch", "plain")),
    (("-o", "x", "--checkpoints", "nowhere"), 4, ("nowhere",)),
    (("-o", "x", "--threads", "0"), 2, ("--threads", "0", "1 to 1024")),
    (("-o", "x", "--threads", "1025"), 2, ("--threads", "1025", "1 to 1024")),
    (("-o", "x", "--nosuch"), 2, ("--nosuch",)),
    (("-o", "x", "and more"), 2, ("and more",)),
]


@pytest.mark.parametrize("command", ["compress", "decompress"])
@pytest.mark.parametrize(("words", "code", "facts"), BAD, ids=[" ".join(words)[:30] for words, _, _ in BAD])
def test_a_wrong_value_is_refused_by_name(
    packed: Models, command: str, words: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    file = "small.txt" if command == "compress" else "small.clm"
    refused(packed("plain", command, file, *words), code, *facts)
    assert not Path("x").exists()


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_file_that_cannot_be_read_is_refused(models: Models, command: str) -> None:
    refused(models("plain", command, "nosuch", "-o", "x"), 3, "nosuch")
    refused(models("plain", command, ".", "-o", "x"), 3, ".")
    refused(models("plain", command, "-o", "x"), 2, "FILE")
    assert not Path("x").exists()
