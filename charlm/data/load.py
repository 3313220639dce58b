"""Load a corpus from files, from texts in memory or, if nothing is named, from the manual bundled with Python."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.data.addresses import is_address, kept_name, last_part
from charlm.data.boilerplate import Boilerplate, boilerplate_note
from charlm.data.corpus import Corpus, reopen
from charlm.data.corpus_cache import Fingerprints
from charlm.data.detection import check_codec
from charlm.data.documents import FileJoiner, split_documents
from charlm.data.downloads import Downloader, local_path
from charlm.data.holdout import EarlierText
from charlm.data.normalize import normalize_blocks
from charlm.data.prepare import CorpusBuilder, Watch, unwatched
from charlm.data.reader import FileReader, files_of, no_text
from charlm.data.sources import Note, find_files, grouped, manual_name, read_manual
from charlm.data.stream import STDIN, Block, label_of
from charlm.data.text_config import TextConfig
from charlm.data.text_rows import TextRows
from charlm.data.text_scan import FileRead, TextScan
from charlm.errors import TextError

NEWLINE_ADDED = "does not end with a newline; charlm adds one, to keep the lines of two files apart"
MANUAL = "python-manual"
"""The name of a run on the manual."""
INHERITED = ("encoding", "field")
"""Settings that a held-out file follows only if it is of the same kind as the text."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A corpus, notes on reading it, and where it can be read again."""

    corpus: Corpus
    notes: tuple[str, ...]
    sources: tuple[
        str, ...
    ]  # absolute paths, addresses without secrets, `-` for standard input; none for the manual
    label: str


def load(
    names: Sequence[str],
    config: TextConfig,
    watch: Watch = unwatched,
    *,
    verify: bool = False,
    earlier: EarlierText | None = None,
    scan: TextScan | None = None,
    asks: bool = True,
    texts: TextRows | None = None,
) -> Loaded:
    """Read, split and encode files, or reopen their cached corpus if they have not changed.

    `watch` is told the progress. With `verify` the files are read again, and all of the cached corpus is checked.
    `earlier` is the text of the run that is fine-tuned. With a `scan` the files are read (only excerpts of very long
    ones) and the findings are put there. The server of an address is asked if it has changed since it was downloaded,
    unless `asks` is false. `texts` in memory replace standard input, "-". Raises TextError, UsageError and ResourceError.
    """
    sources = tuple(map(absolute_name, names))
    label = " ".join(map(kept_name, names)) if names else manual_name()
    label = "texts in memory" if texts is not None else label
    if config.encoding is not None:
        check_codec(config.encoding)
    files = _Files(config, watch, scan, Downloader(watch, asks=asks, verify=verify))
    paths = files.find(names, config.include, config.exclude) if names else []
    val_paths = None if config.val_file is None else files.find([config.val_file])
    all_paths = [*paths, *(val_paths or [])]
    fingerprints = Fingerprints(all_paths, config, earlier.digest if earlier else "") if paths else None
    notes_on_names = grouped(files.notes)  # never remembered: they are about files left out too
    files.notes.clear()

    if fingerprints is not None and not verify and scan is None:
        remembered = fingerprints.recall()
        corpus = reopen(remembered[0]) if remembered else None
        if remembered and corpus:
            notes = (*notes_on_names, *remembered[1])
            return Loaded(corpus=corpus, notes=notes, sources=sources, label=label)
    builder = CorpusBuilder(config, label, watch, earlier, scan.sample.add if scan else None)
    if texts is not None:
        main: Iterable[Block] = files.rows(texts)
    elif paths:
        main = files.blocks(paths)
    else:
        manual = [Block.of(read_manual())]
        main = split_documents(normalize_blocks(manual, config), config)
    val = files.blocks(val_paths, INHERITED) if val_paths else None
    corpus = builder.build(main, val, verify=verify)
    if scan is not None:
        scan.counts, scan.marks = builder.counts, builder.marks
    found = [*grouped(files.notes), *(builder.marks.warnings() if builder.marks and paths else [])]
    boilerplate = boilerplate_note(files.boilerplate, corpus, config)
    if boilerplate and config.strip is None and scan is not None:
        scan.boilerplate = boilerplate  # which `charlm inspect` lists among its warnings
    elif boilerplate:
        found.append(boilerplate if config.strip else f"{boilerplate} --strip gutenberg leaves them out.")
    if fingerprints is not None and corpus.uncached is None and not (scan and scan.partial):
        fingerprints.remember(corpus.key, found)
    if corpus.uncached is not None:
        found.append(f"The cache cannot be written ({corpus.uncached}); the text is held in memory.")
    return Loaded(corpus=corpus, notes=(*notes_on_names, *found), sources=sources, label=label)


