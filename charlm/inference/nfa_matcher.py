"""Run an NFA over a text: what may come next, and the fewest characters that complete a match.

All nodes that the text may have reached are followed side by side, so each character costs at most the size of the
automaton, whatever the pattern. Characters that no part of the pattern distinguishes are one class.

Axes: U characters that may be written, K classes of them.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Points, text_of
from charlm.inference.nfa import CharSet, Check, Nfa
from charlm.rng import mix

Needs = NDArray[np.int64]
IMPOSSIBLE = 1 << 40
"""The number of characters to a match if there is none."""
NUMBERS_KEPT = 1 << 22
"""Limit on the numbers cached for states, which bounds the memory."""
NEWLINE, WORD, ASCII_WORD, EDGE = 1, 2, 4, 8
"""What an assertion sees of a character, as bits; EDGE is the start or the end of the text."""
MARKS = {NEWLINE: CharSet("\\n"), WORD: CharSet("\\w"), ASCII_WORD: CharSet("\\w", re.ASCII)}


@dataclass(frozen=True)
class State:
    """The state of a text: the nodes that it may have reached, and the kind of its last character."""

    nodes: frozenset[int]
    before: int


class NfaMatcher:
    """Steps through the automaton of a pattern with the characters that may be written."""

    def __init__(self, nfa: Nfa, points: Points) -> None:
        """`points` (U,): the code points that may be written, ascending."""
        self._nfa, self.points = nfa, points
        self._checks = any(node.check is not Check.NONE for node in nfa.nodes)
        self.class_of, self._holds, self._kinds = self._classes()
        edge = EDGE if self._checks else 0
        self.start = State(frozenset([nfa.start]), edge)
        self.fewest = min(lengths[nfa.start] for lengths in self._lengths[edge].values())
        """Characters of the shortest text that matches."""
        self._rest = {
            before: [min(each) for each in zip(*by_kind.values(), strict=True)]
            for before, by_kind in self._lengths.items()
        }
        self._known: dict[State, tuple[Needs, bool]] = {}
        self._steps: dict[tuple[State, int], State] = {}

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self._kinds)

    @cached_property
    def empty_sets(self) -> list[str]:
        """The pattern's character sets that hold no character that may be written."""
        return [
            each.shown for each, holds in zip(self._nfa.sets, self._holds, strict=True) if not holds.any()
        ]

    def accepts(self, state: State) -> bool:
        """Whether the text so far matches."""
        return self._facts(state)[1]

    def needs(self, state: State) -> Needs:
        """Return the fewest further characters to a match, for each class as that of the next one: (K,)."""
        return self._facts(state)[0]

    def _facts(self, state: State) -> tuple[Needs, bool]:
        if state not in self._known:
            if len(self._known) * (self.n_classes + len(state.nodes)) > NUMBERS_KEPT:
                self._known.clear()
            self._known[state] = self._count(state), self._nfa.accept in self._closure(state, EDGE)
        return self._known[state]

    def step(self, state: State, of_class: int) -> State:
        """Return the state after a character of a class."""
        key = state, of_class
        if key not in self._steps:
            if len(self._steps) * (1 + len(state.nodes)) > NUMBERS_KEPT:
                self._steps.clear()
            self._steps[key] = self._after(state, of_class)
        return self._steps[key]

    def _after(self, state: State, of_class: int) -> State:
        kind, nodes = int(self._kinds[of_class]), self._nfa.nodes
        reached = frozenset(
            nodes[i].after[0]
            for i in self._closure(state, kind)
            if (chars := nodes[i].set) is not None and self._holds[chars, of_class]
        )
        return State(reached, kind)

    def _count(self, state: State) -> Needs:
        needs = np.full(self.n_classes, IMPOSSIBLE)
        for kind in set(self._kinds.tolist()):
            by_set: dict[int, int] = {}
            for i in self._closure(state, kind):
                node = self._nfa.nodes[i]
                if node.set is not None:
                    needed = 1 + self._rest[kind][node.after[0]]
                    by_set[node.set] = min(needed, by_set.get(node.set, IMPOSSIBLE))
            for chars, needed in by_set.items():
                held = self._holds[chars] & (self._kinds == kind)
                needs[held] = np.minimum(needs[held], needed)
        return needs

    def _closure(self, state: State, kind: int) -> Iterable[int]:
        """Return the nodes that a state leads to before it consumes a character of this kind."""
        nodes, seen, waiting = self._nfa.nodes, set(state.nodes), list(state.nodes)
        while waiting:
            node = nodes[waiting.pop()]
            if node.set is None and _passes(node.check, state.before, kind):
                new = [i for i in node.after if i not in seen]
                seen.update(new)
                waiting += new
        return seen

    def _classes(self) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.int64]]:
        """Return the class of each character (U,); whether a set holds a class, (sets, K); the kind of each class (K,)."""
        text = text_of(self.points)
        marks = MARKS if self._checks else {}
        every = [*self._nfa.sets, *marks.values()]
        runs = [np.array(list(_runs(each, text)), np.int64).reshape(-1, 2) for each in every]
        signature = np.zeros(
            len(text), np.uint64
        )  # the XOR of 64 random bits for each set that holds a character
        for held, bits in zip(runs, mix(np.arange(len(every)), 1), strict=True):
            for begin, end in held.tolist():
                signature[begin:end] ^= bits
        _, first, class_of = np.unique(signature, return_index=True, return_inverse=True)
        holds = np.zeros((len(every), len(first)), np.bool_)
        for row, held in zip(holds, runs, strict=True):
            if len(held):
                at = np.searchsorted(held[:, 0], first, side="right") - 1
                row[:] = (at >= 0) & (first < held[at, 1])
        kinds = np.zeros(len(first), np.int64)
        for bit, row in zip(marks, holds[len(self._nfa.sets) :], strict=True):
            kinds[row] |= bit
        return class_of, holds[: len(self._nfa.sets)], kinds

    @cached_property
    def _lengths(self) -> dict[int, dict[int, list[int]]]:
        """Fewest characters to a match, by [kind before][kind of the next one][node], computed backwards from the end."""
        nodes, kinds = self._nfa.nodes, sorted(set(self._kinds.tolist()))
        befores = [*kinds, EDGE] if self._checks else kinds or [0]
        found = {before: {kind: [IMPOSSIBLE] * len(nodes) for kind in (*kinds, EDGE)} for before in befores}
        leading: list[list[int]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            for j in node.after:
                leading[j].append(i)
        writable = {kind: (self._holds & (self._kinds == kind)).any(axis=1) for kind in kinds}
        waiting = deque((0, before, EDGE, self._nfa.accept) for before in befores)
        while waiting:
            needed, before, kind, j = waiting.popleft()
            if found[before][kind][j] <= needed:
                continue
            found[before][kind][j] = needed
            for i in leading[j]:
                node = nodes[i]
                if node.set is None:
                    if _passes(node.check, before, kind):
                        waiting.appendleft((needed, before, kind, i))
                elif before in writable and writable[before][node.set]:  # it consumes the character before
                    waiting.extend((needed + 1, earlier, before, i) for earlier in befores)
        return found


def _runs(chars: CharSet, text: str) -> Iterator[tuple[int, int]]:
    """Return the spans of a text that consist of characters of a set."""
    return (found.span() for found in re.finditer(f"{chars.source}+", text, chars.flags))


def _passes(check: Check, before: int, after: int) -> bool:
    """Whether an assertion holds between two characters of these kinds."""
    if check is Check.NONE:
        return True
    if check in (Check.START, Check.LINE_START):
        return before == EDGE or (check is Check.LINE_START and bool(before & NEWLINE))
    if check in (Check.END, Check.LINE_END):
        return after == EDGE or (check is Check.LINE_END and bool(after & NEWLINE))
    bit = ASCII_WORD if check in (Check.ASCII_BOUNDARY, Check.ASCII_INSIDE) else WORD
    if before == after == EDGE:
        return False  # versions of Python differ on empty text
    changes = bool(before & bit) != bool(after & bit)
    return changes == (check in (Check.BOUNDARY, Check.ASCII_BOUNDARY))
