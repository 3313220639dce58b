"""The bytes of a file as a model's symbols, and back: exactly, whatever they are."""

import re
from dataclasses import dataclass

import numpy as np

from charlm.text.vocabulary import Ids, Vocabulary

_NO_TEXT = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True)
class Spelled:
    """A file in symbols."""

    ids: Ids  # (N,)
    chars: int  # each byte that is part of no character counts as one
    not_text: int | None  # the offset of the first such byte


def spell(data: bytes, vocabulary: Vocabulary) -> Spelled:
    """Characters as the model reads them; what is no UTF-8 as the bytes it is.

    Marks and newlines are characters like any other.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data.decode(errors="surrogateescape")
        pieces = [_spell_piece(piece, vocabulary) for piece in _NO_TEXT.split(text) if piece]
        return Spelled(np.concatenate(pieces), len(text), error.start)
    return Spelled(vocabulary.encode(text), len(text), None)


def unspell(ids: Ids, vocabulary: Vocabulary) -> bytes:
    """The bytes that symbols (N,) stand for."""
    spellings = vocabulary.spellings
    return b"".join([spellings[i] for i in ids])


def _spell_piece(piece: str, vocabulary: Vocabulary) -> Ids:
    if not _NO_TEXT.match(piece):
        return vocabulary.encode(piece)
    return vocabulary.id_of_byte[list(piece.encode(errors="surrogateescape"))]
