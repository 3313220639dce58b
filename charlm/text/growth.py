"""A vocabulary that grows by what another text has: old symbols keep their ids, and so what was learned of them."""

import numpy as np

from charlm.text.codes import Counts
from charlm.text.graphemes import FIRST_POINT
from charlm.text.vocabulary import END_POINT, MIN_COUNT_FROM, Ids, Vocabulary, code_points


def grown(
    old: Vocabulary, occurrences: Counts, min_count: int | None = None, *, anew: bool = False
) -> Vocabulary:
    """The old symbols, and those of a training part in which each code point occurs so often.

    Characters that are not among the old ones are kept from `min_count` on, as in any vocabulary; what is
    rarer is spelled in bytes, and new grapheme clusters in their characters. The ids of what is new
    follow the old ones: an n-gram is found by its ids. Occurrences are added to the old ones, or replace them where `anew`: the old text is part of this one.
    """
    counts = np.zeros(0x110000, dtype=np.int64)
    counts[: len(occurrences)] = occurrences
    n_ends, counts[END_POINT] = int(counts[END_POINT]), 0
    if min_count is None:
        min_count = 2 if counts.sum() > MIN_COUNT_FROM else 1
    kept = counts >= (min_count if old.units != "bytes" else np.inf)
    kept[code_points(old.chars)] = True
    points = np.flatnonzero(kept)
    rare = np.flatnonzero((counts > 0) & ~kept)
    of_byte = np.zeros(256, dtype=np.int64)
    for point in rare.tolist():
        for byte in chr(point).encode():
            of_byte[byte] += counts[point]
    bytes_ = np.union1d(np.flatnonzero(of_byte), np.frombuffer(old.trained_bytes, np.uint8)).astype(np.int64)
    ends = old.ends or n_ends > 0
    was = np.concatenate(
        (
            old.id_of_point[points],
            old.id_of_point[FIRST_POINT:],
            np.where(old.id_of_byte[bytes_] < old.n_symbols, old.id_of_byte[bytes_], -1),
        )
    )
    was = np.append(was, -1 if old.end is None else old.end) if ends else was
    ids = was.copy()
    ids[was < 0] = old.n_symbols + np.arange(int((was < 0).sum()))
    of_clusters = np.zeros(len(old.clusters))  # they are counted as their characters
    here = np.concatenate((counts[points], of_clusters, of_byte[bytes_], [n_ends] * ends)).astype(np.int64)
    before = np.append(np.array(old.counts, dtype=np.int64), np.zeros(len(ids) - old.n_symbols, np.int64))
    by_id = np.empty(len(ids), dtype=np.int64)
    by_id[ids] = here
    if not anew or not by_id.all():
        by_id += before
    moved = () if (ids == np.arange(len(ids))).all() else tuple(ids.tolist())
    chars = points.astype("<u4").tobytes().decode("utf-32-le")
    trained = bytes(bytes_.tolist())
    return Vocabulary(chars, trained, tuple(by_id.tolist()), ends, old.units, old.clusters, moved)


def carried(ids: Ids, old: Vocabulary, new: Vocabulary) -> Ids:
    """Ids of the old vocabulary as the grown one has them: only bytes that training never saw have moved."""
    if not len(ids) or int(ids.max()) < old.n_symbols:
        return ids
    table = np.arange(old.n_ids)
    table[old.id_of_byte] = new.id_of_byte
    return np.asarray(table[ids])
