"""The settings of `charlm surprisal`, in a file of their own so that the help needs no NumPy."""

from dataclasses import dataclass
from typing import Annotated

from charlm.settings import Choice, Settings

BLANK_LINE, ID = "blank-line", "id"
PLURALS = {"char": "characters", "word": "words", "line": "lines"}
"""The units' names in messages."""


@dataclass(frozen=True, kw_only=True)
class SurprisalConfig(Settings):
    """What a unit is, what it is predicted from, and the output format."""

    by: Annotated[str, "Unit of a row", Choice(("char", "word", "line"))] = "word"
    words: Annotated[
        str | None,
        "Where words end: at Unicode's word boundaries, or at white space only. [default: unicode]",
        Choice(("unicode", "whitespace")),
    ] = None
    space: Annotated[
        str | None,
        "White space that counts with a word: that after it, that before it, or none. [default: after]",
        Choice(("after", "before", "none")),
    ] = None
    context: Annotated[
        str | None,
        "What a unit is predicted from: its document so far, or only its line (each line is scored by itself). "
        "[default: document; line for ranked candidates]",
        Choice(("document", "line")),
    ] = None
    groups: Annotated[
        str | None,
        "With --by line: rank the candidates of each group, the most probable first. Groups are divided by blank "
        "lines, or are the lines with the same id, a tab and a candidate. [default: blank-line with --best]",
        Choice((BLANK_LINE, ID)),
    ] = None
    best: Annotated[bool, "With --by line: write only the most probable candidate of each group."] = False
    base: Annotated[
        str, "Base of the logarithm: surprisal in bits, nats or hartleys", Choice(("2", "e", "10"))
    ] = "2"
    format: Annotated[
        str,
        "Rows as tab-separated values, CSV or JSON Lines; or the text in colours, as a page or for a terminal",
        Choice(("tsv", "csv", "jsonl", "html", "ansi")),
    ] = "tsv"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, by in (("words", "word"), ("space", "word"), ("groups", "line"), ("best", "line")):
            value = getattr(self, name)
            if value and self.by != by:
                raise ValueError(f"`{name}={value}` has no effect with `by={self.by}`; it needs `by={by}`")
        if self.ranks and self.context == "document":
            name = "groups" if self.groups else "best"
            raise ValueError(
                f"`context=document` has no effect with `{name}`: candidates are alternatives, each scored by itself; "
                "leave one out"
            )

    @property
    def ranks(self) -> bool:
        """Whether the lines are candidates to rank."""
        return self.best or self.groups is not None

    @property
    def by_line_alone(self) -> bool:
        """Whether each line is scored by itself."""
        return self.ranks or self.context == "line"

    @property
    def space_counted(self) -> str | None:
        """Which white space counts with a word: `after`, `before` or `none`; None where the units are not words."""
        return (self.space or "after") if self.by == "word" else None
