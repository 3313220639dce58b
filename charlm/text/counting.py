"""The vocabulary of a training part, counted in the units of its symbols."""

from collections.abc import Iterable

from charlm.config import TextConfig
from charlm.text import graphemes
from charlm.text.codes import Census, Codes, Counts
from charlm.text.vocabulary import Vocabulary, code_points


class ClusterCensus:
    """How often clusters of several code points occur, and code points outside of those."""

    def __init__(self) -> None:
        self.clusters: dict[str, int] = {}
        self.singles = Census()
        self._points = 0  # of all the different clusters

    def add(self, codes: Codes) -> None:
        """Count a block that cuts no cluster. New ones beyond MOST code points are counted as their characters."""
        starts, found = graphemes.find(codes)
        if not found:
            self.singles.add(codes)
            return
        self.singles.add(graphemes.without(codes, starts, found))
        counts, over = self.clusters, []
        for cluster in found:
            if cluster in counts:
                counts[cluster] += 1
            elif self._points + len(cluster) <= graphemes.MOST:
                counts[cluster] = 1
                self._points += len(cluster)
            else:
                over.append(cluster)
        if over:
            self.singles.add(code_points("".join(over)))


def vocabulary_of(
    counts: Counts, blocks: Iterable[Codes], config: TextConfig, known: Vocabulary | None = None
) -> Vocabulary:
    """The symbols of a training part, in which each code point occurs so often; only for graphemes are its
    `blocks` read. What is `known` is a symbol however rare it is."""
    if config.units != "graphemes":
        return Vocabulary.of_counts(counts, config.min_count, config.units, known=known)
    census = ClusterCensus()
    for codes in graphemes.whole(blocks):
        census.add(codes)
    return Vocabulary.of_counts(
        census.singles.counts(), config.min_count, config.units, census.clusters, known
    )
