"""The planner: from a budget and the text's length to a model size, hyperparameters and a schedule.

`choose` is a pure function of its arguments and the tables below. With a number of steps, no measured time enters;
with a time budget, the measured speed is recorded in the plan, and the schedule is revised from the speed of the
steps themselves (charlm/training/deadline.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.config import ModelConfig, TrainingConfig, refuse_not_plain
from charlm.errors import CheckpointError, ResourceError
from charlm.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Size:
    """A row of the size table: the best model and batch found for at least `tflop` of computation."""

    tflop: float  # budget times the speed of a plain matrix product, in 10^12 operations
    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int
    learning_rate: float

    @classmethod
    def of(cls, model: ModelConfig, training: TrainingConfig, rate_share: float = 1.0) -> "Size":
        """The size of a planned model, with that share of its learning rate."""
        assert model.n_layer and model.n_embd and model.block_size and training.batch_size
        return cls(
            tflop=0,
            n_layer=model.n_layer,
            n_embd=model.n_embd,
            n_head=model.n_head or 1,
            block_size=model.block_size,
            batch_size=training.batch_size,
            learning_rate=(training.learning_rate or 0.0) * rate_share,
        )

    @property
    def weights(self) -> int:
        """Approximate weights of the blocks: attention 4 C^2, SwiGLU 8 C^2."""
        return 12 * self.n_layer * self.n_embd**2

    @property
    def step_gflop(self) -> float:
        """Operations of a step, forward and backward, in 10^9: 6 per weight and 12 C T per layer, for each symbol."""
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
SIZES_WITH_PRIOR = (
    Size(tflop=0, n_layer=2, n_embd=64, n_head=2, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=5, n_layer=3, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=15, n_layer=4, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=30, n_layer=4, n_embd=128, n_head=4, block_size=256, batch_size=8, learning_rate=4e-3),
    Size(tflop=150, n_layer=5, n_embd=160, n_head=5, block_size=512, batch_size=6, learning_rate=3e-3),
    *(size for size in SIZES if size.tflop >= 400),
)
"""With an n-gram prior, which knows the nearby context, longer blocks pay."""

PRIOR_MIN_CHARS = 5_000
"""Symbols of training text below which the prior is off: ten folds of fewer say too little."""
PRIOR_ORDERS = ((100_000, 8), (20_000, 5), (0, 4))  # (symbols of training text, order from there on)
PRIOR_DROPOUT, PRIOR_DROPOUT_EPOCHS = 0.1, 0.5  # the dropout, for runs of at least so many epochs
PRIOR_SHARE = 0.1  # of the time budget, at most, for counting
PRIOR_CHARS_PER_SECOND = 0.6e6  # fixed, so that the same plan gives the same n-grams

MAX_STEPS = 10**9
STEP_EFFICIENCY = 0.5  # speed of large models' steps relative to a plain matrix product
FIRST_GUESS_EFFICIENCY = 0.25  # the same for the first guess, which is for short times and small sizes
MAX_WEIGHTS_PER_CHAR = 8  # of training text: larger models only memorise
DROPOUT_BY_EPOCHS = ((12, 0.2, 0.3), (4, 0.1, 0.15))  # (epochs; dropout, ngram_embedding_dropout)
MIN_HEAD = 32
MUON_LR = 0.01
NGRAM_EMBEDDINGS = 4
NGRAM_EMBEDDING_WEIGHTS = 10_000_000  # at most, so that a checkpoint stays small
ACCUMULATOR = 6.0  # times the square of the epochs after the first, in which nothing is memorised
COMPILE_MIN_GFLOP = {"fp32": 40_000, "bf16": 24_000}  # of all steps: from there on compiling pays
EVAL_CHARS = 10_000
EPOCHS_PER_EVALUATION = 10
MAX_EVALUATIONS = 60
EXTENDED = "more training"
FAR_FEWER = 2  # times fewer steps than first planned are worth a warning
PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may use: seconds at a measured speed, or a number of steps; and what the machine offers."""

    seconds: float | None = None
    gflops: float | None = None
    steps: int | None = None
    precision: str = "fp32"  # the fastest on this machine
    compiler: bool = False  # is one available?
    kernels: bool = False  # are the training kernels available, which make compiling pointless?


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The schedule in force, how to evaluate, and the record of the decisions that led there."""

    schedule: Schedule
    eval_every: int  # steps
    eval_chars: int  # held-out symbols in each evaluation, approximately
    decisions: tuple[dict[str, Any], ...] = ()  # each with its reasons and outcome; the last is in force

    @property
    def total_steps(self) -> int:
        """The step at which training ends."""
        return self.schedule.end

    @property
    def extended_at(self) -> int | None:
        """The step at which the plan was last extended, if it was."""
        steps = [d.get("at_step") for d in self.decisions if d.get("decided") == EXTENDED]
        return steps[-1] if steps and isinstance(steps[-1], int) else None

    @property
    def first_total_steps(self) -> int:
        """The end that was planned when the run began or was last extended: with a time budget, a guess."""
        first = max((i for i, d in enumerate(self.decisions) if d.get("decided") == EXTENDED), default=0)
        return Schedule.parse(str(self.decisions[first].get("schedule"))).end

    @property
    def fell_short(self) -> bool:
        """Is the end far earlier than first planned, because the machine is slower than measured?"""
        begun = self.extended_at or 0
        return (self.total_steps - begun) * FAR_FEWER < self.first_total_steps - begun

    def record(self, **facts: Any) -> "Plan":
        """The same plan with a decision appended: its facts, and the plan as the outcome."""
        facts |= {
            "schedule": str(self.schedule),
            "eval_every": self.eval_every,
            "eval_chars": self.eval_chars,
        }
        return replace(self, decisions=(*self.decisions, facts))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` rebuilds the same plan."""
        return {"decisions": list(self.decisions)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Rebuild from `to_json`: the last decision is in force. Raises ValueError."""
        decisions = data.get("decisions")
        if not isinstance(decisions, list) or not all(isinstance(each, dict) for each in decisions or [None]):
            raise ValueError("decisions must be a list of objects, at least one")
        last = decisions[-1]
        every, chars = last.get("eval_every"), last.get("eval_chars")
        if not all(type(value) is int and value > 0 for value in (every, chars)):
            raise ValueError("eval_every and eval_chars must be whole numbers above 0")
        schedule = Schedule.parse(str(last.get("schedule")))
        return cls(schedule=schedule, eval_every=every, eval_chars=chars, decisions=tuple(decisions))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the planner chose: complete configurations, the first plan, and why, for people to read."""

    model: ModelConfig
    training: TrainingConfig
    plan: Plan
    why: str

    def record(self, budget: Budget, threads: int) -> "Choice":
        """The same with everything it depends on recorded in the plan, so that it can be repeated."""
        plan = self.plan.record(
            decided="size",
            at_step=0,
            seconds=budget.seconds,
            gflops=budget.gflops,
            threads=threads,
            precision=self.training.precision,
            compile=self.training.compile,
            steps=budget.steps,
        )
        if self.model.is_ngram:  # the same with any number of threads
            return replace(self, plan=plan)
        return replace(self, training=replace(self.training, threads=threads), plan=plan)


def choose(
    budget: Budget, n_train: int, model: ModelConfig, training: TrainingConfig, given: Size | None = None
) -> Choice:
    """Choose what the configurations leave open, for a training text of `n_train` symbols.

    With a `given` size (fine-tuning), the model is complete except for dropout. Raises ValueError for settings
    that contradict each other.
    """
    assert n_train >= 2
    if not model.causal:
        raise ValueError(
            "`causal=False` lets the model see the character that it should predict, so it cannot be trained"
        )
    if model.is_ngram:
        training = limit_prior_chars(training, budget.seconds, n_train)
        plan = Plan(schedule=Schedule.parse("0:1,1:1"), eval_every=1, eval_chars=EVAL_CHARS)
        return Choice(model=model.completed(), training=training, plan=plan, why="as requested")
    assert budget.steps is not None or (budget.seconds and budget.gflops)
    if model.plain:
        refuse_not_plain(training)
    model, training = _choose_prior(model, training, budget.seconds, n_train)
    size = given or _choose_size(budget, n_train, SIZES_WITH_PRIOR if model.prior else SIZES)
    wanted = model.block_size or size.block_size
    block = min(wanted, max(1, (n_train - 1) // 2))
    parts = training.grad_accum
    batch = training.batch_size or ceil(min(size.batch_size, max(1, n_train // block)) / parts) * parts
    size = replace(size, block_size=block, batch_size=batch)
    steps = budget.steps or first_guess(budget, size)
    epochs = steps * batch * block / n_train
    model = replace(_fill_model(_choose_dropout(model, epochs), size, n_train), block_size=block)
    schedule = Schedule.parse(training.schedule) if training.schedule else Schedule.warmup_cooldown(steps)
    if training.schedule and budget.steps not in (None, schedule.end):
        raise ValueError(
            f"`schedule` ends at step {schedule.end}, but `steps` is {budget.steps}; leave one out"
        )
    every = training.eval_every or evaluation_interval(steps, steps / 10, n_train / (batch * block))
    plan = Plan(schedule=schedule, eval_every=every, eval_chars=training.eval_chars or EVAL_CHARS)
    if training.ngram_embedding_accumulator is None and not model.plain:
        accumulator = min(1e6, round(ACCUMULATOR * max(0.0, epochs - 1) ** 2, 3))
        training = replace(training, ngram_embedding_accumulator=accumulator)
    rate = training.learning_rate or size.learning_rate
    if model.has_kernels and budget.kernels:
        budget = replace(budget, compiler=False)
    training = _fill_training(replace(training, batch_size=batch, learning_rate=rate), budget, size, steps)
    means = (
        f"{budget.seconds:g} s at {budget.gflops:.0f} GFLOP/s"
        if budget.steps is None
        else f"{budget.steps} steps"
    )
    why = f"for {means}"
    if size.weights * 1.5 > MAX_WEIGHTS_PER_CHAR * n_train:
        why += f", small because the training text has only {n_train:,} symbols"
    if block < wanted:
        why += f"; the block size is reduced from {wanted} to {block}, because the text is short"
    return Choice(model=model, training=training, plan=plan, why=why)


def first_guess(budget: Budget, size: Size) -> int:
    """About how many steps fit the time budget, before any step was timed."""
    assert budget.seconds and budget.gflops
    guess = budget.seconds * budget.gflops * FIRST_GUESS_EFFICIENCY / size.step_gflop
    return max(1, min(MAX_STEPS, round(guess)))


def evaluation_interval(steps: int, seconds: float, steps_per_epoch: float) -> int:
    """Steps between evaluations: 2 to 60 evaluations, about the square root of the seconds.

    There are more for a text of many epochs, so that the best checkpoint is not missed.
    """
    number = max(round(sqrt(seconds)), round(steps / steps_per_epoch / EPOCHS_PER_EVALUATION))
    return max(1, ceil(steps / min(MAX_EVALUATIONS, max(2, number))))


def limit_prior_chars(training: TrainingConfig, seconds: float | None, n_train: int) -> TrainingConfig:
    """Limit the text whose n-grams are counted to what fits in `seconds`, unless the limit was given."""
    if seconds is None or training.prior_chars is not None:
        return training
    most = max(1, int(seconds * PRIOR_CHARS_PER_SECOND))
    return replace(training, prior_chars=most) if most < n_train else training


def _choose_prior(
    model: ModelConfig, training: TrainingConfig, seconds: float | None, n_train: int
) -> tuple[ModelConfig, TrainingConfig]:
    """Decide about the n-gram prior. With it, n-gram embeddings were measured to do harm: they are off."""
    given = model.prior_order is not None or model.prior_dropout is not None
    wanted = model.prior if model.prior is not None else given or n_train >= PRIOR_MIN_CHARS
    if model.plain or not wanted:
        if training.prior_chars is not None:
            raise ValueError(f"`prior_chars={training.prior_chars}` has no effect without a prior")
        return replace(model, prior=False), training
    order = model.prior_order
    if order is None:
        order = next(order for chars, order in PRIOR_ORDERS if n_train >= chars)
    model = replace(model, prior=True, prior_order=order)
    settings = (model.ngram_embeddings, model.ngram_embedding_rows, model.ngram_embedding_dropout)
    if all(value is None for value in settings):
        model = replace(model, ngram_embeddings=1)
    return model, limit_prior_chars(training, None if seconds is None else PRIOR_SHARE * seconds, n_train)


def _choose_size(budget: Budget, n_train: int, sizes: Sequence[Size]) -> Size:
    def affordable(size: Size) -> bool:
        if budget.steps is not None:
            return budget.steps * size.step_gflop >= size.tflop * 1e3 * STEP_EFFICIENCY
        assert budget.seconds and budget.gflops
        return budget.seconds * budget.gflops >= size.tflop * 1e3

    fitting = [s for s in sizes if affordable(s) and s.weights <= MAX_WEIGHTS_PER_CHAR * n_train]
    return fitting[-1] if fitting else sizes[0]


def _choose_dropout(model: ModelConfig, epochs: float) -> ModelConfig:
    dropout, ngram_dropout = next(
        (rates for least, *rates in DROPOUT_BY_EPOCHS if epochs >= least), (0.0, 0.0)
    )
    if model.prior and model.prior_dropout is None:
        model = replace(model, prior_dropout=PRIOR_DROPOUT if epochs >= PRIOR_DROPOUT_EPOCHS else 0.0)
    if model.dropout is None:
        model = replace(model, dropout=dropout)
    if model.ngram_embedding_dropout is None and model.ngram_embeddings != 1 and not model.plain:
        model = replace(model, ngram_embedding_dropout=ngram_dropout)
    return model


def _fill_model(model: ModelConfig, size: Size, n_train: int) -> ModelConfig:
    """Complete the given shape from a row of the table."""
    ngrams = model.ngram_embeddings or (1 if model.plain else NGRAM_EMBEDDINGS)
    model = replace(model, ngram_embeddings=ngrams).completed()
    n_embd, n_head, rows = model.n_embd, model.n_head, model.ngram_embedding_rows
    if model.attends:
        groups = model.n_kv_head or 1
        if n_embd is None:
            n_head = n_head or ceil(size.n_head / groups) * groups
            n_embd = ceil(size.n_embd / (2 * n_head)) * 2 * n_head
        elif n_head is None:
            as_in_table = n_embd == size.n_embd and groups == 1
            multiple = 2 if model.position == "rotary" else 1
            n_head = size.n_head if as_in_table else _choose_heads(n_embd, groups, multiple)
    n_embd = n_embd or size.n_embd
    if ngrams > 1 and rows is None:  # a power of two, for as many n-grams as the text can fill
        most = min(NGRAM_EMBEDDING_WEIGHTS // ((ngrams - 1) * n_embd), 2 * n_train)
        rows = 1 << max(0, most.bit_length() - 1)
    n_layer = model.n_layer or max(size.n_layer, len(model.mixers))
    return replace(model, n_layer=n_layer, n_embd=n_embd, n_head=n_head, ngram_embedding_rows=rows)


def _choose_heads(n_embd: int, groups: int, multiple: int) -> int:
    """The most heads, in `groups`, whose size is at least MIN_HEAD and divisible by `multiple`."""
    most = max(groups, n_embd // MIN_HEAD)
    fitting = [heads for heads in range(groups, most + 1, groups) if n_embd % (multiple * heads) == 0]
    if not fitting:
        number = "an even number" if multiple > 1 else "a whole number"
        raise ValueError(
            f"`n_embd` is {n_embd}; each head needs {number} of values"
            + (f", and `n_kv_head` requires a multiple of {groups} heads" if groups > 1 else "")
        )
    return fitting[-1]


def _fill_training(training: TrainingConfig, budget: Budget, size: Size, steps: int) -> TrainingConfig:
    """Choose optimizer, Muon's learning rate, precision and compilation, where they were left open."""
    precision = budget.precision if training.precision == "auto" else training.precision
    pays = budget.compiler and steps * size.step_gflop >= COMPILE_MIN_GFLOP[precision]
    compiled = ("on" if pays else "off") if training.compile == "auto" else training.compile
    optimizer = training.optimizer or "muon"
    training = replace(training, optimizer=optimizer, precision=precision, compile=compiled)
    return training if optimizer == "adamw" else replace(training, muon_lr=training.muon_lr or MUON_LR)


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Replace the run's plan and wait for the disk. Raises ResourceError."""
    try:
        write_json(run.path / PLAN_FILE, plan.to_json())
    except OSError as error:
        raise ResourceError(f"the plan of {run.name} cannot be written: {error.strerror}") from None


def read_plan(run: RunFolder) -> Plan:
    """The run's plan. Raises CheckpointError where it is missing or damaged."""
    try:
        return Plan.from_json(read_json(run.path / PLAN_FILE))
    except ValueError as error:
        raise CheckpointError(f"{PLAN_FILE} of {run.name} is damaged: {error}") from None
