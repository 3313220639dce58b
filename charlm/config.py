"""Every setting once: its name, type, default, help and limits, and what cannot be combined (standard library only)."""

import os
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from charlm.settings import Choice, Choices, Range, Settings, settings_of

ATTENTION = ("attention", "simple-attention")
"""The mixers that have scores: what acts on scores needs one of them."""
SCORED = ("relative", "rotary", "alibi")
"""The positions that act on scores."""
COUNTS_ALONE = "none"
"""The mixer of a model that has no layers: what is asked is answered by the counts."""
COUNTING = ("mixer", "counts", "counts_order", "causal", "counts_memory", "counts_chars", "threads")
"""The settings that act on counts alone."""

VAL = 0.1
"""The share of a text that is held out unless told."""
MOST_KEPT_BACK = 0.95


def refuse_idle(config: Any) -> None:
    """ValueError for a setting of a ModelConfig that nothing in its model would read."""
    acting = {
        "n_head": (*ATTENTION,),
        "n_kv_head": ("attention",),
        "locality": (*ATTENTION,),
        "window": (*ATTENTION, "convolution"),
    }
    if config.position in SCORED:
        acting["position"] = (*ATTENTION,)
    for name, needed in acting.items():
        value = getattr(config, name)
        if value not in (None, False) and not set(needed) & set(config.mixers):
            raise ValueError(
                f"{name} is {value}, which cannot act with mixer {config.mixer}; it needs "
                f"{' or '.join(needed)}"
            )
    switched = {"ngrams 1": config.ngrams == 1, "no counts": config.counts is False}
    belonging = {"ngrams 1": ("ngram_rows", "ngram_dropout"), "no counts": ("counts_order", "counts_dropout")}
    for off, names in belonging.items():
        for name in names:
            if getattr(config, name) is not None and switched[off]:
                raise ValueError(f"{name} is {getattr(config, name)}, which cannot act with {off}")
    if config.ngram_rows is not None and config.ngram_rows & (config.ngram_rows - 1):
        raise ValueError(f"ngram_rows is {config.ngram_rows}; it takes a power of two")


