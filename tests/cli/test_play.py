"""`charlm play`: every key, on a screen that nobody looks at, and on a terminal."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Label, OptionList

from charlm import load
from charlm.cli.desk import Desk
from charlm.cli.desk_editor import UNSAFE
from charlm.cli.desk_screens import KEYS, Alternatives, Quit, Save, SettingsWindow
from charlm.inference.desk_config import DeskConfig
from tests.cli.kept import refused
from tests.cli.models import SCORED, Charlm, Models

Steps = Callable[[Desk, Pilot[str]], Awaitable[None]]
TEXT = "The little duck went "


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


@pytest.fixture
def play(models: Models) -> Callable[..., Desk]:
    """Play with a run of a kind: begin with a text, and do some steps."""

    def run(
        steps: Steps, kind: str = "prior", text: str = TEXT, size: tuple[int, int] = (100, 30), **how: Any
    ) -> Desk:
        settings = {"seed": 7, "length": 40, **{k: v for k, v in how.items() if k != "redirected"}}
        model = load(kind, checkpoints=models.root(kind))
        desk = Desk(model, DeskConfig(**settings), text, redirected=how.get("redirected", False))

        async def played() -> None:
            async with desk.run_test(size=size) as pilot:
                await steps(desk, pilot)
                await pilot.pause()

        asyncio.run(played())
        assert desk.failure is None, desk.failure
        return desk

    return run


async def until(pilot: Pilot[str], reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not reached():
            await pilot.pause(0.01)


async def keys(desk: Desk, pilot: Pilot[str], *pressed: str) -> str:
    """Press keys; what the text is once nothing is being written."""
    for key in pressed:
        await pilot.press(key)
        await until(pilot, lambda: not desk.writing)
    await pilot.pause()
    return desk.editor.contents


def status(desk: Desk) -> str:
    return str(desk.screen_stack[0].query_one("#status", Label).render())


def alone(models: Models, kind: str, prompt: str, seed: int, length: int = 40) -> str:
    """What `charlm sample` writes."""
    words = ("--prompt", prompt, "--seed", str(seed), "--length", str(length), "--json")
    document = ("--one-document",) if kind == "lines" else ()
    text: str = models(kind, "sample", *words, *document).json["text"]
    return text


@pytest.mark.parametrize("kind", SCORED)
def test_tab_writes_what_sample_writes_and_esc_takes_it_back(models: Models, play: Any, kind: str) -> None:
    first, second = (alone(models, kind, TEXT, seed) for seed in (7, 8))

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        assert await keys(desk, pilot, "tab") == TEXT + first
        assert await keys(desk, pilot, "escape") == TEXT
        assert await keys(desk, pilot, "tab") == TEXT + second
        assert await keys(desk, pilot, "escape", "escape", "escape") == TEXT
        assert "Ctrl+Z" in status(desk)

    play(steps, kind)


def test_again_writes_another_and_the_same_keys_the_same(models: Models, play: Any) -> None:
    seen: list[list[str]] = []
    second = alone(models, "prior", TEXT, 8)

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        seen.append(
            [
                await keys(desk, pilot, key)
                for key in ("tab", "ctrl+r", "f5", "tab", "ctrl+enter", "escape", "escape")
            ]
        )

    play(steps)
    play(steps)
    assert seen[0] == seen[1]
    first, again, third, longer, other, back, start = seen[0]
    assert len({first, again, third, longer, other}) == 5
    assert again == TEXT + second
    assert longer.startswith(third) and other.startswith(third) and back == third and start == TEXT


def test_typing_on_keeps_a_continuation_and_undo_takes_typing_back(play: Any) -> None:
    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        written = await keys(desk, pilot, "tab")
        assert await keys(desk, pilot, "x") == written + "x"
        assert await keys(desk, pilot, "escape", "ctrl+r") == written + "x"
        assert await keys(desk, pilot, "ctrl+z") == written
        longer = await keys(desk, pilot, "tab")
        assert longer.startswith(written) and await keys(desk, pilot, "escape") == written

    play(steps)


def test_in_the_middle_of_a_text(models: Models, play: Any) -> None:
    """It is inserted, and the cursor goes back to where it was."""
    prompt, rest = TEXT[:-5], TEXT[-5:]
    written = alone(models, "prior", prompt, 7)

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        await keys(desk, pilot, *["left"] * 5)
        assert await keys(desk, pilot, "tab") == prompt + written + rest
        assert await keys(desk, pilot, "escape", "A") == prompt + "A" + rest

    play(steps)


@pytest.mark.parametrize("key", ["escape", pytest.param("ctrl+c", marks=pytest.mark.slow), "x"])
def test_what_is_being_written_can_be_stopped(play: Any, key: str) -> None:
    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        await pilot.press("tab")
        await until(pilot, lambda: len(desk.editor.contents) > len(TEXT) + 100)
        assert desk.writing
        await pilot.press(key)
        assert not desk.writing
        stopped = desk.editor.contents
        await pilot.pause(0.2)
        assert desk.editor.contents == stopped and (key != "x" or stopped.endswith("x"))
        if key != "x":
            assert await keys(desk, pilot, "escape") == TEXT

    play(steps, length=10**9)


def test_settings_change_what_is_written(models: Models, play: Any) -> None:
    changed = models(
        "prior", "sample", "--json", "--prompt", TEXT, "--seed", "3", "--length", "9", "--temperature", "2"
    )

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        await pilot.press("f2")
        window = desk.screen
        assert isinstance(window, SettingsWindow)
        for name, wrong in (
            ("temperature", "x"),
            ("temperature", "101"),
            ("top_p", "2"),
            ("length", "0"),
            ("stop", "a||b"),
        ):
            field = window.query_one(f"#{name}", Input)
            right, field.value = field.value, wrong
            field.focus()
            await pilot.press("enter")
            problem = str(window.query_one("#problem", Label).render())
            assert desk.screen is window and name.replace("_", "-") in problem, problem
            field.value = right
        for name, value in {"seed": "3", "length": "9", "temperature": "2"}.items():
            window.query_one(f"#{name}", Input).value = value
        await pilot.press("enter")
        assert await keys(desk, pilot, "tab") == TEXT + changed.json["text"]
        await pilot.press("ctrl+t")
        desk.screen.query_one("#temperature", Input).value = "50"
        await pilot.press("escape")
        assert "temperature 2" in status(desk)

    play(steps)


def test_stop_texts_and_the_end_of_a_document_end_a_continuation(models: Models, play: Any) -> None:
    whole = alone(models, "prior", TEXT, 7, 400)

    async def stopped(desk: Desk, pilot: Pilot[str]) -> None:
        assert await keys(desk, pilot, "tab") == TEXT + whole[: whole.index(".\n")]
        assert "stop" in status(desk)

    async def ended(desk: Desk, pilot: Pilot[str]) -> None:
        await keys(desk, pilot, "tab")
        assert "ends the document" in status(desk)

    play(stopped, length=400, stop=(".\n", "|"))
    play(ended, "lines", length=2000)


def test_an_alternative_is_picked_and_gone_on_from(models: Models, play: Any) -> None:
    model = load("prior", checkpoints=models.root("prior"))
    ranked = sorted(model.next(TEXT, recent=False).items(), key=lambda item: -item[1])
    prompt = TEXT + [char for char, _ in ranked if char != "\ufffd"][1]
    first, second = (alone(models, "prior", prompt, seed) for seed in (8, 9))

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        written = await keys(desk, pilot, "tab")
        await keys(desk, pilot, *["left"] * 40)
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(desk.screen, Alternatives))
        options = desk.screen.query_one(OptionList)
        assert options.option_count == min(100, len(ranked))
        assert f"{100 * ranked[0][1]:.1f} %" in str(options.get_option_at_index(0).prompt)
        await pilot.press("down", "enter")
        await until(pilot, lambda: desk.editor.contents != written and not desk.writing)
        assert desk.editor.contents == prompt + first
        assert await keys(desk, pilot, "ctrl+r") == prompt + second
        assert await keys(desk, pilot, "escape") == written
        assert await keys(desk, pilot, "escape") == TEXT
        await pilot.press("alt+down")
        await until(pilot, lambda: isinstance(desk.screen, Alternatives))
        assert await keys(desk, pilot, "escape") == TEXT

    play(steps)


def test_saving_never_overwrites_silently(play: Any, tmp_path: Path) -> None:
    Path("old.txt").write_text("old")

    async def typed(desk: Desk, pilot: Pilot[str], name: str) -> None:
        window = desk.screen
        assert isinstance(window, Save)
        window.query_one(Input).value = name
        await pilot.press("enter")
        await pilot.pause()

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+s")
        for name, why in (
            ("", "name"),
            (".", "regular"),
            ("no/such/folder.txt", "written"),
            ("old.txt", "exists"),
        ):
            await typed(desk, pilot, name)
            assert why in str(desk.screen.query_one("#problem", Label).render()), name
        assert Path("old.txt").read_text() == "old"
        await typed(desk, pilot, "new.txt")
        assert Path("new.txt").read_bytes() == TEXT.encode() and "new.txt" in status(desk)
        await pilot.press("é", "ctrl+s")
        await typed(desk, pilot, "old.txt")
        await typed(desk, pilot, "old.txt")
        assert Path("old.txt").read_bytes() == f"{TEXT}é".encode()
        await pilot.press("ctrl+q")

    assert not play(steps).is_running


def test_quitting_asks_what_to_do_with_a_text_that_is_not_saved(play: Any) -> None:
    async def leave(desk: Desk, pilot: Pilot[str], *pressed: str) -> None:
        await pilot.press("a", "ctrl+c")
        assert isinstance(desk.screen, Quit)
        await pilot.press("escape", "b", "ctrl+q")
        assert isinstance(desk.screen, Quit)
        await pilot.press(*pressed)

    async def printed(desk: Desk, pilot: Pilot[str]) -> None:
        await leave(desk, pilot, "down", "enter")

    async def given_up(desk: Desk, pilot: Pilot[str]) -> None:
        await leave(desk, pilot, "down", "down", "enter")

    async def saved(desk: Desk, pilot: Pilot[str]) -> None:
        await leave(desk, pilot, "enter", *"t.txt", "enter")

    async def at_once(desk: Desk, pilot: Pilot[str]) -> None:
        await pilot.press("a", "ctrl+q")

    assert play(printed).return_value == f"{TEXT}ab"
    assert play(given_up).return_value is None
    assert play(saved).return_value is None and Path("t.txt").read_text() == f"{TEXT}ab"
    assert play(at_once, redirected=True).return_value == f"{TEXT}a"


@pytest.mark.parametrize(("key", "columns"), [("f1", 100), ("ctrl+g", 50)])
def test_the_help_names_every_key_and_is_not_cut_off(play: Any, key: str, columns: int) -> None:
    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        await pilot.press(key)
        await pilot.pause()
        shown = unescape(desk.export_screenshot()).replace("\xa0", " ")
        for name in ("Tab", "Esc", "Ctrl+R", "F2", "F3", "Ctrl+S", "Ctrl+C", "Ctrl+Q"):
            assert name in shown
        for _, what in KEYS:
            assert not [word for word in what.split() if word not in shown]
        await pilot.press("escape")
        assert len(desk.screen_stack) == 1

    play(steps, size=(columns, 40))


def test_what_a_terminal_would_obey_is_shown_and_stays_in_the_text(models: Models, play: Any) -> None:
    evil = "".join(UNSAFE) + "\r\n漢字e\u0301👩\u200d👧\n"
    assert len(UNSAFE) > 150

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        assert desk.editor.contents == evil + TEXT
        written = await keys(desk, pilot, "tab")
        assert "\x1b[31m" in written and written.startswith(evil + TEXT)
        shown = "".join(segment.text for y in range(10) for segment in desk.editor.render_line(y))
        assert not set(shown) & set(UNSAFE) and "\u241b" in shown and "漢" in shown
        assert not any(0xD800 <= ord(char) < 0xE000 for char in shown)
        assert await keys(desk, pilot, "escape") == evil + TEXT

    play(steps, "controls", evil + TEXT, length=300)


def test_characters_spelled_in_bytes_are_written_whole(models: Models, play: Any) -> None:
    written = alone(models, "spelled", TEXT, 7, 300)

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        assert await keys(desk, pilot, "tab") == TEXT + written
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(desk.screen, Alternatives))

    play(steps, "spelled", length=300)


@pytest.mark.parametrize(
    "size", [(1, 1), *(pytest.param(size, marks=pytest.mark.slow) for size in ((2, 2), (10, 3), (300, 100)))]
)
def test_any_size_of_the_terminal(play: Any, size: tuple[int, int]) -> None:
    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        written = await keys(desk, pilot, "tab")
        for other in ((80, 24), size, (40, 10)):
            await pilot.resize_terminal(*other)
            for key in ("f1", "f2", "ctrl+s", "f3"):
                await pilot.press(key)
                await pilot.press("escape")
            await pilot.pause()
            await keys(desk, pilot, "x", "backspace")
        assert await keys(desk, pilot) == written

    play(steps, size=size, text="漢" * 50 + TEXT)


def test_a_long_text(models: Models, play: Any) -> None:
    text = "".join(f"{i} little ducks went over the hills.\n" for i in range(2_700))

    async def steps(desk: Desk, pilot: Pilot[str]) -> None:
        written = await keys(desk, pilot, "tab")
        assert written.startswith(text) and len(written) == len(text) + 40
        assert await keys(desk, pilot, "escape", "ctrl+home", "a") in (f"a{text}", f"{text}a")

    assert len(text) > 100_000
    play(steps, text=text)


def test_without_a_terminal_it_says_what_to_use(models: Models) -> None:
    refused(models("prior", "play", stdin="x"), 2, "terminal", "charlm sample")
    refused(models("prior", "play", "--length", "0", stdin="x"), 2, "length", "0")
    refused(models("prior", "play", "--stop", "", stdin="x"), 2, "stop")


def test_a_dumb_terminal_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    refused(models("prior", "play", env={"TERM": "dumb"}), 2, "TERM", "dumb")
