"""What counts alone make of a run's held-out text, before it is trained: the line that it is held against."""

from charlm.cli.console import say
from charlm.counts.build import Built
from charlm.evaluation.yardsticks import KNESER_NEY, Yardstick, count_training_part, stick_of
from charlm.text.corpus import Corpus

SHARE = 0.1  # of a run's time, at most
SECONDS = 10.0  # the same for a run that has no time to keep to
SYMBOLS_PER_SECOND = 0.8e6  # choosing the order, counting; the held-out part is scored at half of it


def counts_line(
    corpus: Corpus, memory: int, budget: float | None, built: Built | None = None
) -> Yardstick | None:
    """Count and score, and say the figure; None where nothing is held out, or too much for the time.

    `memory` in megabytes, `budget` in seconds. A long text is counted in parts. Where the model begins
    from counts, those are what it is held against: `built`.
    """
    seconds = (SECONDS if budget is None else SHARE * budget) - 2 * len(corpus.held_out) / SYMBOLS_PER_SECOND
    if not len(corpus.held_out) or seconds <= 0:
        return None
    if built is None:
        most = int(seconds * SYMBOLS_PER_SECOND)
        built = count_training_part(corpus.vocabulary, corpus.train, memory=memory << 20, most=most)
    stick = stick_of(built, corpus.vocabulary, corpus.held_out_text())
    limits = f" ({stick.limits})" if stick.limits else ""
    say(
        f"to beat: {stick.bits_per_char:.3f} bits/char held-out, by {stick.order} characters of counts "
        f"({KNESER_NEY}){limits}"
    )
    return stick