def refuse_shape(config: Any) -> None:
    """ValueError for a ModelConfig whose sizes do not fit one another."""
    heads, width = config.n_head, config.n_embd
    if heads is not None and width is not None:
        pairs = config.position in (None, "rotary")  # which turn pairs of values
        if width % heads or (pairs and (width // heads) % 2):
            raise ValueError(
                f"n_embd is {width} and n_head {heads}; the width must be "
                f"{'an even number' if pairs else 'a whole number'} of values for each head"
            )
    if heads is not None and config.n_kv_head is not None and heads % config.n_kv_head:
        raise ValueError(
            f"n_kv_head is {config.n_kv_head} and n_head {heads}; the heads must divide into that many equal "
            "groups"
        )
    if config.block_size is not None and config.window is not None and config.window > config.block_size:
        raise ValueError(
            f"window is {config.window} and block_size {config.block_size}; no layer can read beyond the block"
        )
    if config.n_layer is not None and len(config.mixers) > config.n_layer:
        raise ValueError(f"mixer names {len(config.mixers)} layers, and n_layer is {config.n_layer}")


def refuse_not_plain(config: Any) -> None:
    """ValueError for a setting of a ModelConfig that no plain decoder has."""
    plain = {
        "mixer": ("attention",),
        "position": (None, "rotary"),
        "window": (None,),
        "locality": (False,),
        "ngrams": (None, 1),
        "ngram_rows": (None,),
        "ngram_dropout": (None,),
        "counts": (None, False),
        "counts_order": (None,),
        "counts_dropout": (None,),
    }
    for name, allowed in plain.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name} is {getattr(config, name)}, which portable forbids")


def refuse_training(config: Any) -> None:
    """ValueError for settings of a TrainingConfig that contradict each other."""
    if config.batch_size is not None and config.batch_size % config.accumulation:
        raise ValueError(
            f"accumulation is {config.accumulation} and batch_size {config.batch_size}; "
            "the batch must divide into that many equal parts"
        )
    if config.muon_rate is not None and config.optimizer == "adamw":
        raise ValueError(f"muon_rate is {config.muon_rate}, which cannot act with optimizer adamw")


def refuse_strip(config: Any) -> None:
    """ValueError for a TextConfig that strips books of what only whole files have."""
    if config.strip is not None and config.field is not None:
        raise ValueError(f"strip is {config.strip}, which has no effect with field: it acts on whole files")


def refuse_split(config: Any) -> None:
    """ValueError for settings of a TextConfig that do not divide a text."""
    if config.separator == "" or (config.separator is None) != (config.documents != "separator"):
        raise ValueError(
            f"separator is {config.separator!r} and documents {config.documents}; documents separator takes a "
            "separator, and nothing else does"
        )
    if config.split == "documents" and config.documents == "none":
        raise ValueError("split is documents, which cannot act with documents none; say what a document is")
    if config.split != "tail" and (config.val_file is not None or config.val + config.test == 0):
        what = "val_file" if config.val_file is not None else "val 0"
        raise ValueError(f"split is {config.split}, which cannot act with {what}; leave one out")
    if config.val_file is not None and config.val != VAL:
        raise ValueError(f"val is {config.val:g}, which cannot act with val_file; leave one out")
    if config.val_file is None and config.val + config.test > MOST_KEPT_BACK:
        raise ValueError(
            f"val is {config.val:g} and test {config.test:g}; together at most {MOST_KEPT_BACK:g}, so that there "
            "is something to train on"
        )


def refuse_not_plain_training(config: Any) -> None:
    """The same for a setting of a TrainingConfig that acts on n-grams or counts, which it lacks too."""
    for setting in settings_of(type(config)):
        value = getattr(config, setting.name)
        if setting.name in ("ngram_rate", "ngram_prior", "counts_chars") and value != setting.default:
            raise ValueError(f"{setting.name} is {value}, which portable forbids")


def refuse_beside_counts(config: Any) -> None:
    """ValueError for a setting of a ModelConfig that says something else than counts alone, or cannot act on them."""
    if config.mixers != (COUNTS_ALONE,):
        raise ValueError(
            f"mixer is {config.mixer}; {COUNTS_ALONE}, the counts alone, takes turns with no other"
        )
    if config.counts is False:
        raise ValueError(f"counts is False, which contradicts mixer {COUNTS_ALONE}, the counts alone")
    refuse_untrained(config)


def refuse_untrained(config: Any) -> None:
    """ValueError for a setting, of a model or of training, that acts on a transformer only."""
    for setting in settings_of(type(config)):
        value = getattr(config, setting.name)
        if setting.name not in COUNTING and value != setting.default:
            raise ValueError(
                f"{setting.name} is {value}, which cannot act with mixer {COUNTS_ALONE}, the counts alone"
            )


def acts(mixer: str, setting: str) -> bool:
    """Does a setting of that name act on anything in a model of that mixer?"""
    return mixer != COUNTS_ALONE or setting in COUNTING


def only_counting(config: Any) -> Any:
    """The same configuration with nothing said that acts on a transformer only."""
    said = {s.name: getattr(config, s.name) for s in settings_of(type(config)) if s.name in COUNTING}
    return type(config)(**said)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The shape of the model. None means that the plan chooses, but where the help says otherwise."""

    n_layer: Annotated[int | None, "Number of blocks.", Range(1, 128)] = None
    n_head: Annotated[int | None, "Heads of attention in each block.", Range(1, 128)] = None
    n_embd: Annotated[int | None, "Width: numbers per character inside the model.", Range(2, 8192)] = None
    block_size: Annotated[int | None, "Characters the model sees at once.", Range(1, 65536)] = None
    dropout: Annotated[float | None, "Share of each block's output dropped in training.", Range(0, 0.9)] = (
        None
    )
    mixer: Annotated[
        str,
        "How a position reads those before it; several, joined by commas, take turns over the layers. none: "
        "no transformer, the n-gram counts alone.",
        Choices(("attention", "simple-attention", "convolution", "recurrent", COUNTS_ALONE)),
    ] = "attention"
    position: Annotated[
        str | None,
        "How the model knows where a character stands; by default rotary where there is attention, else none.",
        Choice(("none", "learned", "sinusoidal", *SCORED)),
    ] = None
    n_kv_head: Annotated[
        int | None, "Heads of keys and values, shared by groups of queries; by default n_head.", Range(1, 128)
    ] = None
    window: Annotated[
        int | None,
        "Characters one layer reads back, its own counted; by default all for attention, 8 for convolution.",
        Range(1, 65536),
    ] = None
    locality: Annotated[bool, "A learned preference of each head for what is near."] = False
    ngrams: Annotated[
        int | None, "Longest run of characters with a learned vector of its own; 1: none.", Range(1, 8)
    ] = None
    ngram_rows: Annotated[int | None, "Vectors for the n-grams of each length.", Range(1, 2**24)] = None
    ngram_dropout: Annotated[
        float | None, "Share of the n-grams' vectors left out in training.", Range(0, 0.9)
    ] = None
    portable: Annotated[bool, "Only what a plain Qwen3 decoder computes: no n-grams, no other mixers."] = (
        False
    )
    counts: Annotated[
        bool | None,
        "Learn what n-gram counts of the text do not know; by default on, but for short texts and --portable.",
    ] = None
    counts_order: Annotated[
        int | None, "Most characters before each that the counts look at.", Range(0, 63)
    ] = None
    counts_dropout: Annotated[
        float | None, "Share of the windows that are trained on without the counts.", Range(0, 0.9)
    ] = None
    causal: Annotated[bool, "Each position reads only those up to it."] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if COUNTS_ALONE in self.mixers:
            refuse_beside_counts(self)
            return
        refuse_idle(self)
        refuse_shape(self)
        if self.portable:
            refuse_not_plain(self)

    @property
    def mixers(self) -> tuple[str, ...]:
        """The mixers named: layer i has number i modulo their count."""
        return tuple(self.mixer.split(","))

    @property
    def counts_alone(self) -> bool:
        """Is there no transformer, and the counts are the model?"""
        return self.mixer == COUNTS_ALONE

    @property
    def attends(self) -> bool:
        """Has the model scores, and so heads?"""
        return bool(set(ATTENTION) & set(self.mixers))

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
        if self.counts_alone:
            return self.counts_order
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
        if self.counts_alone:
            return self.counts_order is not None
        needed = ["n_layer", "n_embd", "block_size", "dropout", "position", *["n_head"] * self.attends]
        needed += ["ngram_rows"] if (self.ngrams or 1) > 1 else []
        needed += ["counts_order"] if self.counts else []
        return all(getattr(self, name) is not None for name in needed)

    def completed(self) -> Self:
        """The same with what was left open as it was before there was a choice: no n-grams, no counts."""
        if self.counts_alone:
            return replace(self, counts=True)
        position = self.position or ("rotary" if self.attends else "none")
        ngrams = self.ngrams or 1
        dropout = (self.counts_dropout or 0.0) if self.counts else None
        return replace(
            self,
            position=position,
            ngrams=ngrams,
            ngram_dropout=self._dropped(ngrams),
            counts=bool(self.counts),
            counts_dropout=dropout,
        )

    def _dropped(self, ngrams: int) -> float | None:
        """The n-grams' dropout, none where it was left open; where there are no n-grams it stays open."""
        return None if ngrams == 1 else self.ngram_dropout or 0.0


CONVOLUTION_WINDOW = 8
"""What a convolution reads back unless told; checkpoints count on it."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """How the model is trained. None means that the plan chooses."""

    batch_size: Annotated[int | None, "Windows of text in one step.", Range(1, 65536)] = None
    accumulation: Annotated[int, "Parts a batch is computed in, to save memory.", Range(1, 1024)] = 1
    learning_rate: Annotated[float | None, "Highest learning rate of AdamW.", Range(1e-8, 10)] = None
    optimizer: Annotated[
        str | None,
        "muon: Muon for the blocks' matrices and AdamW for the rest; adamw: AdamW for all; by default muon.",
        Choice(("muon", "adamw")),
    ] = None
    muon_rate: Annotated[float | None, "Highest learning rate of Muon.", Range(1e-8, 10)] = None
    ngram_rate: Annotated[float, "Highest learning rate of the n-grams' vectors.", Range(1e-8, 10)] = 0.05
    ngram_prior: Annotated[
        float | None,
        "Gradient taken as seen before: how slowly the vectors of rare n-grams move.",
        Range(0, 1e6),
    ] = None
    weight_decay: Annotated[float, "Pull of the matrices towards zero.", Range(0, 10)] = 0.1
    clip: Annotated[
        float, "Longest gradient taken as it is; longer ones are shortened.", Range(1e-6, 1e6)
    ] = 1.0
    schedule: Annotated[
        str | None, "Corners STEP:FACTOR,... of the learning rate, instead of the plan's."
    ] = None
    seed: Annotated[int, "First weights, order of the text, dropout.", Range(0, 2**63 - 1)] = 1
    eval_every: Annotated[int | None, "Steps between evaluations.", Range(1, 10**9)] = None
    eval_chars: Annotated[int | None, "Held-out symbols (see --units) in each.", Range(1, 10**9)] = None
    patience: Annotated[int, "Worse evaluations after which training stops; 0: never.", Range(0, 10**6)] = 4
    save_every: Annotated[float, "Seconds between saves.", Range(0, 10**6)] = 60.0
    device: Annotated[
        str,
        "Where to compute; auto: the CPU (GPUs have not been tested).",
        Choice(("auto", "cpu", "cuda", "mps")),
    ] = "auto"
    threads: Annotated[
        int | None,
        "CPU threads; by default one a core, at most the CPUs that affinity and cgroups allow.",
        Range(1, 1024),
    ] = None
    precision: Annotated[
        str,
        "Numbers that the blocks' products are made of; auto: bf16 where the processor has it, else fp32.",
        Choice(("auto", "fp32", "bf16")),
    ] = "auto"
    compile: Annotated[
        str,
        "Compile the blocks before the first step; auto: where that is repaid.",
        Choice(("auto", "on", "off")),
    ] = "auto"
    counts_memory: Annotated[int, "Megabytes that counting n-grams may take.", Range(1, 10**6)] = 512
    counts_chars: Annotated[
        int | None,
        "Symbols (see --units) that are counted, evenly spread; by default all that there is time for.",
        Range(1, 10**12),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_training(self)

    def completed(self) -> Self:
        """The same with all that a run computes by named, as it was before there was a choice."""
        return replace(
            self,
            optimizer=self.optimizer or "adamw",
            ngram_prior=self.ngram_prior or 0.0,
            precision="fp32" if self.precision == "auto" else self.precision,
            compile="off" if self.compile == "auto" else self.compile,
        )


FEWEST_HELD_OUT = 200
"""Characters below which a figure on them is said to mean little."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(Settings):
    """What is read and how it is divided."""

    val: Annotated[float, "Share of the text held out from training, at its end.", Range(0, 0.9)] = VAL
    test: Annotated[
        float,
        "Share of the text, after what is held out, that only `charlm eval --part test` reads.",
        Range(0, 0.5),
    ] = 0.0
    val_file: Annotated[str | None, "A file of its own to hold out, instead of the end of the text."] = None
    split: Annotated[
        str,
        "What is held out: the end; blocks spread over the text, a gap around each; or documents, by a hash.",
        Choice(("tail", "blocks", "documents")),
    ] = "tail"
    documents: Annotated[
        str,
        "What is a document: none is read across its end, which the model learns to tell.",
        Choice(("none", "file", "line", "blank-line", "separator")),
    ] = "none"
    separator: Annotated[
        str | None,
        "Text between documents, which is part of none; \\n, \\t, \\\\, \\xHH and \\uHHHH are escapes.",
    ] = None
    normalize: Annotated[
        str | None,
        "Unicode normal form to bring the text to; it is kept as it is unless told.",
        Choice(("nfc", "nfkc")),
    ] = None
    newlines: Annotated[str, "lf: every end of a line becomes a line feed.", Choice(("keep", "lf"))] = "keep"
    lowercase: Annotated[bool, "Read capitals as small letters."] = False
    collapse_spaces: Annotated[bool, "Read spaces and tabs in a row as one space."] = False
    include: Annotated[
        tuple[str, ...] | None,
        "Of folders, read only files whose name or path matches, such as '*.txt'. Repeatable.",
    ] = None
    exclude: Annotated[
        tuple[str, ...] | None,
        "Leave out files and folders whose name or path matches, such as '*.md' or drafts. Repeatable.",
    ] = None
    strip: Annotated[
        str | None,
        "gutenberg: leave out Project Gutenberg's header and licence in each file.",
        Choice(("gutenberg",)),
    ] = None
    field: Annotated[str | None, "Field of JSON lines, .json, .csv and .tsv that holds the text."] = None
    encoding: Annotated[str | None, "The text's encoding; by default UTF-8, or what its mark says."] = None
    units: Annotated[
        str,
        "What a symbol is: a character (code point), a byte of UTF-8, or a grapheme (cluster of code points).",
        Choice(("chars", "bytes", "graphemes")),
    ] = "chars"
    min_count: Annotated[
        int | None,
        "Rarer characters are spelled in bytes; by default 2 above 100,000 characters, else 1 (graphemes of "
        "several code points: 2, and rarer ones become those).",
        Range(1, 10**9),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_split(self)
        refuse_strip(self)
        if self.units == "bytes" and self.min_count is not None:
            raise ValueError(f"min_count is {self.min_count}, which cannot act with units bytes")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How the next character is chosen from its probabilities."""

    temperature: Annotated[
        float, "Below 1 bolder on the likely, above 1 wilder; 0: always the likeliest.", Range(0, 100)
    ] = 0.8
    top_k: Annotated[int | None, "Choose among the K likeliest only.", Range(1, 2**63 - 1)] = None
    top_p: Annotated[
        float | None, "Choose among the likeliest that together have this probability.", Range(0, 1)
    ] = None
    min_p: Annotated[
        float | None, "Leave out what is less likely than this share of the likeliest.", Range(0, 1)
    ] = None
    seed: Annotated[
        int | None,
        "Random seed; the same seed gives the same text on the same machine. [default: random]",
        Range(0, 2**63 - 1),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(f"{name} cannot act at temperature 0, which always takes the likeliest")

    def seeded(self) -> Self:
        """The same with a seed: its own, or one drawn at random."""
        return (
            self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "big") >> 1)
        )
