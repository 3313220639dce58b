"""No command unpickles anything: Python itself is asked, by its audit hook."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import pytest

from charlm.cli.main import COMMANDS
from charlm.cli.main import run as main
from charlm.page.server import PageServer
from tests.cli.kept import TOY
from tests.conftest import TEXT
from tests.page.http import Client

USED = [
    ["train", "ducks.txt", "--steps", "4", *TOY, "--prior-order", "2", "--compile", "off", "--run", "both"],
    ["train", "ducks.txt", "--steps", "2", *TOY, "--no-prior", "--ngram-embeddings", "2", "--run", "plain"],
    ["train", "ducks.txt", "--steps", "2", *TOY, "--plain", "--run", "simple"],
    ["train", "ducks.txt", "--model", "ngram", "--run", "counted"],
    ["train", "ducks.txt", "--steps", "1", *TOY, "--documents", "line", "--run", "apart", "--no-prior"],
    ["resume", "both", "--steps", "2"],
    *(["sample", "--run", run, "--length", "9"] for run in ("both", "plain", "counted", "apart")),
    *(["eval", "--run", run] for run in ("plain", "counted", "apart")),
    ["eval", "--run", "both", "--online"],
    ["surprisal", "--run", "both", "--format", "html", "-o", "page.html"],
    ["page", "both", "-o", "both.html"],
    ["serve", "both"],
    ["compress", "short.txt", "-o", "short.clm", "--run", "both"],
    ["decompress", "short.clm", "-o", "again.txt", "--run", "both"],
    ["compare", "ducks.txt", "--model", "ngram", "--vary", "prior_order=1,2", "--run", "orders"],
    ["compare", "plain", "both"],
    ["runs"],
    ["info", "both"],
    ["cache"],
    ["data", "list"],
    ["explain", "rotary"],
    ["completion", "bash"],
    ["inspect", "ducks.txt", "--time", "5s", "--threads", "1"],
    ["train", "short.txt", "--steps", "1", "--from", "plain", "--run", "after"],
    ["export", "simple", "--to", "hf", "-o", "hf"],
    ["train", "short.txt", "--steps", "1", "--from", "hf", "--run", "back"],
    ["doctor"],
    ["doctor", "both"],
]


@pytest.fixture
def unpickled(request: pytest.FixtureRequest) -> Iterator[list[object]]:
    """What was unpickled meanwhile; a hook cannot be taken away, so it is told when to listen."""
    seen: list[object] = []
    listening = True

    def hook(event: str, args: object) -> None:
        if listening and event == "pickle.find_class":
            seen.append(args)

    sys.addaudithook(hook)
    yield seen
    listening = False


def answer_once(server: PageServer) -> None:
    """Answer one request for a text, and end."""
    client = Client.of(server.url)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(client.stream, "generate", text="a", length=9)
        server.handle_request()
        assert len(written.result()) == 9


def test_nothing_is_unpickled_by_any_command(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[object]
) -> None:
    Path("ducks.txt").write_text(TEXT)
    Path("short.txt").write_text(TEXT[:120])
    monkeypatch.setattr(PageServer, "serve_forever", answer_once)
    for words in USED:
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(perf_counter()) == 0, words
        assert not unpickled, words
    tried = {words[0] for words in USED} | {
        "play"
    }  # which needs a terminal, and reads a run as `sample` does
    assert tried == set(COMMANDS), "every command is tried"
    assert Path("again.txt").read_text() == TEXT[:120]


def test_the_hook_would_have_seen_it(unpickled: list[object]) -> None:
    import pickle

    pickle.loads(pickle.dumps(Path("x")))
    assert unpickled
