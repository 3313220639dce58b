"""The app of `charlm play`: an editor, and a model that continues its text in a thread of its own.

Each continuation has the next seed, so that the same seed and the same keys write the same text, and the first one is
what `charlm sample --prompt TEXT --seed SEED` writes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Footer, Label

from charlm.cli.console import count
from charlm.cli.desk_editor import Editor
from charlm.cli.desk_screens import Alternatives, Answer, Help, Quit, Save, SettingsWindow
from charlm.cli.sample_prompts import named
from charlm.data.normalize import normalize
from charlm.inference.desk_config import DeskConfig
from charlm.inference.generate import Ended, Piece, seed_of
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.run import Run

MOST_NAMED = 3
"""Most characters that the status line names."""
ENDS = {"stop": "stopped before the stop text", "document": "the model ends the document here"}
"""Messages for the reasons why a continuation ended; reaching its length has none."""


class Wrote(Message):
    """A piece of continuation `number`, its end, or the error that ended it."""

    def __init__(self, number: int, event: Piece | Ended | Exception) -> None:
        super().__init__()
        self.number, self.event = number, event


class Signal(Message):
    """A signal was received."""


class Desk(App[str]):
    """The app; returns the text if it is to be written to standard output."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,ctrl+g", "keys", "keys"),
        Binding("ctrl+q", "leave", "quit", priority=True),
        Binding("ctrl+c", "interrupt", "stop or quit", show=False, priority=True),
    ]
    CSS = """
    Editor { height: 1fr; border: none; padding: 0 1; }
    #status { height: 1; width: 100%; padding: 0 1; background: $panel; color: $foreground; }
    Window { align: center middle; }
    #window { width: 76; max-width: 100%; height: auto; max-height: 100%; padding: 0 1; background: $panel; }
    #window OptionList { height: auto; max-height: 20; }
    #heading { text-style: bold; width: 100%; }
    #problem { color: $text-error; width: 100%; }
    """

    def __init__(self, run: "Run", config: DeskConfig, text: str, *, redirected: bool = False) -> None:
        """`redirected`: standard output is a file or a pipe, which gets the text, so that quitting asks nothing."""
        super().__init__()
        self._model, self._config, self._redirected = run, config.seeded(), redirected
        self._first_text, self._saved, self._file_name = text, text, ""
        self._asked = 0  # continuations since the seed was set
        self._seed: int | None = None  # of the last one
        self._number, self._stop, self._note = 0, Event(), ""
        self._computing = Lock()  # one use of the model at a time
        self.failure: Exception | None = None
        """The error that ended the app, for the command."""
        self.signal: str | None = None
        """The name of the signal that ended it."""

    def compose(self) -> ComposeResult:
        """Lay out the editor, with the status line and the keys below."""
        self.editor = Editor(self._first_text, self._stop_writing)
        yield self.editor
        yield Label("", id="status", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Put the cursor at the end of the text."""
        if self.signal is not None:
            self.exit(None)
        self.editor.move_cursor(self.editor.document.end)
        self.editor.focus()
        self._show_status()

    @property
    def writing(self) -> bool:
        """Whether a continuation is being written."""
        return not self._stop.is_set() and self._number > 0

    def action_continue(self) -> None:
        """Continue the text at the cursor."""
        if not self.writing:
            self._begin(self.editor.place, self.editor.place)

    def action_take_back(self) -> None:
        """Stop the continuation being written, or else undo the last one."""
        if self.writing:
            self._stop_writing()
            self._tell("stopped")
        elif self.editor.written:
            self.editor.take_back()
            self._tell("taken back")
        else:
            self._tell("no continuation to take back; Ctrl+Z undoes")

    def action_again(self) -> None:
        """Replace the last continuation by another."""
        self._stop_writing()
        if not self.editor.written:
            self._tell("no continuation to write again; Tab continues")
            return
        last = self.editor.take_back()
        self._begin(last.start, last.start + len(last.removed), last.head)

    def action_settings(self) -> None:
        """Change the settings."""
        self.push_screen(SettingsWindow(self._config), self._set)

    def _set(self, config: DeskConfig | None) -> None:
        if config is not None:
            if config.seed != self._config.seed:
                self._asked, self._seed = 0, None
            self._config = config.seeded()
            self._tell("settings changed")

    async def action_alternatives(self) -> None:
        """Show alternatives for the character at the cursor; picking one begins a continuation."""
        self._stop_writing()
        place, contents = self.editor.place, self.editor.contents
        self.run_worker(self._offer(place, contents), exclusive=True)

    async def _offer(self, place: int, contents: str) -> None:
        def compute() -> dict[str, float]:
            with self._computing:
                return self._model.next(contents[:place], recent=False)

        found = await asyncio.to_thread(compute)
        picked = await self.push_screen_wait(Alternatives(found, contents[place : place + 1]))
        if picked is not None and self.editor.contents == contents:  # else the user typed first
            last = self.editor.written[-1] if self.editor.written else None
            inside = last is not None and last.start <= place < last.end
            end = last.end if last is not None and inside else min(place + 1, len(contents))
            self._begin(place, end, picked)

    def action_save(self) -> None:
        """Save the text."""
        text = self.editor.contents
        self.push_screen(Save(text, self._file_name), partial(self._when_saved, text))

    def _when_saved(self, text: str, path: Path | None) -> None:
        if path is not None:
            self._saved, self._file_name = text, str(path)
            self._tell(f"saved: {self._file_name}")

    @property
    def unsaved(self) -> str:
        """The text if it is not saved, else empty; also available after the app has ended."""
        text = self.editor.contents if hasattr(self, "editor") else self._saved
        return "" if text == self._saved else text

    def action_keys(self) -> None:
        """Show the keys."""
        if len(self.screen_stack) == 1:
            self.push_screen(Help())

    def action_interrupt(self) -> None:
        """Stop the continuation, or copy the selection, or quit."""
        if len(self.screen_stack) > 1:
            self.screen.dismiss(None)
        elif self.writing:
            self._stop_writing()
            self._tell("stopped; Ctrl+C again quits")
        elif self.editor.selected_text:
            self.editor.action_copy()
        else:
            self.action_leave()

    def action_leave(self) -> None:
        """Quit, asking first what to do with unsaved text."""
        self._stop_writing()
        if len(self.screen_stack) > 1:
            self.screen.dismiss(None)
            return
        text = self.editor.contents
        if self._redirected or text == self._saved:
            self.exit(text if self._redirected else None)
        else:
            self.push_screen(Quit(), self._answered)

    def _answered(self, answer: Answer | None) -> None:
        text = self.editor.contents
        if answer == "save":
            self.push_screen(
                Save(text, self._file_name), lambda path: self.exit(None) if path is not None else None
            )
        elif answer in ("print", "discard"):
            self.exit(text if answer == "print" else None)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy the text itself, not the editor's stand-ins."""
        super().copy_to_clipboard(Editor.restored(text))

    def _begin(self, start: int, end: int, head: str = "") -> None:
        """Begin a continuation that replaces the text between two positions."""
        self.editor.begin(start, end, head)
        prompt = self.editor.contents[: start + len(head)]
        self._number += 1
        self._stop = Event()
        assert self._config.seed is not None
        seed = seed_of(self._config.seed, self._asked)
        self._asked += 1
        self._seed = seed
        names = [named(char) for char in self._model.tokenizer.unknown_chars(prompt)]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        self._tell(f"not in the vocabulary: {', '.join(names[:MOST_NAMED])}{more}" if names else "")
        config = replace(self._config, seed=seed)
        post = partial(self._post, self._number)
        self.run_worker(partial(self._generate, prompt, config, self._stop, post), thread=True)

    def _post(self, number: int, event: Piece | Ended | Exception) -> None:
        self.post_message(Wrote(number, event))

    def _generate(
        self, prompt: str, config: DeskConfig, stop: Event, post: Callable[[Piece | Ended | Exception], None]
    ) -> None:
        """Generate until the end, or until it is stopped; runs in a thread of its own."""
        model = self._model
        try:
            with self._computing:
                for event in model.generate(
                    [normalize(prompt, model.text_config) if prompt else None],
                    config,
                    length=config.length,
                    stops=config.stop or (),
                    one_document=model.tokenizer.end is not None,
                ):
                    if stop.is_set():
                        return
                    post(event)
        except Exception as error:  # noqa: BLE001  the command says it once the terminal is restored
            post(error)

    def on_wrote(self, message: Wrote) -> None:
        """Show a piece that was written, unless the continuation was stopped meanwhile."""
        if message.number != self._number or self._stop.is_set():
            return
        event = message.event
        if isinstance(event, Piece):
            self.editor.write(event.text)
            self._show_status()
        elif isinstance(event, Ended):
            self._stop_writing()
            if event.reason in ENDS:
                self._tell(ENDS[event.reason])
        else:
            self.failure = event
            self.exit(None)

    def on_text_area_selection_changed(self) -> None:
        """Update the status when the cursor has moved."""
        self._show_status()

    def on_text_area_changed(self) -> None:
        """Update the status when the text has changed."""
        self._show_status()

    def _stop_writing(self) -> None:
        """Stop the continuation being written."""
        if self.writing:
            self._stop.set()
            self._show_status()

    def _tell(self, note: str) -> None:
        self._note = note
        self._show_status()

    def _show_status(self) -> None:
        """Show the run, the last message, the settings that are set, and the size of the text."""
        config, editor = self._config, self.editor
        chosen = [
            f"{name.replace('_', '-')} {value:g}"
            for name in ("top_k", "top_p", "min_p")
            if (value := getattr(config, name)) is not None
        ]
        characters = sum(len(editor.document.get_line(i)) + 1 for i in range(editor.document.line_count)) - 1
        parts = [
            "writing" if self.writing else "ready",
            self._note,
            f"temperature {config.temperature:g}",
            *chosen,
            f"length {config.length}",
            f"seed {config.seed if self._seed is None else self._seed}",
            f"{count(characters)} characters",
            one_line(self._model.name),
        ]
        status = self.screen_stack[0].query_one("#status", Label)
        status.update(one_line(" · ".join(part for part in parts if part), 500))

    def end_by(self, signal: str) -> None:
        """End the app because of a signal; may be called from any thread."""
        self.signal = signal
        self.post_message(Signal())

    def on_signal(self) -> None:
        """End the app; the command then writes the text."""
        self._stop_writing()
        self.exit(None)

    def _handle_exception(self, error: Exception) -> None:
        """End the app and keep the error, which the command reports in one sentence."""
        self.failure = self.failure or error
        self.panic()