def run_name(names: Sequence[str]) -> str:
    """The default name of a run on these files: the first one's stem."""
    if not names:
        return MANUAL
    return "stdin" if names[0] == "-" else Path(last_part(names[0])).absolute().name.split(".")[0]


def absolute_name(name: str) -> str:
    """Return the name by which a run finds a text from any folder: an absolute path, an address, or `-`."""
    return kept_name(name) if name == STDIN or is_address(name) else str(Path(name).absolute())


class _Files:
    """Reads files one after another, and collects the notes on them."""

    def __init__(
        self, config: TextConfig, watch: Watch, scan: TextScan | None, downloader: Downloader
    ) -> None:
        self._config, self._watch, self._scan, self._downloader = config, watch, scan, downloader
        self.notes: list[Note] = []
        self.boilerplate: list[Boilerplate] = []  # of the text, and of a separate held-out text
        self._total: int | None = 0  # bytes of all files, if known
        self._read = 0

    def find(
        self,
        names: Sequence[str],
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> list[str]:
        """Find the paths that names stand for."""
        config = self._config
        paths, notes = find_files(
            names, include, exclude, config.encoding, field=config.field, downloader=self._downloader
        )
        self.notes += notes
        if self._scan is not None:
            paths = self._scan.plan(paths, self._config)
        if self._total is not None:
            is_known = STDIN not in paths and not (self._scan and self._scan.partial)
            self._total = (
                self._total + sum(os.stat(local_path(path)).st_size for path in paths) if is_known else None
            )
        return paths

    def blocks(self, paths: Sequence[str], inherited: Sequence[str] = ()) -> Iterator[Block]:
        """Yield the text of files; `inherited` is as in FileReader. Raises TextError if there is none."""
        any_text, joiner, boilerplate = False, FileJoiner(), Boilerplate()
        self.boilerplate.append(boilerplate)
        excerpted = self._scan is not None and self._scan.partial
        opened = ((path, each) for path in paths for each in files_of(path, self._config, self.notes))
        for found, (path, member) in opened:
            reader = FileReader(
                path,
                self._config,
                inherited=inherited,
                member=member,
                label=label_of(path) + (", of which excerpts were read," if excerpted else ""),
                watch=self._count,
                excerpt=self._scan.excerpt(path, self._config) if self._scan else None,
            )
            try:
                for block in reader.blocks(joiner, boilerplate):
                    any_text = any_text or bool(block.utf8)
                    yield block
            except TextError as error:
                if (len(paths) < 2 and found == path) or path == STDIN:
                    raise
                apart, named = "\n" if "\n" in str(error) else "; ", shlex.quote(Path(last_part(path)).name)
                raise TextError(f"{error}{apart}to leave it out, add --exclude {named}") from None
            self.notes += [(path, note) for note in reader.notes]
            if self._scan is not None:
                self._scan.record_fields += reader.record_fields or []
                self._scan.files.append(
                    FileRead(
                        name=path,
                        codec=reader.decoder.codec,
                        marked=reader.decoder.has_mark,
                        compression=reader.stream.compression,
                    )
                )
        self.notes += [(name, NEWLINE_ADDED) for name in joiner.unended]
        if not any_text:
            raise no_text(paths)

    def rows(self, texts: TextRows) -> Iterator[Block]:
        """Yield texts in memory."""
        self.boilerplate.append(Boilerplate())
        for block in texts.blocks(self.boilerplate[-1]):
            self._count(len(block.utf8))
            yield block

    def _count(self, n_bytes: int) -> None:
        self._read += n_bytes
        if self._scan is not None:
            self._scan.bytes_read = self._read
        self._watch("reading", self._read, self._total)
