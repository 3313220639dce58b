"""A text as ids on disk, memory-mapped, and divided into a training and a held-out part."""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import TextConfig
from charlm.errors import TextError
from charlm.files import make_folder, publish_folder
from charlm.text.vocabulary import Ids, Vocabulary

FORMAT = 1
PARTS = ("train", "held_out")


@dataclass(frozen=True)
class Corpus:
    """Ids of both parts, in the narrowest integer type; characters may be several ids each."""

    key: str  # of the contents and of how they are divided: the name in the cache
    sha256: str  # of the text as UTF-8
    vocabulary: Vocabulary
    train: Ids
    held_out: Ids
    train_chars: int
    held_out_chars: int

    @property
    def chars(self) -> int:
        """Characters in both parts."""
        return self.train_chars + self.held_out_chars

    def training_text(self, last: int | None = None) -> str:
        """The training part as characters, or what its `last` ids say."""
        return self.vocabulary.decode(self.train[-last:] if last else self.train)

    def held_out_text(self) -> str:
        """The held-out part as characters."""
        return self.vocabulary.decode(self.held_out)


def cache_folder() -> Path:
    """`CHARLM_CACHE`, else the folder that the platform has for caches."""
    from platformdirs import user_cache_path  # here, since it is slow on Windows

    return Path(os.environ.get("CHARLM_CACHE") or user_cache_path("charlm", appauthor=False))


def split(text: str, config: TextConfig, val_text: str | None) -> tuple[str, str]:
    """Training and held-out text: the first int(n * (1 - val)) characters and the rest."""
    if val_text is not None:
        return text, val_text
    n_train = int(len(text) * (1 - config.val))
    return text[:n_train], text[n_train:]


def prepare(text: str, config: TextConfig, val_text: str | None = None) -> Corpus:
    """Divide and encode a text, or find it in the cache, where it is kept for the next time.

    Raises TextError for a text too short to learn from. A cache that cannot be written is done
    without.
    """
    train_text, held_out_text = split(text, config, val_text)
    if len(train_text) < 2:
        raise TextError(
            f"the text has {len(text)} character{'s' * (len(text) != 1)}, {len(train_text)} of them "
            "to train on; training needs at least 2, and some hundreds to learn anything"
        )
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    key = _key(train_text, held_out_text, config.min_count)
    cached = reopen(key)
    if cached is not None:
        return cached
    vocabulary = Vocabulary.build(train_text, config.min_count)
    ids = {"train": vocabulary.encode(train_text), "held_out": vocabulary.encode(held_out_text)}
    narrow = {name: part.astype(np.min_scalar_type(int(part.max(initial=0)))) for name, part in ids.items()}
    facts = {
        "format": FORMAT,
        "sha256": sha256,
        "vocabulary": json.loads(vocabulary.to_json()),
        "train_chars": len(train_text),
        "held_out_chars": len(held_out_text),
    }
    corpus = _corpus(key, facts, narrow["train"], narrow["held_out"])
    _keep(key, facts, narrow)
    return reopen(key) or corpus


def reopen(key: str) -> Corpus | None:
    """A corpus from the cache, or None if it is not there whole."""
    folder = cache_folder() / "corpora" / key
    try:
        facts = json.loads((folder / "corpus.json").read_text("utf-8"))
        parts = [_map(folder / f"{name}.npy") for name in PARTS]
        if facts["format"] != FORMAT or any(
            _sha256(part) != facts[f"{name}_sha256"] for name, part in zip(PARTS, parts, strict=True)
        ):
            return None
        return _corpus(key, facts, *parts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _corpus(key: str, facts: dict[str, Any], train: Ids, held_out: Ids) -> Corpus:
    vocabulary = Vocabulary.from_json(facts["vocabulary"])
    return Corpus(
        key, facts["sha256"], vocabulary, train, held_out, facts["train_chars"], facts["held_out_chars"]
    )


def _keep(key: str, facts: dict[str, Any], parts: dict[str, NDArray[Any]]) -> None:
    """Write a corpus to the cache, if that can be written."""
    hashes = {f"{name}_sha256": _sha256(part) for name, part in parts.items()}
    files = {f"{name}.npy": _npy(part) for name, part in parts.items()}
    files["corpus.json"] = json.dumps(facts | hashes).encode()
    folder = cache_folder() / "corpora" / key
    try:
        make_folder(folder.parent)
        publish_folder(folder, files)
    except OSError:
        return  # the corpus is then held in memory for this run, and read again for the next


def _npy(part: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, part, allow_pickle=False)
    return buffer.getvalue()


def _map(path: Path) -> Ids:
    part: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    if part.ndim != 1 or part.dtype.kind != "u":
        raise ValueError(f"{path} holds no ids")
    return part


def _sha256(part: Ids) -> str:
    return hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()


def _key(train_text: str, held_out_text: str, min_count: int | None) -> str:
    digest = hashlib.sha256(f"{FORMAT} {min_count} {len(train_text)} ".encode())
    digest.update(train_text.encode())
    digest.update(held_out_text.encode())
    return digest.hexdigest()[:32]
