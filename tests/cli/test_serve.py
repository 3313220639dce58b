"""`charlm serve`: its answers are those of `charlm sample` and `charlm surprisal`, and it starts and ends as a command does."""

import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from math import log2
from pathlib import Path
from typing import Any

import pytest

from charlm.page.server import COMPUTING
from charlm.terminal import visible
from tests.cli.kept import refused
from tests.cli.models import UNSEEN, Charlm, Models
from tests.page.http import Client, serving

if os.name == "nt":
    pytest.skip("signals of POSIX", allow_module_level=True)

KINDS = ("prior", "mixture", "lines", "bytes", "counts", "recurrent")
TEXT = UNSEEN[:700] + "naïve 日本 café\n"
OTHER = "\ufffd"
Answer = Callable[..., Any]


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


_served: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def _end() -> Iterator[None]:
    yield
    while _served:
        _served.pop()[1].__exit__(None, None, None)


@pytest.fixture
def client(models: Models) -> Client:
    """One server of runs of every kind, for all tests that leave it as it is."""
    if not _served:
        running = serving(*(str(models.root(kind) / kind) for kind in KINDS))
        _served.append((running.__enter__()[0], running))
    found: Client = _served[0][0]
    return found


def test_it_says_what_each_run_is(client: Client) -> None:
    first = client.answer("open")
    assert first["name"] == "prior" and [run["name"] for run in first["runs"]] == list(KINDS)
    infos = {kind: client.answer("open", run=kind) for kind in KINDS}
    assert infos["prior"] == first
    assert (first["kind"], first["units"], first["blockSize"]) == ("transformer", "chars", 16)
    assert [member["kind"] for member in infos["mixture"]["members"]] == ["no-prior", "prior", "ngram"]
    member = first["members"][0]
    assert (member["nLayer"], member["nHead"], member["nEmbd"], member["mixers"]) == (1, 2, 16, ["attention"])
    assert infos["counts"]["kind"] == "ngram" and infos["bytes"]["units"] == "bytes"


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_the_command_writes(client: Client, models: Models, kind: str) -> None:
    for settings, options in (
        ({}, ()),
        (
            {"temperature": 1, "top_p": 0.9, "min_p": 0.01},
            ("--temperature", "1", "--top-p", "0.9", "--min-p", "0.01"),
        ),
        ({"temperature": 0}, ("--temperature", "0")),
    ):
        said = models(
            kind,
            "sample",
            "--json",
            "--prompt",
            "The ",
            "--length",
            "300",
            "--seed",
            "5",
            *options,
            "--stop",
            "river",
        )
        pieces = client.stream(
            "generate", run=kind, text="The ", length=300, stop=["river"], sampling={"seed": 5, **settings}
        )
        assert "".join(piece["text"] for piece in pieces) == said.json["text"]
        assert all(len(piece["text"]) == 1 for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_the_model_at_temperature_one(client: Client, kind: str) -> None:
    """Of each character that is written: what `next` says of it, which leaves recent n-grams out as well."""
    pieces = client.stream(
        "generate", run=kind, text="The ", length=40, sampling={"seed": 3, "temperature": 3}
    )
    written = "The "
    for piece in pieces[:20]:
        answer = client.answer("next", run=kind, text=written, n=10_000)
        chances = {each["text"]: each["p"] for each in answer["next"]}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        assert list(chances.values()) == sorted(chances.values(), reverse=True)
        if piece["text"] in chances and piece["text"] != OTHER and "" not in chances:
            assert piece["bits"] == pytest.approx(-log2(chances[piece["text"]]), abs=1e-3)
        written += piece["text"]
        if OTHER in written:
            break
    shares = [each["p"] for each in client.answer("next", run="counts", text="The ", n=10_000)["next"]]
    entropy = client.answer("next", run="counts", text="The ")["entropy"]
    assert entropy == pytest.approx(-sum(p * log2(p) for p in shares), abs=0.01)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lines"])
def test_scores_are_those_of_the_command(client: Client, models: Models, kind: str) -> None:
    Path("some.txt").write_bytes(TEXT.encode())
    said = models(kind, "surprisal", "some.txt", "--by", "char", "--format", "jsonl")
    assert said.code == 0, said.err
    bits, entropy = list[float](), list[float]()
    for piece in client.stream("score", run=kind, text=TEXT):
        assert piece["start"] == len(bits)
        bits += piece["bits"]
        entropy += piece["entropy"]
    assert len(bits) == len(entropy) == len(TEXT)
    assert bits == pytest.approx([row["bits"] for row in said.lines], abs=1e-4)
    assert entropy == pytest.approx([row["entropy"] for row in said.lines], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_inside_agrees_with_what_the_model_predicts(client: Client, kind: str) -> None:
    text = TEXT[-60:]
    info = client.answer("open", run=kind)
    for at in (0, 1, 7, 30, len(text)):
        for number, member in enumerate(info["members"]):
            found = client.answer("inside", run=kind, text=text, at=at, member=number)
            attends = [mixer == "attention" for mixer in member["mixers"]] if at else []
            assert [bool(layer["heads"]) for layer in found["layers"]] == attends * member["nLayer"]
            for layer in found["layers"]:
                for head in layer["heads"]:
                    assert len(head) == at - found["start"] and sum(head) == pytest.approx(1, abs=1e-4)
            assert len(found["lens"]) == (1 + member["nLayer"] if attends else 0)
            if found["lens"]:
                alike(found["lens"][-1], found["member"])
            assert (found["prior"] is not None) == (member["kind"] == "prior")
            if len(info["members"]) == 1:
                assert found["member"] == found["final"]
        if kind != "lines" and at:  # whose prompts begin a document
            alike(found["final"], client.answer("next", run=kind, text=text[:at], n=5)["next"])


def alike(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Two rankings with the same probabilities; what has the same probability may change places."""
    assert [each["p"] for each in some] == pytest.approx([each["p"] for each in others], abs=1e-4)


def test_attention_looks_at_what_changes_the_prediction(client: Client) -> None:
    """In a model of one layer, what no head looks at cannot matter; only the n-grams see it beside that."""
    text = "the old duck swam under the house"
    found = client.answer("inside", run="recurrent", text=text, at=20)
    assert found["start"] == 0 and found["layers"] == [{"heads": []}]
    found = client.answer("inside", run="prior", text=text, at=30)
    assert found["start"] == 16  # block 16, half a block at a time


@pytest.mark.parametrize(
    ("operation", "values", "fact"),
    [
        ("open", {"run": "priro"}, "there is no run named priro here; did you mean prior?"),
        ("next", {"run": "../prior", "text": ""}, "there is no run named ../prior here"),
        ("next", {}, "missing fields in it: 'text'"),
        ("next", {"text": 1}, "text is 1; expected a text"),
        ("next", {"text": "", "n": 0}, "n is 0; allowed: at least 1"),
        ("next", {"text": "", "more": 1}, "unknown fields in it: 'more'"),
        ("next", {"text": "\ud800"}, "half of a surrogate pair"),
        ("score", {"text": "a\udfff"}, "half of a surrogate pair"),
        ("generate", {"text": "", "stop": ["\ud800"]}, "half of a surrogate pair"),
        ("generate", {"text": "", "stop": [""]}, "stop is empty; give the text to stop before"),
        ("generate", {"text": "", "length": 0}, "length is 0; allowed: at least 1"),
        ("generate", {"text": "", "length": -1}, "length is -1"),
        ("generate", {"text": "", "sampling": {"color": 1}}, "unknown settings: 'color'"),
        ("inside", {"text": "abc", "at": 4}, "at is 4; allowed: 0 to 3, the characters of the text"),
        ("inside", {"text": "abc", "at": 1, "member": 1}, "member is 1; allowed: 0 to 0"),
    ],
)
def test_what_it_cannot_answer_is_one_sentence(
    client: Client, operation: str, values: dict[str, Any], fact: str
) -> None:
    reply = client.request("POST", f"/api/{operation}", json.dumps(values).encode())
    assert (reply.status, fact in reply.error) == (400, True), reply.error


@pytest.mark.parametrize(
    "options",
    [
        "--temperature -1", "--temperature 101", "--top-p 2", "--top-p -0.5", "--min-p 1.5", "--temperature 0 --top-p 0.5",
        "--temperature 0 --min-p 0.5", "--top-k 0",
    ],
)  # fmt: skip
def test_sampling_is_refused_in_the_words_of_the_command(
    client: Client, models: Models, options: str
) -> None:
    words = options.split()
    said = models("prior", "sample", *words)
    settings = {
        name[2:].replace("-", "_"): json.loads(value)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    reply = client.ask("generate", text="", sampling=settings)
    assert (said.code, reply.status) == (2, 400)
    theirs = said.err.partition("error: ")[2].strip().replace("--", "")
    assert theirs.replace(".0;", ";") == reply.error.replace(".0;", ";")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_client_that_leaves_ends_its_computation_and_others_do_not_wait(models: Models) -> None:
    with serving("--checkpoints", str(models.root("prior"))) as (client, child):
        # With these a server has room for two more: a request may come before the last one has made room.
        endless = [client.begin("generate", text="a", length=10**9) for _ in range(COMPUTING - 2)]
        for connection in endless:
            assert connection.recv(100)
        assert client.stream("score", text="one day")
        before = computed(child.pid)
        for connection in endless:
            connection.close()
        client.answer("next", text="")
        while (now := computed(child.pid)) > before:  # until nothing computes any more
            before = now
            select.select([], [], [], 1.0)


def computed(pid: int) -> int:
    """The ticks of a processor that a process took."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_also_while_it_writes(models: Models, number: int, code: int) -> None:
    with serving("--checkpoints", str(models.root("prior"))) as (client, child):
        with client.begin("generate", text="a", length=10**9) as connection:
            assert connection.recv(100)
            child.send_signal(number)
            out, err = child.communicate()
        assert (child.returncode, out) == (code, b"")
        assert err.count(b"error: ") == (number != signal.SIGINT) and b"Traceback" not in err, err


def test_its_address_is_all_that_goes_to_standard_output_and_is_new_each_time(models: Models) -> None:
    root = str(models.root("prior"))
    with serving("--checkpoints", root) as (one, child), serving("--checkpoints", root, "-q") as (other, _):
        assert one.port != other.port and one.token != other.token
        assert one.request("GET", f"/?token={other.token}").status == 403
        page = one.request("GET", f"/?token={one.token}")
        assert page.status == 200 and one.token.encode() not in page.body
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
        assert out == b"" and one.token.encode() not in err


def test_what_it_cannot_serve_is_refused(charlm: Charlm, models: Models) -> None:
    root = ("--checkpoints", str(models.root("prior")))
    refused(charlm("serve", "priro", *root), 4, "no run named priro", "did you mean prior?")
    refused(charlm("serve", "--checkpoints", "nowhere"), 4, "no runs in nowhere")
    refused(charlm("serve", "--checkpoint", "77", *root), 2, "no checkpoint 77")
    refused(charlm("serve", "--all", "prior", *root), 2, "--all", "prior")
    refused(charlm("serve", "--port", "0", *root), 2, "--port", "1 to 65535")
    refused(charlm("serve", "--port", "65536", *root), 2, "--port", "1 to 65535")
    with serving(*root) as (client, _):
        refused(charlm("serve", "--port", str(client.port), *root), 2, str(client.port), "choose another")
    copy = Path("elsewhere/prior")
    copy.parent.mkdir()
    copy.mkdir()
    (copy / "run.json").write_bytes((models.root("prior") / "prior" / "run.json").read_bytes())
    refused(charlm("serve", "prior", str(copy), *root), 2, "two of the runs are named prior")


def test_all_serves_every_run_whatever_its_name(models: Models, tmp_path: Path) -> None:
    """The name of a folder need not be text, but JSON is."""
    odd = os.fsdecode(b"odd\xff") if sys.platform == "linux" else "odd"
    for name in ("counts", odd):
        shutil.copytree(models.root("counts") / "counts", tmp_path / name)
    with serving("--all", "--checkpoints", str(tmp_path)) as (client, _):
        names = [run["name"] for run in client.answer("open")["runs"]]
        assert sorted(names) == ["counts", visible(odd)]
        for name in names:
            assert client.answer("open", run=name)["name"] == name
