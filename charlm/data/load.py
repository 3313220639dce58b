"""From what the user named to a corpus: files, or the manual where nothing is named."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.config import TextConfig
from charlm.data.boilerplate import Boilerplate, boilerplate_note
from charlm.data.cache import Known
from charlm.data.corpus import Corpus, reopen
from charlm.data.decoding import check_codec
from charlm.data.documents import FileJoiner, split_documents
from charlm.data.holdout import Earlier
from charlm.data.normalize import normalize_blocks
from charlm.data.prepare import Preparation, Watch
from charlm.data.reader import FileReader, no_text
from charlm.data.scan import Look
from charlm.data.sources import Note, find_files, manual_name, read_manual
from charlm.data.stream import STDIN, Block, label_of
from charlm.data.text_warnings import grouped, remarks
from charlm.errors import TextError
from charlm.native.text_kernels import Kernels

NEWLINE_ADDED = "does not end with a newline; one is added, so that lines of two files are not joined"
MANUAL = "python-manual"
"""The name of a run on the manual."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A corpus, what was noticed in reading it, and where it can be read again."""

    corpus: Corpus
    notes: tuple[str, ...]
    sources: tuple[str, ...]  # absolute paths; none for the manual; `-` for standard input
    label: str


def load(
    names: Sequence[str],
    config: TextConfig,
    watch: Watch = lambda what, done, of: None,
    *,
    verify: bool = False,
    earlier: Earlier | None = None,
    look: Look | None = None,
) -> Loaded:
    """Read, divide and encode; or find in the cache what was read before and has not changed.

    `watch` is told how it goes on. With `verify` the files are read through and all that the cache
    holds is checked. `earlier` is the text of a run that is gone on from. With a `look` they are read,
    excerpts of what is too long, and what that tells is put there. Raises TextError, UsageError and
    ResourceError.
    """
    sources = tuple(name if name == "-" else str(Path(name).absolute()) for name in names)
    label = " ".join(names) if names else manual_name()
    if config.encoding is not None:
        check_codec(config.encoding)
    files = _Files(config, watch, look)
    paths = files.find(names, config.include, config.exclude) if names else []
    val_paths = None if config.val_file is None else files.find([config.val_file])
    known = Known([*paths, *(val_paths or [])], config, earlier.digest if earlier else "") if paths else None
    found_notes = grouped(files.notes)  # of what was left out too, so they are not those of an earlier time
    row = known.recall() if known and not verify and look is None else None
    corpus = reopen(row[0]) if row else None
    if row and corpus:
        return Loaded(corpus=corpus, notes=(*found_notes, *row[1]), sources=sources, label=label)
    files.notes.clear()
    files.kernels = Kernels.of_text(files.total)
    preparation = Preparation(config, label, watch, earlier, look.sample.add if look else None, files.kernels)
    main = files.blocks(paths) if paths else split_documents(normalize_blocks(_manual(), config), config)
    inherited = ("encoding", "field")  # which were given for the text, whose kind this may not be
    val = files.blocks(val_paths, inherited) if val_paths else None
    corpus = preparation.corpus(main, val, check=verify)
    if look is not None:
        look.counts, look.marks = preparation.counts, preparation.marks
    notes = [*grouped(files.notes), *(remarks(preparation.marks) if preparation.marks and paths else [])]
    found = boilerplate_note(files.boilerplate, corpus, config)
    if found and config.strip is None:
        if look is not None:
            look.boilerplate = found  # of which a finding says the rest
        else:
            notes.append(f"{found} --strip gutenberg leaves them out.")
    elif found:
        notes.append(found)
    if known and corpus.uncached is None and not (look and look.partial):
        known.remember(corpus.key, notes)
    if corpus.uncached is not None:
        notes.append(
            f"The cache cannot be written ({corpus.uncached}); the text is held in memory this time."
        )
    return Loaded(corpus=corpus, notes=(*found_notes, *notes), sources=sources, label=label)


def run_name(names: Sequence[str]) -> str:
    """The name that a run on these files has by default: the first one's stem."""
    if not names:
        return MANUAL
    return "stdin" if names[0] == "-" else Path(names[0]).absolute().name.split(".")[0]


def _manual() -> Iterator[Block]:
    text = read_manual()
    yield Block(text.encode(), text)


class _Files:
    """Files to read one after another, and what is to be said of them."""

    def __init__(self, config: TextConfig, watch: Watch, look: Look | None) -> None:
        self.notes: list[Note] = []
        self._config, self._watch, self._look = config, watch, look
        self.total: int | None = 0  # bytes, where that is known
        self.kernels: Kernels | None = None
        self._taken = 0
        self.boilerplate: list[Boilerplate] = []  # of the text, and of a held-out text of its own

    def find(
        self,
        names: Sequence[str],
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> list[str]:
        """The files that are meant."""
        paths, notes = find_files(names, include, exclude, self._config.encoding)
        self.notes += notes
        sizes = [os.stat(path).st_size if path != STDIN else None for path in paths]
        self.total = None if None in sizes or self.total is None else self.total + sum(filter(None, sizes))
        if self._look is not None:
            paths = self._look.plan(paths, self._config)
            self.total = None if self._look.partial else self.total
        return paths

    def blocks(self, paths: Sequence[str], inherited: Sequence[str] = ()) -> Iterator[Block]:
        """Their text; `inherited` is as in FileReader.

        Raises TextError where there is none.
        """
        any_text, joiner, boilerplate = False, FileJoiner(), Boilerplate()
        self.boilerplate.append(boilerplate)
        for path in paths:
            label = label_of(path)
            if self._look is not None and self._look.partial:
                label = f"{label}, of which pieces were read,"
            reader = FileReader(
                path,
                self._config,
                inherited=inherited,
                label=label,
                watch=self._take,
                excerpt=self._look.excerpt(path) if self._look else None,
                kernels=self.kernels,
            )
            try:
                for block in reader.blocks(joiner, boilerplate):
                    any_text = any_text or bool(block.utf8)
                    yield block
            except TextError as error:
                raise self._with_advice(error, path, paths) from None
            self.notes += [(path, note) for note in reader.notes]
            if reader.record_fields is not None and self._look is None:
                self.notes.append((path, reader.records_note))
            if self._look is not None:
                self._look.read(path, reader)
                self._look.fields += reader.record_fields or []
        self.notes += [(name, NEWLINE_ADDED) for name in joiner.unended]
        if not any_text:
            raise no_text(paths)

    def _with_advice(self, error: TextError, path: str, paths: Sequence[str]) -> TextError:
        """The error, and how to read the others without that file, where there are others."""
        if len(paths) < 2 or path == STDIN:
            return error
        apart = "\n" if "\n" in str(error) else " "
        return TextError(f"{error}{apart}To leave it out, add --exclude {shlex.quote(Path(path).name)}.")

    def _take(self, taken: int) -> None:
        self._taken += taken
        if self._look is not None:
            self._look.bytes_read = self._taken
        self._watch("reading", self._taken, self.total)
