"""Model sizes, the time of their steps, and the choice of the size with the lowest expected loss within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import log2

from charlm.config import PRIOR, ModelConfig, TrainingConfig
from charlm.training.scaling import NO_PRIOR_LAW, PRIOR_LAW

TYPICAL_GFLOPS = 100.0
"""The assumed speed of training steps if none was timed, in 10^9 FLOPs per second: that of a few CPU cores."""
GPU_GFLOPS = 30_000.0
"""The same for a GPU: an estimate, never measured, of a tenth of an A100's nominal speed."""
GPU_LEAST_GFLOPS = 5_000.0
"""From this speed on the device is not a CPU, and larger sizes are offered."""
GROWTH = 0.8
"""The seconds of a step grow with this power of its FLOPs, since larger products are more efficient."""
UNTIMED_SPEED = 1.15
"""How much faster than expected an untimed size may be; with this bonus, a promising size is timed before it is chosen."""
TIE = 0.004
"""If expected losses differ by less than this share, the larger size is chosen: the law is not more precise, and texts
such as source code gain more from size than it predicts."""
TRAINING_SHARE = 0.8  # of a time budget; the rest goes to start-up, evaluations and saves
MAX_WEIGHTS_PER_CHAR = 8  # of training text: larger models only overfit
MAX_STEPS = 10**9
MOST = 10**9
"""Limit on the numbers of a size: far above any real one, low enough that nothing overflows."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a model and its batch, and the learning rate that suits it."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        numbers = (self.n_layer, self.n_embd, self.n_head, self.block_size, self.batch_size)
        if not all(0 < number <= MOST for number in numbers) or not 0 <= self.learning_rate <= MOST:
            raise ValueError(f"the numbers of a size must be above 0, and at most {MOST:,}")

    @classmethod
    def of(cls, model: ModelConfig, training: TrainingConfig, rate_share: float = 1.0) -> "Size":
        """Return the size of a planned model, with that share of its learning rate."""
        assert model.n_layer and model.n_embd and model.block_size and training.batch_size
        return cls(
            n_layer=model.n_layer,
            n_embd=model.n_embd,
            n_head=model.n_head or 1,
            block_size=model.block_size,
            batch_size=training.batch_size,
            learning_rate=(training.learning_rate or 0.0) * rate_share,
        )

    @property
    def weights(self) -> int:
        """Approximate number of weights of the blocks: attention 4 C^2, SwiGLU 8 C^2."""
        return 12 * self.n_layer * self.n_embd**2

    @property
    def chars(self) -> int:
        """Symbols in a batch."""
        return self.block_size * self.batch_size

    @property
    def gflop(self) -> float:
        """FLOPs of a step, forward and backward, in 10^9: 6 per weight and 12 C T per layer, for each symbol."""
        per_char = 6 * self.weights + 12 * self.n_layer * self.n_embd * self.block_size
        return per_char * self.chars / 1e9


SIZES = (
    Size(n_layer=2, n_embd=64, n_head=2, block_size=64, batch_size=16, learning_rate=6e-3),
    Size(n_layer=3, n_embd=64, n_head=2, block_size=128, batch_size=16, learning_rate=6e-3),
    Size(n_layer=3, n_embd=96, n_head=3, block_size=128, batch_size=16, learning_rate=6e-3),
    Size(n_layer=4, n_embd=128, n_head=4, block_size=128, batch_size=16, learning_rate=4e-3),
    Size(n_layer=5, n_embd=160, n_head=5, block_size=128, batch_size=16, learning_rate=3e-3),
    Size(n_layer=6, n_embd=256, n_head=8, block_size=128, batch_size=32, learning_rate=2e-3),
    Size(n_layer=6, n_embd=384, n_head=6, block_size=256, batch_size=48, learning_rate=1.5e-3),
    Size(n_layer=12, n_embd=768, n_head=12, block_size=512, batch_size=64, learning_rate=6e-4),
)
SIZES_WITH_PRIOR = (
    Size(n_layer=2, n_embd=64, n_head=2, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(n_layer=3, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(n_layer=4, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(n_layer=4, n_embd=128, n_head=4, block_size=256, batch_size=8, learning_rate=4e-3),
    Size(n_layer=5, n_embd=160, n_head=5, block_size=512, batch_size=6, learning_rate=3e-3),
    *SIZES[5:],
)
"""With an n-gram prior, which covers the nearby context, longer blocks pay off."""


def _estimated(n_embd: int) -> Size:
    """Return a size beyond the measured ones, by the rule of the largest: heads of size 64, as many as layers."""
    n = n_embd // 64
    batch = 1 << round(log2(64 * (n_embd / 1024) ** 2))
    rate = round(6e-4 * 768 / n_embd, 6)
    return Size(n_layer=n, n_embd=n_embd, n_head=n, block_size=1024, batch_size=batch, learning_rate=rate)


ESTIMATED_SIZES = tuple(map(_estimated, (1024, 1536, 2048)))
"""For 10^14 to 10^17 FLOPs per second. Estimates: neither their learning rates nor their losses were measured."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The measured time of a training step of some size and kind on this machine."""

    kind: str  # PRIOR or NO_PRIOR
    size: Size
    threads: int
    precision: str
    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.threads <= MOST or not 0 < self.seconds <= MOST:
            raise ValueError(f"the threads and seconds of a step must be above 0, and at most {MOST:,}")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of a run: seconds, with timed steps, or a number of steps; and the machine's capabilities."""

    seconds: float | None = None
    timed: tuple[StepTime, ...] = ()
    steps: int | None = None
    precision: str = "fp32"  # the fastest on this machine
    compiler: bool = False  # whether one is available
    kernels: bool = False  # whether the training kernels are available, which make compiling pointless
    gflops: float = TYPICAL_GFLOPS  # the speed of steps, if nothing was timed

    def parts(self, shares: Sequence[float]) -> "list[Budget]":
        """Divide the budget into shares, which add up to 1. Raises ValueError if one would have no step."""
        if self.steps is None:
            return [replace(self, seconds=self.seconds and self.seconds * share) for share in shares]
        ends = [*(round(self.steps * share) for share in accumulate(shares[:-1])), self.steps]
        steps = [end - begin for begin, end in pairwise([0, *ends])]
        if min(steps) < 1:
            raise ValueError(
                f"`steps` is {self.steps}, and {len(shares)} models are to be trained one after another; give at least "
                f"{len(shares)} steps, or fewer members"
            )
        return [replace(self, steps=n) for n in steps]

    def is_timed(self, kind: str, size: Size) -> bool:
        """Whether steps of that size were timed."""
        return any(t.kind == kind and t.size.gflop == size.gflop for t in self.timed)

    def step_seconds(self, kind: str, size: Size) -> float:
        """Return the seconds of a step: measured, or extrapolated from the nearest timed size."""
        of_kind = [t for t in self.timed if t.kind == kind] or self.timed
        if not of_kind:
            return size.gflop / self.gflops
        nearest = min(of_kind, key=lambda t: max(t.size.gflop, size.gflop) / min(t.size.gflop, size.gflop))
        return nearest.seconds * float((size.gflop / nearest.size.gflop) ** GROWTH)

    @property
    def sizes_beyond(self) -> Sequence[Size]:
        """Sizes that were never measured, for a machine as fast as a GPU."""
        fastest = max((t.size.gflop / t.seconds for t in self.timed), default=self.gflops)
        return ESTIMATED_SIZES if max(fastest, self.gflops) >= GPU_LEAST_GFLOPS else ()

    def steps_of(self, kind: str, size: Size) -> int:
        """Return about how many steps fit."""
        if self.steps is not None:
            return self.steps
        assert self.seconds
        return max(1, min(MAX_STEPS, round(TRAINING_SHARE * self.seconds / self.step_seconds(kind, size))))

    def chars_of(self, kind: str, size: Size) -> float:
        """Return about how many symbols are read; if not even one step fits, the part of it that does."""
        steps: float = self.steps_of(kind, size)
        if self.steps is None and steps == 1:
            assert self.seconds
            steps = min(steps, TRAINING_SHARE * self.seconds / self.step_seconds(kind, size))
        return steps * size.chars

    def scoring_seconds(self, kind: str, size: Size) -> float:
        """Return the seconds to score a symbol: a forward pass is a third of a step, and reads each symbol twice."""
        return 2 * self.step_seconds(kind, size) / 3 / size.chars


