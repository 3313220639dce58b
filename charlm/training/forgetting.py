"""The held-out text of the run that another goes on from: how well it is predicted before, and after."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from charlm.checkpoint.safe_io import number, optional_number, whole
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.evaluation.score import Estimate, Slice, score_slice, spread
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Predictor
from charlm.training.events import Remembered
from charlm.training.planner import FIRST_SHARE, Plan, Size

SHARE = 0.02  # of a run's time, for each of the scorings
FEWEST, MOST = 2_000, 20_000
"""Symbols that are scored at least; and at most, or where there is no time to keep to."""
LEAVING = 0.7
"""Seconds that a run on two texts needs more to give back its memory and end: 1.4 instead of 0.7."""
NUMBERS = ("before", "begun", "nats_per_char", "forgotten", "seconds")
ERRORS = ("before_error", "standard_error")  # None: unknown, of a single block
COUNTS = ("step", "chars", "of_chars", "blocks")


@dataclass(frozen=True)
class OldText:
    """That text as the grown vocabulary has it, and the windows of it that are scored each time."""

    run: str  # whose held-out text it is
    ids: Ids
    chars: int
    part: Slice
    rule: ContextRule
    first: Predictor | None = None  # what that run predicts with, where this one is about to begin

    @classmethod
    def of(
        cls,
        run: str,
        corpus: Corpus,
        vocabulary: Vocabulary,
        rule: ContextRule,
        symbols: int,
        first: Predictor | None = None,
    ) -> "OldText":
        """The held-out part of `corpus`, about so many symbols of which are scored."""
        ids = corpus.vocabulary.ids_in(vocabulary, corpus.held_out)
        part = spread(rule, len(ids), symbols, corpus.held_out_chars)
        return cls(run, ids, corpus.held_out_chars, part, rule, first)

    def begin(self, predictor: Predictor) -> tuple[Remembered, dict[str, Any]]:
        """Score it as that run does and as this one begins: the event, and what is to be kept of it."""
        assert self.first is not None
        before, _ = self._scored(self.first)
        begun, seconds = self._scored(predictor)
        kept = {
            "run": self.run,
            "before": before.nats_per_char,
            "before_error": before.standard_error,
            "before_sums": before.sums.tolist(),
            "begun": begun.nats_per_char,
            "chars": before.chars,
            "of_chars": self.chars,
            "blocks": len(before.sums),
            "seconds": seconds,
        }
        return self._event(0, begun, kept, seconds, final=False)

    def again(
        self, step: int, predictor: Predictor, kept: dict[str, Any]
    ) -> tuple[Remembered, dict[str, Any]]:
        """Score it after so many steps: what was forgotten since `kept`."""
        now, seconds = self._scored(predictor)
        return self._event(step, now, kept, seconds, final=True)

    def _scored(self, predictor: Predictor) -> tuple[Estimate, float]:
        started = perf_counter()
        estimate = score_slice(predictor, self.ids, self.part, rule=self.rule)
        assert estimate is not None
        return estimate, perf_counter() - started

    def _event(
        self, step: int, now: Estimate, kept: dict[str, Any], seconds: float, *, final: bool
    ) -> tuple[Remembered, dict[str, Any]]:
        change = Estimate(now.sums - np.array(kept["before_sums"]), now.symbols, now.symbols_per_char)
        figures: dict[str, Any] = {
            "nats_per_char": now.nats_per_char,
            "forgotten": change.nats_per_char,
            "standard_error": change.standard_error,
        }
        about = {name: kept[name] for name in ("run", "before", "chars", "of_chars", "blocks")}
        event = Remembered(step=step, **about, **figures, final=final, seconds=seconds)
        return event, {**kept, **figures, "step": step}


def symbols_to_score(plan: Plan, size: Size) -> int:
    """How many symbols of the old text there is time for, by what the plan began with."""
    first = plan.decisions[0] if plan.decisions else {}
    seconds, gflops = first.get("seconds"), first.get("gflops")
    if not isinstance(seconds, int | float) or not isinstance(gflops, int | float):
        return MOST
    # Forward only, a third of a step; each symbol is read twice, as the context rule says.
    gflop = 2 * size.step_gflop / 3 / (size.batch_size * size.block_size) / FIRST_SHARE
    return int(min(MOST, max(FEWEST, SHARE * seconds * gflops / gflop)))


def checked(data: Any) -> dict[str, Any] | None:
    """What a run's state keeps of it, its values of the types that they must have; ValueError and the like otherwise."""
    if data is None:
        return None
    return {
        "run": str(data["run"]),
        "before_sums": list(map(number, data["before_sums"])),
        **{name: number(data[name]) for name in NUMBERS},
        **{name: optional_number(data[name]) for name in ERRORS},
        **{name: whole(data[name]) for name in COUNTS},
    }
