"""What the plan chooses of n-gram counts: whether a model begins from them, and from which."""

from dataclasses import replace

from charlm.config import ModelConfig, TrainingConfig

FEWEST = 5_000
"""Symbols of training text below which ten parts that are left out in turn say too little."""
ORDERS = ((500_000, 8), (100_000, 6), (20_000, 5), (0, 4))
"""From so many symbols on, so many of context."""
DROPOUT = 0.1
SHARE = 0.1  # of a run's time, at most
SYMBOLS_PER_SECOND = 0.6e6  # with folds; a figure that stands, so that the same plan gives the same counts


def with_counts(
    model: ModelConfig, training: TrainingConfig, seconds: float | None, n_train: int
) -> tuple[ModelConfig, TrainingConfig]:
    """The same with what was left open of counts decided, for a text of `n_train` symbols.

    Beside counts, learned vectors of n-grams were measured to do harm: they are left out.
    """
    given = model.counts_order is not None or model.counts_dropout is not None
    wanted = model.counts if model.counts is not None else given or n_train >= FEWEST
    if model.portable or not wanted:
        return replace(model, counts=False), training
    order = model.counts_order
    if order is None:
        order = next(order for least, order in ORDERS if n_train >= least)
    dropout = DROPOUT if model.counts_dropout is None else model.counts_dropout
    model = replace(model, counts=True, counts_order=order, counts_dropout=dropout)
    if model.ngrams is None and model.ngram_rows is None and model.ngram_dropout is None:
        model = replace(model, ngrams=1)
    if seconds is not None and training.counts_chars is None:
        most = int(SHARE * seconds * SYMBOLS_PER_SECOND)
        training = replace(training, counts_chars=most) if most < n_train else training
    return model, training
