"""The command as a user sees it: words in, an exit code and two streams out. Nothing here knows a module of charlm
but its entry point."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from charlm.__main__ import main


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Charlm = Callable[..., Result]


@pytest.fixture
def charlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Charlm:
    """Run `charlm WORDS...` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(
        *words: str, stdin: bytes | str | None = None, env: dict[str, str | None] | None = None
    ) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["charlm", *words])
            if stdin is not None:
                data = stdin if isinstance(stdin, bytes) else stdin.encode()
                patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
            for name, value in (env or {}).items():
                patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
            capsys.readouterr()
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            captured = capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return Result(code, captured.out, captured.err)

    return run
