"""The planner: chooses model size, hyperparameters and schedule from a budget and the text's length.

`choose` is a pure function of its arguments, the tables below and those of charlm/training/sizes.py. For a number of
steps, no measured time matters; for a time budget, timed trial steps (charlm/training/trial.py) are recorded in the plan,
and the schedule is revised from the speed of the steps themselves (charlm/training/deadline.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, sqrt
from statistics import fmean

from charlm.config import (
    NGRAM,
    NO_PRIOR,
    PRIOR,
    ModelConfig,
    TrainingConfig,
    refuse_not_plain,
    settings_given,
)
from charlm.strict_json import to_json
from charlm.training.plan import (
    OPEN_SETTINGS,
    REGULARISATION,
    SIZE_SETTINGS,
    THREADS,
    Forecast,
    MemberPlan,
    Plan,
)
from charlm.training.schedule import Schedule
from charlm.training.sizes import (
    GPU_LEAST_GFLOPS,
    MAX_WEIGHTS_PER_CHAR,
    Budget,
    Size,
    StepTime,
    choose_size,
    expected_loss,
)

MIXTURE_GAIN = 0.026
"""How much lower the loss of a mixture (transformers with and without the prior, n-gram model) ends than the mean of
the two transformers', all with recent n-grams, as a share of the n-gram model's loss; measured (benchmarks/NOTES.md)."""
MIXTURE_WORTH = 0.004
"""How much lower than a single transformer a mixture must be expected to end, as the same share: less is within the noise
of seeds, and single ones were better calibrated more often than not."""
MIXTURE_LEAST_PER_SYMBOL = 500
"""A text with fewer training symbols per vocabulary symbol (such as two million of Chinese news) is too short for a
transformer without the prior, which soon overfits; a single one with the prior, trained longer, ends lower."""
MIXTURE_SECONDS = 4.0
"""Time that a mixture costs besides training: fitting its weights, and the final evaluation with all members."""
PRIOR_SECONDS, LEAST_PRIOR_SHARE, MOST_PRIOR_SHARE = 8.0, 0.12, 0.35
"""Training time of a mixture's member with the prior, which learns fast: seconds, within these shares of the budget."""
OF_ONE_MEMBER = ("batch_size", "learning_rate", "optimizer", "muon_lr", "schedule")
"""Training settings that only suit a single transformer."""
RESERVED_MOST_SHARE = 0.5

PRIOR_MIN_CHARS = 5_000
"""Symbols of training text below which the prior is off: too few for its ten folds."""
PRIOR_ORDERS = ((100_000, 8), (20_000, 5), (0, 4))  # (symbols of training text, order from there on)
PRIOR_DROPOUT, PRIOR_DROPOUT_EPOCHS = 0.1, 0.5  # the dropout, and the epochs from which on it is used
PRIOR_SHARE = 0.1  # of the time budget, at most, for counting
PRIOR_CHARS_PER_SECOND = 0.6e6  # fixed, so that the same plan gives the same n-grams

RESERVED_SHARE, RESERVED_MOST, RESERVED_MOST_OF_ONE = 0.02, 12_000, 4_000
RESERVED_LEAST, RESERVED_LEAST_SHARE = 2_000, 0.05
"""Symbols at the end of the training text that are reserved for calibration: a share, larger for short texts. The
temperature of a single transformer needs fewer than the weights of a mixture."""
RECENT_CHARS = 4_096
RESERVED_MIN_CHARS = 20_000
"""Symbols of training text below which nothing is reserved: a temperature fitted on so few would be noise."""

