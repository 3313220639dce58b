"""Constrained decoding: symbols after which a sample could no longer match a pattern are masked.

The other symbols keep the model's probabilities, divided by their sum. Where a sample matches already, nothing is masked,
and a symbol that the pattern does not allow ends the sample. So the model decides where to end. A sample never gets into
a dead end: only symbols that lead to a match in the model's characters, and in the length that is left, may follow.

Axes: G samples of a group, V symbols.
"""

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import N_POINTS, Points, Vocabulary, utf8_lengths
from charlm.errors import UsageError
from charlm.inference.nfa import build_nfa
from charlm.inference.nfa_matcher import IMPOSSIBLE, Needs, NfaMatcher, State
from charlm.inference.text_state import IdRows
from charlm.native.decoder import Floats
from charlm.terminal import one_line

ENDED = -1
"""Takes the place of an id once a sample has ended."""
NUMBERS_KEPT = 1 << 23
MOST_SHOWN = 10
FIRST_POINT = {2: 0x80, 3: 0x800, 4: 0x10000}
"""The first code point of each length of UTF-8."""


class SymbolMatcher:
    """Matches a pattern in the model's symbols: characters, and the bytes that spell other characters."""

    def __init__(self, pattern: str, vocabulary: Vocabulary) -> None:
        """Raises UsageError if no text that this model can write matches the pattern."""
        spelled = _spelled_points(vocabulary.trained_bytes)
        points = np.union1d(spelled, [ord(char) for char in vocabulary.chars])
        self.chars = NfaMatcher(build_nfa(pattern), points)
        self._by_bytes = np.isin(points, spelled)  # whether bytes can spell a point
        if self.chars.fewest >= IMPOSSIBLE:
            lacking = ", ".join(map(one_line, self.chars.empty_sets[:MOST_SHOWN]))
            why = f": it lacks {lacking}" if lacking else ""
            raise UsageError(
                f"no text that this model can write matches `regex` {one_line(pattern, 60)}{why}"
            )
        self._spellings = vocabulary.spellings[: vocabulary.n_symbols]
        self._class_of_id = np.full(
            vocabulary.n_symbols, self.chars.n_classes
        )  # no class: no whole character
        for i, spelling in enumerate(self._spellings):
            if len(spelling) > 1 or spelling.isascii():
                self._class_of_id[i] = self._class(spelling) if spelling else self.chars.n_classes
        self._bytes = {
            spelling: i
            for i, spelling in enumerate(self._spellings)
            if len(spelling) == 1 and not spelling.isascii()
        }
        self._classes_after: dict[bytes, NDArray[np.intp]] = {}
        self._needs: dict[tuple[State, bytes], Needs] = {}

    def check_length(self, length: int) -> None:
        """Raise UsageError if no text of at most `length` characters matches."""
        fewest = self.chars.fewest
        if fewest > length:
            raise UsageError(
                f"the shortest text that matches `regex` has {fewest:,} characters, but `length` is {length:,}; allow "
                f"at least {fewest:,}"
            )

    def needs(self, state: State, begun: bytes) -> Needs:
        """Return the fewest further characters to a match, for each symbol as the next one: (V,).

        `begun`: the first bytes of an incomplete character, which counts as one of them.
        """
        key = state, begun
        if key not in self._needs:
            if len(self._needs) * len(self._spellings) > NUMBERS_KEPT:
                self._needs.clear()
            self._needs[key] = self._count(state, begun)
        return self._needs[key]

    def _count(self, state: State, begun: bytes) -> Needs:
        by_class = np.append(self.chars.needs(state), IMPOSSIBLE)  # (K + 1,)
        needs = np.full(len(self._spellings), IMPOSSIBLE) if begun else by_class[self._class_of_id]
        for byte, i in self._bytes.items():
            needs[i] = by_class[self._after(begun + byte)].min(initial=IMPOSSIBLE)
        return needs

    def step(self, state: State, begun: bytes, symbol: int) -> tuple[State, bytes]:
        """Return the state after a symbol, and the bytes of a character that it leaves incomplete."""
        begun += self._spellings[symbol]
        if len(begun) < _utf8_length(begun):
            return state, begun
        return self.chars.step(state, self._class(begun)), b""

    def _class(self, char: bytes) -> int:
        """Return the class of a character that the model can write."""
        at = int(self.chars.points.searchsorted(ord(char.decode())))
        return int(self.chars.class_of[at])

    def _after(self, begun: bytes) -> NDArray[np.intp]:
        """Return the classes of the characters that begin with these bytes and can be spelled."""
        if begun not in self._classes_after:
            low, high = _points_after(begun)
            part = slice(*self.chars.points.searchsorted([low, high]))
            self._classes_after[begun] = np.unique(self.chars.class_of[part][self._by_bytes[part]])
        return self._classes_after[begun]


