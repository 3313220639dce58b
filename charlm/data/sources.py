"""What the user names (files, folders, globs, standard input, or nothing) to a list of files."""

import errno
import fnmatch
import glob
import os
import platform
import re
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from charlm.data.datasets import address_advice
from charlm.data.decoding import binary, format_of
from charlm.data.decompression import compression, decompress
from charlm.errors import CharlmError, TextError, UsageError
from charlm.terminal import one_line


def manual_name() -> str:
    """What figures on it must carry: the text differs from one version of Python to the next."""
    return f"the manual of Python {platform.python_version()}"


def read_manual() -> str:
    """All topics of `pydoc_data.topics`, in the order of their names; TextError where it is missing."""
    try:
        from pydoc_data.topics import topics  # half a megabyte, loaded only when it is wanted
    except ImportError:
        raise TextError(
            "this Python comes without its manual (pydoc_data.topics), which is what is learned from when "
            "no file is named; name one: charlm train corpus.txt"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))


STDIN = "-"
Note = tuple[str, str]  # the file's name, what is to be said of it
Patterns = Sequence[str] | None
CLUTTER = ("__pycache__", "__MACOSX", "*~", "#*#", "Thumbs.db", "desktop.ini")
"""What editors, systems and Python leave in folders: read only where --include or a name asks for it."""
OURS = (("run.json", "vocabulary.json"), ("comparison.json",))
"""Files by which a folder is known as one of charlm's runs, or a comparison of several: results, not text to learn."""
SHOWN_KINDS = 5
HEAD = 1 << 13
"""Bytes by which it is told whether a file found in a folder is text."""
_WILD = re.compile(r"[*?[]")
_DIGITS = re.compile(r"\d+")
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def find_files(names: Sequence[str]) -> list[Path | str]:
    """Return the files that `names` mean, in order, each once; "-" is standard input.

    A folder stands for all files of text below it, sorted by path, numbers as numbers; hidden files, links to
    folders, clutter, charlm's own runs and files that are no text are left out. A name with `*`, `?`, `[` or `**` that is no file
    itself stands for what it matches. Raises UsageError when nothing is named, TextError for what does not
    exist or holds no files.
    """
    return [name if name == STDIN else Path(name) for name in expand(names)[0]]


def expand(
    names: Sequence[str],
    include: Patterns = None,
    exclude: Patterns = None,
    encoding: str | None = None,
) -> tuple[list[str], list[Note]]:
    """As `find_files`, as plain strings, with what is to be said of them. Raises the same.

    A pattern matches the name of a file, its path below the folder that was named, or that of a folder above
    it. Of folders and globs only what matches one of `include` is read; nothing that matches one of `exclude`
    is. `encoding` is what the files will be read as: it may have bytes that no UTF-8 has.
    """
    if not names:
        raise UsageError("No text was named. Give a file, a folder, or - for standard input.")
    search = _Search(names, include, exclude, encoding)
    found: dict[object, str] = {}
    for name in names:
        for path in search.files_of(name):
            key = STDIN if path == STDIN else _identity(path)
            if key in found:
                search.notes.append((path, "given more than once, read once"))
            found.setdefault(key, path)
    paths = list(found.values())
    search.note_runs()
    search.check(paths)
    return paths, search.notes


def describe(names: Sequence[str], include: Patterns = None, exclude: Patterns = None) -> str:
    """Say what is about to be read, such as "3 files in poems/ (240 kB)", reading none of it.

    What cannot be found is only named. Raises nothing.
    """
    try:
        files = expand(names, include, exclude)[0]
        sizes = [os.stat(path).st_size for path in files if path != STDIN]
    except (CharlmError, OSError, ValueError):
        return one_line(", ".join(names)) or "nothing"
    parts = [f"{_counted(names, files, len(sizes))} ({_size(sum(sizes))})"] if sizes else []
    return " and ".join(parts + ["standard input"] * (STDIN in files))


