"""Rescoring: rank candidates for a line, say of a spelling corrector, by their probability under the model."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from charlm.data.stream import label_of
from charlm.data.tokenizer import without_ends
from charlm.errors import TextError
from charlm.evaluation.surprisal import Place, Surprisal, Unit, whole_lines
from charlm.evaluation.surprisal_config import ID, SurprisalConfig

LONGEST_GROUP = 1 << 24
"""Limit on the characters of a group of candidates, which must fit in memory to be sorted."""


def surprisal_rows(
    scorer: Surprisal, config: SurprisalConfig, name: str, pieces: Iterable[str]
) -> Iterator[Unit]:
    """Yield the units of a file, ranked where its lines are candidates.

    Raises TextError for a line or a group that is too long, and for a candidate without an id.
    """
    if not config.ranks:
        return scorer.of_file(name, pieces)
    found = _candidates(scorer, name, pieces, with_ids=config.groups == ID)
    return _ranked(found, only_best=config.best)


def _candidates(scorer: Surprisal, name: str, pieces: Iterable[str], *, with_ids: bool) -> Iterator[Unit]:
    """Yield each line of a file, scored by itself, with its group of candidates.

    Groups are divided by blank lines, or are the lines that begin with the same id and a tab, which are not scored. A last
    line without a newline is scored with one, like the others. Raises TextError for a line without an id.
    """
    place, number, begun = Place(name), 1, False
    for line in map(without_ends, whole_lines(pieces, name)):
        if not line.strip():
            number, begun = number + begun, False
            place.pass_over(line)
            continue
        group, begun = str(number), True
        if with_ids:
            group, tab, line = line.partition("\t")
            if not tab:
                raise TextError(
                    f"line {place.line} of {label_of(name)} has no id; each line must be an id, a tab and a candidate, "
                    "or use --groups blank-line"
                )
            place.pass_over(group + tab)
        for unit in scorer.of_line(line.removesuffix("\n") + "\n", place):
            yield unit._replace(group=group)


def _ranked(units: Iterable[Unit], *, only_best: bool) -> Iterator[Unit]:
    """Yield the candidates of each group with their ranks, the most probable first; ties keep their order.

    Raises TextError for a group that is too long to sort.
    """
    for _, group in groupby(units, key=lambda unit: (unit.file, unit.group)):
        if only_best:
            yield min(group, key=lambda unit: unit.nats)._replace(rank=1)
            continue
        found, chars = list[Unit](), 0
        for unit in group:
            found.append(unit)
            chars += unit.length + 1
            if chars > LONGEST_GROUP:
                raise TextError(
                    f"the candidates from line {found[0].line} of {label_of(unit.file)} on are one group of more than "
                    f"{LONGEST_GROUP:,} characters; divide it, or keep only the best with --best"
                )
        found.sort(key=lambda unit: unit.nats)
        yield from (unit._replace(rank=rank) for rank, unit in enumerate(found, start=1))
