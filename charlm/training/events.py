"""The events of a run: frozen dataclasses of plain numbers and words, which the trainer yields to listeners."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The blocks were compiled, or compiling failed and they are used uncompiled."""

    step: int
    seconds: float
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class LeftDevice:
    """The GPU could not compute a step, and the run continues on the CPU."""

    step: int
    device: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The n-grams of the text were counted, which is all the training of an n-gram model."""

    step: int
    chars: int  # symbols counted
    seconds: float
    limits: str  # what was left out for lack of memory or time; empty if nothing was


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A training step was taken."""

    step: int  # batches so far, this one included
    loss: float  # nats per symbol, on this batch
    learning_rate: float
    grad_norm: float
    chars: int  # symbols read in the run so far
    seconds: float  # that this step took
    member: int = 1  # number, from 1, of the transformer in training


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
    whole: bool  # whether all of the held-out text was scored


@dataclass(frozen=True, kw_only=True)
class Evaluated(HeldOutLoss):
    """The model was scored on held-out text."""

    member: int = 1  # number, from 1, of the transformer in training
    mixed: tuple[str, ...] = ()  # kinds of the members of the mixture; empty: `member` alone was scored
    compared_nats_per_char: float  # on the windows that all evaluations share, the final one too
    of_chars: int  # in the held-out part
    is_best: bool
    rises: int  # evaluations that were worse than the best by more than chance
    final: bool
    seconds: float
    calibration: dict[str, Any] | None = None  # of the final evaluation: `Reliability.to_json`


@dataclass(frozen=True, kw_only=True)
class MemberFigure:
    """A member's own loss on the reserved text, in nats per symbol, and its share of the mixture weights."""

    kind: str  # `prior`, `no-prior` or `ngram`
    nats_per_symbol: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A member is trained, and the temperature, or the mixture of all trained members, was fitted on reserved text."""

    step: int
    symbols: int
    temperature: float | None  # of a single member
    shift: float = (
        1.0  # further temperature of all predictions, for text less like the training text than the reserved
    )
    members: tuple[MemberFigure, ...]
    nats_per_symbol: float  # of the mixture
    recent_chars: int = 0  # recent symbols whose n-grams correct the mixture; 0: none
    recent_strength: float | None = None
    nats_without_recent: float | None = None  # of the mixture without them; None: there are none

    @property
    def nats_pooled(self) -> float:
        """Nats per symbol of the mixture without recent n-grams."""
        return self.nats_per_symbol if self.nats_without_recent is None else self.nats_without_recent


@dataclass(frozen=True, kw_only=True)
class OldTextLoss:
    """The loss on the held-out text of the run that this one was fine-tuned from, in nats per character."""

    step: int  # of the weights that were scored
    run: str  # the run that held the text out
    before: float  # of that run
    nats_per_char: float  # of this run at `step`
    forgotten: float  # nats_per_char - before
    standard_error: float | None  # of `forgotten`; None for a single block
    chars: int  # scored; the same ones each time
    of_chars: int
    blocks: int


@dataclass(frozen=True, kw_only=True)
class Remembered(OldTextLoss):
    """Forgetting was measured on the held-out text of the fine-tuned run: before the first step, or at the end."""

    final: bool
    seconds: float


RESIZED = "size, from the first steps"
"""The decision to restart the training of a member with another size."""
SPLIT = "parts of a batch, since the device's memory was full"
"""The decision to increase gradient accumulation from a step on."""
ON_TRIAL, TRIED = "threads, on trial", "threads, from the steps"
"""The decision to try another number of threads, from `at_step` up to `until_step`, and the decision which to keep."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The plan for the rest of the run was changed and recorded."""

    step: int
    total_steps: int
    decision: dict[str, Any]

    @property
    def begins_again(self) -> bool:
        """Whether the training of the member restarts."""
        return self.decision.get("decided") == RESIZED

    @property
    def splits_batches(self) -> bool:
        """Whether gradient accumulation increases from now on."""
        return self.decision.get("decided") == SPLIT

    @property
    def changes_threads(self) -> bool:
        """Whether the rest of the run uses another number of threads."""
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
    """A batch was skipped, since its loss or gradient was not finite."""

    step: int


@dataclass(frozen=True, kw_only=True)
class WentBack:
    """The run diverged and continues from its last checkpoint, with later batches and half the learning rate."""

    step: int  # where it diverged
    to_step: int
    reason: str
    rate_factor: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event. `reason`: `done`, `early` (early stopping) or a signal's name."""

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
