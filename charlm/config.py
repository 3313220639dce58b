"""The settings of the model and of training: name, type, default, help, limits, and what cannot be combined (standard library only)."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Self, TypeVar

from charlm.settings import Choice, Choices, Mark, Range, Settings, settings_of

S = TypeVar("S", bound=Settings)
BASIC, PLANNED = Mark.BASIC, Mark.PLANNED

ATTENTION = ("attention", "simple-attention")
"""The mixers that have scores: what acts on scores needs one of them."""
SCORED = ("relative", "rotary", "alibi")
"""The positions that act on scores."""
TRANSFORMER, NGRAM = "transformer", "ngram"
"""The kinds of model."""
PRIOR, NO_PRIOR = "prior", "no-prior"
"""The kinds of transformers that a run may train: from the n-gram prior, and without it."""
NGRAM_SETTINGS = ("model", "prior", "prior_order", "causal", "prior_memory", "prior_chars", "threads")
"""The settings that have an effect on an n-gram model."""
NOT_PLAIN = (
    *("ngram_embeddings", "ngram_embedding_rows", "ngram_embedding_dropout", "ngram_embedding_lr"),
    *("ngram_embedding_accumulator", "prior", "prior_order", "prior_dropout", "prior_chars"),
)
"""The settings of a model and of training that a plain decoder does without."""


def no_effect(config: Settings, name: str, beside: str) -> ValueError:
    """The error for a setting that does nothing in this configuration."""
    return ValueError(f"`{name}={getattr(config, name)}` has no effect with {beside}")


def refuse_transformer_only(config: Settings) -> None:
    """ValueError for a setting, of a model or of training, that has an effect on a transformer only."""
    for setting in settings_of(type(config)):
        if setting.name not in NGRAM_SETTINGS and getattr(config, setting.name) != setting.default:
            raise no_effect(config, setting.name, f"`model={NGRAM}`")


def refuse_not_plain(config: Settings) -> None:
    """ValueError for a setting, of a model or of training, that acts on n-grams, which a plain decoder lacks."""
    for setting in settings_of(type(config)):
        value = getattr(config, setting.name)
        off = {"ngram_embeddings": (None, 1), "prior": (None, False)}.get(setting.name, (setting.default,))
        if setting.name in NOT_PLAIN and value not in off:
            raise ValueError(f"`{setting.name}={value}` is not allowed with `plain`")


def settings_given(config: Settings, names: Collection[str] | None = None) -> list[str]:
    """The names of the settings, by default of all, that are not at their defaults."""
    return [
        s.name
        for s in settings_of(type(config))
        if (names is None or s.name in names) and getattr(config, s.name) != s.default
    ]


def acts(model: str, setting: str) -> bool:
    """Does a setting of that name have an effect on that kind of model?"""
    return model != NGRAM or setting in NGRAM_SETTINGS


def only_ngram(config: S) -> S:
    """The same configuration without the settings that have an effect on a transformer only."""
    kept = {s.name: getattr(config, s.name) for s in settings_of(type(config)) if s.name in NGRAM_SETTINGS}
    return type(config)(**kept)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The shape of the model. None means that the plan chooses, but where the help says otherwise."""

    model: Annotated[
        str,
        "Kind of model: a transformer, or a Kneser-Ney n-gram model alone, as a baseline.",
        Choice((TRANSFORMER, NGRAM)),
    ] = TRANSFORMER
    n_layer: Annotated[int | None, "Number of blocks.", Range(1, 128), BASIC, PLANNED] = None
    n_head: Annotated[int | None, "Attention heads per block.", Range(1, 128), BASIC, PLANNED] = None
    n_embd: Annotated[int | None, "Width: size of the embeddings.", Range(2, 8192), BASIC, PLANNED] = None
    block_size: Annotated[
        int | None,
        "Context length in symbols: characters, or bytes with --units bytes.",
        Range(1, 65536),
        BASIC,
        PLANNED,
    ] = None
    dropout: Annotated[float | None, "Dropout on the output of each block.", Range(0, 0.9), PLANNED] = None
    mixer: Annotated[
        str,
        "Layer that mixes positions; several names, joined by commas, alternate over the layers.",
        Choices(("attention", "simple-attention", "convolution", "recurrent")),
    ] = "attention"
    position: Annotated[
        str | None,
        "Position encoding. [default: rotary with attention, else none]",
        Choice(("none", "learned", "sinusoidal", *SCORED)),
    ] = None
    n_kv_head: Annotated[
        int | None, "Key and value heads, shared by groups of query heads. [default: n_head]", Range(1, 128)
    ] = None
    window: Annotated[
        int | None,
        "Symbols (see --units) that one layer can read, including the current one. "
        "[default: all for attention, 8 for convolution]",
        Range(1, 65536),
    ] = None
    locality: Annotated[bool, "Let each head learn a preference for nearby characters."] = False
    ngram_embeddings: Annotated[
        int | None,
        "Learn an embedding for each n-gram up to this length; 1 turns them off.",
        Range(1, 8),
        PLANNED,
    ] = None
    ngram_embedding_rows: Annotated[
        int | None,
        "Hash-table rows for the n-grams of each length; a power of two.",
        Range(1, 2**24),
        PLANNED,
    ] = None
    ngram_embedding_dropout: Annotated[
        float | None, "Dropout on n-gram embeddings in training.", Range(0, 0.9)
    ] = None
    plain: Annotated[bool, "Plain decoder: no n-gram prior, no n-gram embeddings.", BASIC] = False
    prior: Annotated[
        bool | None,
        "Start from a Kneser-Ney n-gram prior and learn what it does not predict. [default: on, but "
        "off for short texts and with --plain]",
    ] = None
    prior_order: Annotated[
        int | None, "Symbols (see --units) of context that the n-gram model uses.", Range(0, 63), PLANNED
    ] = None
    prior_dropout: Annotated[
        float | None,
        "Share of training windows that are predicted without the prior.",
        Range(0, 0.9),
        PLANNED,
    ] = None
    causal: Annotated[
        bool,
        "Let each position see only itself and earlier ones. Training needs this: "
        "--no-causal gives an error.",
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_ngram:
            if self.prior is False:
                raise ValueError(f"`prior=False` contradicts `model={NGRAM}`")
            refuse_transformer_only(self)
            return
        self._refuse_idle()
        self._refuse_shape()
        if self.plain:
            refuse_not_plain(self)

    def _refuse_idle(self) -> None:
        """ValueError for a setting that nothing in the model would read."""
        needed = {"n_head": ATTENTION, "n_kv_head": ATTENTION[:1], "locality": ATTENTION}
        needed["window"] = (*ATTENTION, "convolution")
        if self.position in SCORED:
            needed["position"] = ATTENTION
        for name, mixers in needed.items():
            if getattr(self, name) not in (None, False) and not set(mixers) & set(self.mixers):
                raise no_effect(self, name, f"`mixer={self.mixer}`; use {' or '.join(mixers)}")
        for name in ("ngram_embedding_rows", "ngram_embedding_dropout"):
            if getattr(self, name) is not None and self.ngram_embeddings == 1:
                raise no_effect(self, name, "`ngram_embeddings=1`")
        for name in ("prior_order", "prior_dropout"):
            if getattr(self, name) is not None and self.prior is False:
                raise no_effect(self, name, "`prior=False`")

    def _refuse_shape(self) -> None:
        """ValueError for sizes that do not fit one another."""
        heads, width, rows = self.n_head, self.n_embd, self.ngram_embedding_rows
        if rows is not None and rows & (rows - 1):
            raise ValueError(f"`ngram_embedding_rows` is {rows}; it must be a power of two")
        if heads is not None and width is not None:
            pairs = self.position in (None, "rotary")  # which turn pairs of values
            if width % heads or (pairs and (width // heads) % 2):
                raise ValueError(
                    f"`n_embd` is {width} and `n_head` {heads}; `n_embd` / `n_head` must be "
                    f"{'an even number' if pairs else 'a whole number'}"
                )
        if heads is not None and self.n_kv_head is not None and heads % self.n_kv_head:
            raise ValueError(
                f"`n_head` is {heads} and `n_kv_head` {self.n_kv_head}; `n_head` must be a multiple of `n_kv_head`"
            )
        if self.block_size is not None and self.window is not None and self.window > self.block_size:
            raise ValueError(
                f"`window` is {self.window} and `block_size` {self.block_size}; `window` must not exceed `block_size`"
            )
        if self.n_layer is not None and len(self.mixers) > self.n_layer:
            raise ValueError(f"`mixer` names {len(self.mixers)} layers, but `n_layer` is {self.n_layer}")

    @property
    def mixers(self) -> tuple[str, ...]:
        """The mixers named: layer i has number i modulo their count."""
        return tuple(self.mixer.split(","))

    @property
    def is_ngram(self) -> bool:
        """Is it an n-gram model, without a transformer?"""
        return self.model == NGRAM

    @property
    def kind(self) -> str:
        """Its name in `--members`."""
        return NGRAM if self.is_ngram else PRIOR if self.prior else NO_PRIOR

    @property
    def attends(self) -> bool:
        """Has the model scores, and so heads?"""
        return not self.is_ngram and bool(set(ATTENTION) & set(self.mixers))

    @property
    def has_kernels(self) -> bool:
        """Can the compiled kernels train its blocks? They know causal attention with rotary positions."""
        model = self.completed()
        rotary = model.position == "rotary" and not model.locality
        return not self.is_ngram and set(self.mixers) == {"attention"} and rotary and self.causal

    @property
    def head_size(self) -> int:
        """Values of one head."""
        assert self.n_embd and self.n_head
        return self.n_embd // self.n_head

    @property
    def carries_state(self) -> bool:
        """Does it read on without limit, its state carried, instead of from the start of a block?

        That takes a recurrent layer, no layer that keeps every character, and no counting of places,
        which would go beyond those it was trained on.
        """
        return "recurrent" in self.mixers and not self.attends and self.position in (None, "none")

    @property
    def reach(self) -> int | None:
        """How many characters can act on a prediction, the last one counted; None: without limit.

        Layers that read N characters back reach L (N - 1) + 1 together, cut by the block.
        """
        if self.is_ngram:
            return self.prior_order
        assert self.n_layer and self.block_size
        if self.carries_state:
            return None
        layers = [self.mixers[i % len(self.mixers)] for i in range(self.n_layer)]
        own = {"convolution": self.window or CONVOLUTION_WINDOW, "recurrent": self.block_size}
        back = sum(own.get(mixer, self.window or self.block_size) - 1 for mixer in layers)
        return min(back + 1, self.block_size)

    @property
    def complete(self) -> bool:
        """Is everything chosen that a model is made from?"""
        if self.is_ngram:
            return self.prior_order is not None
        needed = ["n_layer", "n_embd", "block_size", "dropout", "position", *["n_head"] * self.attends]
        needed += ["ngram_embedding_rows"] if (self.ngram_embeddings or 1) > 1 else []
        needed += ["prior_order"] if self.prior else []
        return all(getattr(self, name) is not None for name in needed)

    def completed(self) -> Self:
        """The same with what was left open as it was before there was a choice: no n-gram embeddings, no prior."""
        if self.is_ngram:
            return replace(self, prior=True)
        position = self.position or ("rotary" if self.attends else "none")
        ngrams = self.ngram_embeddings or 1
        return replace(
            self,
            position=position,
            ngram_embeddings=ngrams,
            ngram_embedding_dropout=None if ngrams == 1 else self.ngram_embedding_dropout or 0.0,
            prior=bool(self.prior),
            prior_dropout=(self.prior_dropout or 0.0) if self.prior else None,
        )


Device = Annotated[
    str,
    "Device to compute on; auto: a GPU that works, else the CPU (nobody has used a GPU yet).",
    Choice(("auto", "cpu", "cuda", "mps")),
]
"""Of training, and of what uses a trained model."""
MOST_MEMBERS = 8
FEWEST_HELD_OUT = 200
"""Characters below which a figure on them is said to mean little."""
CONVOLUTION_WINDOW = 8
"""What a convolution reads back unless told; checkpoints count on it."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """How the model is trained. None means that the plan chooses."""

    batch_size: Annotated[int | None, "Windows of text in one step.", Range(1, 65536), BASIC, PLANNED] = None
    grad_accum: Annotated[
        int,
        "Gradient-accumulation steps: split each batch into this many parts, to save memory.",
        Range(1, 1024),
    ] = 1
    learning_rate: Annotated[
        float | None, "Peak learning rate of AdamW.", Range(1e-8, 10), BASIC, PLANNED
    ] = None
    optimizer: Annotated[
        str | None,
        "muon: Muon for the blocks' matrices, AdamW for the rest. adamw: AdamW for all. [default: muon]",
        Choice(("muon", "adamw")),
    ] = None
    muon_lr: Annotated[float | None, "Peak learning rate of Muon.", Range(1e-8, 10), PLANNED] = None
    ngram_embedding_lr: Annotated[float, "Peak learning rate of the n-gram embeddings.", Range(1e-8, 10)] = (
        0.05
    )
    ngram_embedding_accumulator: Annotated[
        float | None,
        "Initial Adagrad accumulator of the n-gram embeddings; larger values slow down rare n-grams.",
        Range(0, 1e6),
    ] = None
    weight_decay: Annotated[float, "Weight decay on matrices.", Range(0, 10)] = 0.1
    grad_clip: Annotated[float, "Clip the gradient norm at this value.", Range(1e-6, 1e6)] = 1.0
    schedule: Annotated[
        str | None,
        "Learning-rate schedule as points STEP:FACTOR,..., linearly interpolated; needs --steps. "
        "[default: planned]",
    ] = None
    members: Annotated[
        str | None,
        "Models to train and mix, joined by commas: prior and no-prior (transformers with and without the n-gram "
        "prior), ngram (the n-gram model itself).",
        Choices((PRIOR, NO_PRIOR, NGRAM)),
        PLANNED,
    ] = None
    reserved_chars: Annotated[
        int | None,
        "Symbols (see --units) at the end of the training text that no model trains on; charlm fits temperatures "
        "and the mixture's weights on them.",
        Range(0, 10**9),
        PLANNED,
    ] = None
    recent_chars: Annotated[
        int | None,
        "Also predict from n-grams among this many preceding symbols (see --units) of the text; 0 turns it off.",
        Range(0, 1 << 16),
        PLANNED,
    ] = None
    teacher_weight: Annotated[
        float | None,
        "Weight of the probabilities of --teacher in the loss; the text has the rest.",
        Range(0, 1),
        PLANNED,
    ] = None
    teacher_chars: Annotated[
        int | None,
        "Compute the probabilities of --teacher at this many symbols (see --units) of the training text, evenly "
        "spread.",
        Range(1, 10**12),
        PLANNED,
    ] = None
    seed: Annotated[int, "Random seed: initialisation, data order, dropout.", Range(0, 2**63 - 1), BASIC] = 1
    eval_every: Annotated[int | None, "Steps between evaluations.", Range(1, 10**9), PLANNED] = None
    eval_chars: Annotated[
        int | None, "Held-out symbols (see --units) scored in each evaluation.", Range(1, 10**9), PLANNED
    ] = None
    patience: Annotated[
        int,
        "Stop after this many evaluations without improvement, once all text has been read; 0: never.",
        Range(0, 10**6),
    ] = 4
    save_every: Annotated[float, "Seconds between saves.", Range(0, 10**6)] = 60.0
    device: Device = "auto"
    threads: Annotated[
        int | None,
        "CPU threads. [default: one per core, within the limits of affinity and cgroups]",
        Range(1, 1024),
    ] = None
    precision: Annotated[
        str,
        "Number format of matrix products; auto: bf16 where the processor supports it, else fp32.",
        Choice(("auto", "fp32", "bf16")),
    ] = "auto"
    compile: Annotated[
        str,
        "Compile the blocks before the first step; auto: if the run is long enough to benefit.",
        Choice(("auto", "on", "off")),
    ] = "auto"
    prior_memory: Annotated[int, "Memory limit for counting n-grams, in megabytes.", Range(1, 10**6)] = 512
    prior_chars: Annotated[
        int | None,
        "Build the n-gram model from this many symbols (see --units), evenly spread. [default: as many "
        "as time allows]",
        Range(1, 10**12),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size % self.grad_accum:
            raise ValueError(
                f"`grad_accum` is {self.grad_accum} and `batch_size` {self.batch_size}; `batch_size` must be a "
                "multiple of `grad_accum`"
            )
        if self.muon_lr is not None and self.optimizer == "adamw":
            raise no_effect(self, "muon_lr", "`optimizer=adamw`")
        kinds = self.members.split(",") if self.members is not None else []
        if kinds and (
            kinds.count(NGRAM) > 1 or len(kinds) == kinds.count(NGRAM) or len(kinds) > MOST_MEMBERS
        ):
            raise ValueError(
                f"`members` is {self.members}; it needs {PRIOR} or {NO_PRIOR}, takes {NGRAM} once, and holds at most "
                f"{MOST_MEMBERS}; for an n-gram model alone: `model={NGRAM}`"
            )

    def completed(self) -> Self:
        """The same with all that a run computes by named, as it was before there was a choice."""
        return replace(
            self,
            optimizer=self.optimizer or "adamw",
            ngram_embedding_accumulator=self.ngram_embedding_accumulator or 0.0,
            precision="fp32" if self.precision == "auto" else self.precision,
            compile="off" if self.compile == "auto" else self.compile,
            reserved_chars=self.reserved_chars or 0,
            recent_chars=self.recent_chars or 0,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(Settings):
    """Where a trained model computes: on the CPU unless told, so that a seed and a figure mean the same on every machine."""

    device: Device = "cpu"
