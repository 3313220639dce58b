"""What counts alone make of a run's held-out text, before it is trained: the line that it is held against."""

from charlm.cli.console import say
from charlm.evaluation.yardsticks import KNESER_NEY, Yardstick, kneser_ney
from charlm.text.corpus import Corpus

SHARE = 0.1  # of a run's time, at most
SECONDS = 10.0  # the same for a run that has no time to keep to
SYMBOLS_PER_SECOND = 0.8e6  # choosing the order, counting; the held-out part is scored at half of it


def counts_line(corpus: Corpus, memory: int, budget: float | None) -> Yardstick | None:
    """Count and score, and say the figure; None where nothing is held out, or too much for the time.

    `memory` in megabytes, `budget` in seconds. A long text is counted in parts.
    """
    seconds = (SECONDS if budget is None else SHARE * budget) - 2 * len(corpus.held_out) / SYMBOLS_PER_SECOND
    if not len(corpus.held_out) or seconds <= 0:
        return None
    stick = kneser_ney(
        corpus.vocabulary,
        corpus.train,
        corpus.held_out_text(),
        memory=memory << 20,
        most=int(seconds * SYMBOLS_PER_SECOND),
    )
    limits = f" ({stick.limits})" if stick.limits else ""
    say(
        f"to beat: {stick.bits_per_char:.3f} bits/char held-out, by {stick.order} characters of counts "
        f"({KNESER_NEY}){limits}"
    )
    return stick
