"""What a terminal shows of work that goes on, at any width, and what a pipe gets of it."""

import json
import math
import os
import pty
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyte
import pytest

from charlm.cli import console as reading
from charlm.reporting import progress
from charlm.reporting.progress import laid_out
from charlm.terminal import fit
from tests.cli.kept import TOY
from tests.commands import Command
from tests.conftest import TEXT, Result, toy_choice

PIECES = ["loss 2.132 bits", "held-out 2.141 bits/char", "baseline 2.196", "12,345 chars/s"]


def line(width: int, steps: str = "431/1166 steps", pieces: list[str] = PIECES) -> str:
    return laid_out(width=width, share=0.37, numbers=steps, pieces=pieces, elapsed="00:21", left="1:00:36")


@pytest.mark.parametrize("steps", ["1/9 steps", "431/1166 steps", "99999/100000 steps"])
def test_the_time_left_is_shown_at_every_width_and_what_matters_least_goes_first(steps: str) -> None:
    for width in range(20, 200):
        shown = line(width, steps)
        assert len(shown) < width and "1:00:36" in shown and " 37%" in shown, width
        there = [piece.split()[0] in shown for piece in PIECES]
        assert there == sorted(there, reverse=True), shown
        bar = shown.count("|") and len(shown.split("|")[1])
        assert bar == 0 or bar >= 6, shown
        if PIECES[-1] in shown:
            assert bar, "the speed goes before the bar"
    at = {width: line(width, steps) for width in (60, 80, 100, 160)}
    assert "loss 2.132" in at[60] and "held-out 2.141" in at[80] and "|" in at[100]
    assert all(piece in at[160] for piece in PIECES)


def test_what_is_done_goes_before_the_time_left() -> None:
    what = "member 2 of 2, no-prior"
    shown = {
        width: laid_out(
            width=width,
            what=what,
            share=0.37,
            numbers="431/1166 steps",
            pieces=PIECES,
            elapsed="0:21",
            left="1:36",
        )
        for width in range(16, 200)
    }
    assert all(len(line) < width and "1:36" in line and "37%" in line for width, line in shown.items())
    assert what in shown[80] and "loss 2.132" in shown[80] and what not in shown[30]


