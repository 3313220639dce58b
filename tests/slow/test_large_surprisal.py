"""The surprisal of a text that does not fit into the memory that the command may take."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("forks", allow_module_level=True)

from charlm.__main__ import main
from tests.conftest import TEXT, Result
from tests.forks import forked

pytestmark = pytest.mark.slow
MEMORY = 160 << 20
LARGE, THOROUGH = 8_000_000, 100_000_000
"""Characters; Python alone would hold the rows of the smaller one in more than the memory there is."""


@pytest.mark.parametrize("words", [("--by", "word"), ("--by", "line", "--context", "document")], ids=str)
def test_memory_does_not_grow_with_the_text(
    charlm: Callable[..., Result], words: tuple[str, ...], thorough: bool
) -> None:
    assert charlm("train", "ducks.txt", "--model", "ngram", "--prior-order", "2", "--run", "counts").code == 0
    assert charlm("surprisal", "ducks.txt", *words).code == 0  # what is loaded once is loaded
    times = (THOROUGH if thorough else LARGE) // len(TEXT)
    with open("large.txt", "w") as file:
        for _ in range(times):
            file.write(TEXT)

    def score() -> int:
        sys.argv = ["charlm", "surprisal", "large.txt", *words, "-q", "-o", "rows.tsv", "--threads", "1"]
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert forked(score, more_memory=MEMORY, seconds=7200) == 0
    with open("rows.tsv", "rb") as file:
        n_rows = sum(1 for _ in file) - 1
    small = charlm("surprisal", "ducks.txt", *words).out.count("\n") - 1
    assert n_rows == small * times
    assert Path("rows.tsv").stat().st_size > len(TEXT)
