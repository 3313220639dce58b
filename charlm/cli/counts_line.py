"""What counts alone make of a run's held-out text, before it is trained: the line that it is held against."""

from time import perf_counter

from charlm.cli.console import say
from charlm.cli.words import several
from charlm.evaluation.intervals import too_few
from charlm.evaluation.yardsticks import CHOSEN, KNESER_NEY, Baseline, count_training_part, stick_of_ids
from charlm.training.kinds import AnySession

SHARE = 0.1  # of a run's time, at most
SECONDS = 10.0  # the same for a run that has no time to keep to
SYMBOLS_PER_SECOND = 0.8e6  # choosing the order, counting; the held-out part is scored at half of it


def counts_line(session: AnySession, budget: float | None) -> Baseline | None:
    """Count and score, and say the figure; None where nothing is held out, or too much for the time.

    `budget` in seconds. A long text is counted in parts. Where the model begins from counts, those are
    what it is held against, and how long they are is the plan's choice; else it is chosen as `charlm
    eval` does. Counts alone are held against nothing.
    """
    corpus = session.corpus
    seconds = (SECONDS if budget is None else SHARE * budget) - 2 * len(corpus.held_out) / SYMBOLS_PER_SECOND
    if session.model_config.counts_alone or not len(corpus.held_out) or seconds <= 0:
        return None
    built, source = session.built, "those that it begins from"
    if built is None:
        most, source = int(seconds * SYMBOLS_PER_SECOND), CHOSEN
        memory = session.training_config.counts_memory << 20
        built = count_training_part(corpus.vocabulary, corpus.train, memory=memory, most=most)
    started = perf_counter()
    stick = stick_of_ids(built, corpus.vocabulary, corpus.held_out, corpus.held_out_chars)
    seconds = perf_counter() - started
    limits = f"; {stick.limits}" if stick.limits else ""
    say(
        f"baseline: {stick.bits_per_char:.3f} bits/char on all held-out text, by "
        f"{several(stick.order or 0, corpus.vocabulary.word)} of counts, {source} ({KNESER_NEY}){limits}"
        f"{too_few(corpus.held_out_chars)}. Each evaluation scores it on its own windows"
    )
    return Baseline(stick, built.model, seconds)