DROPOUT_BY_EPOCHS = ((20, 0.2, 0.4), (12, 0.15, 0.3), (8, 0.1, 0.3), (3, 0.0, 0.2), (1.5, 0.0, 0.1))
"""(epochs from which on they apply, dropout, ngram_embedding_dropout)."""
MIN_HEAD = 32
MUON_LR = 0.01
TEACHER_WEIGHT = 0.5
NGRAM_EMBEDDINGS = 4
NGRAM_EMBEDDING_WEIGHTS = 10_000_000  # at most, so that a checkpoint stays small
ACCUMULATOR = 6.0  # times the squared number of epochs after the first, in which nothing is memorised
COMPILE_MIN_GFLOP = {"fp32": 40_000, "bf16": 24_000}  # of all steps: from there on compiling pays off
GPU_COMPILE_SECONDS = 120  # of all steps, on a GPU: an estimate, as compiling takes half a minute there
EVAL_CHARS = 10_000
EPOCHS_PER_EVALUATION = 10
MAX_EVALUATIONS = 60
MORE_TIME = 10  # how many times as long the forecast run is


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the planner chose: complete configurations, the first plan, and the reasons in words."""

    model: ModelConfig
    training: TrainingConfig
    plan: Plan
    why: str

    def record(self, budget: Budget, threads: int, forecast: Forecast | None = None) -> "Choice":
        """Return the choice with everything that it depends on recorded in the plan, so that it can be repeated."""
        choice = self.with_threads(threads)
        plan = choice.plan.record(
            decided="size",
            at_step=0,
            seconds=budget.seconds,
            timed=to_json(budget.timed),
            threads=threads,
            precision=self.training.precision,
            compile=self.training.compile,
            steps=budget.steps,
            forecast=None if forecast is None else to_json(forecast),
        )
        return replace(choice, plan=plan)

    def with_threads(self, threads: int) -> "Choice":
        """Return the choice with so many threads to train each member; an n-gram model does not depend on them."""
        if self.model.is_ngram:
            return self
        members = tuple(
            replace(member, training=replace(member.training, threads=threads))
            for member in self.plan.members
        )
        return replace(
            self,
            training=replace(self.training, threads=threads),
            plan=replace(self.plan, members=members),
        )


def choose(
    budget: Budget,
    n_train: int,
    model: ModelConfig,
    training: TrainingConfig,
    given: Size | None = None,
    *,
    n_symbols: int = 1,
    teacher_chars: int | None = None,
) -> Choice:
    """Choose all open settings, for a training text of `n_train` symbols and a vocabulary of `n_symbols`.

    With a `given` size (fine-tuning), the model is complete except for dropout. `teacher_chars`: for a run with a
    teacher, the most symbols that memory and time allow to ask it about. Raises ValueError for settings that
    contradict each other.
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
    assert budget.steps is not None or budget.seconds
    if model.plain:
        refuse_not_plain(training)
    given_chars = training.reserved_chars
    training = _choose_reserved(_choose_teaching(training, n_train, teacher_chars), n_train)
    kinds, shares = _choose_members(budget, n_train, n_symbols, model, training)
    reserved = training.reserved_chars or 0
    if len(kinds) == 1 and given_chars is None:
        reserved = min(reserved, RESERVED_MOST_OF_ONE)
    training = replace(training, members=",".join(kinds), reserved_chars=reserved)
    training = _choose_recent(model, training)
    if {PRIOR, NGRAM} & set(kinds):
        seconds = None if budget.seconds is None else PRIOR_SHARE * budget.seconds
        training = limit_prior_chars(training, seconds, n_train)
    elif training.prior_chars is not None:
        raise ValueError(f"`prior_chars={training.prior_chars}` has no effect without a prior")
    parts = [
        _choose_member(part, n_train, _of_kind(model, kind, kinds), training, given)
        for kind, part in zip(kinds, budget.parts(shares), strict=False)
    ]
    schedule = _schedule_of(training, parts, budget.steps)
    ends = accumulate(part.steps for part in parts) if len(parts) > 1 else [schedule.end]
    members = tuple(part.planned(end, share) for part, end, share in zip(parts, ends, shares, strict=True))
    first = parts[0]
    every = training.eval_every or evaluation_interval(first.steps, first.steps / 10, first.steps_per_epoch)
    plan = Plan(
        schedule=schedule, eval_every=every, eval_chars=training.eval_chars or EVAL_CHARS, members=members
    )
    return Choice(model=first.model, training=first.training, plan=plan, why=_why(budget, parts, n_train))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The choices for one member."""

    model: ModelConfig
    training: TrainingConfig
    steps: int
    size: Size
    wanted_block: int
    steps_per_epoch: float
    left_open: tuple[str, ...]
    step_seconds: float | None  # expected; None where nothing is timed

    def planned(self, end: int, share: float) -> MemberPlan:
        """Return the plan of its training to step `end` of the run, with that share of the time."""
        return MemberPlan(
            model=self.model,
            training=self.training,
            end=end,
            share=share,
            left_open=self.left_open,
            step_seconds=self.step_seconds,
        )


def _schedule_of(training: TrainingConfig, parts: Sequence[_Part], steps: int | None) -> Schedule:
    """Return the given schedule, which must have `steps`, or the default schedules of all members, one after another."""
    if training.schedule:
        given = Schedule.parse(training.schedule)
        if steps not in (None, given.end):
            raise ValueError(f"`schedule` ends at step {given.end}, but `steps` is {steps}; leave one out")
        return given
    schedule = Schedule.warmup_cooldown(parts[0].steps)
    for part in parts[1:]:
        schedule = schedule.with_restart(schedule.end, schedule.end + part.steps)
    return schedule


def _choose_member(
    budget: Budget, n_train: int, model: ModelConfig, training: TrainingConfig, given: Size | None
) -> _Part:
    """Complete the configurations of one member for its budget."""
    names = (*OPEN_SETTINGS, THREADS)
    left_open = tuple(
        name for config in (model, training) for name in names if getattr(config, name, 0) is None
    )
    model = _choose_prior(model, n_train)
    n_train -= training.reserved_chars or 0
    kind = model.kind
    size = given or choose_size(kind, budget, n_train)
    wanted = model.block_size or size.block_size
    block = min(wanted, max(1, (n_train - 1) // 2))
    parts = training.grad_accum
    batch = training.batch_size or ceil(min(size.batch_size, max(1, n_train // block)) / parts) * parts
    size = replace(size, block_size=block, batch_size=batch)
    as_given = {name: value for name in ("n_layer", "n_embd") if (value := getattr(model, name))}
    steps = budget.steps_of(kind, replace(size, **as_given))
    epochs = steps * batch * block / n_train
    model = replace(_fill_model(choose_dropout(model, epochs), size, n_train), block_size=block)
    if training.ngram_embedding_accumulator is None and not model.plain:
        accumulator = min(1e6, round(ACCUMULATOR * max(0.0, epochs - 1) ** 2, 3))
        training = replace(training, ngram_embedding_accumulator=accumulator)
    rate = training.learning_rate or size.learning_rate
    if model.has_kernels and budget.kernels:
        budget = replace(budget, compiler=False)
    training = _fill_training(replace(training, batch_size=batch, learning_rate=rate), budget, size, steps)
    return _Part(
        model=model,
        training=training,
        steps=steps,
        size=size,
        wanted_block=wanted,
        steps_per_epoch=n_train / (batch * block),
        left_open=left_open,
        step_seconds=budget.step_seconds(kind, Size.of(model, training)) if budget.timed else None,
    )


def _why(budget: Budget, parts: Sequence[_Part], n_train: int) -> str:
    """State what the choice was made for, and what limited it."""
    why = f"for {budget.steps} steps"
    if budget.steps is None:
        why = f"for {budget.seconds:g} s"
    if any(part.size.weights * 1.5 > MAX_WEIGHTS_PER_CHAR * n_train for part in parts):
        why += f", small because the training text has only {n_train:,} symbols"
    for part in parts:
        if part.size.block_size < part.wanted_block:
            why += (
                f"; the block size is reduced from {part.wanted_block} to {part.size.block_size}, because "
                "the text is short"
            )
            break
    return why


def _choose_reserved(training: TrainingConfig, n_train: int) -> TrainingConfig:
    """Choose how many symbols at the end of the training text are reserved for calibration."""
    if training.reserved_chars is not None:
        if training.reserved_chars == 1 or training.reserved_chars > RESERVED_MOST_SHARE * n_train:
            raise ValueError(
                f"`reserved_chars` is {training.reserved_chars}; allowed: 0, or from 2 up to half of the {n_train:,} symbols "
                "of the training text"
            )
        return training
    reserved = 0
    if n_train >= RESERVED_MIN_CHARS:
        least = min(RESERVED_LEAST, int(RESERVED_LEAST_SHARE * n_train))
        reserved = min(RESERVED_MOST, max(least, int(RESERVED_SHARE * n_train)))
    return replace(training, reserved_chars=reserved)


def _choose_recent(model: ModelConfig, training: TrainingConfig) -> TrainingConfig:
    """Choose the length of the text whose recent n-grams predictions use; a plain model uses none."""
    if training.recent_chars and not training.reserved_chars:
        raise ValueError(
            f"`recent_chars={training.recent_chars}` needs text to learn its strength on: a longer text, or reserved_chars"
        )
    if training.recent_chars is not None:
        return training
    return replace(training, recent_chars=RECENT_CHARS if training.reserved_chars and not model.plain else 0)


def _choose_teaching(training: TrainingConfig, n_train: int, most: int | None) -> TrainingConfig:
    """Choose the teacher's weight in the loss, and how many symbols it is asked about, `most` at most; None: no teacher."""
    if most is None:
        for name in settings_given(training, ("teacher_weight", "teacher_chars")):
            raise ValueError(
                f"`{name}={getattr(training, name)}` has no effect without a run to learn from, `teacher`"
            )
        return training
    weight = TEACHER_WEIGHT if training.teacher_weight is None else training.teacher_weight
    chars = min(n_train, most) if training.teacher_chars is None else training.teacher_chars
    return replace(training, teacher_weight=weight, teacher_chars=chars)


