"""Everything that `charlm eval` reports about some texts, as one object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log
from typing import Any

import numpy as np

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import FEWEST_HELD_OUT
from charlm.data.corpus import Corpus
from charlm.data.overlap import about_overlap, overlap
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import UNIT_NOUNS, without_ends
from charlm.evaluation.adaptive import MODEL, NGRAM
from charlm.evaluation.baselines import (
    KNESER_NEY,
    LAST_BYTES,
    Baseline,
    kneser_ney,
    measure_baselines,
    ngram_baseline,
)
from charlm.evaluation.bootstrap import confidence_interval
from charlm.evaluation.calibration import Reliability
from charlm.evaluation.score import OnProgress, Score, no_progress, score_text, score_with_calibration
from charlm.inference.context import ContextRule
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor
from charlm.settings import settings_of

SCHEMA = 1
SAVED = "the one saved in the run, because its text is missing"
SAME = 1e-9
"""Bits per character below which two figures are equal."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A score, how it was measured, and the baselines to compare it with."""

    figure: Score
    kind: str  # of model: `transformer`, `ngram`, `mixture`
    members: tuple[str, ...]  # the kinds of a mixture's members, else empty
    step: int
    which: str  # latest, best or the step, as requested
    selected_on_this_text: bool
    rule: ContextRule
    context: str  # what each symbol was predicted from, in words
    units: str  # what a symbol is
    prior_order: int | None  # characters of context of the n-gram model or prior
    interval_bits: tuple[float, float] | None
    baselines: dict[str, Baseline | str]  # each, or why it is missing
    warnings: tuple[str, ...]
    ngram: Score | None  # of the n-gram prior alone, if there is one
    device: str  # that the transformers computed on
    online: Mapping[str, Score] = field(default_factory=dict)  # by dynamic evaluation, by kind

    @property
    def bits_per_char(self) -> float:
        """Mean bits per character."""
        return self.figure.bits_per_char

    @property
    def nats_per_char(self) -> float:
        """Mean nats per character."""
        return self.figure.nats_per_char

    @property
    def calibration(self) -> Reliability:
        """The calibration of the predictions of all symbols of the texts."""
        assert self.figure.calibration is not None
        return self.figure.calibration

    @property
    def figures(self) -> Iterator[tuple[str, bool, Score]]:
        """Each score with its kind, and whether the model learned from the text while it was scored."""
        if self.ngram is not None:
            yield NGRAM, False, self.ngram
        yield MODEL, False, self.figure
        for kind, figure in self.online.items():
            yield kind, True, figure

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form, schema 1, without the run's name, which a checkpoint does not know."""
        figure = self.figure
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "device": self.device,
            "members": list(self.members),
            "online": False,
            "figures": [_score_json(*each) for each in self.figures],
            "checkpoint": {"which": self.which, "step": self.step},
            "selected_on_this_text": self.selected_on_this_text,
            "block_size": self.rule.block_size,
            "stride": self.rule.stride,
            "prior_order": self.prior_order,
            "state_carried": self.rule.carried,
            "chars": figure.chars,
            "bytes": figure.bytes,
            "document_ends": figure.ends,
            "unknown_chars": figure.unknown_chars,
            "nats_per_char": figure.nats_per_char,
            "bits_per_char": figure.bits_per_char,
            "bits_per_byte": figure.bits_per_byte,
            "unit": UNIT_NOUNS[self.units],
            "units": figure.units,
            "bits_per_unit": figure.bits_per_unit,
            "perplexity": figure.perplexity,
            "calibration": self.calibration.to_json(),
            "ci95_bits_per_char": list(self.interval_bits) if self.interval_bits else None,
            "baselines": {name: _baseline_json(found) for name, found in self.baselines.items()},
            "files": [
                {"file": s.name, "chars": len(s.nats), "bits_per_char": float(s.bits.mean())}
                for s in figure.texts
            ],
            "warnings": list(self.warnings),
        }


def evaluate(
    snapshot: Snapshot,
    which: str,
    texts: Sequence[tuple[str, str]],
    rule: ContextRule,
    corpus: Corpus | None,
    predictor: Predictor,
    on_progress: OnProgress = no_progress,
) -> Evaluation:
    """Score named texts with the predictor of a checkpoint. `corpus`: its training text, if that still exists."""
    alone = None
    if predictor.prior is not None:
        alone = NgramPredictor(predictor.prior, predictor.vocabulary)
    figure = Score([score_with_calibration(predictor, name, text, rule, on_progress) for name, text in texts])
    joined = "".join(text for _, text in texts)
    held_out = corpus is not None and joined == corpus.held_out_text()
    selected = held_out and _is_best(snapshot, which)
    assert np.isfinite(figure.nats).all()
    interval = confidence_interval(figure.nats)
    on_progress("measuring compressors", 0, None)
    baselines = measure_baselines(
        snapshot.vocabulary, partial(corpus.training_text, LAST_BYTES) if corpus else None, joined
    )
    on_progress("counting n-grams of the training text", 0, None)
    baselines[KNESER_NEY] = _kneser_ney(snapshot, corpus, joined)
    on_progress("comparing with the training text", 0, None)
    return Evaluation(
        figure=figure,
        kind=predictor.kind,
        members=predictor.mixed,
        step=snapshot.step,
        which=which,
        selected_on_this_text=selected,
        rule=rule,
        context=predictor.describe_context(rule),
        units=snapshot.vocabulary.units,
        prior_order=snapshot.model_config.prior_order if predictor.prior is None else predictor.prior.order,
        interval_bits=(interval[0] / log(2), interval[1] / log(2)) if interval else None,
        baselines=baselines,
        warnings=(
            *_changed(snapshot),
            *_beaten(figure, baselines[KNESER_NEY], snapshot, predictor),
            *_warnings(figure, predictor, corpus, texts, selected),
            *(f"no {name} baseline: {why}" for name, why in baselines.items() if isinstance(why, str)),
        ),
        device=predictor.device.type,
        ngram=Score([score_text(alone, name, text) for name, text in texts]) if alone else None,
    )


