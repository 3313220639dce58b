"""What the plan chooses of n-gram counts: whether a model begins from them, and from which."""

from dataclasses import replace

from charlm.config import ModelConfig, TrainingConfig

FEWEST = 5_000
"""Symbols of training text below which ten parts that are left out in turn say too little."""
ORDERS = ((100_000, 8), (20_000, 5), (0, 4))
"""From so many symbols on, so many of context."""
DROPOUT, DROPOUT_PASSES = 0.1, 0.5
"""Share of the windows trained on without the counts, in runs of so many passes over the text or more."""
SHARE = 0.1  # of a run's time, at most
SYMBOLS_PER_SECOND = 0.6e6  # with folds; a figure that stands, so that the same plan gives the same counts


def with_counts(
    model: ModelConfig, training: TrainingConfig, seconds: float | None, n_train: int
) -> tuple[ModelConfig, TrainingConfig]:
    """The same with what was left open of counts decided, for a text of `n_train` symbols.

    Beside counts, learned vectors of n-grams were measured to do harm: they are left out. ValueError
    where counts are off and something was said of them.
    """
    given = model.counts_order is not None or model.counts_dropout is not None
    wanted = model.counts if model.counts is not None else given or n_train >= FEWEST
    if model.portable or not wanted:
        if training.counts_chars is not None:
            raise ValueError(f"counts_chars is {training.counts_chars}, which cannot act with no counts")
        return replace(model, counts=False), training
    order = model.counts_order
    if order is None:
        order = next(order for least, order in ORDERS if n_train >= least)
    model = replace(model, counts=True, counts_order=order)
    if model.ngrams is None and model.ngram_rows is None and model.ngram_dropout is None:
        model = replace(model, ngrams=1)
    return model, within(training, None if seconds is None else SHARE * seconds, n_train)


def within(training: TrainingConfig, seconds: float | None, n_train: int) -> TrainingConfig:
    """The same with as much text to be counted as there is time for, where that was left open."""
    if seconds is None or training.counts_chars is not None:
        return training
    most = max(1, int(seconds * SYMBOLS_PER_SECOND))
    return replace(training, counts_chars=most) if most < n_train else training


def with_counts_dropout(model: ModelConfig, passes: float) -> ModelConfig:
    """The same with that share decided, where there are counts: a few hundred steps cannot trust them too much."""
    if not model.counts or model.counts_dropout is not None:
        return model
    return replace(model, counts_dropout=DROPOUT if passes >= DROPOUT_PASSES else 0.0)