class Constraint:
    """The state of several samples in a pattern that each of them must match as a whole."""

    def __init__(self, matcher: SymbolMatcher, n: int, length: int) -> None:
        """`length`: the most characters of a sample, enough for a match."""
        self._matcher = matcher
        self._states = [(matcher.chars.start, b"")] * n
        self._left = [length] * n  # characters that each may still write

    def mask(self, samples: NDArray[np.int64], scores: Floats) -> Floats:
        """Mask scores (G, V) of samples (G,) with minus infinity where the sample could no longer match."""
        scores = scores.copy()
        for row, sample in zip(scores, samples.tolist(), strict=True):
            state, begun = self._states[sample]
            if begun or not self._matcher.chars.accepts(state):
                row[self._matcher.needs(state, begun) > self._left[sample]] = -np.inf
        return scores

    def read(self, samples: NDArray[np.int64], ids: IdRows) -> IdRows:
        """Read the next id of each sample (G,). Returns the ids, with ENDED where a sample ends before its id."""
        read = ids.copy()
        for i, (sample, symbol) in enumerate(zip(samples.tolist(), ids.tolist(), strict=True)):
            state, begun = self._states[sample]
            if self._matcher.needs(state, begun)[symbol] > self._left[sample]:
                read[i] = ENDED
                continue
            self._states[sample] = self._matcher.step(state, begun, symbol)
            self._left[sample] -= not self._states[sample][1]
        return read


def _spelled_points(trained: bytes) -> Points:
    """Return the code points whose UTF-8 has only these bytes, ascending."""
    has = np.zeros(256, np.bool_)
    has[list(trained)] = True
    points = np.arange(N_POINTS, dtype=np.uint32)
    lengths = utf8_lengths(points)
    heads = np.array([0, 0, 0xC0, 0xE0, 0xF0])[lengths]
    spelled = has[heads | (points >> (6 * (lengths - 1)).astype(np.uint32))]
    for place in range(3):  # its continuation bytes, from the last
        spelled &= has[0x80 | (points >> np.uint32(6 * place) & 0x3F)] | (lengths <= place + 1)
    found: Points = points[spelled & ~((points >= 0xD800) & (points < 0xE000))]
    return found


def _utf8_length(begun: bytes) -> int:
    """Return the number of bytes in UTF-8 of a character that begins with these bytes."""
    first = begun[0]
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _points_after(begun: bytes) -> tuple[int, int]:
    """Return the range of code points that begin with these bytes, the first of which is not ASCII: first, last + 1."""
    if not 0xC2 <= begun[0] <= 0xF4 or any(byte & 0xC0 != 0x80 for byte in begun[1:]):
        return 0, 0
    length = _utf8_length(begun)
    bits = begun[0] & 0x7F >> length
    for byte in begun[1:]:
        bits = bits << 6 | byte & 0x3F
    open_bits = 6 * (length - len(begun))
    return max(bits << open_bits, FIRST_POINT[length]), (bits + 1) << open_bits
