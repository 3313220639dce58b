"""Files that were read before: known again by size, times and samples, without reading them through."""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlm import files
from charlm.config import TextConfig
from charlm.text import graphemes
from charlm.text.cache import DAMAGE, FORMAT, MOST_FACTS, cache_folder
from charlm.text.finding import STDIN

WHOLE = 1 << 18
"""Bytes up to which all of a file is hashed."""
READING = 3
"""Raised where the same files and settings give another text, or other notes, than before."""
_SAMPLES, _SAMPLE = 64, 1 << 12


class Known:
    """What is known of some files, read under some settings."""

    def __init__(self, paths: Sequence[str], config: TextConfig, earlier: str = "") -> None:
        """Look at the files as they are now, before they are read; `earlier` names the text gone on from."""
        self._place: Path | None = None
        if STDIN in paths:
            return  # it cannot be looked at twice
        try:
            self._files = [_fingerprint(path) for path in paths]
        except (OSError, ValueError):
            return  # whoever reads them says what is wrong
        named = json.dumps(
            [
                FORMAT,
                READING,
                [os.path.abspath(path) for path in paths],
                config.to_json(),
                *[earlier] * bool(earlier),
                *([graphemes.version()] if config.units == "graphemes" else []),
            ]
        )
        self._place = cache_folder() / "files" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"

    def recall(self) -> tuple[str, tuple[str, ...]] | None:
        """The key of their corpus and what was said of them; None if they are new or have changed."""
        if self._place is None:
            return None
        try:
            row = json.loads(files.read_regular(self._place, MOST_FACTS))
            if row["files"] != self._files:
                return None
            return str(row["key"]), tuple(map(str, row["notes"]))
        except DAMAGE:
            return None

    def remember(self, key: str, notes: Sequence[str]) -> None:
        """Keep what is known for the next time, where that can be written."""
        if self._place is None:
            return
        row = {"files": self._files, "key": key, "notes": list(notes)}
        try:
            files.make_folder(self._place.parent)
            files.replace(self._place, json.dumps(row).encode())
        except OSError:
            return


def _fingerprint(path: str) -> list[Any]:
    """Size, time of the last change of contents and of anything, and a hash of samples."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a pipe would wait, a device has no end")
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if status.st_size <= WHOLE:
            digest.update(file.read(WHOLE))
        else:
            for i in range(_SAMPLES):
                file.seek((status.st_size - _SAMPLE) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest.hexdigest()]
