"""What a run knows of itself besides weights: where it is, and what went wrong so far."""

from dataclasses import dataclass, field
from typing import Any

from charlm.checkpoint.safe_io import number, optional_number, whole
from charlm.errors import CheckpointError
from charlm.evaluation.score import Estimate, Slice
from charlm.terminal import one_line
from charlm.training import forgetting as old_text
from charlm.training.guards import Divergence, Memorising

MAY_LACK = ("standard_error", "baseline_nats_per_char", "difference", "difference_error")
"""What an evaluation may be without."""


@dataclass
class RunState:
    """All of it plain numbers, saved in state.json and equal after a resume."""

    divergence: Divergence
    memorising: Memorising = field(default_factory=Memorising)
    step: int = 0
    updates: int = 0  # steps whose batch was not skipped
    batch_offset: int = 0  # batches passed over by going back: step s reads batch s + offset
    rate_factor: float = 1.0
    returns: int = 0
    skipped: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of training, over all sittings
    last_figure: dict[str, Any] | None = None  # the last evaluation, as it was shown
    finished: str | None = None
    old_text: dict[str, Any] | None = None  # what is known of that of the run gone on from

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` gives the same state again."""
        lowest = self.divergence.lowest
        kept = {} if self.old_text is None else {"old_text": self.old_text}
        return kept | {
            "updates": self.updates,
            "batch_offset": self.batch_offset,
            "rate_factor": self.rate_factor,
            "returns": self.returns,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "last_figure": self.last_figure,
            "finished": self.finished,
            "unigram_nats": self.divergence.unigram,
            "recent_losses": self.divergence.recent,
            "lowest_loss": lowest if lowest < float("inf") else None,
            "bad_in_row": self.divergence.bad_in_row,
            "best_step": self.memorising.best_step,
            "best_blocks": self.memorising.best_blocks,
            "rises": self.memorising.rises,
        }

    @classmethod
    def from_json(cls, step: int, data: dict[str, Any]) -> "RunState":
        """Rebuild from `to_json`; CheckpointError where something is missing or no number."""
        try:
            lowest, best, finished = data["lowest_loss"], data["best_step"], data["finished"]
            divergence = Divergence(
                number(data["unigram_nats"]),
                list(map(number, data["recent_losses"])),
                float("inf") if lowest is None else number(lowest),
                whole(data["bad_in_row"]),
            )
            memorising = Memorising(
                None if best is None else whole(best),
                list(map(number, data["best_blocks"])),
                whole(data["rises"]),
            )
            if best is not None and not memorising.best_blocks:
                raise ValueError("best_blocks is empty, and there is a best_step")
            if finished not in (None, "done", "early"):
                raise ValueError(f"finished is {finished!r}")
            return cls(
                divergence,
                memorising,
                step,
                whole(data["updates"]),
                whole(data["batch_offset"]),
                number(data["rate_factor"]),
                whole(data["returns"]),
                list(map(whole, data["skipped"])),
                number(data["seconds"]),
                checked_figure(data["last_figure"]),
                finished,
                old_text.checked(data.get("old_text")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"state.json is damaged: {one_line(repr(error))}") from None


def figure_of(step: int, estimate: Estimate, part: Slice, baseline: Estimate | None) -> dict[str, Any]:
    """An evaluation as the run's state keeps it; `baseline`: the n-gram baseline on the same blocks."""
    difference = None if baseline is None else estimate.minus(baseline)
    return {
        "step": step,
        "nats_per_char": estimate.nats_per_char,
        "standard_error": estimate.standard_error,
        "baseline_nats_per_char": None if baseline is None else baseline.nats_per_char,
        "difference": None if difference is None else difference.nats_per_char,
        "difference_error": None if difference is None else difference.standard_error,
        "chars": estimate.chars,
        "blocks": len(part.windows),
        "whole": part.whole,
    }


def checked_figure(data: Any) -> dict[str, Any] | None:
    """The last evaluation of a state.json; ValueError and the like where a value of it cannot be."""
    if data is None:
        return None
    errors = {name: optional_number(data.get(name)) for name in MAY_LACK}
    counts = {name: whole(data[name]) for name in ("step", "chars", "blocks")}
    if type(data["whole"]) is not bool:
        raise ValueError(f"whole is {data['whole']!r}")
    if counts["blocks"] == 1:
        errors["standard_error"] = errors["difference_error"] = None  # older versions saved 0
    return {**counts, "nats_per_char": number(data["nats_per_char"]), "whole": data["whole"], **errors}
