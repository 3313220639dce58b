"""Calibration: fit temperature, mixture weights and recent n-grams on reserved text that no member was trained on.

Shapes: N positions, V symbols, M members, F features.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from charlm.config import NGRAM
from charlm.evaluation.score import spread
from charlm.inference.members import symbol_log_probs
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.model.mixture import Mixture, features, log_normalised
from charlm.model.recent_ngrams import MOST_SHORTEST, RecentNgrams
from charlm.native.decoder import Floats32
from charlm.ngram.build import TrainingPrior, build
from charlm.training.events import Calibrated, MemberFigure
from charlm.training.session import TransformerSession

WEIGHT_DECAY = 2.0
"""Pull of the mixture weights towards equal ones, in nats over all positions: few symbols should not decide much."""
STRENGTHS = (1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 80.0, 160.0)
"""The strengths of the model against recent n-grams that are tried."""
FIRST_STRENGTH = 10.0
"""The strength with which the shortest n-gram length is chosen."""
FITS = MOST_SHORTEST + len(STRENGTHS) + 1
"""How many times the recent n-grams of each reserved symbol are looked up."""
ITERATIONS, ENOUGH = 30, 1e-8
"""Limits of the fit: most Newton steps, and the gain in nats below which it ends."""
NUMBERS = 1 << 22
"""Limit on the probabilities of one member, which bounds memory and time for large vocabularies."""
SHIFT_PLACES, SHIFT_WINDOW = 12_000, 128
"""Positions all over the training text on which the dataset shift is measured, and the symbols of a window of them."""
SHIFT_ORDER, SHIFT_CHARS, SHIFT_BYTES = 5, 1_000_000, 1 << 28
"""Order, counted symbols and memory of the n-gram model that measures the shift if the run has none."""
LEAST_SHIFT, MOST_SHIFT = 0.8, 1.25
LEAST_BIAS, MOST_BIAS = 0.1, 10.0
"""Limits of a single member's bias: of a model that learned nothing, as on random symbols, 0 or less would fit best."""


def calibrate(session: TransformerSession) -> Calibrated:
    """Fit the mixture of all members trained so far, and put it into the session's state."""
    kinds, members = zip(*_members(session), strict=True)
    logps, targets, ats = reserved_log_probs(session, members)
    mixture = fit_mixture(logps, targets, ngram=NGRAM in kinds)
    pooled = mixture.log_probs(logps)
    mixture, corrected = fit_recent(session, mixture, pooled, targets, ats)
    recent, shift = mixture.recent, dataset_shift(session, ats, mixture.recent)
    shares = mixture.shares(logps).mean(axis=0)
    figures = tuple(
        MemberFigure(kind=kind, nats_per_symbol=_nats(logp, targets), weight=float(share / shares.sum()))
        for kind, logp, share in zip(kinds, logps, shares, strict=True)
    )
    session.state.mixture = mixture.tempered(shift)
    session.state.calibrated = Calibrated(
        step=session.state.step,
        symbols=len(targets),
        temperature=mixture.temperature,
        shift=shift,
        members=figures,
        nats_per_symbol=_nats(corrected, targets),
        recent_chars=0 if recent is None else recent.chars,
        recent_strength=None if recent is None else recent.strength,
        nats_without_recent=None if recent is None else _nats(pooled, targets),
    )
    return session.state.calibrated


def _members(session: TransformerSession) -> list[tuple[str, Predictor]]:
    """Return kind and predictor of each trained member, the n-gram model last."""
    vocabulary, ngram = session.corpus.vocabulary, session.kneser_ney
    found: list[tuple[str, Predictor]] = [
        (
            member.model_config.kind,
            TransformerPredictor.of(member.model_config, member.weights, vocabulary, ngram),
        )
        for member in session.earlier
    ]
    found.append((session.model_config.kind, session.predictor))
    if NGRAM in (session.training_config.members or "").split(","):
        assert ngram is not None
        found.append((NGRAM, NgramPredictor(ngram, vocabulary)))
    return found


