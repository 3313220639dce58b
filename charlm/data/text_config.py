"""The settings of a text: what is read, how it is divided, and what a symbol is (standard library only)."""

from dataclasses import dataclass
from typing import Annotated

from charlm.config import no_effect
from charlm.settings import Choice, Mark, Range, Settings

VAL = 0.1
"""The share of a text that is held out unless told."""
MOST_KEPT_BACK = 0.95
"""The largest share of a text that may be held out, the test set included."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(Settings):
    """How to read a text, divide it into parts, and encode it."""

    val: Annotated[
        float,
        "Share of the text to hold out for evaluation: its end, unless --split says otherwise.",
        Range(0, 0.9),
        Mark.BASIC,
    ] = VAL
    test: Annotated[
        float, "Share of the text kept as a test set, read only by `charlm eval --part test`.", Range(0, 0.5)
    ] = 0.0
    val_file: Annotated[str | None, "Evaluate on this file instead of the end of the text."] = None
    split: Annotated[
        str,
        "How to choose the held-out part. tail: the end of the text. blocks: pieces spread over it. "
        "documents: whole documents, chosen by a hash of their text.",
        Choice(("tail", "blocks", "documents")),
    ] = "tail"
    documents: Annotated[
        str,
        "How to split into documents: context does not cross them, and the model learns where one ends.",
        Choice(("none", "file", "line", "blank-line", "separator")),
        Mark.BASIC,
    ] = "none"
    separator: Annotated[
        str | None, "Text that separates documents; \\n, \\t, \\\\, \\xHH and \\uHHHH are escapes."
    ] = None
    normalize: Annotated[
        str | None,
        "Unicode normal form to convert the text to. [default: unchanged]",
        Choice(("nfc", "nfkc")),
    ] = None
    newlines: Annotated[str, "lf: convert all line endings to line feeds.", Choice(("keep", "lf"))] = "keep"
    lowercase: Annotated[bool, "Convert the text to lower case."] = False
    collapse_spaces: Annotated[bool, "Replace each run of spaces and tabs with one space."] = False
    include: Annotated[
        tuple[str, ...] | None,
        "In folders, read only files whose name or path matches, such as '*.txt'. Repeatable.",
    ] = None
    exclude: Annotated[
        tuple[str, ...] | None,
        "Skip files and folders whose name or path matches, such as '*.md' or drafts. Repeatable.",
    ] = None
    strip: Annotated[
        str | None,
        "gutenberg: remove Project Gutenberg's header and licence from each file.",
        Choice(("gutenberg",)),
    ] = None
    field: Annotated[
        str | None, "Field that holds the text in JSON Lines, .json, .csv, .tsv, Parquet and Arrow files."
    ] = None
    encoding: Annotated[
        str | None, "Text encoding. [default: UTF-8, or the encoding that the byte-order mark indicates]"
    ] = None
    units: Annotated[
        str,
        "What one symbol of the model is: a character (code point) or a UTF-8 byte.",
        Choice(("chars", "bytes")),
    ] = "chars"
    min_count: Annotated[
        int | None,
        "Encode characters that occur fewer times than this as UTF-8 bytes. [default: 2 if there are more "
        "than 100,000 characters to train on, else 1]",
        Range(1, 10**9),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_split()
        if self.strip is not None and self.field is not None:
            raise no_effect(self, "strip", "`field`, because it works only on whole files, not on fields")
        if self.units == "bytes" and self.min_count is not None:
            raise no_effect(self, "min_count", "`units=bytes`")

    def _refuse_split(self) -> None:
        """ValueError for settings that do not divide a text."""
        if self.documents == "separator" and not self.separator:
            raise ValueError("`documents=separator` needs a `separator` that is not empty")
        if self.documents != "separator" and self.separator is not None:
            raise no_effect(
                self, "separator", f"`documents={self.documents}`; it needs `documents=separator`"
            )
        if self.split == "documents" and self.documents == "none":
            other = "file, line, blank-line or separator"
            raise no_effect(self, "split", f"`documents=none`; set `documents` to {other}")
        if self.split != "tail" and (self.val_file is not None or self.val + self.test == 0):
            what = "val_file" if self.val_file is not None else "val=0"
            raise no_effect(self, "split", f"`{what}`; leave one out")
        if self.val_file is not None and self.val != VAL:
            raise no_effect(self, "val", "`val_file`; leave one out")
        if self.val_file is None and self.val + self.test > MOST_KEPT_BACK:
            raise ValueError(
                f"`val` is {self.val:g} and `test` {self.test:g}; their sum must be at most {MOST_KEPT_BACK:g}, "
                "so that some text remains to train on"
            )
