"""How the characters of a text, its units and its ids belong together: how many of one make another."""

import numpy as np
from numpy.typing import NDArray

from charlm.text import graphemes
from charlm.text.graphemes import FIRST_POINT
from charlm.text.vocabulary import Vocabulary, code_points


def spans(vocabulary: Vocabulary, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each character, or known cluster of several: how many characters it is, how many ids it becomes."""
    points = vocabulary.points(text)
    of_cluster = np.array([1, *map(len, vocabulary.clusters)], dtype=np.int64)
    chars = of_cluster[np.maximum(points, FIRST_POINT - 1) - (FIRST_POINT - 1)]
    bytes_ = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    return chars, np.where(vocabulary.id_of_point[points] < 0, bytes_, 1)


def count_units(vocabulary: Vocabulary, text: str) -> int:
    """How many characters a text has, or bytes of UTF-8, or graphemes, whichever are the units."""
    if vocabulary.units == "graphemes":
        return graphemes.count(text)
    return len(text.encode()) if vocabulary.units == "bytes" else len(text)


def count_unknown(vocabulary: Vocabulary, text: str) -> int:
    """How many characters of a text are spelled in bytes; where those are the units, in bytes never seen."""
    if vocabulary.units != "bytes":
        return int((vocabulary.id_of_point[vocabulary.points(text)] < 0).sum())
    different, counts = np.unique(code_points(text), return_counts=True)
    pairs = zip(different.tolist(), counts.tolist(), strict=True)
    return sum(n for point, n in pairs if not can_write(vocabulary, chr(point)))


def can_write(vocabulary: Vocabulary, char: str) -> bool:
    """Has the model this character as a symbol of its own or, where the units are bytes, in bytes it was trained on?"""
    if vocabulary.units == "bytes":
        return set(char.encode()) <= set(vocabulary.trained_bytes)
    return char in vocabulary.chars
