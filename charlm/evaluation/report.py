"""Everything that `charlm eval` says of some texts, as one object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log
from typing import Any

import numpy as np

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import FEWEST_HELD_OUT, TextConfig
from charlm.data.corpus import Corpus
from charlm.data.overlap import about_overlap, overlap
from charlm.data.tokenizer import WORDS
from charlm.evaluation.adaptive import COUNTS, MODEL
from charlm.evaluation.baselines import KNESER_NEY, LAST_BYTES, Yardstick, kneser_ney, of_counts, yardsticks
from charlm.evaluation.bootstrap import confidence_interval
from charlm.evaluation.score import Figure, Watch, score_text, unwatched
from charlm.inference.context import ContextRule
from charlm.inference.predictor import CountsPredictor, Predictor, predictor_of
from charlm.native.library import rows_alone
from charlm.ngram.rows import CRows
from charlm.settings import settings_of

SCHEMA = 1
SAVED = "those saved in the run, since its text is gone"
SAME = 1e-9
"""Bits per character: counts are not better than themselves."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A figure, what it was measured with, and what stands beside it."""

    figure: Figure
    kind: str  # of model: `transformer`, `counts`
    step: int
    which: str  # latest, best or the step, as it was asked for
    selected_on_this_text: bool
    rule: ContextRule
    units: str  # what a symbol is
    prior_order: int | None  # characters of context that the counts see: the model's, or those it begins from
    interval_bits: tuple[float, float] | None
    baselines: dict[str, Yardstick | str]
    warnings: tuple[str, ...]
    counts: Figure | None  # of the counts that the model begins from, alone, where it does
    online: Mapping[str, Figure] = field(default_factory=dict)  # what learned as it read, by kind

    @property
    def bits_per_char(self) -> float:
        """The figure: mean bits per character."""
        return self.figure.bits_per_char

    @property
    def nats_per_char(self) -> float:
        """The same in nats."""
        return self.figure.nats_per_char

    @property
    def figures(self) -> Iterator[tuple[str, bool, Figure]]:
        """Each figure with its kind, and whether it is online: then it learned from the text it is of."""
        if self.counts is not None:
            yield COUNTS, False, self.counts
        yield MODEL, False, self.figure
        for kind, figure in self.online.items():
            yield kind, True, figure

    @property
    def context(self) -> str:
        """What each symbol was predicted from, in words."""
        word = WORDS[self.units]
        if self.rule.carried:
            return f"all {word}s before each (state carried from one to the next)"
        least, most = self.rule.block_size - self.rule.stride, self.rule.block_size
        if self.kind == CountsPredictor.kind:
            most = self.prior_order or 0
            return f"{most or 'no'} {word}{'s' * (most != 1)} before each"
        said = f"{max(1, least)} to {most} {word}s before each (block {most}, stride {self.rule.stride})"
        seen = self.prior_order or 0
        return f"{said}; the counts always see {seen}" if seen > least else said

    def to_json(self) -> dict[str, Any]:
        """The stable form, of schema 1, but for the run's name, which a checkpoint does not know."""
        figure = self.figure
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "online": False,
            "figures": [_figure(*each) for each in self.figures],
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
            "unit": WORDS[self.units],
            "units": figure.units,
            "bits_per_unit": figure.bits_per_unit,
            "perplexity": figure.perplexity,
            "ci95_bits_per_char": list(self.interval_bits) if self.interval_bits else None,
            "baselines": {name: _stick(stick) for name, stick in self.baselines.items()},
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
    watch: Watch = unwatched,
) -> Evaluation:
    """Score named texts with a checkpoint; `corpus` is what it was trained on, where that is there.

    `watch` is told what is being done, and how much of it is.
    """
    predictor = predictor_of(snapshot)
    if predictor.counts is not None:
        compiling = rows_alone()
        library = compiling.library() if compiling else None
        predictor.counts.filler = CRows.of(predictor.counts, library)
    figure = Figure([score_text(predictor, name, text, rule, watch) for name, text in texts])
    alone = None if predictor.counts is None else CountsPredictor(predictor.counts, predictor.vocabulary)
    joined = "".join(text for _, text in texts)
    held_out = corpus is not None and joined == corpus.held_out_text()
    selected = held_out and _is_best(snapshot, which)
    interval = confidence_interval(figure.nats)
    watch("measuring compressors", 0, None)
    baselines = yardsticks(
        snapshot.vocabulary, partial(corpus.training_text, LAST_BYTES) if corpus else None, joined
    )
    watch("counting n-grams of the training text", 0, None)
    baselines[KNESER_NEY] = _kneser_ney(snapshot, corpus, joined)
    watch("comparing with the training text", 0, None)
    missing = [f"no {name} yardstick: {why}" for name, why in baselines.items() if isinstance(why, str)]
    return Evaluation(
        figure=figure,
        kind=predictor.kind,
        step=snapshot.step,
        which=which,
        selected_on_this_text=selected,
        rule=rule,
        units=snapshot.vocabulary.units,
        prior_order=snapshot.model_config.prior_order,
        interval_bits=(interval[0] / log(2), interval[1] / log(2)) if interval else None,
        baselines=baselines,
        warnings=(
            *_changed(snapshot),
            *_beaten(figure, baselines[KNESER_NEY], snapshot),
            *_warnings(figure, predictor, corpus, texts, selected),
            *missing,
        ),
        counts=Figure([score_text(alone, name, text) for name, text in texts]) if alone else None,
    )