def trouble(label: str, error: OSError | ValueError) -> TextError:
    """The error to raise for one of the operating system. Raises nothing."""
    address = None if isinstance(error, PermissionError) else address_advice(label)
    if address is not None:
        return TextError(address)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return TextError(f"{label} does not exist. Check its name and the folder you are in.")
    if isinstance(error, PermissionError):
        return TextError(
            f"{label} may not be read: permission denied. Change its permissions or give a copy."
        )
    reason = getattr(error, "strerror", None) or error
    return TextError(f"{label} cannot be read: {reason}. Check the name, or give another file.")


def kind_unless_regular(status: os.stat_result) -> str | None:
    """What is not a regular file, in words; None for one that is. Raises nothing."""
    if stat.S_ISREG(status.st_mode):
        return None
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something special")


def natural(name: str) -> str:
    """A name as it sorts: runs of digits as the numbers they are, at the place of digits."""
    return _DIGITS.sub(_number, name)


def _number(match: re.Match[str]) -> str:
    digits = match.group()
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(char)) for char in digits)
    digits = digits.lstrip("0")
    return f"0{chr(min(len(digits), 0xD7FF))}{digits}"  # never int(): a name may be one of 200 digits


def _order(path: str) -> list[tuple[str, str]]:
    return [(natural(part), part) for part in Path(path).parts]


