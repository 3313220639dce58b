"""Text to a corpus: two passes, one to count characters and one to encode, within bounded memory.

Two passes, in blocks: one reads and counts, one encodes. What is between them waits on the disk, a
byte, two or four for each character, so memory does not grow with the text.
"""

import errno
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import time

import numpy as np

from charlm.config import TextConfig
from charlm.data import cache, graphemes
from charlm.data.cache import cache_folder
from charlm.data.codes import Census, Codes, Counts, LineEnds, Spool, marks_of
from charlm.data.corpus import Corpus, corpus_of_parts, key_of, reopen
from charlm.data.documents import EndMarker, split_documents
from charlm.data.encode import PartEncoder, encoder_of
from charlm.data.holdout import LEFT_OUT, PARTS, Beginning, Division, Draw, Earlier, Respected, respect
from charlm.data.normalize import normalize_blocks
from charlm.data.stream import Block
from charlm.data.text_warnings import Marks
from charlm.data.tokenizer import END_POINT, Ids, Vocabulary, code_points, grown
from charlm.errors import ResourceError, TextError
from charlm.files import make_folder
from charlm.native.text_kernels import Kernels
from charlm.terminal import one_line


def scratch_folder() -> Path:
    """The folder of the cache, or that for temporary files where it cannot be written."""
    try:
        make_folder(cache.corpora())
    except OSError:
        return Path(tempfile.gettempdir())
    cache.remove_stale(time())
    return cache.corpora()


@contextmanager
def room(folder: Path) -> Iterator[None]:
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


class ClusterCensus:
    """How often clusters of several code points occur, and code points outside of those."""

    def __init__(self) -> None:
        self.clusters: dict[str, int] = {}
        self.singles = Census()
        self._points = 0  # of all the different clusters

    def add(self, codes: Codes) -> None:
        """Count a block that cuts no cluster. New ones beyond MOST code points are counted as their characters."""
        starts, found = graphemes.find(codes)
        if not found:
            self.singles.add(codes)
            return
        self.singles.add(graphemes.without(codes, starts, found))
        counts, over = self.clusters, []
        for cluster in found:
            if cluster in counts:
                counts[cluster] += 1
            elif self._points + len(cluster) <= graphemes.MOST:
                counts[cluster] = 1
                self._points += len(cluster)
            else:
                over.append(cluster)
        if over:
            self.singles.add(code_points("".join(over)))


def vocabulary_of(
    counts: Counts, blocks: Iterable[Codes], config: TextConfig, known: Vocabulary | None = None
) -> Vocabulary:
    """The symbols of a training part, in which each code point occurs so often; only for graphemes are its
    `blocks` read. What is `known` is a symbol however rare it is."""
    if config.units != "graphemes":
        return Vocabulary.of_counts(counts, config.min_count, config.units, known=known)
    census = ClusterCensus()
    for codes in graphemes.whole(blocks):
        census.add(codes)
    return Vocabulary.of_counts(
        census.singles.counts(), config.min_count, config.units, census.clusters, known
    )


Watch = Callable[[str, int, int | None], None]  # what is done, how much of it, of how much


def prepare(
    text: str, config: TextConfig, val_text: str | None = None, earlier: Earlier | None = None
) -> Corpus:
    """The corpus of a text that is in memory. Raises as `Preparation`."""
    main, val = (
        None if of is None else split_documents(normalize_blocks([Block(of.encode(), of)], config), config)
        for of in (text, val_text)
    )
    assert main is not None
    return Preparation(config, earlier=earlier).corpus(main, val)