def _kneser_ney(snapshot: Snapshot, corpus: Corpus | None, text: str) -> Yardstick | str:
    """Counts of the training part; where that is gone those that the run has, or why there are none."""
    if corpus is not None:
        memory = snapshot.training_config.prior_memory << 20
        return kneser_ney(snapshot.vocabulary, corpus.train, text, memory=memory)
    saved = snapshot.kneser_ney()
    if saved is None:
        return "the training text is no longer there, and the run has no counts of it"
    return of_counts(saved, snapshot.vocabulary, text, SAVED)


def _changed(snapshot: Snapshot) -> tuple[str, ...]:
    """What is to be said of text that is not scored as it stands in its file."""
    text = snapshot.run["text"]
    names = ("strip", "normalize", "newlines", "lowercase", "collapse_spaces")
    usual = settings_of(TextConfig)
    asked = [s.option for s in usual if s.name in names and text.get(s.name, s.default) != s.default]
    if not asked:
        return ()
    return (
        f"the text was changed before it was scored ({', '.join(asked)}), so its bits are not comparable with "
        "those of the text as it was",
    )


def _beaten(figure: Figure, counts: Yardstick | str, snapshot: Snapshot) -> tuple[str, ...]:
    """What is to be said where the model does not beat the counts, and where those are not whole."""
    if isinstance(counts, str) or figure.chars < FEWEST_HELD_OUT:
        return ()
    model, word = snapshot.model_config, snapshot.vocabulary.word
    found = [f"{KNESER_NEY}: {counts.limits}"] if counts.limits else []
    found += [f"{KNESER_NEY}: counts of {counts.order} {word}s, {SAVED}"] if counts.source == SAVED else []
    gained = figure.bits_per_char - counts.bits_per_char
    better = f"{counts.order} {word}s of counts do better, at {counts.bits_per_char:.4f} bits per character"
    if model.is_ngram:
        if gained > SAME:
            found.append(f"{better}: {_how_to_count_better(snapshot, counts)}")
    elif gained >= 0:
        found.append(
            f"{better}: train longer, or {'on more text like this' if model.prior else 'from counts, with --prior'}"
        )
    return tuple(found)


def _how_to_count_better(snapshot: Snapshot, counts: Yardstick) -> str:
    """What makes a run of counts alone as good as these counts."""
    if counts.order != snapshot.model_config.prior_order:
        return f"train with --prior-order {counts.order}"
    if snapshot.training_config.prior_chars is not None:
        return "train without --prior-chars"
    return "train again, since this run was counted by another version of charlm"


def _is_best(snapshot: Snapshot, which: str) -> bool:
    """Was this checkpoint chosen because it did best on the run's held-out text?"""
    return which == "best" or (which != "latest" and snapshot.state.get("best_step") == snapshot.step)


def _warnings(
    figure: Figure,
    predictor: Predictor,
    corpus: Corpus | None,
    texts: Sequence[tuple[str, str]],
    selected: bool,
) -> tuple[str, ...]:
    found = []
    if selected:
        found.append("this checkpoint was chosen by this very text; on other text expect a little more")
    if corpus is not None:
        parts = [overlap(corpus.train, predictor.vocabulary.encode(text)) for _, text in texts]
        seen = about_overlap(parts, predictor.vocabulary.word)
        if seen is not None:
            found.append(f"{seen}; that is no test of what was learned")
    if figure.chars < FEWEST_HELD_OUT:
        chars = f"{figure.chars} character{'s are' if figure.chars != 1 else ' is'}"
        found.append(f"{chars} too few for the figure to mean much")
    assert np.isfinite(figure.nats).all()
    return tuple(found)


def _figure(kind: str, online: bool, figure: Figure) -> dict[str, Any]:
    """A figure as JSON; an online one is comparable with adaptive compressors only."""
    return {
        "kind": kind,
        "online": online,
        "chars": figure.chars,
        "nats_per_char": figure.nats_per_char,
        "bits_per_char": figure.bits_per_char,
    }


def _stick(stick: Yardstick | str) -> dict[str, Any] | None:
    """A yardstick as JSON; null where it is missing, with the reason among the warnings."""
    if isinstance(stick, str):
        return None
    plain: dict[str, Any] = {"bits_per_char": stick.bits_per_char, "adaptive": stick.adaptive}
    return plain if stick.order is None else {**plain, "order": stick.order}