def _choose_members(
    budget: Budget, n_train: int, n_symbols: int, model: ModelConfig, training: TrainingConfig
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Choose the kinds of members, the n-gram model last, and each transformer's share of the budget.

    A mixture is planned for a time budget only, and only if all model settings are left to the plan.
    """
    if training.members is not None:
        kinds = tuple(sorted(training.members.split(","), key=NGRAM.__eq__))  # the n-gram model last
        n = len(kinds) - (NGRAM in kinds)
        for kind in kinds[:n]:
            _of_kind(model, kind, kinds)
        if n > 1 and training.schedule:
            raise ValueError(f"`schedule` is for a single transformer, but `members` is {training.members}")
        if len(kinds) > 1 and not training.reserved_chars:
            raise ValueError(
                f"`members={training.members}` needs text to learn their weights on: a longer text, or reserved_chars"
            )
        return kinds, (1 / n,) * n
    left = not settings_given(model) and not settings_given(training, OF_ONE_MEMBER)
    left = left and n_train >= MIXTURE_LEAST_PER_SYMBOL * n_symbols
    if left and training.reserved_chars and budget.seconds:
        share = min(MOST_PRIOR_SHARE, max(LEAST_PRIOR_SHARE, PRIOR_SECONDS / budget.seconds))
        kinds, shares = (PRIOR, NO_PRIOR), (share, 1 - share)
        rest = replace(budget, seconds=max(1.0, budget.seconds - MIXTURE_SECONDS))
        each = [
            _expected_loss(kind, part, n_train) for kind, part in zip(kinds, rest.parts(shares), strict=True)
        ]
        if fmean(each) - MIXTURE_GAIN + MIXTURE_WORTH < _expected_loss(PRIOR, budget, n_train):
            return (*kinds, NGRAM), shares
    return (single_kind(model, n_train),), (1.0,)


def _expected_loss(kind: str, budget: Budget, n_train: int) -> float:
    """Return the expected loss of the best size of a kind, as a share of the n-gram model's loss."""
    size = choose_size(kind, budget, n_train)
    return expected_loss(kind, size, budget.chars_of(kind, size), n_train)


def expected_end(choice: Choice, n_train: int) -> float:
    """Return the loss at which a planned run is expected to end, as a share of the n-gram model's loss."""
    losses, begin = [], 0
    for member in choice.plan.members:
        size = Size.of(member.model, member.training)
        chars = (member.end - begin) * size.chars
        losses.append(
            expected_loss(member.kind, size, chars, n_train - (member.training.reserved_chars or 0))
        )
        begin = member.end
    mixed = len(losses) > 1 and NGRAM in (choice.training.members or "").split(",")
    return fmean(losses) - MIXTURE_GAIN if mixed else min(losses)


def forecast_of(
    seconds: float, budget: Budget, choose_for: Callable[[Budget], Choice], n_train: int
) -> Forecast:
    """Forecast the loss of a run with MORE_TIME times as many seconds, as `choose_for` would plan it."""
    assert budget.seconds
    longer = replace(budget, seconds=budget.seconds + (MORE_TIME - 1) * seconds)
    now, then = (expected_end(choose_for(means), n_train) for means in (budget, longer))
    return Forecast(seconds=MORE_TIME * seconds, ratio=round(then / now, 4))


def single_kind(model: ModelConfig, n_train: int) -> str:
    """Return the kind of the transformer in a run of a single one."""
    return PRIOR if _wants_prior(model, n_train) else NO_PRIOR


def _of_kind(model: ModelConfig, kind: str, kinds: Sequence[str]) -> ModelConfig:
    """Return model settings for a member of that kind."""
    prior = kind == PRIOR
    if (model.prior is not None and model.prior != prior) or (prior and model.plain):
        asked = "`plain`" if model.plain else f"`prior={model.prior}`"
        raise ValueError(f"`members={','.join(kinds)}` contradicts {asked}; leave one out")
    if prior:
        return replace(model, prior=True)
    return replace(model, prior=False, prior_order=None, prior_dropout=None)


def evaluation_interval(steps: int, seconds: float, steps_per_epoch: float) -> int:
    """Return the steps between evaluations: 2 to 60 evaluations, about the square root of the seconds.

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


def _choose_prior(model: ModelConfig, n_train: int) -> ModelConfig:
    """Choose the n-gram prior's order. With the prior, n-gram embeddings are off, since they did harm when measured."""
    if not model.prior:
        return model
    model = replace(
        model, prior_order=ngram_order(n_train) if model.prior_order is None else model.prior_order
    )
    settings = (model.ngram_embeddings, model.ngram_embedding_rows, model.ngram_embedding_dropout)
    return replace(model, ngram_embeddings=1) if all(value is None for value in settings) else model


def ngram_order(n_train: int) -> int:
    """Return the default order of the n-gram model of a text of `n_train` symbols."""
    return next(order for chars, order in PRIOR_ORDERS if n_train >= chars)


def _wants_prior(model: ModelConfig, n_train: int) -> bool:
    """Whether the model starts from the n-gram prior."""
    if model.plain or model.prior is not None:
        return bool(model.prior) and not model.plain
    given = model.prior_order is not None or model.prior_dropout is not None
    return given or n_train >= PRIOR_MIN_CHARS


def choose_dropout(model: ModelConfig, epochs: float) -> ModelConfig:
    """Choose the dropout rates that were left open, for so many epochs."""
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
    """Return the most heads, a multiple of `groups`, whose size is at least MIN_HEAD and a multiple of `multiple`."""
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
    """Choose optimizer, Muon's learning rate, precision and compilation, if they were left open."""
    precision = budget.precision if training.precision == "auto" else training.precision
    least = COMPILE_MIN_GFLOP[precision]
    if budget.gflops >= GPU_LEAST_GFLOPS:
        least = int(GPU_COMPILE_SECONDS * budget.gflops)
    pays = budget.compiler and steps * size.gflop >= least
    compiled = ("on" if pays else "off") if training.compile == "auto" else training.compile
    optimizer = training.optimizer or "muon"
    training = replace(training, optimizer=optimizer, precision=precision, compile=compiled)
    return training if optimizer == "adamw" else replace(training, muon_lr=training.muon_lr or MUON_LR)


def regularised(plan: Plan, number: int, epochs: float) -> Plan:
    """Choose the regularisation of a member again, now that its number of epochs is known."""
    member = plan.members[number]
    model, _ = member.reopened(REGULARISATION)
    member = replace(member, model=choose_dropout(model, epochs))
    return replace(plan, members=(*plan.members[:number], member, *plan.members[number + 1 :]))


def choose_again(
    plan: Plan, number: int, step: int, seconds_left: float, step_seconds: float, n_train: int
) -> Plan | None:
    """Choose the size of member `number` again, now that its steps are known to take `step_seconds`.

    Returns the plan, not recorded yet, by which its training restarts at `step`; None if the size stays, as a given
    size does.
    """
    member = plan.members[number]
    if not member.is_size_open:
        return None
    timed = StepTime(
        kind=member.kind,
        size=Size.of(member.model, member.training),
        threads=member.training.threads or 1,
        precision=member.training.precision,
        seconds=step_seconds,
    )
    budget = Budget(seconds=seconds_left, timed=(timed,), precision=timed.precision)
    part = _choose_member(budget, n_train, *member.reopened(), None)

    def size(model: ModelConfig, training: TrainingConfig) -> list[object]:
        return [getattr(model, name, getattr(training, name, None)) for name in SIZE_SETTINGS]

    if size(part.model, part.training) == size(member.model, member.training):
        return None
    again = replace(member, model=part.model, training=part.training, end=step + part.steps)
    return plan.begun_again(number, step, replace(again, step_seconds=None))
