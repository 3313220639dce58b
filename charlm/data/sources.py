"""Find the files that names stand for: files, folders, patterns, archives, addresses, standard input; or Python's manual."""

import errno
import glob
import os
import platform
import re
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from charlm.data.addresses import Address, address_advice, address_of, is_address, kept_name, last_part
from charlm.data.archives import Archive, Member, is_archive
from charlm.data.detection import archive_format, binary_format, compression_of, is_binary, table_format
from charlm.data.downloads import Downloader, local_path
from charlm.data.patterns import WILD, is_pattern, matcher, parts_match
from charlm.data.remote import of_store, store_of
from charlm.data.stream import STDIN, ByteStream, decompress, label_of, read_error, special_kind
from charlm.errors import CharlmError, TextError, UsageError
from charlm.terminal import one_line

Note = tuple[str, str]  # the file's name, what to say about it
CLUTTER = ("__pycache__", "__MACOSX", "*~", "#*#", "Thumbs.db", "desktop.ini")
"""Files that editors, systems and Python leave in folders; read only if --include or a name asks for them."""
RUN_FILES = (("run.json", "vocabulary.json"), ("comparison.json",))
"""Files that mark a folder as a charlm run or comparison, whose contents are results, not text to learn."""
SHOWN_SUFFIXES = 5
SNIFFED = 1 << 13
"""Bytes that decide whether a file found in a folder is text."""
_DIGITS = re.compile(r"\d+")
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tzst|tar\.\w+)$", re.IGNORECASE)
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lzma")


def manual_name() -> str:
    """The name of the manual in reports; its text differs between versions of Python."""
    return f"the manual of Python {platform.python_version()}"


def read_manual() -> str:
    """Return all topics of `pydoc_data.topics`, sorted by name. Raises TextError if Python lacks them."""
    try:
        from pydoc_data.topics import topics  # half a megabyte, loaded only when it is wanted
    except ImportError:
        raise TextError(
            "this Python comes without its manual (pydoc_data.topics), the default text; name a file: "
            "charlm train corpus.txt"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))


def find_files(
    names: Sequence[str],
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    encoding: str | None = None,
    *,
    field: str | None = None,
    downloader: Downloader | None = None,
) -> tuple[list[str], list[Note]]:
    """Return the files that `names` stand for, in order, each once, and notes about them; "-" is standard input.

    A folder stands for all text files below it, sorted by path with numbers as numbers. Hidden files, links to
    folders, clutter, charlm's own runs and binary files are left out. A name with `*`, `?`, `[` or `**` that is
    no file itself stands for what it matches. In folders and globs only files that match one of `include` are
    found; nothing that matches one of `exclude` is. A pattern matches the name of a file, its path below the
    named folder, or those of a folder above it. With an `encoding`, files are not checked for binary data; with a
    `field`, Parquet and Arrow files count as text.

    An address is downloaded into the cache by `downloader`; `local_path` tells where its copy is. In a store it may
    also be a folder or a pattern. It is returned without secrets. An archive is one file here;
    `find_members` finds those in it.

    Raises UsageError if nothing is named or a pattern has no effect, TextError for what does not exist or
    contains no files.
    """
    if not names:
        raise UsageError("no text was named; give a file, a folder, or - for standard input")
    search = _Search(names, include or (), exclude or (), encoding, field, downloader or Downloader())
    found: dict[object, str] = {}
    for name in names:
        for path in search.files_of(name):
            key = path if path == STDIN or is_address(path) else _identity(path)
            if key in found:
                search.notes.append((path, "given more than once, read once"))
            found.setdefault(key, path)
    paths = list(found.values())
    search.check(paths)
    return paths, search.notes


def find_members(
    path: str,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    encoding: str | None = None,
) -> tuple[list[tuple[str, Member]], list[Note]] | None:
    """Find the text files in an archive by name, chosen and sorted as in a folder, and notes; None if it is no archive.

    Raises TextError for one that is damaged, over the zip bomb limit, or without text.
    """
    local = path if path == STDIN else local_path(path)
    if path == STDIN or not is_archive(local, label_of(path)):
        return None
    archive = Archive(local, label_of(path))
    search = _Search([path], include or (), exclude or (), encoding, None, Downloader())
    found = search.members(path, archive)
    search.check([name for name, _ in found])
    if archive.compression is not None:
        search.notes.append((path, f"decompressed from {archive.compression}"))
    return found, search.notes


