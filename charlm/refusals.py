"""What a model's settings cannot be together: each is refused by its name (standard library only)."""

from typing import Any

from charlm.settings import settings_of

ATTENTION = ("attention", "simple-attention")
"""The mixers that have scores: what acts on scores needs one of them."""
SCORED = ("relative", "rotary", "alibi")
"""The positions that act on scores."""
COUNTS_ALONE = "none"
"""The mixer of a model that has no layers: what is asked is answered by the counts."""
COUNTING = ("mixer", "counts", "counts_order", "causal", "counts_memory", "counts_chars")
"""The settings that act on counts alone."""


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
