"""A text as ids on disk, memory-mapped, and divided into a training and a held-out part.

Two passes, in blocks: one reads and counts, one encodes. What is between them waits on the disk, a
byte, two or four for each character, so memory does not grow with the text.
"""

import errno
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any

import numpy as np

from charlm.config import TextConfig
from charlm.errors import ResourceError, TextError
from charlm.files import free_space, make_folder
from charlm.terminal import one_line
from charlm.text import cache
from charlm.text.cache import cache_folder
from charlm.text.codes import Census, Counts, LineEnds, Spool, marks_of
from charlm.text.documents import Marker, with_ends
from charlm.text.encoder import Encoder
from charlm.text.remarks import Marks
from charlm.text.stream import Block
from charlm.text.vocabulary import END, END_POINT, Ids, Vocabulary

__all__ = ["Corpus", "Preparation", "cache_folder", "prepare", "reopen"]

PARTS = ("train", "held_out", "test")
Spans = dict[str, tuple[int, int]]  # of each part, its first character and the one after its last
Watch = Callable[[str, int, int | None], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Corpus:
    """Ids of each part, in the narrowest integer type; characters may be several ids each."""

    key: str  # of the contents and of how they are divided: the name in the cache
    sha256: str  # of the text as UTF-8
    vocabulary: Vocabulary
    train: Ids
    held_out: Ids
    train_chars: int
    held_out_chars: int
    test: Ids | None = None  # a third part, that no choice may depend on
    test_chars: int = 0
    ends: tuple[int, int, int] = (0, 0, 0)  # of documents, in each part: symbols that are no characters
    uncached: str | None = None  # why it is not in the cache

    @property
    def chars(self) -> int:
        """Characters in all parts."""
        return self.train_chars + self.held_out_chars + self.test_chars

    def training_text(self, last: int | None = None) -> str:
        """The training part as characters, or what its `last` ids say."""
        return self.vocabulary.decode(self.train[-last:] if last else self.train)

    def held_out_text(self) -> str:
        """The held-out part as characters, with END where documents end."""
        return self.vocabulary.decode(self.held_out, END)

    def test_text(self) -> str:
        """The test part in the same way; empty where there is none."""
        return "" if self.test is None else self.vocabulary.decode(self.test, END)


def prepare(text: str, config: TextConfig, val_text: str | None = None) -> Corpus:
    """The corpus of a text that is in memory. Raises as `Preparation`."""
    main, val = (
        None if of is None else with_ends([Block(of.encode(), of)], config) for of in (text, val_text)
    )
    assert main is not None
    return Preparation(config).corpus(main, val)


def reopen(key: str, *, whole: bool = False) -> Corpus | None:
    """A corpus from the cache, or None if it is not there whole; checked all through if `whole`."""
    found = cache.read(key, PARTS, whole=whole)
    if found is None:
        return None
    facts, parts = found
    try:
        return _corpus(key, facts, *parts)
    except (ValueError, KeyError, TypeError):
        return None


class Preparation:
    """A text on its way into a corpus."""

    def __init__(
        self, config: TextConfig, label: str = "", watch: Watch = lambda what, done, of: None
    ) -> None:
        """`watch` is told how the encoding goes on; `label` names the text in the cache."""
        self._config, self._label, self._watch = config, label, watch
        self._census, self._ends, self._marker = Census(), LineEnds(), Marker()
        self.marks: Marks | None = None  # what deserves a remark, once the text is read

    def lines(self) -> int:
        """Line ends in what was read so far."""
        return self._census.lines() - self._ends.pairs

    def corpus(
        self, blocks: Iterable[Block], val_blocks: Iterable[Block] | None = None, *, check: bool = False
    ) -> Corpus:
        """Divide and encode a text, or find it in the cache, where it is kept for the next time.

        Raises TextError for a text too short to learn from, ResourceError where the disk has no
        room. A cache that cannot be written is done without for a text that fits into memory. What
        is in the cache already is checked all through if `check`.
        """
        folder = _scratch_folder()
        spool = Spool(folder)
        try:
            with _room(folder):
                sha256 = self._read(blocks, spool)
                n = spool.chars
                val_sha256 = None if val_blocks is None else self._read_more(val_blocks, spool)
            spans = self._spans(n, spool.chars, val_blocks is not None)
            key = self._key(sha256, val_sha256, n)
            return reopen(key, whole=check) or self._encode(key, sha256, spool, spans)
        finally:
            spool.close()

    def _read(self, blocks: Iterable[Block], spool: Spool) -> str:
        """The first pass over the text: counted, hashed, kept; its SHA-256."""
        digest = hashlib.sha256()
        for block in self._counted(blocks, spool):
            digest.update(block.utf8)
            self._ends.add(block)
        self.marks = marks_of(self._census.counts(), self._ends.pairs) if spool.chars else None
        return digest.hexdigest()

    def _read_more(self, blocks: Iterable[Block], spool: Spool) -> str:
        """The same for a held-out text of its own."""
        digest = hashlib.sha256()
        for block in self._counted(blocks, spool):
            digest.update(block.utf8)
        return digest.hexdigest()

    def _counted(self, blocks: Iterable[Block], spool: Spool) -> Iterator[Block]:
        """The blocks, once their characters and the ends of documents among them are counted and kept."""
        for block in blocks:
            codes = self._marker.mark(block)
            self._census.add(codes)
            spool.add(codes, block if block.ends is None else None)
            yield block

    def _spans(self, n: int, n_all: int, own: bool) -> Spans:
        """Training, held out and test, one after another; or what is held out after all, if it is its `own`."""
        val, test = self._config.val, self._config.test
        n_seen = int(round(n * (1 - test), 6)) if test else n  # 1 - 0.05 - 0.05 is less than 0.9 to a machine
        n_train = n_seen if own else int(round(n * (1 - val - test), 6)) if test else int(n * (1 - val))
        if n_train < 2:
            raise TextError(
                f"the text has {n} character{'s' * (n != 1)}, {n_train} of them "
                "to train on; training needs at least 2, and some hundreds to learn anything"
            )
        held_out = (n, n_all) if own else (n_train, n_seen)
        return {"train": (0, n_train), "held_out": held_out, "test": (n_seen, n)}

    def _key(self, sha256: str, val_sha256: str | None, n: int) -> str:
        settings = [cache.FORMAT, sha256, val_sha256, n, self._config.val, self._config.test]
        settings.append(self._config.min_count)
        if self._config.documents != "none":
            settings.append(self._marker.digest())
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]

    def _encode(self, key: str, sha256: str, spool: Spool, spans: Spans) -> Corpus:
        """The second pass: what was kept becomes ids."""
        counts = {"train": self._census.counts()}
        for name in PARTS[1:]:
            part = Census()
            for codes in spool.read(*spans[name]):
                part.add(codes)
            counts[name] = part.counts()
            counts["train"][: len(counts[name])] -= counts[name]
        ends = {name: _ends(part) for name, part in counts.items()}
        if self._config.documents != "none" and not ends["train"]:
            raise TextError(
                f"no document ends in the training part, of {self._marker.documents} in all, so nothing can be "
                f"learned of it; --documents {self._config.documents} needs more of them, or leave it out"
            )
        vocabulary = Vocabulary.of_counts(counts["train"], self._config.min_count)
        facts = {
            "format": cache.FORMAT,
            "label": self._label,
            "sha256": sha256,
            "vocabulary": json.loads(vocabulary.to_json()),
            **{f"{name}_chars": end - start - ends[name] for name, (start, end) in spans.items()},
        }
        if vocabulary.ends:
            facts["ends"] = [ends[name] for name in PARTS]
        encoder = Encoder(vocabulary, self._census.counts())
        parts = {name: self._part(encoder, counts[name], spool, spans, name) for name in PARTS}
        trouble = _store(key, facts, parts)
        corpus = None if trouble else reopen(key)
        if corpus is not None:
            return corpus
        if sum(part.n * part.dtype.itemsize for part in parts.values()) > cache.CHECKED_WHOLE:
            raise ResourceError(
                f"the cache in {one_line(str(cache_folder()))} cannot be written ({trouble or 'it changed'}), and the "
                "text is too long to be held in memory; make room there, or set CHARLM_CACHE to another folder"
            )
        held = [
            np.concatenate([np.empty(0, p.dtype), *(ids.copy() for ids in p.pieces)]) for p in parts.values()
        ]
        return replace(_corpus(key, facts, *held), uncached=trouble)

    def _part(self, encoder: Encoder, counts: Counts, spool: Spool, spans: Spans, name: str) -> cache.Part:
        return cache.Part(
            encoder.length(counts), encoder.dtype, _Pieces(encoder, spool, spans[name], self._watch)
        )