class Preparation:
    """A text on its way into a corpus."""

    def __init__(
        self,
        config: TextConfig,
        label: str = "",
        watch: Watch = lambda what, done, of: None,
        earlier: Earlier | None = None,
        observe: Callable[[Codes], None] | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """`watch` is told how the encoding goes on; `label` names the text in the cache.

        `earlier`: the text of the run that is gone on from, whose symbols and division hold in this one.
        `observe` sees the code points of the text, in order, in blocks, those of a held-out text of its own not.
        `kernels` do a long text's work.
        """
        self._config, self._label, self._watch, self._observe = config, label, watch, observe
        self._kernels = kernels
        self._census, self._ends, self._marker = Census(kernels), LineEnds(), EndMarker()
        self._draw: Draw | None = None  # of whole documents, where they are drawn
        self._beginning = None if earlier is None else Beginning(earlier)
        self.marks: Marks | None = None  # what deserves a remark, once the text is read
        self.counts: Counts = np.zeros(0, np.int64)  # of each code point, once the text is read

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
        folder = scratch_folder()
        spool, draw = Spool(folder, self._kernels), Draw(folder, self._config)
        self._draw = draw if self._config.split == "documents" else None
        try:
            with room(folder):
                sha256 = self._read(blocks, spool)
                n = spool.chars
                val_sha256 = None if val_blocks is None else self._read_more(val_blocks, spool)
            key = self._key(sha256, val_sha256, n)
            found = reopen(key, whole=check)
            if found is not None:
                return found
            if self._beginning is None or self._draw is not None:
                return self._encode(
                    key, sha256, spool, self._draw or Division.of(n, spool.chars, self._config)
                )
            respected = respect(self._beginning, spool, n, self._config)
            return self._encode(key, sha256, spool, Division(respected.spans), respected)
        finally:
            spool.close()
            draw.close()

    def _read(self, blocks: Iterable[Block], spool: Spool) -> str:
        """The first pass over the text: counted, hashed, kept; its SHA-256."""
        digest = hashlib.sha256()
        for block in self._counted(blocks, spool):
            digest.update(block.utf8)
            self._ends.add(block)
            if self._beginning:
                self._beginning.add(block)
        self.counts, self._observe = self._census.counts(), None
        self.marks = marks_of(self.counts, self._ends.pairs) if spool.chars else None
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
            if self._draw is not None:
                self._draw.add(codes)
            spool.add(codes, block if block.ends is None else None)
            if self._observe is not None:
                self._observe(codes)
            yield block

    def _key(self, sha256: str, val_sha256: str | None, n: int) -> str:
        settings = [cache.FORMAT, sha256, val_sha256, n, self._config.val, self._config.test]
        settings.append(self._config.min_count)
        if self._config.documents != "none":
            settings.append(self._marker.digest())
        if self._config.split != "tail":
            settings.append(self._config.split)
        if self._beginning:
            settings.append(self._beginning.earlier.digest)
        if self._config.units != "chars":
            settings.append(f"units {self._config.units}")
        return key_of(json.dumps(settings), self._config.units)

    def _encode(
        self, key: str, sha256: str, spool: Spool, division: Division, respected: Respected | None = None
    ) -> Corpus:
        """The second pass: what was kept becomes ids."""
        counts = self._counts_of_parts(spool, division)
        ends = {name: _ends(part) for name, part in counts.items()}
        chars = {name: int(part.sum()) - ends[name] for name, part in counts.items()}
        self._check(chars, ends["train"])
        beginning = self._beginning
        known = None if beginning is None else beginning.earlier.vocabulary
        vocabulary = vocabulary_of(counts["train"], division.codes(spool, "train"), self._config, known)
        if beginning is not None:
            vocabulary = grown(beginning.earlier.vocabulary, vocabulary, anew=beginning.same)
        facts = {
            "format": cache.FORMAT,
            "label": self._label,
            "sha256": sha256,
            "vocabulary": json.loads(vocabulary.to_json()),
            **{f"{name}_chars": n for name, n in chars.items()},
        }
        if vocabulary.ends:
            facts["ends"] = [ends[name] for name in PARTS]
        if respected:
            facts["respected"] = asdict(respected)
        encoder = encoder_of(vocabulary, self._census.counts(), self._kernels)
        parts, done = {}, 0
        for name in PARTS:
            pieces = _Pieces(encoder, spool, division, name, done, self._watch)
            n = encoder.length(counts[name], division.codes(spool, name))
            parts[name] = cache.Part(n, encoder.dtype, pieces)
            done += int(counts[name].sum())
        if self._draw is None:  # of drawn documents all are read for each part
            spool.let_go()
        trouble = cache.try_to_store(key, facts, parts)
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
        return replace(corpus_of_parts(key, facts, *held), uncached=trouble)

    def _counts_of_parts(self, spool: Spool, division: Division) -> dict[str, Counts]:
        """How often each code point occurs in each part: counted in all but the longest."""
        counts = {"train": self._census.counts()}
        for name in (*PARTS[1:], LEFT_OUT):
            part = Census(self._kernels)
            for codes in division.codes(spool, name):
                part.add(codes)
            counts[name] = part.counts()
            counts["train"][: len(counts[name])] -= counts[name]
        return counts

    def _check(self, chars: dict[str, int], ends: int) -> None:
        """TextError where there is too little to train on; `ends`: of documents, in that part."""
        if chars["train"] < 2:
            n = sum(chars.values())
            raise TextError(
                f"the text has {n} character{'s' * (n != 1)}, {chars['train']} of them "
                "to train on; training needs at least 2, and some hundreds to learn anything"
            )
        if self._config.documents != "none" and not ends:
            raise TextError(
                f"no document ends in the training part, of {self._marker.documents} in all, so nothing can be "
                f"learned of it; --documents {self._config.documents} needs more of them, or leave it out"
            )


@dataclass(frozen=True)
class _Pieces:
    """The ids of a part of what was kept, made whenever they are asked for."""

    encoder: PartEncoder
    spool: Spool
    division: Division
    name: str
    before: int  # encoded before
    watch: Watch

    def __iter__(self) -> Iterator[Ids]:
        return self.encoder.pieces(self._watched())

    def _watched(self) -> Iterator[Codes]:
        done = self.before
        for codes in self.division.codes(self.spool, self.name):
            yield codes
            done += len(codes)
            self.watch("encoding", done, self.spool.chars)


def _ends(counts: Counts) -> int:
    """How many documents end in a part."""
    return int(counts[END_POINT : END_POINT + 1].sum())
