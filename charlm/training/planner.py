"""The plan: from a budget, the machine's speed and the text's length to a model size, a batch size and a schedule.

`choose` is a pure function; its tables are in charlm/training/planner.py, and in the README. With a number of steps
nothing that was timed enters; with a time, the measured speed is written into the plan before it
acts, and the schedule is decided again from the speed of the steps themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import LARGEST, dump, parse, read_regular
from charlm.config import ModelConfig, TrainingConfig, refuse_not_plain_training
from charlm.errors import CheckpointError, ResourceError
from charlm.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Size:
    """A row of the table: from this much computing on, this model and batch did best."""

    tflop: float  # the machine's plain matrix product over the whole budget, in 10^12 operations
    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int
    learning_rate: float

    @property
    def weights(self) -> int:
        """Weights in the blocks, about: attention 4 C^2, SwiGLU 8 C^2."""
        return 12 * self.n_layer * self.n_embd**2

    @property
    def step_gflop(self) -> float:
        """Operations of one step, forward and backward, in 10^9: 6 a weight and 12 C T a layer."""
        per_char = 6 * self.weights + 12 * self.n_layer * self.n_embd * self.block_size
        return per_char * self.block_size * self.batch_size / 1e9


SIZES = (
    Size(tflop=0, n_layer=2, n_embd=64, n_head=2, block_size=64, batch_size=16, learning_rate=6e-3),
    Size(tflop=1.5, n_layer=3, n_embd=64, n_head=2, block_size=64, batch_size=16, learning_rate=6e-3),
    Size(tflop=4, n_layer=3, n_embd=64, n_head=2, block_size=64, batch_size=24, learning_rate=6e-3),
    Size(tflop=20, n_layer=4, n_embd=96, n_head=3, block_size=64, batch_size=24, learning_rate=6e-3),
    Size(tflop=50, n_layer=4, n_embd=128, n_head=4, block_size=128, batch_size=16, learning_rate=4e-3),
    Size(tflop=150, n_layer=5, n_embd=160, n_head=5, block_size=128, batch_size=16, learning_rate=3e-3),
    Size(tflop=400, n_layer=6, n_embd=256, n_head=8, block_size=128, batch_size=32, learning_rate=2e-3),
    Size(tflop=2_000, n_layer=6, n_embd=384, n_head=6, block_size=256, batch_size=48, learning_rate=1.5e-3),
    Size(tflop=50_000, n_layer=12, n_embd=768, n_head=12, block_size=512, batch_size=64, learning_rate=6e-4),
)
SIZES_WITH_COUNTS = (
    Size(tflop=0, n_layer=2, n_embd=64, n_head=2, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=5, n_layer=3, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=15, n_layer=4, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=30, n_layer=4, n_embd=128, n_head=4, block_size=256, batch_size=8, learning_rate=4e-3),
    Size(tflop=150, n_layer=5, n_embd=160, n_head=5, block_size=512, batch_size=6, learning_rate=3e-3),
    *(size for size in SIZES if size.tflop >= 400),
)
"""For a model that begins from counts. They know what is near, so what it adds is far: long blocks pay."""


FEWEST = 5_000
"""Symbols of training text below which ten parts that are left out in turn say too little."""
ORDERS = ((100_000, 8), (20_000, 5), (0, 4))
"""From so many symbols on, so many of context."""
DROPOUT, DROPOUT_PASSES = 0.1, 0.5
"""Share of the windows trained on without the counts, in runs of so many passes over the text or more."""
SHARE = 0.1  # of a run's time, at most
SYMBOLS_PER_SECOND = 0.6e6  # with folds; a figure that stands, so that the same plan gives the same counts


def with_counts(
    model: ModelConfig, training: TrainingConfig, seconds: float | None, n_train: int
) -> tuple[ModelConfig, TrainingConfig]:
    """The same with what was left open of counts decided, for a text of `n_train` symbols.

    Beside counts, learned vectors of n-grams were measured to do harm: they are left out. ValueError
    where counts are off and something was said of them.
    """
    given = model.prior_order is not None or model.prior_dropout is not None
    wanted = model.prior if model.prior is not None else given or n_train >= FEWEST
    if model.plain or not wanted:
        if training.prior_chars is not None:
            raise ValueError(f"prior_chars is {training.prior_chars}, which cannot act with no prior")
        return replace(model, prior=False), training
    order = model.prior_order
    if order is None:
        order = next(order for least, order in ORDERS if n_train >= least)
    model = replace(model, prior=True, prior_order=order)
    if (
        model.ngram_embeddings is None
        and model.ngram_embedding_rows is None
        and model.ngram_embedding_dropout is None
    ):
        model = replace(model, ngram_embeddings=1)
    return model, within(training, None if seconds is None else SHARE * seconds, n_train)


def within(training: TrainingConfig, seconds: float | None, n_train: int) -> TrainingConfig:
    """The same with as much text to be counted as there is time for, where that was left open."""
    if seconds is None or training.prior_chars is not None:
        return training
    most = max(1, int(seconds * SYMBOLS_PER_SECOND))
    return replace(training, prior_chars=most) if most < n_train else training


def with_counts_dropout(model: ModelConfig, passes: float) -> ModelConfig:
    """The same with that share decided, where there are counts: a few hundred steps cannot trust them too much."""
    if not model.prior or model.prior_dropout is not None:
        return model
    return replace(model, prior_dropout=DROPOUT if passes >= DROPOUT_PASSES else 0.0)


SHARE_OF_PRODUCT = 0.5  # of a plain matrix product's speed, what the steps of the larger sizes reach
FIRST_SHARE = 0.25  # the same for the first guess, which is for short times and small sizes
WEIGHTS_PER_CHAR = 8  # of training text: above that a model only learns it by heart
PLAN_DROPOUT = ((12, 0.2, 0.3), (4, 0.1, 0.15))  # (passes over the text; dropout from there on, of n-grams)
SMALLEST_HEAD = 32
MUON_RATE = 0.01
NGRAMS = 4
NGRAM_PRIOR = 6.0  # times the square of the passes after the first, in which nothing is learned by heart
NGRAM_WEIGHTS = 10_000_000  # in the table, so that a checkpoint stays small
COMPILING_GFLOP = {"fp32": 40_000, "bf16": 24_000}  # of a run's steps: from there on compiling is repaid
MORE = "more training"
FAR_FEWER = 2  # times fewer steps than were guessed: then it is said


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may take: seconds at a measured speed, or a number of steps; and by what means."""

    seconds: float | None = None
    gflops: float | None = None
    steps: int | None = None
    precision: str = "fp32"  # the fastest here
    compiler: bool = False  # is there one?


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run goes on: all that its steps depend on besides the text and the configuration."""

    schedule: Schedule
    eval_every: int  # steps
    eval_chars: int  # about so many held-out symbols in each evaluation
    decisions: tuple[dict[str, Any], ...] = ()  # what was decided from what, the last one in force

    @property
    def total_steps(self) -> int:
        """The step at which training ends."""
        return self.schedule.end

    @property
    def extended_at(self) -> int | None:
        """The step at which the plan was last extended, if it was."""
        steps = [d.get("at_step") for d in self.decisions if d.get("decided") == MORE]
        return steps[-1] if steps and isinstance(steps[-1], int) else None

    @property
    def first_total_steps(self) -> int:
        """The step at which training was to end when it began, or was last extended: a guess, where it has a time."""
        first = max((i for i, d in enumerate(self.decisions) if d.get("decided") == MORE), default=0)
        return Schedule.parse(str(self.decisions[first].get("schedule"))).end

    @property
    def fell_short(self) -> bool:
        """Is the end far earlier than was guessed, the machine being slower than it was measured to be?"""
        begun = self.extended_at or 0
        return (self.total_steps - begun) * FAR_FEWER < self.first_total_steps - begun

    def decided(self, **facts: Any) -> "Plan":
        """The same plan with one more decision recorded: its reasons and what came of it."""
        outcome = {
            "schedule": str(self.schedule),
            "eval_every": self.eval_every,
            "eval_chars": self.eval_chars,
        }
        return replace(self, decisions=(*self.decisions, {**facts, **outcome}))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` gives the same plan again."""
        return {"decisions": list(self.decisions)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Rebuild from `to_json`: the last decision is in force. ValueError where it is no plan."""
        decisions = data.get("decisions")
        if (
            not isinstance(decisions, list)
            or not decisions
            or not all(isinstance(d, dict) for d in decisions)
        ):
            raise ValueError("a plan is a list of decisions")
        last = decisions[-1]
        every, chars = last.get("eval_every"), last.get("eval_chars")
        if not all(type(value) is int and value > 0 for value in (every, chars)):
            raise ValueError("eval_every and eval_chars of a plan are whole numbers above 0")
        schedule = Schedule.parse(str(last.get("schedule")))
        return cls(schedule=schedule, eval_every=every, eval_chars=chars, decisions=tuple(decisions))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen: complete configurations, the first plan, and why, in a sentence."""

    model: ModelConfig
    training: TrainingConfig
    plan: Plan
    why: str


def choose(
    budget: Budget, n_train: int, model: ModelConfig, training: TrainingConfig, given: Size | None = None
) -> Choice:
    """Fill in what the configurations leave open for a training text of `n_train` symbols.

    With the size `given` (the model is complete then, but for what is dropped) it is not chosen. Raises ValueError where what was set by hand does not go together.
    """
    assert n_train >= 2
    if not model.causal:
        raise ValueError(
            "causal is False, which cannot be trained: a model that reads ahead would read the answer, the next "
            "character, instead of predicting it"
        )
    if model.is_ngram:
        return _ngram_choice(budget, n_train, model, training)
    assert budget.steps is not None or (budget.seconds and budget.gflops)
    if model.plain:
        refuse_not_plain_training(training)
    model, training = with_counts(model, training, budget.seconds, n_train)
    size = given or _size(budget, n_train, SIZES_WITH_COUNTS if model.prior else SIZES)
    wanted = model.block_size or size.block_size
    block = min(wanted, max(1, (n_train - 1) // 2))
    shortened = f"; the block is shortened from {wanted}, since the text is short" if block < wanted else ""
    parts = training.grad_accum
    batch = training.batch_size or ceil(min(size.batch_size, max(1, n_train // block)) / parts) * parts
    size = replace(size, block_size=block, batch_size=batch)
    steps = budget.steps or first_guess(budget, size)
    passes = steps * batch * block / n_train
    model = replace(_fill_model(_with_dropout(model, passes), size, n_train), block_size=block)
    rate = training.learning_rate or size.learning_rate
    schedule = Schedule.parse(training.schedule) if training.schedule else Schedule.usual(steps)
    if training.schedule and budget.steps not in (None, schedule.end):
        raise ValueError(f"schedule ends at step {schedule.end}, and steps is {budget.steps}; leave one out")
    every = training.eval_every or evaluation_interval(steps, steps / 10, n_train / (batch * block))
    plan = Plan(schedule=schedule, eval_every=every, eval_chars=training.eval_chars or EVAL_CHARS)
    if training.ngram_embedding_accumulator is None and not model.plain:
        training = replace(training, ngram_embedding_accumulator=_accumulator(passes))
    training = _fill_training(replace(training, batch_size=batch, learning_rate=rate), budget, size, steps)
    return Choice(model=model, training=training, plan=plan, why=_why(budget, n_train, size) + shortened)


def _ngram_choice(budget: Budget, n_train: int, model: ModelConfig, training: TrainingConfig) -> Choice:
    """A single step, which is the counting; with a time, of as much text as there is time for."""
    training = within(training, budget.seconds, n_train)
    plan = Plan(schedule=Schedule.parse("0:1,1:1"), eval_every=1, eval_chars=EVAL_CHARS)
    return Choice(model=model.completed(), training=training, plan=plan, why="as asked for")


EVAL_CHARS = 10_000
PASSES_UNSEEN = 10
MOST_STEPS = 10**9


def first_guess(budget: Budget, size: Size) -> int:
    """About how many steps fit a time, before one was timed."""
    assert budget.seconds and budget.gflops
    guess = budget.seconds * budget.gflops * FIRST_SHARE / size.step_gflop
    return max(1, min(MOST_STEPS, round(guess)))


def evaluation_interval(steps: int, seconds: float, steps_a_pass: float) -> int:
    """Steps between evaluations: about the square root of the seconds as their number, 2 to 60.

    More often for a text that is passed over many times, so that its best moment is not missed.
    """
    number = max(round(sqrt(seconds)), round(steps / steps_a_pass / PASSES_UNSEEN))
    return max(1, ceil(steps / min(60, max(2, number))))


def _size(budget: Budget, n_train: int, sizes: Sequence[Size]) -> Size:
    def affordable(size: Size) -> bool:
        if budget.steps is not None:
            return budget.steps * size.step_gflop >= size.tflop * 1e3 * SHARE_OF_PRODUCT
        assert budget.seconds and budget.gflops
        return budget.seconds * budget.gflops >= size.tflop * 1e3

    fitting = [size for size in sizes if affordable(size) and size.weights <= WEIGHTS_PER_CHAR * n_train]
    return fitting[-1] if fitting else sizes[0]


def _fill_model(model: ModelConfig, size: Size, n_train: int) -> ModelConfig:
    """The model set by hand, completed from a row of the table."""
    n_layer = model.n_layer or max(size.n_layer, len(model.mixers))
    n_embd, n_head = model.n_embd, model.n_head
    ngrams = model.ngram_embeddings or (1 if model.plain else NGRAMS)
    model = replace(model, ngram_embeddings=ngrams).completed()
    if not model.attends:
        return _with_rows(replace(model, n_layer=n_layer, n_embd=n_embd or size.n_embd), n_train)
    shared = model.n_kv_head or 1
    if n_embd is None and n_head is None:
        n_head = ceil(size.n_head / shared) * shared
    if n_embd is None:
        assert n_head
        n_embd = ceil(size.n_embd / (2 * n_head)) * 2 * n_head
    if n_head is None:
        plain = n_embd == size.n_embd and shared == 1
        n_head = size.n_head if plain else _heads(n_embd, shared, 2 if model.position == "rotary" else 1)
    return _with_rows(replace(model, n_layer=n_layer, n_embd=n_embd, n_head=n_head), n_train)


def _with_rows(model: ModelConfig, n_train: int) -> ModelConfig:
    """As many vectors for n-grams as a text of that length can fill, or as a checkpoint has room for."""
    assert model.ngram_embeddings and model.n_embd
    if model.ngram_embeddings == 1 or model.ngram_embedding_rows is not None:
        return model
    room = NGRAM_WEIGHTS // ((model.ngram_embeddings - 1) * model.n_embd)
    return replace(model, ngram_embedding_rows=1 << max(0, min(room, 2 * n_train).bit_length() - 1))


def _fill_training(training: TrainingConfig, budget: Budget, size: Size, steps: int) -> TrainingConfig:
    """The optimizer, where it was left open, and its rate; and by what means it is computed."""
    precision = budget.precision if training.precision == "auto" else training.precision
    repaid = budget.compiler and steps * size.step_gflop >= COMPILING_GFLOP[precision]
    compiled = ("on" if repaid else "off") if training.compile == "auto" else training.compile
    training = replace(
        training,
        optimizer=training.optimizer or "muon",
        precision=precision,
        compile=compiled,
    )
    if training.optimizer == "adamw":
        return training
    return replace(training, muon_lr=training.muon_lr or MUON_RATE)


def _heads(n_embd: int, shared: int, pairs: int) -> int:
    """As many heads as divide the width into parts of at least SMALLEST_HEAD, in `shared` groups.

    Each part holds a multiple of `pairs` values.
    """
    most = max(shared, n_embd // SMALLEST_HEAD)
    fitting = [h for h in range(shared, most + 1, shared) if n_embd % (pairs * h) == 0]
    if not fitting:
        raise ValueError(
            f"n_embd is {n_embd}; the width must be {'an even' if pairs > 1 else 'a whole'} number of values for "
            "each head" + (f", of which n_kv_head asks for a multiple of {shared}" if shared > 1 else "")
        )
    return fitting[-1]


def _accumulator(passes: float) -> float:
    return min(1e6, round(NGRAM_PRIOR * max(0.0, passes - 1) ** 2, 3))


def _with_dropout(model: ModelConfig, passes: float) -> ModelConfig:
    """What is left out in training, by how often the text is passed over."""
    dropout, of_ngrams = next(
        (drops for from_passes, *drops in PLAN_DROPOUT if passes >= from_passes), (0.0, 0.0)
    )
    model = with_counts_dropout(model, passes)
    if model.dropout is None:
        model = replace(model, dropout=dropout)
    if model.ngram_embedding_dropout is None and model.ngram_embeddings != 1 and not model.plain:
        model = replace(model, ngram_embedding_dropout=of_ngrams)
    return model


def _why(budget: Budget, n_train: int, size: Size) -> str:
    if budget.steps is not None:
        means = f"{budget.steps} steps"
    else:
        means = f"{budget.seconds:g} s at {budget.gflops:.0f} GFLOP/s"
    limited = size.weights * 1.5 > WEIGHTS_PER_CHAR * n_train
    return f"for {means}" + (
        f", small since the text has only {n_train:,} symbols to learn from" if limited else ""
    )


NAME = "plan.json"


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Replace the run's plan and wait for the disk; ResourceError if that is refused."""
    try:
        files.replace(run.path / NAME, dump(plan.to_json()))
    except OSError as error:
        raise ResourceError(f"the plan of {run.name} cannot be written: {error.strerror}") from None


def read_plan(run: RunFolder) -> Plan:
    """The run's plan; CheckpointError where it is missing or damaged."""
    try:
        return Plan.from_json(parse(read_regular(run.path / NAME, LARGEST), NAME))
    except ValueError as error:
        raise CheckpointError(f"{NAME} of {run.name} is damaged: {error}") from None
