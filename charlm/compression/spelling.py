"""The bytes of a file as a model's symbols, and back: exactly, whatever they are."""

import re
from dataclasses import dataclass

import numpy as np

from charlm.text.decoding import mark_of, reads
from charlm.text.vocabulary import Ids, Vocabulary

MARKED = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Encodings that a byte order mark names; the mark is one of the characters."""

_NO_TEXT = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True)
class Spelled:
    """A file in symbols."""

    ids: Ids  # (N,)
    chars: int  # each byte that is part of no character counts as one
    not_text: int | None  # the offset of the first such byte
    encoding: str = ""  # that its characters are encoded in; empty for UTF-8


def spell(data: bytes, vocabulary: Vocabulary, usual: str | None = None) -> Spelled:
    """Characters as the model reads them; what is no UTF-8 as the bytes it is.

    Marks and newlines are characters like any other. `usual`: the encoding of the model's own text,
    which is taken for what has no characters of UTF-8, if it gives the same bytes back.
    """
    encoding = encoding_of(data, usual)
    if encoding:
        text = data.decode(encoding)
        return Spelled(vocabulary.encode(text), len(text), None, encoding)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data.decode(errors="surrogateescape")
        pieces = [_spell_piece(piece, vocabulary) for piece in _NO_TEXT.split(text) if piece]
        return Spelled(np.concatenate(pieces), len(text), error.start)
    return Spelled(vocabulary.encode(text), len(text), None)


def unspell(ids: Ids, vocabulary: Vocabulary, encoding: str = "") -> bytes:
    """The bytes that symbols (N,) stand for. Raises UnicodeError where these are none of that encoding."""
    spellings = vocabulary.spellings
    data = b"".join([spellings[i] for i in ids])
    return data.decode().encode(encoding) if encoding else data


def encoding_of(data: bytes, usual: str | None) -> str:
    """The encoding other than UTF-8 in which a file is read and given back exactly; empty if there is none."""
    mark, marked = mark_of(data)
    if mark:
        encoding = marked if marked in MARKED else ""
    else:
        encoding = usual if usual and (data.isascii() or not reads(data, "utf-8", whole=True)) else ""
    try:
        text = data.decode(encoding) if encoding else ""
        as_utf8 = text.encode("utf-8")  # raises for the surrogates that some codecs let through
        return encoding if text and as_utf8 != data == text.encode(encoding) else ""
    except (UnicodeError, LookupError):
        return ""


def _spell_piece(piece: str, vocabulary: Vocabulary) -> Ids:
    if not _NO_TEXT.match(piece):
        return vocabulary.encode(piece)
    return vocabulary.id_of_byte[list(piece.encode(errors="surrogateescape"))]