def _kneser_ney(snapshot: Snapshot, corpus: Corpus | None, text: str) -> Baseline | str:
    """Score Kneser-Ney on the training part; if that is gone, the run's own n-gram model, or say why there is none."""
    if corpus is not None:
        memory = snapshot.training_config.prior_memory << 20
        return kneser_ney(snapshot.vocabulary, corpus.train, text, memory=memory)
    saved = snapshot.kneser_ney()
    if saved is None:
        return "the training text is missing, and the run has no n-gram model of it"
    ids, chars = snapshot.vocabulary.encode(text), len(without_ends(text))
    return ngram_baseline(saved, snapshot.vocabulary, ids, chars, source=SAVED)


def _changed(snapshot: Snapshot) -> Iterator[str]:
    """Yield a warning if the text was changed before it was scored."""
    text, names = snapshot.run.text, ("strip", "normalize", "newlines", "lowercase", "collapse_spaces")
    asked = [
        s.option for s in settings_of(TextConfig) if s.name in names and getattr(text, s.name) != s.default
    ]
    if asked:
        yield (
            f"the text was changed before scoring ({', '.join(asked)}), so its bits are not comparable with those of "
            "the original text"
        )


def _beaten(
    figure: Score, baseline: Baseline | str, snapshot: Snapshot, predictor: Predictor
) -> Iterator[str]:
    """Yield warnings if the model does not beat Kneser-Ney, and if that baseline is limited."""
    if isinstance(baseline, str) or figure.chars < FEWEST_HELD_OUT:
        return
    model, word = snapshot.model_config, snapshot.vocabulary.unit_noun
    if baseline.limits:
        yield f"{KNESER_NEY}: {baseline.limits}"
    if baseline.source == SAVED:
        yield f"{KNESER_NEY}: the n-gram model of {baseline.order} {word}s is {SAVED}"
    if figure.bits_per_char - baseline.bits_per_char < (SAME if model.is_ngram else 0):
        return
    if not model.is_ngram:
        remedy = f"train longer, or {'on more text like this' if predictor.prior else 'with --prior'}"
    elif baseline.order != model.prior_order:
        remedy = f"train with --prior-order {baseline.order}"
    elif snapshot.training_config.prior_chars is not None:
        remedy = "train without --prior-chars"
    else:
        remedy = "train again, because another version of charlm created this run"
    yield (
        f"{KNESER_NEY} n-grams with {baseline.order} {word}s of context predict better, at "
        f"{baseline.bits_per_char:.4f} bits per character: {remedy}"
    )


def _is_best(snapshot: Snapshot, which: str) -> bool:
    """Whether this checkpoint was chosen because it did best on the run's held-out text."""
    stopping = snapshot.state.get("early_stopping")
    best_step = stopping.get("best_step") if isinstance(stopping, dict) else None
    return which == "best" or (which != "latest" and best_step == snapshot.step)


def _warnings(
    figure: Score,
    predictor: Predictor,
    corpus: Corpus | None,
    texts: Sequence[tuple[str, str]],
    selected: bool,
) -> Iterator[str]:
    """Yield warnings about reasons not to rely on the score."""
    if selected:
        yield "this checkpoint was chosen by its score on this text; expect a slightly worse score on other text"
    if corpus is not None:
        parts = [overlap(corpus.train, predictor.vocabulary.encode(text)) for _, text in texts]
        seen = about_overlap(parts, predictor.vocabulary.unit_noun)
        if seen is not None:
            yield f"{seen}; so this says little about generalisation"
    if figure.chars < FEWEST_HELD_OUT:
        chars = f"{figure.chars} character{'s are' if figure.chars != 1 else ' is'}"
        yield f"{chars} too few for a reliable score"
    if 2 * figure.unknown_chars > figure.chars:
        share = 100 * figure.unknown_chars / figure.chars
        yield (
            f"{share:.0f} % of the characters are not in the model's vocabulary, so the score says little about the "
            "text; is it in another language, or in another encoding (--encoding)?"
        )


def _score_json(kind: str, online: bool, figure: Score) -> dict[str, Any]:
    """Return a score as JSON; an online one is comparable with adaptive compressors only."""
    return {
        "kind": kind,
        "online": online,
        "chars": figure.chars,
        "nats_per_char": figure.nats_per_char,
        "bits_per_char": figure.bits_per_char,
    }


def _baseline_json(baseline: Baseline | str) -> dict[str, Any] | None:
    """Return a baseline as JSON; null if it is missing, for a reason that is among the warnings."""
    if isinstance(baseline, str):
        return None
    plain: dict[str, Any] = {"bits_per_char": baseline.bits_per_char, "adaptive": baseline.adaptive}
    return plain if baseline.order is None else {**plain, "order": baseline.order}
