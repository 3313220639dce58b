"""What happens in a run, as frozen facts: plain numbers and words that any listener can read."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The blocks were compiled, or could not be and are used as they are."""

    step: int
    seconds: float
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class LeftDevice:
    """The GPU could not compute a step, and the run goes on on the CPU."""

    step: int
    device: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The n-grams of the text were counted, all there is to do for a model of counts alone."""

    step: int
    chars: int  # symbols counted
    seconds: float
    limits: str  # what was left out for lack of memory or time; empty where nothing was


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One batch was learned from."""

    step: int  # batches so far, this one included
    loss: float  # nats per symbol, on this batch
    learning_rate: float
    grad_norm: float
    chars: int  # symbols read in the run so far
    seconds: float  # that this step took
    member: int = 1  # in training: number of the run's transformer


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The loss on held-out text. In nats per character; errors are None for a single block."""

    step: int
    nats_per_char: float
    standard_error: float | None
    baseline_nats_per_char: float | None  # of the n-gram baseline, on the same windows
    difference: float | None  # from the baseline; negative: the model is better
    difference_error: float | None
    chars: int
    blocks: int
    whole: bool  # was all of the held-out text scored?


@dataclass(frozen=True, kw_only=True)
class Evaluated(HeldOutLoss):
    """The model was scored on held-out text."""

    member: int = 1  # in training: number of the run's transformer
    mixed: tuple[str, ...] = ()  # kinds of the members that predicted as one; empty: that one alone did
    compared_nats_per_char: float  # on the same windows in every evaluation, the final one too
    of_chars: int  # in the held-out part
    is_best: bool
    rises: int  # evaluations that were worse than the best by more than chance
    final: bool
    seconds: float
    calibration: dict[str, Any] | None = None  # of the final evaluation: `Reliability.to_json`


@dataclass(frozen=True, kw_only=True)
class MemberFigure:
    """A member alone on the reserved text, in nats per symbol, and its share of the mixture's weights."""

    kind: str  # `prior`, `no-prior` or `ngram`
    nats_per_symbol: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A member is trained, and the temperature, or the mixture of all that are, was fitted on the reserved text."""

    step: int
    symbols: int
    temperature: float | None  # of a single member
    shift: float = (
        1.0  # a temperature besides, of all predictions, for text further away than the reserved one
    )
    members: tuple[MemberFigure, ...]
    nats_per_symbol: float  # of the mixture
    recent_chars: int = 0  # whose n-grams correct the mixture; 0: none
    recent_strength: float | None = None
    nats_without_recent: float | None = None  # of the mixture without them; None where there are none

    @property
    def nats_pooled(self) -> float:
        """Of the mixture without recent n-grams."""
        return self.nats_per_symbol if self.nats_without_recent is None else self.nats_without_recent


@dataclass(frozen=True, kw_only=True)
class OldTextLoss:
    """The loss on the held-out text of the run that this one was fine-tuned from, in nats per character."""

    step: int  # of the weights that were scored
    run: str  # that held the text out
    before: float  # of that run
    nats_per_char: float  # of this run at `step`
    forgotten: float  # nats_per_char - before
    standard_error: float | None  # of `forgotten`; None for a single block
    chars: int  # scored, the same each time
    of_chars: int
    blocks: int


@dataclass(frozen=True, kw_only=True)
class Remembered(OldTextLoss):
    """The held-out text of the run that was fine-tuned was scored: before the first step, or at the end."""

    final: bool
    seconds: float


RESIZED = "size, from the first steps"
"""The decision by which the training of a member begins again, with another size."""
SPLIT = "parts of a batch, since the device's memory was full"
"""The decision to compute batches in more parts from a step on."""
ON_TRIAL, TRIED = "threads, on trial", "threads, from the steps"
"""The decisions to try another number of threads, from `at_step` up to `until_step`, and of which number stays."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The rest of the run was decided anew, and written down."""

    step: int
    total_steps: int
    decision: dict[str, Any]

    @property
    def begins_again(self) -> bool:
        """Does the training of the member begin again?"""
        return self.decision.get("decided") == RESIZED

    @property
    def splits_batches(self) -> bool:
        """Are batches computed in more parts from now on?"""
        return self.decision.get("decided") == SPLIT

    @property
    def changes_threads(self) -> bool:
        """Is another number of threads used for the rest?"""
        facts = self.decision
        return facts.get("decided") == TRIED and facts.get("threads") != facts.get("threads_before")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    path: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SaveFailed:
    """A checkpoint could not be written; training goes on and will try again."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A batch whose loss or gradient was not finite: no weight was changed by it."""

    step: int


@dataclass(frozen=True, kw_only=True)
class WentBack:
    """The run went wrong and goes on from its last save, past the text and at half the rate."""

    step: int  # where it went wrong
    to_step: int
    reason: str
    rate_factor: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event: `done`, `early` (the model had begun to memorise) or a signal's name."""

    step: int
    reason: str
    best_step: int | None
    total_steps: int


Event = (
    Compiled
    | LeftDevice
    | Counted
    | Stepped
    | Calibrated
    | Evaluated
    | Remembered
    | Planned
    | Saved
    | SaveFailed
    | Skipped
    | WentBack
    | Finished
)
