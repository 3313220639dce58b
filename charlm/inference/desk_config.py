"""The settings of `charlm play`, in a file of their own so that the help needs no NumPy."""

from dataclasses import dataclass
from typing import Annotated

from charlm.inference.sampling_config import SamplingConfig
from charlm.settings import Range


@dataclass(frozen=True, kw_only=True)
class DeskConfig(SamplingConfig):
    """How a continuation is sampled, and where it ends."""

    length: Annotated[int, "Number of characters that a continuation has at most.", Range(1, 2**63 - 1)] = 200
    stop: Annotated[
        tuple[str, ...] | None,
        "End a continuation before this text. Repeatable; the first match counts. \\n, \\t, \\\\, \\xHH and \\uHHHH "
        "are escapes.",
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop is not None and "" in self.stop:
            raise ValueError("`stop` is empty; give the text to stop before")
