"""A vocabulary that grows by what another text has: old symbols keep their ids, and so what was learned of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from charlm.text.vocabulary import Ids, Vocabulary, code_points


def grown(old: Vocabulary, here: Vocabulary, *, anew: bool = False) -> Vocabulary:
    """The old symbols, and those of another training part, which was counted knowing the old ones.

    The ids of what is new follow the old ones: an n-gram is found by its ids. Occurrences are added to
    the old ones, or replace them where `anew`: the old text is part of this one.
    """
    assert old.units == here.units, "what a symbol stands for cannot change"
    chars = "".join(sorted({*old.chars, *here.chars}))
    clusters = tuple(sorted({*old.clusters, *here.clusters}))
    bytes_ = bytes(sorted({*old.trained_bytes, *here.trained_bytes}))
    ends = old.ends or here.ends
    was, now = (_ids_in(vocabulary, chars, clusters, bytes_, ends) for vocabulary in (old, here))
    ids = was.copy()
    ids[was < 0] = old.n_symbols + np.arange(int((was < 0).sum()))
    counts = np.zeros(len(ids), dtype=np.int64)
    counts[ids[now >= 0]] = np.array(here.counts, dtype=np.int64)[now[now >= 0]]
    if not anew or not counts.all():
        counts[: old.n_symbols] += np.array(old.counts, dtype=np.int64)
    moved = () if (ids == np.arange(len(ids))).all() else tuple(ids.tolist())
    return Vocabulary(chars, bytes_, tuple(counts.tolist()), ends, old.units, clusters, moved)


def _ids_in(
    vocabulary: Vocabulary, chars: str, clusters: Iterable[str], bytes_: bytes, ends: bool
) -> NDArray[np.int64]:
    """The ids of symbols in a vocabulary, -1 for those it has no row for."""
    points = vocabulary.id_of_point
    of_bytes = vocabulary.id_of_byte[list(bytes_)]
    return np.concatenate(
        (
            points[code_points(chars)],
            [points[n] if (n := vocabulary.number_of_cluster.get(c)) is not None else -1 for c in clusters],
            np.where(of_bytes < vocabulary.n_symbols, of_bytes, -1),
            [-1 if vocabulary.end is None else vocabulary.end] * ends,
        )
    ).astype(np.int64)


def carried(ids: Ids, old: Vocabulary, new: Vocabulary) -> Ids:
    """Ids of the old vocabulary as the grown one has them: only bytes that training never saw have moved."""
    if not len(ids) or int(ids.max()) < old.n_symbols:
        return ids
    table = np.arange(old.n_ids)
    table[old.id_of_byte] = new.id_of_byte
    return np.asarray(table[ids])
