"""What the tests of reading share: files to write, pipes to read, refusals to expect."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from charlm.data.decoding import TextDecoder
from charlm.data.documents import marked_text, split_documents
from charlm.data.reader import Texts, read_texts
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.errors import CharlmError, TextError


def write(name: str, data: bytes | str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def read(names: Sequence[str], encoding: str | None = None, stdin: Any = None) -> Texts:
    """What evaluation and prompts read; `stdin`: what stands for standard input."""
    with mock.patch("sys.stdin", SimpleNamespace(buffer=stdin)):
        return read_texts(names, TextConfig(), encoding=encoding)


def piped(data: bytes, encoding: str | None = None) -> Texts:
    return read(["-"], encoding, io.BytesIO(data))


def decode(data: bytes, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text and the notes about it."""
    decoder = TextDecoder("t", encoding)
    text = "".join(block.text for block in decoder.blocks(iter([data])))
    return text, decoder.notes


def refused(
    data: bytes, *fragments: str, encoding: str | None = None, kind: type[CharlmError] = TextError
) -> None:
    write("t", data)
    with pytest.raises(kind) as caught:
        read(["t"], encoding)
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    sentence, *guesses = message.split("\n")
    assert not sentence.endswith(".") and ". " not in sentence
    assert all(guess.startswith("  --encoding ") for guess in guesses)


def text_with_ends(text: str, config: TextConfig) -> str:
    """A text in memory, with END where its documents end."""
    return marked_text(split_documents([Block.of(text)] if text else [], config))