class _Search:
    """Looks for the files that names mean."""

    def __init__(
        self, names: Sequence[str], include: Patterns, exclude: Patterns, encoding: str | None
    ) -> None:
        self.notes: list[Note] = []
        self._names, self._encoding = names, encoding
        self._include, self._exclude = tuple(include or ()), tuple(exclude or ())
        self._patterns = [(p, _Pattern(p)) for p in (*self._include, *self._exclude, *CLUTTER)]
        self._of_paths = any("/" in text.replace(os.sep, "/") for text, _ in self._patterns)
        self._of_path: dict[str, frozenset[str]] = {}  # the patterns that a folder, or one above it, matches
        self._used: set[str] = set()  # patterns that matched a file
        self._no_text: list[str] = []
        self._runs: dict[str, bool] = {}  # of each folder that was met: is it one of charlm's runs?
        self._left_out = False  # was any folder, as --exclude asks?
        searched = any(_is_searched(name) for name in names)
        if self._include and not searched:
            raise UsageError(
                f"{_named('include', self._include)} acts on folders, and none was named; leave it out"
            )
        if self._exclude and not set(names) - {STDIN}:
            raise UsageError(
                f"{_named('exclude', self._exclude)} acts on files, and none was named; leave it out"
            )

    def files_of(self, name: str) -> list[str]:
        """The files that one name means, in order."""
        if name == STDIN:
            return [STDIN]
        if not name:
            raise TextError("A file name is empty. Give a file, a folder, or - for standard input.")
        try:
            if _is_pattern(name):
                address = address_advice(name)
                if address is not None:
                    raise TextError(address)
                return self._matching(name)
            folder = stat.S_ISDIR(os.stat(name).st_mode)
            if not self._kept(name, os.path.dirname(name), named=True):
                return []
            return self._below(name) if folder else [name]
        except (OSError, ValueError) as error:
            at = getattr(error, "filename", None)
            at = at if isinstance(at, str) else name
            refused = trouble(one_line(at), error)
            if at != name:  # in a folder
                advice = f"To leave it out, add --exclude {shlex.quote(os.path.basename(at))}."
                refused = TextError(f"{refused} {advice}")
            raise refused from error

    def check(self, paths: Sequence[str]) -> None:
        """TextError where nothing is left, or a pattern of --include matched nothing."""
        for pattern in self._include:
            if pattern not in self._used:
                where = one_line(", ".join(self._names))
                hidden = " (hidden files are left out)" if os.path.basename(pattern).startswith(".") else ""
                raise TextError(f"{where} holds no file that matches --include {one_line(pattern)}{hidden}.")
        if not paths and self._left_runs() and not self._no_text:
            raise TextError(
                f"{one_line(', '.join(self._names))} holds only runs of charlm, which are not read as text."
                " Give a file of text, or a folder that holds some."
            )
        if not paths and self._no_text:
            more = f" and {len(self._no_text) - 1:,} more are" if self._no_text[1:] else " is"
            raise TextError(
                f"{one_line(', '.join(self._names))} holds no text: {one_line(self._no_text[0])}{more} not text."
                " Give a file of text, or a folder that holds some."
            )
        if not paths:
            asked = f" {_named('exclude', self._exclude)}" if self._exclude else ""
            raise TextError(
                f"Nothing is left to read{asked and ' with' + asked}. Name a file, or leave less out."
            )
        for pattern in self._exclude:
            if pattern not in self._used:
                self.notes.append((f"--exclude {pattern}", "matches no file"))

    def _kept(self, path: str, root: str, *, named: bool = False) -> bool:
        """Do the patterns let a file be read? One that was named needs no --include."""
        matched = self._matched(path, root)
        excluded = matched & set(self._exclude)
        self._used.update(excluded if named else matched)
        if excluded or named:
            return not excluded
        if self._include:
            return bool(matched & set(self._include))
        if matched & set(CLUTTER):
            self.notes.append((path, "left by an editor or the system, not read"))
            return False
        return True

    def _matched(self, path: str, root: str) -> frozenset[str]:
        """The patterns that a file below the folder `root`, or a folder above it, matches.

        A pattern with a slash is matched with paths, as given and from `root`, another with names.
        """
        root, climbed = root.rstrip(os.sep) or root, list[str]()
        while path != root and path not in self._of_path and path:
            climbed.append(path)
            above = os.path.dirname(path)
            path = above if above != path else root
        matched = self._of_path.get(path, frozenset()) if path != root else frozenset()
        for below in reversed(climbed):
            matched |= self._matched_alone(below, root)
            if os.path.isdir(below):
                self._of_path[below] = matched
        return matched

    def _matched_alone(self, path: str, root: str) -> set[str]:
        name, inside = os.path.basename(path), path[len(root) :].lstrip(os.sep)
        absolute = os.path.abspath(path) if self._of_paths else ""
        return {text for text, pattern in self._patterns if pattern.matches(name, inside, absolute)}

    def _below(self, folder: str) -> list[str]:
        """The files of text below a folder, in order."""
        every = list(self._walked(folder))
        if not every and not self._left_out and not self._left_runs():
            raise TextError(
                f"{one_line(folder)} is a folder without files (hidden ones are left out)."
                " Give a file or a folder that holds some."
            )
        found = self._texts([path for path in every if self._kept(path, folder)])
        if not found and self._include and not self._no_text:
            raise TextError(
                f"{one_line(folder)} holds no file that matches {_named('include', self._include)}."
            )
        self._note_kinds(folder, found)
        return found

    def _walked(self, top: str) -> Iterator[str]:
        """All files below a folder in order, but hidden ones; without recursion: it may be a thousand deep."""
        rest = [] if self._is_run(top) else _entries(top)
        while rest:
            entry = rest.pop()
            path = entry.path
            if entry.is_dir(follow_symlinks=False):
                excluded = self._matched(path, top) & set(self._exclude)
                self._used.update(excluded)
                rest += _entries(path) if not excluded and not self._is_run(path) else []
                self._left_out = self._left_out or bool(excluded)
            elif entry.is_symlink() and os.path.isdir(path):  # followed, it could lead to the whole disk
                self.notes.append((path, "a link to a folder, not followed: name it to read it"))
            elif entry.is_file(follow_symlinks=False) or not self._is_special(path):
                yield path

    def _is_run(self, folder: str) -> bool:
        """Is it the folder of a run or a comparison? What it holds is about a text, not one."""
        if folder not in self._runs:
            self._runs[folder] = any(
                all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in OURS
            )
        return self._runs[folder]

    def _inside_run(self, path: str, root: str) -> bool:
        """Is a file that a pattern matched in the folder of a run, somewhere below `root`?"""
        above = os.path.dirname(path)
        while len(above) > len(root):
            if self._is_run(above):
                return True
            above = os.path.dirname(above)
        return False

    def _left_runs(self) -> list[str]:
        return [folder for folder, is_run in self._runs.items() if is_run]

    def note_runs(self) -> None:
        """Say which folders of runs were left out: those of one folder in one note."""
        above = Counter(os.path.dirname(folder) for folder in self._left_runs())
        for folder in self._left_runs():
            count = above.pop(os.path.dirname(folder), 0)
            if count == 1:
                self.notes.append((folder, "a run of charlm, not text; left out"))
            elif count:
                where = os.path.dirname(folder) or "."
                self.notes.append((where, f"{count:,} runs of charlm, not text; left out"))

    def _texts(self, paths: list[str]) -> list[str]:
        """Those that are text, as far as their first bytes tell; others are left out and said."""
        found = []
        for path in paths:
            what = kind_unless_text(path, self._encoding)
            if what is None:
                found.append(path)
            else:
                self._no_text.append(path)
                self.notes.append((path, f"{what}, not text; left out"))
        return found

    def _note_kinds(self, folder: str, paths: list[str]) -> None:
        kinds = Counter(_kind_of(path) for path in paths).most_common()
        if len(kinds) > 1:
            said = ", ".join(f"{count:,} {kind}" for kind, count in kinds[:SHOWN_KINDS])
            more = sum(count for _, count in kinds[SHOWN_KINDS:])
            said += f" and {more:,} of other kinds" if more else ""
            self.notes.append(
                (folder, f"files of several kinds are read ({said}); --include and --exclude choose")
            )

    def _is_special(self, path: str) -> bool:
        try:
            kind = kind_unless_regular(os.stat(path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            kind = "a link that leads nowhere"
        if kind:
            self.notes.append((path, f"{kind}, left out"))
        return kind is not None

    def _matching(self, pattern: str) -> list[str]:
        anchor, parts = Path(pattern).anchor, Path(pattern).parts
        root = os.path.join(anchor, *_fixed(parts[1:] if anchor else parts))
        found, below = list[str](), list[str]()
        for path in sorted({*_glob(anchor, parts[1:] if anchor else parts)}, key=_order):
            if not os.path.isdir(path):
                if "**" not in parts or not self._inside_run(path, root):
                    found.append(path)
            elif "**" not in parts:  # `**` has met the files below already
                below += self._below(path)
        if not found and not below and not self._left_runs():
            raise TextError(
                f"{one_line(pattern)} matches no file. Check the pattern and the folder you are in."
            )
        kept = [path for path in found if self._kept(path, root)]
        return sorted([*self._texts(kept), *below], key=_order)


def kind_unless_text(path: str, encoding: str | None) -> str | None:
    """What a regular file is that cannot be text, by its first bytes; None for what may be text."""
    try:
        with open(path, "rb") as file:
            if kind_unless_regular(os.fstat(file.fileno())):
                return None  # whoever reads it says what is wrong
            head = file.read(HEAD)
    except OSError:
        return None
    packed = compression(head)
    if packed:
        try:
            head = next(decompress(packed, iter([head]), path), b"")[:HEAD]
        except TextError:
            return None
    return format_of(head) or (None if encoding else binary(head))


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """What is in a folder and not hidden, the last one first."""
    with os.scandir(folder) as entries:
        there = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(there, key=lambda entry: (natural(entry.name), entry.name), reverse=True)


class _Pattern:
    """A pattern of --include or --exclude: of names, or with a slash of paths below the folder, or from here."""

    def __init__(self, text: str) -> None:
        plain = text.replace(os.sep, "/").rstrip("/") or text
        self._literal = plain  # a name may have brackets in it
        self._of_names = "/" not in plain
        norm = plain if self._of_names else os.path.normpath(plain)
        self._matches = self._from_here = _regex(norm)
        if not self._of_names and not os.path.isabs(norm):
            self._from_here = _regex(os.path.normpath(f"{glob.escape(os.getcwd())}/{norm}"))

    def matches(self, name: str, inside: str, absolute: str) -> bool:
        """Does it match a file with that name, and that path below the folder and from the root?"""
        if self._of_names:
            return name == self._literal or bool(self._matches(_plain(name)))
        return bool(self._matches(_plain(inside)) or self._from_here(_plain(absolute)))


def _regex(pattern: str) -> Callable[[str], object]:
    """As fnmatch, but that `**/` may stand for no folder at all."""
    translated = [fnmatch.translate(part) for part in _plain(pattern).split("**/")]
    parts = [each.removeprefix("(?s:").rpartition(")")[0] for each in translated]
    return re.compile("(?s:" + "(?:.*/)?".join(parts) + ")").fullmatch


def _plain(path: str) -> str:
    return "/".join(os.path.normcase(path).split(os.sep))


def _is_pattern(name: str) -> bool:
    return bool(_WILD.search(name)) and not os.path.lexists(name)


def _is_searched(name: str) -> bool:
    """Is it a folder or a pattern, so that files are looked for?"""
    try:
        return os.path.isdir(name) or _is_pattern(name)
    except ValueError:  # a NUL in a name
        return False


def _fixed(parts: Sequence[str]) -> list[str]:
    """The folders that a pattern begins with, before the first wild part."""
    wild = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return list(parts[:wild])


def _named(option: str, patterns: Sequence[str]) -> str:
    """Patterns as they were given: `--include *.txt --include *.md`."""
    return " ".join(f"--{option} {one_line(pattern)}" for pattern in patterns)


def _kind_of(path: str) -> str:
    """The end of a file's name that says of what kind it is: `.txt`, `.txt.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    packed = (
        suffixes[-2:] if suffixes[-1:] and suffixes[-1] in (".gz", ".bz2", ".xz", ".zst") else suffixes[-1:]
    )
    return one_line("".join(packed)) or "without a suffix"


def _glob(folder: str, parts: Sequence[str]) -> Iterator[str]:
    # Not glob.glob: its `**` follows link loops, forty levels deep.
    first, rest = parts[0], parts[1:]
    if first == "**":
        yield from _glob(folder, rest or ("*",))
        for path in (os.path.join(folder, name) for name in _listed(folder, "*")):
            if os.path.isdir(path) and not os.path.islink(path):
                yield from _glob(path, parts)
        return
    for name in _listed(folder, first) if _WILD.search(first) else [first]:
        path = os.path.join(folder, name)
        if rest and os.path.isdir(path):
            yield from _glob(path, rest)
        elif not rest and os.path.lexists(path):
            yield path


def _listed(folder: str, pattern: str) -> list[str]:
    names = fnmatch.filter(os.listdir(folder or "."), pattern)
    return [name for name in names if pattern.startswith(".") or not name.startswith(".")]


def _identity(path: str) -> object:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise trouble(one_line(path), error) from error
    # Some file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _counted(names: Sequence[str], files: Sequence[str], count: int) -> str:
    if count == 1 and files[0] in names:
        return one_line(files[0])
    number = f"{count} file" + "s" * (count != 1)
    if len(names) != 1:
        return number
    if os.path.isdir(names[0]):
        return f"{number} in {one_line(os.path.join(names[0], ''))}"
    return f"{number} matching {one_line(names[0])}"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.5 and units[1:]:
        value /= 1000
        del units[0]
    return f"{value:.1f} {units[0]}" if value < 9.95 else f"{value:.0f} {units[0]}"
