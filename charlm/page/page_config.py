"""The settings of `charlm page` and `charlm serve`, in a module of their own, so that the help needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from charlm.settings import Range, Settings


@dataclass(frozen=True, kw_only=True)
class PageConfig(Settings):
    """What goes into the page."""

    ngram_mb: Annotated[
        float | None,
        "Megabytes that the n-grams may take in the page; the rarest are left out, and the page says what that costs. "
        "[default: what there is room for in a page of 15 MB, and at least 3]",
        Range(0.001, 1000),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Where the page is served."""

    port: Annotated[
        int | None,
        "Port on 127.0.0.1, such as one that ssh forwards. [default: any free one]",
        Range(1, 65535),
    ] = None
