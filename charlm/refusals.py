"""What settings cannot be together: each is refused by its name (standard library only)."""

from typing import Any

ATTENTION = ("attention", "simple-attention")
"""The mixers that have scores: what acts on scores needs one of them."""
SCORED = ("relative", "rotary", "alibi")
"""The positions that act on scores."""

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
