"""Patterns of file names, and of --include and --exclude: which paths match them."""

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Sequence

WILD = re.compile(r"[*?[]")
"""The characters that make a name a pattern."""


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern, and not that of a file."""
    return bool(WILD.search(name)) and "\0" not in name and not os.path.lexists(name)


def parts_match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob pattern, in which `**` stands for any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return parts_match(parts, pattern[1:]) or parts_match(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and parts_match(parts[1:], pattern[1:])


def matcher(pattern: str) -> Callable[[str, str, str], bool]:
    """Return a test of whether a pattern of --include or --exclude matches a file.

    It takes the name of the file, its path below the folder, and its path. A pattern without a slash is matched with the
    name, another with the paths: below the folder, or from the working folder.
    """
    plain = pattern.replace(os.sep, "/").rstrip("/") or pattern
    if "/" not in plain:
        of_name = _regex(plain)
        return lambda name, inside, path: name == plain or bool(of_name(_with_slashes(name)))
    norm = os.path.normpath(plain)
    of_path = _regex(norm)
    here = "" if os.path.isabs(norm) else f"{glob.escape(os.getcwd())}/"
    from_here = _regex(os.path.normpath(here + norm))
    return lambda name, inside, path: bool(
        of_path(_with_slashes(inside)) or from_here(_with_slashes(os.path.abspath(path)))
    )


def _regex(pattern: str) -> Callable[[str], object]:
    """Compile a pattern as fnmatch does, except that `**/` also stands for no folder at all."""
    translated = [fnmatch.translate(part) for part in _with_slashes(pattern).split("**/")]
    parts = [each.removeprefix("(?s:").rpartition(")")[0] for each in translated]
    return re.compile("(?s:" + "(?:.*/)?".join(parts) + ")").fullmatch


def _with_slashes(path: str) -> str:
    return "/".join(os.path.normcase(path).split(os.sep))
