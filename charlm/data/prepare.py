"""Turn a text into a corpus in two passes: the first counts and keeps the characters, the second encodes them.

Between the passes the characters wait in a spool, so memory does not grow with the text.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from charlm.data import corpus_cache as cache
from charlm.data import shards
from charlm.data.corpus import Corpus, TextFacts, corpus_of_parts, reopen
from charlm.data.documents import EndMarker, split_documents
from charlm.data.encode import Counts, Encoder, Spool, TextCounter
from charlm.data.holdout import LEFT_OUT, PARTS, BeginsWith, DocumentSplit, EarlierText, Split, inherit_split
from charlm.data.normalize import normalize_blocks
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.text_scan import TextMarks
from charlm.data.tokenizer import END_POINT, Ids, Points, Vocabulary
from charlm.errors import ResourceError, TextError
from charlm.strict_json import to_json
from charlm.terminal import one_line

Watch = Callable[[str, int, int | None], None]  # what is being done, how much of it is done, of how much


def unwatched(what: str, done: int, total: int | None) -> None:
    """A Watch that ignores progress."""


def prepare(
    text: str, config: TextConfig, val_text: str | None = None, earlier: EarlierText | None = None
) -> Corpus:
    """Build the corpus of a text in memory. Raises as `CorpusBuilder.build`."""
    main, val = (
        None if part is None else split_documents(normalize_blocks([Block.of(part)], config), config)
        for part in (text, val_text)
    )
    assert main is not None
    return CorpusBuilder(config, earlier=earlier).build(main, val)


class CorpusBuilder:
    """Counts, splits and encodes a text."""

    def __init__(
        self,
        config: TextConfig,
        label: str = "",
        watch: Watch = unwatched,
        earlier: EarlierText | None = None,
        observe: Callable[[Points], None] | None = None,
    ) -> None:
        """`label` names the text in the cache; `watch` is told the progress of encoding.

        `earlier`: the text of the run that is fine-tuned, whose symbols and split are kept. `observe` is given the
        code points of the text, in order, in blocks, but not those of a separate held-out text.
        """
        self._config, self._label, self._watch, self._observe = config, label, watch, observe
        self._counter, self._marker = TextCounter(), EndMarker()
        self._documents = DocumentSplit(config) if config.split == "documents" else None
        self._begins = None if earlier is None else BeginsWith(earlier)
        self._n = 0  # symbols of the text, without a separate held-out text
        self.marks: TextMarks | None = None  # once the text is read, if it is not empty
        self.counts: Counts = np.zeros(0, np.int64)  # of each code point, once the text is read

    def build(
        self, blocks: Iterable[Block], val_blocks: Iterable[Block] | None = None, *, verify: bool = False
    ) -> Corpus:
        """Read a text and encode it into the cache, or reopen it there. With `verify` all of a cached corpus is checked.

        If the cache cannot be written, a text that fits into memory is held there. Raises TextError for a text
        too short to learn from, ResourceError if the disk is full.
        """
        folder = cache.temporary_folder()
        with closing(Spool(folder)) as spool:
            try:
                sha256 = self._read(blocks, spool, main=True)
                val_sha256 = None if val_blocks is None else self._read(val_blocks, spool, main=False)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                    raise
                raise ResourceError(
                    f"no room for the text in {one_line(str(folder))} ({error.strerror}); free some space there, or "
                    "set CHARLM_CACHE to a folder that has it"
                ) from None
            key = self._key(sha256, val_sha256)
            return reopen(key, whole=verify) or self._encode(key, sha256, spool)

    def _read(self, blocks: Iterable[Block], spool: Spool, *, main: bool) -> str:
        """Make the first pass over the `main` text or the separate held-out text. Return its SHA-256."""
        digest = hashlib.sha256()
        for block in blocks:
            codes = self._marker.mark(block)
            self._counter.add(codes)
            if self._documents is not None:
                self._documents.add(codes)
            spool.add(codes, block if block.ends is None else None)
            digest.update(block.utf8)
            if main:
                self._counter.add_line_ends(block.utf8)
                if self._begins is not None:
                    self._begins.add(block)
                if self._observe is not None:
                    self._observe(codes)
        if main:
            self._n, self.counts = spool.chars, self._counter.counts()
            self.marks = TextMarks(self.counts, self._counter.crlf) if spool.chars else None
        return digest.hexdigest()

    def _key(self, sha256: str, val_sha256: str | None) -> str:
        config = self._config
        settings = [cache.FORMAT, sha256, val_sha256, self._n, config.val, config.test, config.min_count]
        if config.documents != "none":
            settings.append(self._marker.digest())
        if config.split != "tail":
            settings.append(config.split)
        if self._begins is not None:
            settings.append(self._begins.earlier.digest)
        if config.units != "chars":
            settings.append(f"units {config.units}")
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]

    def _encode(self, key: str, sha256: str, spool: Spool) -> Corpus:
        """Make the second pass: encode the parts and store them."""
        inherited = None
        if self._documents is not None:
            split: Split | DocumentSplit = self._documents
        elif self._begins is not None:
            begins = self._begins
            inherited = inherit_split(begins.earlier, begins.same, spool, self._n, self._config)
            split = Split(inherited.spans)
        else:
            split = Split.of(self._n, spool.chars, self._config)
        counts = self._counts_of_parts(spool, split)
        ends = {name: int(part[END_POINT : END_POINT + 1].sum()) for name, part in counts.items()}
        chars = {name: int(part.sum()) - ends[name] for name, part in counts.items()}
        self._check(chars, ends["train"])
        vocabulary = self._vocabulary(counts["train"])
        known = TextFacts(
            sha256=sha256,
            ends=(ends["train"], ends["held_out"], ends["test"]),
            inherited_split=inherited,
            **{f"{name}_chars": n for name, n in chars.items()},
        )
        own = {"format": cache.FORMAT, "label": self._label, "vocabulary": json.loads(vocabulary.to_json())}
        facts = {**to_json(known), **own}
        encoder = Encoder(vocabulary, self._counter.counts())

        def encoded(name: str) -> Iterator[Ids]:
            done = sum(int(counts[before].sum()) for before in PARTS[: PARTS.index(name)])
            for codes in split.codes(spool, name):
                yield encoder.encode(codes)
                done += len(codes)
                self._watch("encoding", done, spool.chars)

        lengths = {name: encoder.length(counts[name]) for name in PARTS}
        parts = {name: shards.Part(lengths[name], encoder.dtype, partial(encoded, name)) for name in PARTS}
        return _store(key, facts, parts)

    def _vocabulary(self, train_counts: Counts) -> Vocabulary:
        """The symbols of the training part, after those of the run that is fine-tuned."""
        old = None if self._begins is None else self._begins.earlier.vocabulary
        keep = "" if old is None else old.chars
        new = Vocabulary.from_counts(train_counts, self._config.min_count, self._config.units, keep)
        if old is None or self._begins is None:
            return new
        return old.extended(new, replace_counts=self._begins.same)

    def _counts_of_parts(self, spool: Spool, split: Split | DocumentSplit) -> dict[str, Counts]:
        """How often each code point occurs in each part; the training part's are the rest."""
        counts = {"train": self._counter.counts()}
        for name in (*PARTS[1:], LEFT_OUT):
            counter = TextCounter()
            for codes in split.codes(spool, name):
                counter.add(codes)
            counts[name] = counter.counts()
            counts["train"][: len(counts[name])] -= counts[name]
        return counts

    def _check(self, chars: dict[str, int], train_ends: int) -> None:
        """Raise TextError if there is too little to train on."""
        if chars["train"] < 2:
            n = sum(chars.values())
            raise TextError(
                f"the text has {n} character{'s' * (n != 1)}, {chars['train']} of them "
                "to train on; training needs at least 2, and a few hundred to learn anything"
            )
        if self._config.documents != "none" and not train_ends:
            raise TextError(
                f"no document ends in the training part ({self._marker.documents} in the whole text), so the model "
                f"cannot learn where they end; --documents {self._config.documents} needs more documents, or leave it out"
            )


def _store(key: str, facts: dict[str, object], parts: dict[str, shards.Part]) -> Corpus:
    """Store encoded parts in the cache and open them; or hold them in memory if the cache cannot be written."""
    try:
        cache.store(key, facts, parts)
        why = "it changed"
    except OSError as error:
        why = str(error.strerror or error)
    else:
        corpus = reopen(key)
        if corpus is not None:
            return corpus
    if sum(part.n * part.dtype.itemsize for part in parts.values()) > shards.CHECKED_WHOLE:
        raise ResourceError(
            f"the cache in {one_line(str(cache.cache_folder()))} cannot be written ({why}), and the text is too long "
            "to be held in memory; free some space there, or set CHARLM_CACHE to another folder"
        )
    held = {name: np.concatenate([np.empty(0, part.dtype), *part.pieces()]) for name, part in parts.items()}
    return replace(corpus_of_parts(key, facts, held), uncached=why)
