"""What the tests of reading share: files to write, pipes to read, refusals to expect."""

import io
from pathlib import Path

import pytest

from charlm.data.reader import SourceText, read_source
from charlm.errors import CharlmError, TextError


def write(name: str, data: bytes | str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def piped(data: bytes, encoding: str | None = None) -> SourceText:
    return read_source(["-"], encoding=encoding, stdin=io.BytesIO(data))


def refused(
    data: bytes, *fragments: str, encoding: str | None = None, kind: type[CharlmError] = TextError
) -> None:
    write("t", data)
    with pytest.raises(kind) as caught:
        read_source(["t"], encoding=encoding)
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    sentence, *guesses = message.split("\n")
    assert sentence.endswith((".", "?")) or guesses
    assert all(guess.startswith("  --encoding ") for guess in guesses)
