"""What a symbol stands for: a character, a byte of UTF-8, or a grapheme; and which graphemes get one."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.text.graphemes import LONGEST, MOST

WORDS = {"chars": "character", "bytes": "byte", "graphemes": "grapheme"}
"""A symbol in a word, by the name of the units."""
MIN_CLUSTER_COUNT = 2
"""Clusters that occur less often are read as their characters, unless told: so that those are known too."""

Occurrences = NDArray[np.int64]


def kept_clusters(
    occurrences: Occurrences,
    clusters: Mapping[str, int],
    min_count: int | None,
    known: Collection[str] = (),
) -> tuple[dict[str, int], Occurrences]:
    """The clusters that get a symbol, in order, and how often code points occur outside of them.

    `occurrences` of code points outside of all clusters, by point; `clusters`: how often each occurs. Those
    that are `known` get one however rare they are.
    """
    least = MIN_CLUSTER_COUNT if min_count is None else min_count
    known = set(known)
    kept = {cluster: n for cluster, n in sorted(clusters.items()) if n >= least or cluster in known}
    rare = {cluster: n for cluster, n in clusters.items() if cluster not in kept}
    highest = max((ord(max(cluster)) for cluster in rare), default=0)
    if rare:
        occurrences = np.pad(occurrences, (0, max(0, highest + 1 - len(occurrences))))
    for cluster, n in rare.items():
        for char in cluster:
            occurrences[ord(char)] += n
    return kept, occurrences


def refuse_clusters(clusters: Sequence[str], units: str) -> None:
    """ValueError for clusters that no vocabulary of such units can have."""
    if clusters and units != "graphemes":
        raise ValueError(f"a vocabulary of {units} has no clusters")
    if not all(1 < len(cluster) <= LONGEST for cluster in clusters) or sum(map(len, clusters)) > MOST:
        raise ValueError(f"the clusters of a vocabulary are of 2 to {LONGEST} characters, {MOST:,} in all")