def may_hold_files(name: str) -> bool:
    """Whether a name may stand for several files: a folder, an archive, or an address in a store."""
    address = address_of(name)
    if address is not None and not address.is_web:
        return True
    return os.path.isdir(name) or _ARCHIVE.search(last_part(name)) is not None


def grouped(notes: Sequence[Note]) -> list[str]:
    """Turn notes on files into sentences, one for all files with the same note."""
    files: dict[str, list[str]] = {}
    for name, note in notes:
        files.setdefault(note, []).append("standard input" if name == STDIN else name)
    return [
        f"{one_line(names[0])}{f' and {len(names) - 1:,} more' if names[1:] else ''}: {note}."
        for note, names in files.items()
    ]


def describe(
    names: Sequence[str], include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> str:
    """Describe what is about to be read, such as "3 files in poems/ (240 kB)"; give the names if they cannot be found."""
    try:
        if any(map(is_address, names)):  # a description is not worth a connection
            return one_line(", ".join(map(kept_name, names)))
        paths = find_files(names, include, exclude)[0]
        sizes = [os.stat(path).st_size for path in paths if path != STDIN]
    except (CharlmError, OSError, ValueError):
        return one_line(", ".join(names)) or "nothing"
    what = f"{len(sizes)} file{'s' * (len(sizes) != 1)}"
    if len(sizes) == 1 and paths[0] in names:
        what = one_line(paths[0])
    elif len(names) == 1 and os.path.isdir(names[0]):
        what += f" in {one_line(os.path.join(names[0], ''))}"
    elif len(names) == 1:
        what += f" matching {one_line(names[0])}"
    parts = [f"{what} ({_size(sum(sizes))})"] if sizes else []
    return " and ".join(parts + ["standard input"] * (STDIN in paths))


def suffix_of(path: str) -> str:
    """The suffix of a file's name in lower case, before that of a compression; empty if it has none."""
    suffixes = [suffix.lower() for suffix in Path(last_part(path)).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in _COMPRESSED), "")


def natural_key(name: str) -> str:
    """Return a sort key that orders runs of digits as numbers."""
    return _DIGITS.sub(_number_key, name)


def _number_key(match: re.Match[str]) -> str:
    digits = "".join(str(unicodedata.decimal(char)) for char in match.group()).lstrip("0")
    return f"0{chr(min(len(digits), 0xD7FF))}{digits}"  # never int(): a name may be one of 200 digits


def _path_key(path: str) -> list[tuple[str, str]]:
    return [(natural_key(part), part) for part in Path(path).parts]


