"""The settings of `charlm serve`, apart from what serves, so that the help needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from charlm.settings import Range, Settings


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Where the page is served."""

    port: Annotated[
        int | None,
        "Port on 127.0.0.1, such as one that ssh forwards. [default: any free one]",
        Range(1, 65535),
    ] = None
