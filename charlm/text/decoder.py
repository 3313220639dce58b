"""Ids back to text, piece by piece."""

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which decodes with this
    from charlm.text.vocabulary import Vocabulary


class Decoder:
    """Ids to text piece by piece: bytes that make a character together are held until they do."""

    def __init__(self, vocabulary: "Vocabulary", end: str = "") -> None:
        """`end` is what the end of a document becomes."""
        self._spellings = vocabulary.spellings
        self._id_of_end, self._end = vocabulary.end if end else None, end
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is complete with these ids."""
        if self._id_of_end is None:
            return self._utf8.decode(b"".join([self._spellings[i] for i in ids]))
        text, piece = "", list[bytes]()
        for i in ids:
            if i == self._id_of_end:
                text += self._utf8.decode(b"".join(piece), final=True) + self._end
                piece = []
            else:
                piece.append(self._spellings[i])
        return text + self._utf8.decode(b"".join(piece))

    def flush(self) -> str:
        """What is left at the end: U+FFFD where a character was not finished."""
        return self._utf8.decode(b"", final=True)
