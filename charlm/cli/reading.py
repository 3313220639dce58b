"""Loading a text with a live line for what takes longer than a second."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.cli.console import say, warn
from charlm.cli.words import about_text
from charlm.config import TextConfig
from charlm.errors import UsageError
from charlm.refusals import VAL
from charlm.terminal import bars_disabled, one_line

DELAY = 1.0
LEAST_SHARE = 0.01
FORMATS = {
    True: "{desc} {percentage:3.0f}% |{bar}| {rate_fmt} [{elapsed}<{remaining}]",
    False: "{desc} {n_fmt}B, {rate_fmt} [{elapsed}]",
}


def check_named(names: Sequence[str], settings: Mapping[str, Any]) -> None:
    """UsageError for a setting that acts on files, where none was named."""
    for name in ("encoding", "field", "include", "exclude", "strip"):
        if settings[name] is not None and not names:
            raise UsageError(f"--{name} cannot act on Python's manual; name a file to read")


def take_customary_split(names: Sequence[str], settings: dict[str, Any]) -> None:
    """Take the split that is customary for a published text, where none was chosen, and say so."""
    from charlm.text.published import customary

    names_of = ("val", "test", "val_file", "split")
    chosen = tuple(settings[name] for name in names_of) != (VAL, 0.0, None, "tail")
    if len(names) != 1 or chosen or not os.path.isfile(names[0]):
        return
    text = customary(os.path.basename(names[0]), os.path.getsize(names[0]))
    if text is None or not text.test:
        return
    settings["val"], settings["test"] = text.val, text.test
    say(f"split as is customary for {text.name}: {text.split}; --val and --test choose another")


def warn_unless_kept(names: Sequence[str]) -> None:
    """Before standard input is read, warn where it cannot be kept: it cannot be read a second time."""
    if "-" not in names:
        return
    from charlm.text.cache import cache_folder, unwritable  # here: numpy is slow to import

    reason = unwritable()
    if reason is not None:
        warn(
            f"the cache {one_line(str(cache_folder()))} cannot be written ({reason}), so the text from standard input "
            "cannot be kept: `charlm resume`, and `charlm eval` on its held-out part, will need it as a file, by "
            "--text FILE. To keep it, set CHARLM_CACHE to a folder that can be written, or save the text and train "
            "on the file"
        )


def load_text(
    names: Sequence[str], config: TextConfig, *, verify: bool = False, earlier: Any = None, look: Any = None
) -> Any:
    """As `charlm.text.load.load`, shown while it goes on."""
    from charlm.text.load import load  # here: numpy is slow to import

    bar = Bar()
    try:
        return load(names, config, bar, verify=verify, earlier=earlier, look=look)
    finally:
        bar.close()


def say_text(loaded: Any, *, free: bool = True) -> None:
    """How much text there is, and what makes its held-out figure flatter; `free`: as `leak`."""
    say(about_text(loaded))
    found = leak(loaded.corpus, free=free)
    if found:
        warn(found)


def leak(
    corpus: Any, train: Any = None, where: str = "the training part", *, free: bool = True
) -> str | None:
    """What is said where much of the held-out text stands in the training part too, or in another's `train`.

    `free`: may it be chosen how the text is divided?
    """
    from charlm.evaluation.overlap import PASSAGE, overlap

    found = overlap(corpus.train if train is None else train, corpus.held_out)
    if found.share < LEAST_SHARE:
        return None
    return (
        f"{found.word}{100 * found.share:.0f} % of the held-out text stands in {where} too, in passages of {PASSAGE} {corpus.vocabulary.word}s "
        "or more, so its figure will flatter; hold out another text with --val-file"
        + (", or draw whole documents with --split documents" if free else "")
    )


class Bar:
    """A bar on a terminal, from the second second on."""

    def __init__(self, unit: str = "B") -> None:
        self._bar: Any = None
        self._what, self._unit = "", unit

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """So much of so much is done."""
        if what != self._what:
            self._begin(what, of)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _begin(self, what: str, of: int | None) -> None:
        from tqdm import tqdm

        self.close()
        self._what = what
        self._bar = tqdm(
            desc=what,
            total=of,
            delay=DELAY,
            disable=bars_disabled(),
            file=sys.stderr,
            unit=self._unit,
            unit_scale=True,
            bar_format=FORMATS[of is not None],
            dynamic_ncols=True,
            leave=False,
        )
