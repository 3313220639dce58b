"""A regular expression as a nondeterministic finite automaton, by Thompson's construction (1968).

Python's own parser reads the pattern, and Python's own `re` says which characters each of its character sets holds, so
the automaton accepts what `re.fullmatch` accepts. It has no more nodes than the pattern has parts, counted repeats
written out, so no pattern makes it explode.
"""

import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from charlm.errors import UsageError
from charlm.terminal import one_line

MOST_NODES = 20_000
MOST_SETS = 256
"""Limits of a pattern: the nodes of its automaton, and the different character sets in it."""
CATEGORIES = {"DIGIT": "d", "NOT_DIGIT": "D", "SPACE": "s", "NOT_SPACE": "S", "WORD": "w", "NOT_WORD": "W"}
SET_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
"""The flags that change which characters a set holds."""
UNSUPPORTED = {
    "ASSERT": "a lookahead or lookbehind",
    "ASSERT_NOT": "a negative lookahead or lookbehind",
    "GROUPREF": "a reference to a group",
    "GROUPREF_IGNORE": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
    "ATOMIC_GROUP": "an atomic group",
}


class Check(Enum):
    """What an assertion requires of the characters before and after it."""

    NONE = "nothing"
    START = "the start of the text"
    LINE_START = "the start of a line"
    END = "the end of the text"
    LINE_END = "the end of a line"
    BOUNDARY = "a boundary of a word"
    INSIDE = "no boundary of a word"
    ASCII_BOUNDARY = "a boundary of a word in ASCII"
    ASCII_INSIDE = "no boundary of a word in ASCII"


@dataclass(frozen=True)
class CharSet:
    """A set of characters, as Python's `re` writes it."""

    source: str
    flags: int = 0

    @property
    def shown(self) -> str:
        """The form in messages, with characters instead of their code points."""
        text = re.sub(r"\\U(\w{8})", lambda found: chr(int(found[1], 16)), self.source)
        return re.sub(r"\[(\\?.)\]", r"\1", text, flags=re.DOTALL)


@dataclass(frozen=True)
class Node:
    """A place in the pattern: it consumes a character of a set, asserts something, or only leads to other nodes."""

    set: int | None = None  # the number of the set whose characters it consumes
    check: Check = Check.NONE
    after: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Nfa:
    """The automaton: a text matches where it leads from `start` to `accept`."""

    nodes: Sequence[Node]
    sets: Sequence[CharSet]
    start: int
    accept: int


def build_nfa(pattern: str) -> Nfa:
    """Build the automaton of a pattern in the syntax of Python's `re`.

    Raises UsageError for a pattern that is invalid, that no finite automaton can match, or that is too large.
    """
    parser: Any = importlib.import_module("re._parser")
    shown = one_line(pattern, 60)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets that later versions may read differently
            parsed = parser.parse(pattern)
            builder = _Builder(shown)
            start = builder.sequence(parsed, parsed.state.flags, 0)
    except re.error as error:
        raise UsageError(f"`regex` {shown} is not a pattern of Python's re: {error}") from None
    except OverflowError as error:
        raise UsageError(f"`regex` {shown} has a repeat that Python's re refuses: {error}") from None
    except RecursionError:
        raise UsageError(f"`regex` {shown} is nested too deeply; use fewer groups in groups") from None
    return Nfa(builder.nodes, list(builder.sets), start, accept=0)


class _Builder:
    """Adds the nodes of a pattern from its end to its start: each part is told which node follows it."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.nodes = [Node()]  # the first one accepts
        self.sets: dict[CharSet, int] = {}

    def sequence(self, items: Iterable[Any], flags: int, after: int) -> int:
        """Add parts that follow one another, and return their first node."""
        for op, value in reversed(list(items)):
            after = self._item(str(op), value, flags, after)
        return after

    def _item(self, op: str, value: Any, flags: int, after: int) -> int:
        if op in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._add(Node(set=self._set(_char_set(op, value, flags)), after=[after]))
        if op == "AT":
            return self._add(Node(check=_check(str(value), flags), after=[after]))
        if op == "BRANCH":
            return self._add(Node(after=[self.sequence(each, flags, after) for each in value[1]]))
        if op == "SUBPATTERN":
            _, added, removed, items = value
            if added & (re.ASCII | re.UNICODE):
                flags &= ~(re.ASCII | re.UNICODE)
            return self.sequence(items, (flags | added) & ~removed, after)
        if op in ("MAX_REPEAT", "MIN_REPEAT"):  # greedy or not: the same texts match
            least, most, repeated = value
            return self._repeat(least, most, repeated, flags, after)
        what = UNSUPPORTED.get(op, op.lower())
        raise UsageError(
            f"`regex` {self._shown} has {what}, which charlm cannot follow character by character; write the pattern "
            "without it"
        )

    def _repeat(self, least: int, most: int, items: Sequence[Any], flags: int, after: int) -> int:
        """Add a part repeated `least` to `most` times, and return its first node."""
        first = end = after
        if str(most) == "MAXREPEAT":
            loop = self._add(Node())
            self.nodes[loop].after.extend([self.sequence(items, flags, loop), end])
            first = loop
        else:
            for _ in range(most - least):
                first = self._add(Node(after=[self.sequence(items, flags, first), end]))
        for _ in range(least):  # a node for each, so that repeats of nothing count too
            first = self._add(Node(after=[self.sequence(items, flags, first)]))
        return first

    def _add(self, node: Node) -> int:
        if len(self.nodes) == MOST_NODES:
            raise UsageError(
                f"`regex` {self._shown} is too large: with its counted repeats written out it has more than "
                f"{MOST_NODES:,} parts; use smaller counts, or * and +"
            )
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _set(self, chars: CharSet) -> int:
        number = self.sets.setdefault(chars, len(self.sets))
        if number == MOST_SETS:
            raise UsageError(
                f"`regex` {self._shown} has more than {MOST_SETS} different characters and character sets; use fewer"
            )
        return number


def _char_set(op: str, value: Any, flags: int) -> CharSet:
    """Return the characters that a part which consumes one character accepts."""
    kept = flags & SET_FLAGS
    if op == "ANY":
        return CharSet(".", kept)
    if op == "IN":
        source = f"[{''.join(_member(str(kind), each) for kind, each in value)}]"
        return CharSet(source, kept & ~re.DOTALL)
    return CharSet(f"[{'^' * (op == 'NOT_LITERAL')}{_escape(value)}]", kept & ~re.DOTALL)


def _member(kind: str, value: Any) -> str:
    """Write one member of a set in brackets."""
    if kind == "NEGATE":
        return "^"
    if kind == "RANGE":
        return f"{_escape(value[0])}-{_escape(value[1])}"
    if kind == "CATEGORY":
        return "\\" + CATEGORIES[str(value).removeprefix("CATEGORY_")]
    return _escape(value)


def _escape(point: int) -> str:
    return f"\\U{point:08X}"


def _check(at: str, flags: int) -> Check:
    """Return what an assertion requires; `$` is the very end, not a newline before it, unless (?m) is set."""
    lines = bool(flags & re.MULTILINE)
    if at in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return Check.LINE_START if lines and at == "AT_BEGINNING" else Check.START
    if at in ("AT_END", "AT_END_STRING"):
        return Check.LINE_END if lines and at == "AT_END" else Check.END
    if at == "AT_BOUNDARY":
        return Check.ASCII_BOUNDARY if flags & re.ASCII else Check.BOUNDARY
    assert at == "AT_NON_BOUNDARY", at
    return Check.ASCII_INSIDE if flags & re.ASCII else Check.INSIDE
