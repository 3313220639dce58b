"""What a model writes cannot steer a terminal: sampled under a real one, its screen read by pyte."""

import json
import os
import random
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("needs a terminal of POSIX", allow_module_level=True)

import pyte

from charlm.checkpoint.run_folder import RunFolder
from charlm.terminal import visible
from tests.cli.kept import TOY
from tests.commands import Command, Done
from tests.test_checkpoint import vouch_again
from tests.test_terminal import hidden

OURS = re.compile(rb"\x1b\[2m|\x1b\[22m")
FAMILY, HEART, PERSIAN = "👩\u200d👩\u200d👧", "❤\ufe0f", "می\u200cخواهم"
EVIL = [
    "\x1b[2J", "\x1b[31m", "\x1b]0;evil\x07", "\x9b2J", "\x1b[?1049h", "\x1b[10;10H", "\x1bc", "\x1b[6n", "\x1b[8m",
    "\x0e", "\x08\x08\x08", "\r", "\x7f", "\x1bP+q\x1b\\", "\u202e", "\u2066", "\x00", "\x05",
]  # fmt: skip
ODD = [
    chr(c)
    for c in range(sys.maxunicode + 1)
    if unicodedata.category(chr(c)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and chr(c) not in "\n\t"
]
CHARACTERS = 2000
HIDDEN = set(hidden())


def hostile_text(*, surrogates: bool) -> str:
    """Random control, format and surrogate characters, sequences that terminals obey, words between them."""
    rng = random.Random(4)
    odd = [c for c in ODD if surrogates or unicodedata.category(c) != "Cs"]
    pieces = rng.choices(odd, k=CHARACTERS) + EVIL * 5 + ["duck ", "goose\n", FAMILY, HEART] * 60
    rng.shuffle(pieces)
    return "".join(pieces)


def told(text: str) -> None:
    """In the child: whatever the model, it says this."""
    from charlm import run
    from charlm.inference.generate import Ended, Piece

    def say(*_: object, **__: object):  # type: ignore[no-untyped-def]
        for at in range(0, len(text), 7):
            yield Piece(sample=0, text=text[at : at + 7])
        yield Ended(sample=0, reason="length", chars=len(text))

    run.generate = say  # type: ignore[assignment]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model that learned one batch of hostile characters, and so says them all."""
    folder = tmp_path_factory.mktemp("terminal")
    text = hostile_text(surrogates=False)
    (folder / "evil.txt").write_bytes(text.encode())
    args = (
        *("train", "evil.txt", "--steps", "1"),
        *TOY,
        *("--ngram-embeddings", "1", "--no-prior", "--threads", "1"),
    )
    done = Command(
        (*args, "--min-count", "1", "--encoding", "utf-8", "--run", "evil"), folder, ENVIRONMENT
    ).run()
    assert done.code == 0, done.err
    return folder


ENVIRONMENT = {"NO_COLOR": None, "TERM": "xterm-256color"}
SAMPLE = ("sample", "--seed", "1", "--length", str(CHARACTERS), "--temperature", "1")


def shown(done: Done) -> tuple[pyte.Screen, str]:
    """The screen after that, and what stands on it, without spaces."""
    screen = pyte.HistoryScreen(80, 2000, history=10)
    fed(screen, done.out.decode())
    return screen, _without_spaces("".join(screen.display))


def fed(screen: pyte.Screen, text: str) -> None:
    """One character after another: pyte drops what follows one without width in the same piece."""
    stream = pyte.Stream(screen)
    for char in text:
        stream.feed(char)


def _without_spaces(text: str) -> str:
    return "".join(c for c in text if not c.isspace())


def assert_only_ours(done: Done) -> None:
    """Nothing but text, line ends and our own two colours came to the terminal."""
    rest = OURS.sub(b"", done.out).replace(b"\r\n", b"\n").decode()
    assert not HIDDEN & set(map(ord, rest)), "by a list of its own, not by the filter"
    assert not {c for c in rest if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}


def test_what_a_model_has_learned_to_say_does_not_steer_the_terminal(folder: Path) -> None:
    piped = Command(SAMPLE, folder, ENVIRONMENT).run()
    text = piped.out.decode()
    assert len({c for c in text if visible(c) != c}) > 60, "it does say them"
    done = Command(SAMPLE, folder, ENVIRONMENT).run_on_terminal()
    assert done.code == 0
    assert_only_ours(done)
    screen, found = shown(done)
    assert screen.title == "" and screen.icon_name == "" and not screen.cursor.hidden
    assert found == _without_spaces(_on_screen(visible(text)))
    assert all(
        cell.fg == "default" and not cell.reverse for row in screen.buffer.values() for cell in row.values()
    )


def _on_screen(text: str) -> str:
    """What pyte keeps of harmless text: it leaves out some characters that have no width."""
    screen = pyte.HistoryScreen(80, 2000, history=10)
    fed(screen, text.replace("\n", "\r\n"))
    return "".join(screen.display)


def test_two_thousand_odd_characters_and_surrogates_are_spelled_out(folder: Path) -> None:
    text = hostile_text(surrogates=True)
    done = Command(SAMPLE, folder, ENVIRONMENT, before=lambda: told(text)).run_on_terminal()
    assert done.code == 0
    assert_only_ours(done)
    screen, found = shown(done)
    assert screen.title == "" and not screen.cursor.hidden
    assert found == _without_spaces(_on_screen(visible(text) + "\n"))
    plain = OURS.sub(b"", done.out).decode().replace("\r\n", "\n")
    assert plain == visible(text) + "\n", "whatever it is cut into"
    assert plain.count(FAMILY) == text.count(FAMILY) > 0 and plain.count(HEART) == text.count(HEART)


def test_joined_emoji_and_scripts_stay_whole_on_the_screen(folder: Path) -> None:
    text = f"{FAMILY} {HEART} {PERSIAN}\n"
    done = Command(SAMPLE, folder, ENVIRONMENT, before=lambda: told(text)).run_on_terminal()
    assert done.out.decode().replace("\r\n", "\n") == text + "\n"
    screen, _ = shown(done)
    assert screen.display[0].startswith("👩")


def test_previews_errors_and_names_are_filtered_too(folder: Path) -> None:
    """All that training shows on a terminal, its text and its name being hostile."""
    name = "a\x1b[31m\u202eb.txt"
    (folder / name).write_bytes((folder / "evil.txt").read_bytes())
    args = (
        "train",
        name,
        "--steps",
        "2",
        *TOY,
        *("--ngram-embeddings", "1", "--no-prior", "--threads", "1", "--eval-every", "1"),
    )
    done = Command(
        (*args, "--encoding", "utf-8", "--run", "named"), folder, {**ENVIRONMENT, "NO_COLOR": "1"}
    ).run_on_terminal(err_too=True)
    assert done.code == 0
    rest = re.sub(rb"\x1b\[(A|K|\d*m)|\r", b"", done.out).decode()  # the live line moves, nothing else does
    assert not HIDDEN & set(map(ord, rest))
    for args in (("eval", "no\x1b[2Jwhere"), ("sample", "--run", "\x1b[2J"), ("train", "\x9b2J\u202e.txt")):
        done = Command(args, folder, ENVIRONMENT).run_on_terminal(err_too=True)
        assert done.code in (2, 3, 4)
        rest = re.sub(rb"\x1b\[(1;31|33|0)m|\r", b"", done.out).decode()
        assert not HIDDEN & set(map(ord, rest))


HOSTILE = "\x1b]0;evil\x07\x1b[2J\x9b31m\u202e\u2028\x00\x7f\ud800"


FREE = {"command", "created", "label", "name", "path", "asked", "versions"}
"""Texts of run.json that may be anything."""


def worded(value: object, free: bool = False) -> object:
    """The same JSON with every text in it hostile that may be anything."""
    if isinstance(value, dict):
        return {key + HOSTILE * free: worded(inner, free or key in FREE) for key, inner in value.items()}
    if isinstance(value, list):
        return [worded(inner, free) for inner in value]
    return value + HOSTILE if free and isinstance(value, str) else value


def test_what_a_checkpoint_says_is_filtered_by_every_command(folder: Path) -> None:
    """A record whose texts are all hostile, in a run that its manifest vouches for."""
    where = folder / "hostile"
    shutil.copytree(folder / "checkpoints" / "evil", where / "evil")
    run = RunFolder(where / "evil")
    facts = json.loads((run.path / "run.json").read_bytes())
    (run.path / "run.json").write_text(json.dumps(worded(facts)))
    (run.path / "plan.json").write_bytes(
        (run.path / "plan.json").read_bytes().replace(b"size", b"\\u001b[2J")
    )
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 0, "event": HOSTILE}) + "\n")
    for step in run.steps():
        vouch_again(run, step)
    shutil.copytree(run.path, where / "twin")
    codes = {}
    commands = (
        *(["info"], ["runs"], ["doctor", "evil"], ["info", "--json"], ["runs", "--json"], ["resume", "evil"]),
        *(["doctor", "evil", "--json"], ["eval", "evil.txt", "--encoding", "utf-8"], ["eval"], ["sample"]),
        ["compare", "evil", "twin"],
    )
    for words in commands:
        command = Command((*words, "--checkpoints", str(where)), folder, {**ENVIRONMENT, "NO_COLOR": "1"})
        done = command.run_on_terminal(err_too=True)
        rest = re.sub(rb"\x1b\[(1m|0m|A|K)|\r", b"", done.out).decode()
        assert not HIDDEN & set(map(ord, rest)), words
        assert "Traceback" not in rest and "a bug in charlm" not in rest, rest
        codes[" ".join(words)] = done.code
    assert codes["info"] == codes["runs"] == 0 and set(codes.values()) <= {0, 2, 4}, codes
    assert (
        "\\x1b]0;evil"
        in Command(("info", "--checkpoints", str(where)), folder, ENVIRONMENT).run_on_terminal().out.decode()
    )
