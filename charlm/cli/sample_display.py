"""Show the samples of `charlm sample` as streaming text or JSON Lines, and what in them is verbatim from training.

A file of its own because `sample.py` would grow too long.
"""

import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from charlm.cli.console import count, foreign, print_json, table

if TYPE_CHECKING:
    from charlm.cli.sample_prompts import Prompt
    from charlm.data.verbatim import Verbatim, VerbatimReport
    from charlm.inference.generate import Ended, Piece

Compare = Callable[[Sequence[str]], "VerbatimReport"]
"""A function that compares the texts of all samples with the training text."""


class Display(Protocol):
    """Shows samples while they are written."""

    def piece(self, piece: "Piece") -> None:
        """Take a piece of a sample."""

    def end(self, ended: "Ended") -> None:
        """Take the end of a sample."""

    def stop(self) -> None:
        """Finish early: the user or a signal ended it."""

    def close(self) -> None:
        """Finish: all samples are complete."""


class Stream:
    """Streams one sample after another, and holds those whose turn has not come."""

    def __init__(self, prompts: Sequence["Prompt"], n: int, raw: bool, compare: Compare | None) -> None:
        self._prompts, self._n, self._raw, self._compare = prompts, n, raw, compare
        self._turn, self._all = 0, len(prompts) * n
        self._texts, self._ended = [""] * self._all, [False] * self._all
        self._begin()

    def piece(self, piece: "Piece") -> None:
        """Take a piece of a sample."""
        at = piece.prompt * self._n + piece.sample
        if at == self._turn:
            self._put(piece.text)
        if at != self._turn or self._compare is not None:
            self._texts[at] += piece.text

    def end(self, ended: "Ended") -> None:
        """Take the end of a sample, and show the next ones as far as they are."""
        self._ended[ended.prompt * self._n + ended.sample] = True
        while self._turn < self._all and self._ended[self._turn]:
            self._put("\n")
            if self._compare is None:
                self._texts[self._turn] = ""
            self._turn += 1
            if self._turn < self._all:
                self._begin()
                self._put(self._texts[self._turn])

    def stop(self) -> None:
        """Do nothing: what was written is shown already."""

    def close(self) -> None:
        """Show which parts of the samples occur in the training text, if asked for."""
        if self._compare is not None:
            show_comparison(self._compare, self._texts, len(self._prompts), self._n)

    def _name(self, at: int) -> str:
        return sample_name(at, len(self._prompts), self._n)

    def _begin(self) -> None:
        if self._all > 1:
            self._put(f"--- {self._name(self._turn)} ---\n")
        prompt = self._prompts[self._turn // self._n]
        self._put(prompt.text if prompt.given else "")

    def _put(self, text: str) -> None:
        sys.stdout.write(text if self._raw else foreign(text))
        sys.stdout.flush()


class JsonLines:
    """Prints each sample as a JSON object once it is complete, or all of them once they are compared."""

    def __init__(
        self, prompts: Sequence["Prompt"], seed: int | None, device: str, compare: Compare | None
    ) -> None:
        self._prompts, self._seed, self._device, self._compare = prompts, seed, device, compare
        self._started = perf_counter()
        self._texts: dict[tuple[int, int], str] = {}
        self._held: list[dict[str, Any]] = []

    def piece(self, piece: "Piece") -> None:
        """Take a piece of a sample."""
        key = piece.prompt, piece.sample
        self._texts[key] = self._texts.get(key, "") + piece.text

    def end(self, ended: "Ended") -> None:
        """Take the end of a sample."""
        from charlm.inference.generate import seed_of  # here: torch is slow to import

        prompt = self._prompts[ended.prompt]
        row = {
            "prompt": prompt.text,
            "prompt_index": ended.prompt,
            "prompt_unknown": prompt.lacking,
            "text": self._texts.pop((ended.prompt, ended.sample), ""),
            "seed": None if self._seed is None else seed_of(self._seed, ended.prompt),
            "device": self._device,
            "sample": ended.sample,
            "finish_reason": ended.reason,
            "chars_per_second": round(ended.chars / (perf_counter() - self._started), 1),
        }
        if self._compare is None:
            print_json(row)
        else:
            self._held.append(row)

    def stop(self) -> None:
        """Do nothing: incomplete samples are not printed."""

    def close(self) -> None:
        """Print the samples held for the comparison with the training text."""
        if self._compare is not None:
            report = self._compare([row["text"] for row in self._held])
            for i, row in enumerate(self._held):
                print_json(row | {"verbatim": report.to_json(i)})


def sample_name(at: int, prompts: int, n: int) -> str:
    """Name a sample by its number among the `n` of its prompt, and by its prompt if there are several."""
    prompt, sample = divmod(at, n)
    if prompts == 1:
        return str(sample + 1)
    return f"prompt {prompt + 1}" + (f", sample {sample + 1}" if n > 1 else "")


def show_comparison(compare: Compare, texts: Sequence[str], n_prompts: int, n: int) -> None:
    """Compare `n` samples of each prompt with the training text, and show what is verbatim."""
    report = compare(texts)
    print("--- verbatim ---", flush=True)
    show_verbatim(report, [sample_name(at, n_prompts, n) for at in range(len(texts))])


def show_verbatim(report: "VerbatimReport", names: Sequence[str]) -> None:
    """Print a table of each sample's longest passage in the training text, and of held-out text to compare with."""
    from charlm.data.verbatim import LONG  # here: NumPy is not needed for help

    rows = [_verbatim_row(name, found) for name, found in zip(names, report.texts, strict=True)]
    usual = report.held_out
    if usual is not None:
        what = f"held-out text: the usual of {usual.windows} pieces of {count(usual.symbols)} symbols"
        rows.append((what, f"{usual.longest:g}", f"{100 * usual.share:.1f} %", "", ""))
    share = f"in passages of {LONG} or more"
    table(rows, header=("sample", "longest", share, "at", "passage"), numbers=(1, 2, 3), longest=100)


def _verbatim_row(name: str, found: "Verbatim") -> tuple[str, ...]:
    at = "" if found.offset is None else count(found.offset)
    return name, count(found.longest), f"{100 * found.share:.1f} %", at, found.passage
