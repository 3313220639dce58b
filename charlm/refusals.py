"""What settings cannot be together: each is refused by its name (standard library only)."""

from typing import Any

from charlm.settings import settings_of

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