@pytest.mark.parametrize("quiet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_members_have_a_line_a_loss_and_a_speed_of_their_own(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    """They have batches of other sizes; without smoothing the speed is that of the step."""
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SMOOTHING", 0.0)
    Path("long.txt").write_text("".join(f"{i} little ducks, {i * i % 97} geese.\n" for i in range(1000)))
    words = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--threads", "1")
    members = ("--members", "prior,no-prior", "--steps", "6", "--eval-every", "2", "--run", "ducks")
    result = charlm(*["-q"] * quiet, "train", "long.txt", *words, *members)
    assert result.code == 0, result.err
    said = [line for line in result.err.splitlines() if "chars/s" in line]
    assert bool(said) is not quiet
    log = [json.loads(line) for line in Path("checkpoints/ducks/metrics.jsonl").read_text().splitlines()]
    steps, chars = [row for row in log if row["event"] == "Stepped"], 0
    for row, line in zip(steps, said, strict=False):
        kind = "prior" if row["member"] == 1 else "no-prior"
        assert line.startswith(f"step {row['step']}/6: member {row['member']} of 2, {kind}, loss ")
        speed = f"{(row['chars'] - chars) / row['seconds']:,.0f} chars/s"
        assert f"loss {row['loss'] / math.log(2):.3f} bits" in line and line.endswith(speed)
        assert ("held-out" in line) == (row["step"] in (3, 6)), "each begins without a figure"
        chars = row["chars"]
    assert len({row["chars"] / row["step"] for row in steps}) > 1, "batches differ"


class Screen:
    """A terminal of a width, in which something runs in this process's child."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.screen = pyte.HistoryScreen(width, 200, history=10)

    def run(self, command: Command) -> list[str]:
        """The live lines that were on the screen, each as it was before the next was drawn over it."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (200, self.width))
        child = command.begin(theirs, theirs)
        os.close(theirs)
        stream, seen, rest = pyte.ByteStream(self.screen), list[str](), b""
        while piece := _read(ours):
            *drawn, rest = (rest + piece).split(b"\r")
            for each in drawn:
                stream.feed(each)
                seen += [row for row in self._rows_at_cursor() if "%" in row]
                stream.feed(b"\r")
        stream.feed(rest)
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, self.screen.display
        return seen

    def _rows_at_cursor(self) -> list[str]:
        """The row that the cursor is in, and the one above it."""
        columns, y = range(self.width), self.screen.cursor.y
        rows = [self.screen.buffer[at] for at in range(max(0, y - 1), y + 1)]
        return ["".join(row[x].data for x in columns).rstrip() for row in rows]


def _read(terminal: int) -> bytes:
    """What comes next; nothing at the end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@pytest.mark.parametrize("width", [100, pytest.param(60, marks=pytest.mark.slow), 40])
def test_training_on_a_terminal_of_any_width(tmp_path: Path, width: int) -> None:
    """The live line is one line with the time left; no message is cut within a word."""
    (tmp_path / "ducks.txt").write_text(TEXT)
    words = (
        *("train", "ducks.txt", "--steps", "120", "--eval-every", "50", "--threads", "1"),
        *TOY,
        "--no-prior",
    )
    command = Command(words, tmp_path, {"NO_COLOR": "1", "TERM": "xterm"}, before=_every_step)
    screen = Screen(width)
    live = [row for row in screen.run(command) if "/120" in row]
    assert live and all("left" in row or (row.endswith("]") and "<" in row) for row in live), live[-1:]
    shown = [row.rstrip() for row in screen.screen.display]
    text = " ".join(" ".join(shown).split())
    assert "characters, " in text and "learning rate" in text
    assert "/120" not in text, "the live line is taken away"
    assert any(row.startswith("run    ") for row in shown), "the cursor is at the start of its line again"
    commands = [row.strip() for row in shown if row.strip().startswith("charlm ")]
    assert len(commands) >= 2 or width >= 60


def test_quiet_on_a_terminal_draws_no_bar(tmp_path: Path) -> None:
    (tmp_path / "ducks.txt").write_text(TEXT)
    done = Command(("-q", "train", "ducks.txt", "--steps", "3", *TOY), tmp_path).run_on_terminal(err_too=True)
    assert done.code == 0 and b"steps [" not in done.out and b"\r" not in done.out.replace(b"\r\n", b"")


def _every_step() -> None:
    """In the child: draw the line at every step."""
    from charlm.reporting import progress

    progress.EVERY_SECONDS = 0.0


def test_messages_break_between_words_and_never_within_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    text = "the run is finished, after 12 steps; to train it further say for how long"
    command = "charlm resume 'my run' --checkpoints 'a long folder'"
    assert fit(text, terminal).split("\n") == [  # type: ignore[arg-type]
        "the run is finished, after 12 steps; to", "train it further say for how long"
    ]  # fmt: skip
    for shown in (fit(f"{text}: {command}", terminal), fit(f"{text}:", terminal, command)):  # type: ignore[arg-type]
        assert shown.split("\n")[-1].strip() == command
        assert all(len(row) <= 40 for row in shown.split("\n")[:-1])
    assert fit("short: charlm info", terminal) == "short: charlm info"  # type: ignore[arg-type]
    assert fit("a " * 60, sys.stderr) == "a " * 60 or sys.stderr.isatty()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is shown as if each moment were long: what begins waits until its line is there."""
    monkeypatch.setattr(reading, "PLAIN_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(reading, "EVERY_SECONDS", 0.01)
    begin = reading.Bar._begin

    def begin_and_wait(bar: reading.Bar, what: str, of: int | None) -> None:
        begin(bar, what, of)
        began = bar._spoken
        ends = time.monotonic() + 300
        while bar._spoken == began and bar._drawing.is_alive() and time.monotonic() < ends:
            time.sleep(0.001)

    monkeypatch.setattr(reading.Bar, "_begin", begin_and_wait)


def test_long_work_is_shown_by_every_command_that_has_any(
    charlm: Callable[..., Result], impatient: None
) -> None:
    for run in ("twin", "ducks"):
        assert charlm("train", "ducks.txt", "--steps", "2", "--run", run, *TOY).code == 0
    Path("long.txt").write_text(TEXT * 3)
    for words, said in (
        (("eval", "long.txt"), "scoring"),
        (("eval", "--json"), "scoring"),
        (("compress", "long.txt", "-o", "long.clm"), "compressing"),
        (("decompress", "long.clm", "-o", "again.txt"), "decompressing"),
        (("compare", "ducks", "twin"), "scoring"),
        (("inspect", "long.txt", "--time", "5s", "--threads", "1"), "measuring"),
        (("doctor", "ducks"), "verifying"),
    ):
        result = charlm(*words)
        assert result.code == 0, result.err
        assert [row for row in result.err.splitlines() if row.startswith(f"{said} ")], (words, result.err)
        assert said not in result.out


def test_work_that_says_nothing_is_shown_all_the_same(
    charlm: Callable[..., Result], impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with reading.working("thinking"):
        time.sleep(0.1)
    assert "thinking 0 s" in capsys.readouterr().err


def test_far_fewer_steps_than_were_planned_are_said(corpus) -> None:  # type: ignore[no-untyped-def]
    from charlm.training.schedule import Schedule

    plan = toy_choice(corpus, 1166).plan
    assert plan.first_total_steps == 1166 and not plan.fell_short
    slow = replace(plan, schedule=Schedule.warmup_cooldown(11)).record(decided="schedule", at_step=3)
    assert slow.fell_short and slow.first_total_steps == 1166
    nearly = replace(plan, schedule=Schedule.warmup_cooldown(900)).record(decided="schedule", at_step=3)
    assert not nearly.fell_short


@pytest.mark.slow
def test_under_load_the_summary_says_what_was_planned(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlm.training.sizes.Budget.steps_of", lambda *args: 10**6)
    result = charlm("train", "ducks.txt", "--time", "6s", "--patience", "0", *TOY)
    assert result.code == 0, result.err
    assert "note: the first plan had 1,000,000 steps" in result.err
    assert "the first plan had 1,000,000 steps, but the machine was slower" in " ".join(result.out.split())
