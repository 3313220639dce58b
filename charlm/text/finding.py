"""What the user named -> the files that are meant, without reading them."""

import errno
import fnmatch
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from charlm.errors import CharlmError, TextError, UsageError
from charlm.terminal import one_line

STDIN = "-"
Note = tuple[str, str]  # the file's name, what is to be said of it
_WILD = re.compile(r"[*?[]")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+\S|www\.\w+\.\w")
_FETCHED_BY = {
    "s3": "aws s3 cp {0} .",
    "gs": "gcloud storage cp {0} .",
    "hf": "the command hf download",
    "git": "git clone {0}",
    "ssh": "scp",
    "sftp": "sftp",
}
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def find_files(names: Sequence[str]) -> list[Path | str]:
    """Return the files that `names` mean, in order, each once; "-" is standard input.

    A folder stands for all files below it, sorted by path, hidden ones and links to folders left
    out; a name with `*`, `?`, `[` or `**` that is no file itself, for what it matches. Raises
    UsageError when nothing is named, TextError for what does not exist or holds no files.
    """
    return [name if name == STDIN else Path(name) for name in expand(names)[0]]


def expand(names: Sequence[str], include: str | None = None) -> tuple[list[str], list[Note]]:
    """As `find_files`, as plain strings, with what is to be said of them. Raises the same.

    Of folders only the files whose own names match `include`; UsageError where no folder is named.
    """
    if include is not None and not any(os.path.isdir(name) for name in names):
        raise UsageError(f"--include {one_line(include)} acts on folders, and none was named; leave it out")
    if not names:
        raise UsageError("No text was named. Give a file, a folder, or - for standard input.")
    found: dict[object, str] = {}
    notes: list[Note] = []
    for name in names:
        for path in _meant(name, notes, include):
            key = STDIN if path == STDIN else _identity(path)
            if key in found:
                notes.append((path, "given more than once, read once"))
            found.setdefault(key, path)
    return list(found.values()), notes


def describe(names: Sequence[str], include: str | None = None) -> str:
    """Say what is about to be read, such as "3 files in poems/ (240 kB)", reading none of it.

    What cannot be found is only named. Raises nothing.
    """
    try:
        files = expand(names, include)[0]
        sizes = [os.stat(path).st_size for path in files if path != STDIN]
    except (CharlmError, OSError, ValueError):
        return one_line(", ".join(names)) or "nothing"
    parts = [f"{_counted(names, files, len(sizes))} ({_size(sum(sizes))})"] if sizes else []
    return " and ".join(parts + ["standard input"] * (STDIN in files))


def address_advice(name: str) -> str | None:
    """What to do with the address of a text on another machine; None for any other name. Raises nothing."""
    from charlm.text.published import TEXTS

    match = _ADDRESS.match(name)
    if match is None:
        return None
    shown, scheme = one_line(name), (match[1] or "http").lower()
    if scheme == "file":
        return f"{shown} is an address; name the file by its path: {one_line(re.sub(r'^[A-Za-z]+:/+', '/', name))}"
    for text in TEXTS.values():
        if name == text.url or text.name in name.lower():
            return f"{shown} is an address (URL), and no file is read from there; to fetch it: charlm data get {text.name}"
    by = _FETCHED_BY.get(scheme, "curl -L -O {0}").format(shlex.quote(shown))
    return (
        f"{shown} is an address (URL), and charlm reads only files. Download it, for example by {by}, and name "
        "the file; charlm data list shows the texts that charlm fetches by itself"
    )


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


def _meant(name: str, notes: list[Note], include: str | None) -> list[str]:
    if name == STDIN:
        return [STDIN]
    if not name:
        raise TextError("A file name is empty. Give a file, a folder, or - for standard input.")
    try:
        if _WILD.search(name) and not os.path.lexists(name):
            address = address_advice(name)
            if address is not None:
                raise TextError(address)
            return _matching(name, notes)
        return _below(name, notes, include) if stat.S_ISDIR(os.stat(name).st_mode) else [name]
    except (OSError, ValueError) as error:
        at = getattr(error, "filename", None)
        raise trouble(one_line(at if isinstance(at, str) else name), error) from error


def _below(folder: str, notes: list[Note], include: str | None = None) -> list[str]:
    def fail(error: OSError) -> None:  # os.walk would leave out the folder without a word
        raise error

    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Followed, a link could lead to the whole disk.
        links = filter(os.path.islink, (os.path.join(parent, name) for name in folders))
        notes += [(link, "a link to a folder, not followed: name it to read it") for link in links]
        kept = fnmatch.filter(files, include) if include is not None else files
        paths = [os.path.join(parent, name) for name in kept if not name.startswith(".")]
        found += [path for path in paths if _is_file(path, notes)]
    if not found and include is not None:
        raise TextError(f"{one_line(folder)} holds no file that matches --include {one_line(include)}.")
    if not found:
        raise TextError(
            f"{one_line(folder)} is a folder without files (hidden ones are left out)."
            " Give a file or a folder that holds some."
        )
    return sorted(found, key=lambda path: Path(path).parts)


def _is_file(path: str, notes: list[Note]) -> bool:
    try:
        kind = kind_unless_regular(os.stat(path))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        kind = "a link that leads nowhere"
    if kind:
        notes.append((path, f"{kind}, left out"))
    return kind is None


def _matching(pattern: str, notes: list[Note]) -> list[str]:
    anchor, parts = Path(pattern).anchor, Path(pattern).parts
    found: list[str] = []
    for path in _glob(anchor, parts[1:] if anchor else parts):
        if not os.path.isdir(path):
            found.append(path)
        elif "**" not in parts:  # `**` has met the files below already
            found += _below(path, notes)
    if not found:
        raise TextError(f"{one_line(pattern)} matches no file. Check the pattern and the folder you are in.")
    return sorted(dict.fromkeys(found), key=lambda path: Path(path).parts)


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