class _Search:
    """Finds the files that names stand for, and collects notes about what is left out."""

    def __init__(
        self,
        names: Sequence[str],
        include: Sequence[str],
        exclude: Sequence[str],
        encoding: str | None,
        field: str | None,
        downloader: Downloader,
    ) -> None:
        self.notes: list[Note] = []
        self._names, self._include, self._exclude = list(map(kept_name, names)), include, exclude
        self._encoding, self._field, self._downloader = encoding, field, downloader
        self._patterns = {text: matcher(text) for text in (*include, *exclude, *CLUTTER)}
        self._used: set[str] = set()  # patterns that matched something
        self._binary: list[str] = []  # files left out because they are not text
        self._runs: dict[str, bool] = {}  # for each folder met, whether it is a run of charlm
        if include and not any(may_hold_files(name) or is_pattern(name) for name in names):
            raise UsageError(
                f"{_options('include', include)} applies only to folders, but you named none; leave it out"
            )
        if exclude and not set(names) - {STDIN}:
            raise UsageError(
                f"{_options('exclude', exclude)} applies only to files, but you named none; leave it out"
            )

    def files_of(self, name: str) -> list[str]:
        """The files that one name stands for, in order."""
        if name == STDIN:
            return [STDIN]
        if not name:
            raise TextError("a file name is empty; give a file, a folder, or - for standard input")
        address = address_of(name)
        if address is not None:
            return self._at(address)
        try:
            if is_pattern(name):
                if advice := address_advice(name):
                    raise TextError(advice)
                return self._matching(name)
            is_folder = stat.S_ISDIR(os.stat(name).st_mode)
            if not self._is_wanted(name, self._matched(name, os.path.dirname(name)), named=True):
                return []
            return self._below(name) if is_folder else [name]
        except (OSError, ValueError) as error:
            at = getattr(error, "filename", None)
            at = at if isinstance(at, str) else name
            refused = read_error(one_line(at), error)
            if at != name:  # in a folder
                exclude = shlex.quote(os.path.basename(at))
                refused = TextError(f"{refused}; to leave it out, add --exclude {exclude}")
            raise refused from error

    def check(self, paths: Sequence[str]) -> None:
        """Note the runs that were left out and unused --exclude. Raises TextError if nothing is left to read."""
        named = one_line(", ".join(self._names))
        runs = [folder for folder, is_run in self._runs.items() if is_run]
        self.notes += [(folder, "a charlm run, not text; left out") for folder in runs]
        inside = any(_ARCHIVE.search(last_part(path)) for path in paths)  # where a pattern may yet match
        for pattern in self._include:
            if pattern not in self._used and not inside:
                hidden = " (hidden files are left out)" if os.path.basename(pattern).startswith(".") else ""
                pattern = one_line(pattern)
                raise TextError(f"{named} contains no file that matches --include {pattern}{hidden}")
        advice = "give a text file, or a folder that contains some"
        if not paths and self._binary:
            others = len(self._binary) - 1
            which = one_line(self._binary[0]) + (f" and {others:,} more are" if others else " is")
            raise TextError(f"{named} contains no text: {which} not text; {advice}")
        if not paths and runs:
            raise TextError(f"{named} contains only charlm runs, which are not training text; {advice}")
        if not paths and self._exclude:
            excluded = _options("exclude", self._exclude)
            raise TextError(f"{excluded} leaves nothing to read; name a file, or exclude less")
        if not paths:
            raise TextError(f"{named} contains no files (hidden ones are left out); {advice}")
        unused = [pattern for pattern in self._exclude if pattern not in self._used and not inside]
        self.notes += [(f"--exclude {pattern}", "matches no file") for pattern in unused]

    def _is_wanted(self, path: str, matched: set[str], *, named: bool = False) -> bool:
        """Whether a file that matches these patterns is read; one that was `named` needs no --include."""
        excluded = matched & {*self._exclude}
        self._used |= excluded if named else matched
        if excluded or named:
            return not excluded
        if self._include:
            return bool(matched & {*self._include})
        if matched & {*CLUTTER}:
            self.notes.append((path, "left by an editor or the system, not read"))
            return False
        return True

    def _matched(self, path: str, root: str) -> set[str]:
        """Return the patterns that match a path below the folder `root`, or a folder between the two."""
        matched, root = set[str](), root.rstrip("/" + os.sep) or root
        while path and path != root:
            matched |= self._matched_alone(path, root)
            above = os.path.dirname(path)
            path = above if above != path else root
        return matched

    def _matched_alone(self, path: str, root: str) -> set[str]:
        name, inside = os.path.basename(path), path[len(root) :].lstrip("/" + os.sep)
        return {text for text, matches in self._patterns.items() if matches(name, inside, path)}

    def _below(self, top: str) -> list[str]:
        """The text files below a folder, in order."""
        wanted = [path for path, matched in self._walk(top) if self._is_wanted(path, matched)]
        found = self._texts(wanted, archives=bool(self._include))
        self._note_kinds(top, found)
        return found

    def _note_kinds(self, top: str, found: Sequence[str]) -> None:
        """Note the kinds of files below a folder, if there are several."""
        suffixes = Counter(map(suffix_of, found)).most_common()
        if len(suffixes) > 1:
            kinds = [
                f"{n:,} {one_line(suffix) or 'without a suffix'}" for suffix, n in suffixes[:SHOWN_SUFFIXES]
            ]
            others = sum(n for _, n in suffixes[SHOWN_SUFFIXES:])
            listed = ", ".join(kinds) + (f" and {others:,} others" if others else "")
            self.notes.append(
                (top, f"reading several kinds of files ({listed}); choose with --include and --exclude")
            )

    def _walk(self, top: str) -> Iterator[tuple[str, set[str]]]:
        """All files below a folder that are not hidden, in order, each with the patterns it matches.

        Not recursive: folders may be nested a thousand deep.
        """
        root = top.rstrip(os.sep) or top
        rest = [] if self._is_run(top) else [(entry, set[str]()) for entry in _entries(top)]
        while rest:
            entry, above = rest.pop()
            path = entry.path
            if entry.is_dir(follow_symlinks=False):
                matched = above | self._matched_alone(path, root)
                excluded = matched & {*self._exclude}
                self._used |= excluded
                if not excluded and not self._is_run(path):
                    rest += [(below, matched) for below in _entries(path)]
            elif entry.is_symlink() and os.path.isdir(path):  # followed, it could lead to the whole disk
                self.notes.append((path, "a link to a folder, not followed: name it to read it"))
            elif entry.is_file(follow_symlinks=False) or not self._is_special(path):
                yield path, above | self._matched_alone(path, root)

    def _is_run(self, folder: str) -> bool:
        """Whether a folder is a run or a comparison of charlm."""
        if folder not in self._runs:
            self._runs[folder] = any(
                all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in RUN_FILES
            )
        return self._runs[folder]

    def _is_special(self, path: str) -> bool:
        """Whether a file is not a regular one; a note says so."""
        try:
            kind = special_kind(os.stat(path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            kind = "a broken link"
        if kind:
            self.notes.append((path, f"{kind}, left out"))
        return kind is not None

    def _texts(self, paths: list[str], *, archives: bool) -> list[str]:
        """Return the files that may be text by their first bytes, or archives if `archives`; note the others."""
        return self._without_binary({path: _head(path) for path in paths}, archives=archives)

    def _without_binary(self, heads: dict[str, bytes], *, archives: bool = False) -> list[str]:
        """Return the names of the files that may be text, given how each begins; note the others."""
        kinds = {path: self._binary_kind(path, head, archives) for path, head in heads.items()}
        binary = {path: kind for path, kind in kinds.items() if kind is not None}
        self._binary += binary
        self.notes += [(path, f"{kind}, not text; left out") for path, kind in binary.items()]
        return [path for path in heads if path not in binary]

    def _binary_kind(self, path: str, head: bytes, archives: bool) -> str | None:
        """Return what a file that begins with `head` is if it cannot be text; None for what may be."""
        packed = compression_of(head)
        try:
            head = next(decompress(packed, [head], path), b"")[:SNIFFED] if packed else head
        except TextError:
            return None  # reading it says what is wrong
        if (archives and archive_format(head)) or (self._field is not None and table_format(head)):
            return None
        known = binary_format(head)
        return known[0] if known else "binary data" if self._encoding is None and is_binary(head) else None

    def members(self, path: str, archive: Archive) -> list[tuple[str, Member]]:
        """Return the text files in an archive, chosen as in a folder."""
        members = {os.path.join(path, *member.parts): member for member in archive.members}
        shown = [name for name, member in members.items() if not any(p.startswith(".") for p in member.parts)]
        matched = {name: self._matched(name, path) for name in shown}
        # A pattern that matches the archive alone, as it would a folder, stands for all files in it.
        above = self._matched_alone(path, os.path.dirname(path)).difference(*matched.values())
        wanted = [name for name in shown if self._is_wanted(name, matched[name] | above)]
        self.notes += [
            (os.path.join(path, name), "a link or a special file, left out") for name in archive.links
        ]
        heads = {}
        for name in sorted(wanted, key=_path_key):
            pieces = ByteStream(name, one_line(name), member=members[name].content).raw_pieces()
            heads[name] = next(pieces, b"")[:SNIFFED]
            pieces.close()
        found = self._without_binary(heads)
        self._note_kinds(path, found)
        return [(name, members[name]) for name in found]

    def _at(self, address: Address) -> list[str]:
        """Download an address and return the files that it stands for."""
        matched = self._matched(address.name, os.path.dirname(address.name))
        if not self._is_wanted(address.name, matched, named=True):
            return []
        listed = None if address.is_web else self._listed(address)
        if listed is not None:
            self._note_kinds(address.name, listed)
        for name in [address.name] if listed is None else listed:
            file = address if listed is None else address_of(name)
            assert file is not None, "what a store lists are addresses"
            self.notes += [(name, note) for note in self._downloader.fetch(file)]
        return [address.name] if listed is None else listed

    def _listed(self, address: Address) -> list[str] | None:
        """List the text files below a folder of a store, or that match a pattern; None for a file."""
        if self._downloader.keeps(address):
            return None
        store, root = store_of(address), address.name.rstrip("/")
        try:
            if WILD.search(address.full) and not store.exists(address.full):
                below = store.glob(address.full, detail=True)
                root = re.split(r"[*?[]", root)[0].rpartition("/")[0]
                if not below:
                    raise TextError(f"{one_line(address.name)} matches no file; check the pattern")
                for path in [path for path, info in below.items() if info["type"] == "directory"]:
                    below |= store.find(path, detail=True)
            elif store.info(address.full)["type"] == "file":
                return None
            else:
                below = store.find(address.full, detail=True)
            names = {
                f"{address.scheme}://{path.lstrip('/')}": path
                for path, info in below.items()
                if info["type"] == "file"
            }
            wanted = [name for name in names if self._is_listed(name, root)]
            heads = {
                name: store.cat_file(names[name], start=0, end=SNIFFED)
                for name in sorted(wanted, key=_path_key)
            }
        except TextError:
            raise
        except Exception as error:  # noqa: BLE001  each store's library raises its own
            raise TextError(f"{one_line(address.name)} could not be read: {of_store(error)}") from None
        return self._without_binary(heads, archives=True)

    def _is_listed(self, name: str, root: str) -> bool:
        """Whether a file below a folder of a store is wanted and not hidden."""
        hidden = any(part.startswith(".") for part in name[len(root) :].split("/"))
        return not hidden and self._is_wanted(name, self._matched(name, root))

    def _matching(self, pattern: str) -> list[str]:
        """The text files that a glob pattern matches, and those below the folders that it matches."""
        anchor, parts = Path(pattern).anchor, Path(pattern).parts
        parts = parts[1:] if anchor else parts
        fixed = next((i for i, part in enumerate(parts) if WILD.search(part)), len(parts))
        root = os.path.join(anchor, *parts[:fixed])
        found, below = list[tuple[str, set[str]]](), list[str]()
        if "**" in parts:  # not with glob, which follows link loops
            wild = parts[fixed:] if parts[-1] != "**" else (*parts[fixed:], "*")
            for path, matched in self._walk(root or os.curdir) if os.path.isdir(root or os.curdir) else ():
                path = path if root else os.path.relpath(path)
                if parts_match(Path(path).parts[fixed + bool(anchor) :], wild):
                    found.append((path, matched))
        else:
            for path in sorted(glob.glob(pattern), key=_path_key):
                if os.path.isdir(path):
                    below += self._below(path)
                else:
                    found.append((path, self._matched(path, root)))
        if not found and not below and not any(self._runs.values()):
            raise TextError(
                f"{one_line(pattern)} matches no file; check the pattern and the folder you are in"
            )
        wanted = [path for path, matched in found if self._is_wanted(path, matched)]
        wanted = self._texts(wanted, archives=True)
        return sorted([*wanted, *below], key=_path_key)


def _head(path: str) -> bytes:
    """Return the first bytes of a regular file; none if it cannot be read, since reading it says what is wrong."""
    try:
        with open(path, "rb") as file:
            return b"" if special_kind(os.fstat(file.fileno())) else file.read(SNIFFED)
    except OSError:
        return b""


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """List what is in a folder and not hidden, in reverse order."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: (natural_key(entry.name), entry.name), reverse=True)


def _options(option: str, patterns: Sequence[str]) -> str:
    """Patterns as they were given: `--include *.txt --include *.md`."""
    return " ".join(f"--{option} {one_line(pattern)}" for pattern in patterns)


def _identity(path: str) -> object:
    """Return what identifies a file, whatever its name."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise read_error(one_line(path), error) from error
    # Some file systems have no inode numbers.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _size(n_bytes: int) -> str:
    if n_bytes < 1000:
        return f"{n_bytes} B"
    value, units = n_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.5 and units[1:]:
        value /= 1000
        del units[0]
    return f"{value:.1f} {units[0]}" if value < 9.95 else f"{value:.0f} {units[0]}"
