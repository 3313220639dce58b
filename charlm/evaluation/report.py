"""Everything that `charlm eval` says of some texts, as one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any

import numpy as np

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import FEWEST_HELD_OUT
from charlm.context import ContextRule
from charlm.counts.c_rows import CRows
from charlm.evaluation.intervals import bootstrap_interval
from charlm.evaluation.overlap import PASSAGE, overlap
from charlm.evaluation.score import Figure, score_text
from charlm.evaluation.yardsticks import KNESER_NEY, LAST_BYTES, Yardstick, kneser_ney, yardsticks
from charlm.model.compiled import rows_alone
from charlm.predictor import TransformerPredictor
from charlm.text.corpus import Corpus

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A figure, what it was measured with, and what stands beside it."""

    figure: Figure
    step: int
    which: str  # latest, best or the step, as it was asked for
    selected_on_this_text: bool
    rule: ContextRule
    counts_order: int | None  # characters of context that the counts see which the model begins from
    interval_bits: tuple[float, float] | None
    baselines: dict[str, Yardstick | str]
    warnings: tuple[str, ...]

    @property
    def context(self) -> str:
        """What each character was predicted from, in words."""
        if self.rule.carried:
            return "all characters before each (state carried from one to the next)"
        least, most = self.rule.block_size - self.rule.stride, self.rule.block_size
        said = f"{max(1, least)} to {most} characters before each (block {most}, stride {self.rule.stride})"
        seen = self.counts_order or 0
        return f"{said}; the counts always see {seen}" if seen > least else said

    def to_json(self) -> dict[str, Any]:
        """The stable form, of schema 1, but for the run's name, which a checkpoint does not know."""
        figure = self.figure
        return {
            "schema": SCHEMA,
            "kind": "transformer",
            "checkpoint": {"which": self.which, "step": self.step},
            "selected_on_this_text": self.selected_on_this_text,
            "block_size": self.rule.block_size,
            "stride": self.rule.stride,
            "counts_order": self.counts_order,
            "state_carried": self.rule.carried,
            "chars": figure.chars,
            "bytes": figure.bytes,
            "unknown_chars": figure.unknown_chars,
            "nats_per_char": figure.nats_per_char,
            "bits_per_char": figure.bits_per_char,
            "bits_per_byte": figure.bits_per_byte,
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
    snapshot: Snapshot, which: str, texts: Sequence[tuple[str, str]], rule: ContextRule, corpus: Corpus | None
) -> Evaluation:
    """Score named texts with a checkpoint; `corpus` is what it was trained on, where that is there."""
    predictor = TransformerPredictor.of(snapshot)
    if predictor.counts is not None:
        compiling = rows_alone()
        library = compiling.library() if compiling else None
        predictor.counts.filler = CRows(predictor.counts, library) if library else None
    figure = Figure([score_text(predictor, name, text, rule) for name, text in texts])
    joined = "".join(text for _, text in texts)
    held_out = corpus is not None and joined == corpus.held_out_text()
    selected = held_out and _is_best(snapshot, which)
    interval = bootstrap_interval(figure.nats)
    baselines = yardsticks(
        snapshot.vocabulary, partial(corpus.training_text, LAST_BYTES) if corpus else None, joined
    )
    memory = snapshot.training_config.counts_memory << 20
    baselines[KNESER_NEY] = (
        kneser_ney(snapshot.vocabulary, corpus.train, joined, memory=memory)
        if corpus is not None
        else "the training text is no longer there"
    )
    missing = [f"no {name} yardstick: {why}" for name, why in baselines.items() if isinstance(why, str)]
    return Evaluation(
        figure=figure,
        step=snapshot.step,
        which=which,
        selected_on_this_text=selected,
        rule=rule,
        counts_order=predictor.counts.order if predictor.counts else None,
        interval_bits=(interval[0] / log(2), interval[1] / log(2)) if interval else None,
        baselines=baselines,
        warnings=(
            *_beaten(figure, baselines[KNESER_NEY]),
            *_warnings(figure, predictor, corpus, texts, selected),
            *missing,
        ),
    )


def _beaten(figure: Figure, counts: Yardstick | str) -> tuple[str, ...]:
    """What is to be said where the model does not beat the counts, and where those are not whole."""
    if isinstance(counts, str):
        return ()
    found = [f"kneser-ney: {counts.limits}"] if counts.limits else []
    if counts.bits_per_char <= figure.bits_per_char:
        found.append(
            f"{counts.order} characters of counts do better, at {counts.bits_per_char:.4f} bits per character: "
            "train longer, or on more text like this"
        )
    return tuple(found)


def _is_best(snapshot: Snapshot, which: str) -> bool:
    """Was this checkpoint chosen because it did best on the run's held-out text?"""
    return which == "best" or (which != "latest" and snapshot.state.get("best_step") == snapshot.step)


def _warnings(
    figure: Figure,
    predictor: TransformerPredictor,
    corpus: Corpus | None,
    texts: Sequence[tuple[str, str]],
    selected: bool,
) -> tuple[str, ...]:
    found = []
    if selected:
        found.append("this checkpoint was chosen by this very text; on other text expect a little more")
    if corpus is not None:
        parts = [overlap(corpus.train, predictor.vocabulary.encode(text)) for _, text in texts]
        share = sum(part.symbols for part in parts) / max(1, sum(part.of_symbols for part in parts))
        if share > 0:
            found.append(
                f"{100 * share:.{0 if share >= 0.1 else 2}f} % of this text stands in the training part too, in passages of {PASSAGE} "
                "characters or more; that is no test of what was learned"
            )
    if figure.chars < FEWEST_HELD_OUT:
        found.append(f"{figure.chars} characters are too few for the figure to mean much")
    assert np.isfinite(figure.nats).all()
    return tuple(found)


def _stick(stick: Yardstick | str) -> dict[str, Any] | None:
    """A yardstick as JSON; null where it is missing, with the reason among the warnings."""
    if isinstance(stick, str):
        return None
    plain: dict[str, Any] = {"bits_per_char": stick.bits_per_char, "adaptive": stick.adaptive}
    return plain if stick.order is None else {**plain, "order": stick.order}