def sizes_of(kind: str) -> Sequence[Size]:
    """Return the sizes that a model of that kind may get, the smallest first."""
    return SIZES_WITH_PRIOR if kind == PRIOR else SIZES


def expected_loss(kind: str, size: Size, chars: float, n_train: int) -> float:
    """Return the expected final loss of a model that reads `chars` symbols, as a share of the n-gram model's loss."""
    law = PRIOR_LAW if kind == PRIOR else NO_PRIOR_LAW
    return law.loss(weights=size.weights, block_size=size.block_size, chars=chars, n_train=n_train)


def choose_size(kind: str, budget: Budget, n_train: int) -> Size:
    """Choose the size with the lowest expected final loss within the budget, for a training text of `n_train` symbols.

    For a number of steps, which says nothing about time, it is the largest that would be chosen for as much computation.
    """
    sizes = (*sizes_of(kind), *budget.sizes_beyond)
    fitting = [size for size in sizes if size.weights <= MAX_WEIGHTS_PER_CHAR * n_train] or sizes[:1]

    def lowest(budget: Budget) -> Size:
        def expected(size: Size) -> float:
            faster = 1.0 if budget.is_timed(kind, size) else UNTIMED_SPEED
            return expected_loss(kind, size, faster * budget.chars_of(kind, size), n_train)

        losses = [expected(size) for size in fitting]
        return [size for size, loss in zip(fitting, losses, strict=True) if loss <= (1 + TIE) * min(losses)][
            -1
        ]

    if budget.steps is None:
        return lowest(budget)

    def is_chosen(size: Size) -> bool:
        seconds = budget.steps_of(kind, size) * Budget().step_seconds(kind, size) / TRAINING_SHARE
        return lowest(Budget(seconds=seconds)).weights >= size.weights

    return next((size for size in reversed(fitting) if is_chosen(size)), fitting[0])
