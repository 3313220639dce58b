"""`charlm play` in a child of this process on a terminal: keys in, the screen and standard output out."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if os.name == "nt":
    pytest.skip("needs a terminal of POSIX", allow_module_level=True)

import pty
import termios

import pyte

from tests.cli.models import ALIKE, Charlm, Models
from tests.commands import Command


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


class Played:
    """A desk on a terminal, and its standard output in a file."""

    def __init__(self, models: Models, *words: str, **env: str) -> None:
        self.screen = pyte.Screen(90, 20)
        self.written = b""
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (20, 90))
        self.before = termios.tcgetattr(theirs)
        self._terminal = theirs
        self._changed = threading.Condition()
        with open("out.txt", "wb") as out:
            args = ("play", "--checkpoints", str(models.root("counts")), "--seed", "3", *words)
            variables = {**ALIKE, "TERM": "xterm-256color", "NO_COLOR": "", **env}
            self.pid = Command(args, Path.cwd(), variables, stdin=theirs).begin(out.fileno(), theirs)
        self._code: int | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        stream = pyte.ByteStream(self.screen)
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                return
            with self._changed:
                self.written += data
                stream.feed(data.replace(b"\x1b[>25u", b"").replace(b"\x1b[<u", b""))
                self._changed.notify_all()

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, shown: Callable[[str], Any]) -> None:
        """Until the screen shows it."""
        until = time.monotonic() + 240
        with self._changed:
            while not shown("\n".join(self.screen.display)):
                assert self._changed.wait(until - time.monotonic()), "\n".join(self.screen.display)

    def end(self) -> tuple[int, str]:
        """The exit code and standard output; the terminal is as it was."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert termios.tcgetattr(self._terminal) == self.before or self._code == -signal.SIGKILL
        return self._code, Path("out.txt").read_text("utf-8")

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.end()


@pytest.fixture
def play(models: Models) -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def begin(*words: str, **env: str) -> Played:
        made.append(Played(models, *words, **env))
        made[-1].wait_for(lambda screen: "temperature" in screen)
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_a_text_goes_where_standard_output_goes(models: Models, play: Callable[..., Played]) -> None:
    sampled = models("counts", "sample", "--seed", "3", "--length", "60", "--prompt", "One day").out
    desk = play("--length", "60")
    desk.press("One day")
    desk.wait_for(lambda screen: "One day" in screen)
    desk.press("\t")
    desk.wait_for(lambda screen: "67 characters" in screen and "ready" in screen)
    desk.press("\x11")
    assert desk.end() == (0, sampled.removesuffix("\n"))
    assert b"\x1b[3" in desk.written, "the continuation is in italics"


def test_ctrl_c_stops_and_then_quits_and_no_color_is_obeyed(play: Callable[..., Played]) -> None:
    desk = play("--length", "100000000", NO_COLOR="1")
    desk.press("The\t")
    desk.wait_for(lambda screen: "writing" in screen)
    desk.press("\x03")
    desk.wait_for(lambda screen: "stopped" in screen)
    desk.press("\x03")
    code, out = desk.end()
    assert code == 0 and out.startswith("The")
    colours = set(re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", desk.written))
    assert all(len(set(colour)) == 1 for colour in colours), "shades of grey"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_loses_nothing(play: Callable[..., Played], name: str, code: int) -> None:
    desk = play()
    desk.press("A little tale")
    desk.wait_for(lambda screen: "A little tale" in screen)
    os.kill(desk.pid, getattr(signal, name))
    assert desk.end() == (code, "A little tale")