@dataclass(frozen=True)
class _Pieces:
    """The ids of a span of what was kept, made whenever they are asked for."""

    encoder: Encoder
    spool: Spool
    span: tuple[int, int]
    watch: Watch

    def __iter__(self) -> Iterator[Ids]:
        done = self.span[0]
        for codes in self.spool.read(*self.span):
            yield self.encoder.encode(codes)
            done += len(codes)
            self.watch("encoding", done, self.spool.chars)


def _corpus(key: str, facts: dict[str, Any], train: Ids, held_out: Ids, test: Ids) -> Corpus:
    vocabulary = Vocabulary.from_json(facts["vocabulary"])
    return Corpus(
        key,
        facts["sha256"],
        vocabulary,
        train,
        held_out,
        facts["train_chars"],
        facts["held_out_chars"],
        test,
        facts["test_chars"],
        tuple(map(int, facts.get("ends", (0, 0, 0)))),  # type: ignore[arg-type]
    )


def _ends(counts: Counts) -> int:
    """How many documents end in a part."""
    return int(counts[END_POINT : END_POINT + 1].sum())


def _scratch_folder() -> Path:
    """Where what does not fit into memory waits for the second pass."""
    try:
        make_folder(cache.corpora())
    except OSError:
        return Path(tempfile.gettempdir())
    cache.remove_stale(time())
    return cache.corpora()


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turns the end of a disk's room into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise ResourceError(
            f"no room for the text in {one_line(str(folder))} ({error.strerror}); make room there, or set "
            "CHARLM_CACHE to a folder that has it"
        ) from None


def _store(key: str, facts: dict[str, Any], parts: dict[str, cache.Part]) -> str | None:
    """Write a corpus to the cache; why that failed, where it did."""
    needed = sum(part.n * part.dtype.itemsize for part in parts.values())
    try:
        if free_space(cache.corpora()) < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed")
        cache.store(key, facts, parts)
    except OSError as error:
        return str(error.strerror or error)
    return None