def reserved_log_probs(
    session: TransformerSession, members: Sequence[Predictor]
) -> tuple[list[Floats32], NDArray[np.int64], NDArray[np.int64]]:
    """Return each member's log-probabilities (N, V) on the reserved text, the symbols there (N,) and their positions (N,).

    The n-gram model leaves out its counts of the reserved text. A long one is scored in chunks spread over it.
    """
    train, reserved = session.corpus.train, session.reserved
    rule = max((m.rule for m in members if isinstance(m, TransformerPredictor)), key=lambda r: r.block_size)
    # The text before the reserved text is context.
    begin = max(0, len(train) - reserved - rule.block_size)
    ids, folds = train[begin:], np.maximum(session.folds - begin, 0)
    inside = [
        k for k in range(rule.n_chunks(len(ids))) if rule.chunk(k, len(ids)).first >= len(ids) - reserved
    ]
    symbols = min(reserved, NUMBERS // session.corpus.vocabulary.n_symbols)
    some = (
        spread(rule, len(inside) * rule.stride, symbols, 1).chunks if not rule.carried else range(len(inside))
    )
    chunks = [inside[i] for i in some if i < len(inside)]
    parts = [rule.chunk(k, len(ids)) for k in chunks]
    places = np.concatenate([np.arange(part.first, part.end) for part in parts])
    targets = ids[places].astype(np.int64)
    with session.predicting():
        logps = [
            np.concatenate(list(symbol_log_probs(member, ids, chunks, rule, folds=folds)))
            for member in members
        ]
    return logps, targets, places + begin


def shift_starts(session: TransformerSession) -> NDArray[np.int64]:
    """Return the starts of the windows that measure the dataset shift; none for a tiny text or too large a vocabulary."""
    last = len(session.corpus.train) - session.reserved - SHIFT_WINDOW - 1
    n = min(SHIFT_PLACES, NUMBERS // session.corpus.vocabulary.n_symbols) // SHIFT_WINDOW
    return np.unique(np.linspace(0, last, n if last >= 0 else 0).astype(np.int64))


def dataset_shift(session: TransformerSession, ats: NDArray[np.int64], recent: RecentNgrams | None) -> float:
    """Return the factor by which temperatures must be higher for other text than for the reserved text.

    The reserved text follows the training text, so it is more like it (same scene, same author) than the text that a model
    will see later. The n-gram model, which can leave out any fold, measures how much that matters: the factor is its best
    temperature at positions all over the training text, each without its fold, over that at the positions `ats` (N,) of the
    reserved text; both corrected by `recent` n-grams, if the run has them. What is odd about the reserved text affects both
    the n-gram model's temperature there and the members', so it cancels out.
    """
    starts = shift_starts(session)
    if not len(starts):
        return 1.0
    train, vocabulary = session.corpus.train, session.corpus.vocabulary
    prior = session.prior or _small_prior(session)
    elsewhere = starts[:, None] + np.arange(1, SHIFT_WINDOW + 1)

    def sharpness(places: Sequence[NDArray[np.int64]]) -> float:
        rows = [prior.log_rows(at - 1, 1)[:, 0] for at in places]  # (N, V) each
        if recent is not None:
            pairs = zip(rows, places, strict=True)
            rows = [
                recent.correct(part, train, at, vocabulary.n_symbols, vocabulary.end) for part, at in pairs
            ]
        symbols = train[np.concatenate(places)].astype(np.int64)
        return fit_mixture([np.concatenate(rows)], symbols, ngram=False).bias[0]

    shift = sharpness([ats]) / sharpness(list(elsewhere))
    return min(MOST_SHIFT, max(LEAST_SHIFT, shift))


def _small_prior(session: TransformerSession) -> TrainingPrior:
    """Build an n-gram model that can leave out folds, for a run without one."""
    corpus = session.corpus
    built = build(
        corpus.train,
        corpus.vocabulary.n_symbols,
        SHIFT_ORDER,
        memory=SHIFT_BYTES,
        most=SHIFT_CHARS,
        folds=session.folds,
        end=corpus.vocabulary.end,
    )
    return TrainingPrior(built.model, corpus.train, session.folds)


def fit_recent(
    session: TransformerSession,
    mixture: Mixture,
    logp: Floats32,
    targets: NDArray[np.int64],
    ats: NDArray[np.int64],
) -> tuple[Mixture, Floats32]:
    """Add the recent n-grams that predict targets (N,) best; return the mixture and its log-probabilities (N, V).

    `logp` (N, V): those without recent n-grams, of the symbols at `ats` (N,) of the training text. If recent n-grams do
    not help, the mixture stays.
    """
    chars, vocabulary = session.training_config.recent_chars or 0, session.corpus.vocabulary
    if not chars:
        return mixture, logp

    def corrected(recent: RecentNgrams) -> Floats32:
        return recent.correct(logp, session.corpus.train, ats, vocabulary.n_symbols, vocabulary.end)

    def nats(recent: RecentNgrams) -> float:
        return _nats(corrected(recent), targets)

    start = RecentNgrams(chars=chars, strength=FIRST_STRENGTH)
    start = min((replace(start, shortest=n) for n in range(1, MOST_SHORTEST + 1)), key=nats)
    best = min((replace(start, strength=strength) for strength in STRENGTHS), key=nats)
    if nats(best) >= _nats(logp, targets):
        return mixture, logp
    return replace(mixture, recent=best), corrected(best)


def fit_mixture(logps: Sequence[Floats32], targets: NDArray[np.int64], *, ngram: bool) -> Mixture:
    """Fit the mixture that predicts targets (N,) best, from log-probabilities (N, V) of each member.

    By Newton's method, since the loss is convex in the weights and these are few.
    """
    M, N = len(logps), len(targets)
    scores = np.stack(logps, axis=1)  # (N, M, V)
    of_target = scores[np.arange(N), :, targets]  # (N, M)
    known = np.ones((N, 1), np.float32)
    if M > 1:
        known = np.concatenate((known, features(logps)), axis=1)  # (N, 1 + F)
    start = np.zeros((M, known.shape[1]))
    start[:, 0] = 1 / M
    found = start

    def pooled(weights: NDArray[np.float64]) -> Floats32:
        shares = known @ weights.T.astype(np.float32)
        return log_normalised(np.einsum("nm,nmv->nv", shares, scores))

    def loss(logp: Floats32, weights: NDArray[np.float64]) -> float:
        return _nats(logp, targets) + WEIGHT_DECAY / N * float(np.square(weights - start).sum())

    logp = pooled(found)
    for _ in range(ITERATIONS):
        p = np.exp(logp)
        mean = np.einsum("nv,nmv->nm", p, scores)  # of each member's score, by the mixture
        spread = np.einsum("nv,nmv,nlv->nml", p, scores, scores, optimize=True)
        spread -= mean[:, :, None] * mean[:, None]
        slope = (of_target - mean).T @ known / N - 2 * WEIGHT_DECAY / N * (found - start)  # (M, 1 + F)
        curve = np.einsum("nml,nk,nj->mklj", spread, known, known, optimize=True) / N
        curve = curve.reshape(found.size, -1) + 2 * WEIGHT_DECAY / N * np.eye(found.size)
        step = np.linalg.solve(curve, slope.reshape(-1)).reshape(found.shape)
        before, share = loss(logp, found), 1.0
        while loss(logp := pooled(found + share * step), found + share * step) > before and share > 1e-3:
            share /= 2
        found = found + share * step
        if float((slope * step).sum()) < ENOUGH:
            break
    if M == 1:
        found = found.clip(LEAST_BIAS, MOST_BIAS)
    rows = tuple(tuple(map(float, row)) for row in found)
    return Mixture(
        n_transformers=M - ngram,
        ngram=ngram,
        bias=tuple(row[0] for row in rows),
        weights=tuple(row[1:] for row in rows),
    )


def _nats(logp: Floats32, targets: NDArray[np.int64]) -> float:
    """Return the mean nats per symbol of targets (N,) under log-probabilities (N, V)."""
    return max(0.0, -float(logp[np.arange(len(targets)), targets].mean(dtype=np.float64)))
