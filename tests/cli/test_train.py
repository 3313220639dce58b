"""`charlm train` and `charlm resume`: what they make, what they refuse, and that going on changes nothing."""

import gzip
import json
import signal
import time
from pathlib import Path

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, data, files_below, process, refused, rows

EVENTS = {
    "begun": {"type", "schema", "run", "path", "step", "total_steps", "corpus", "model", "training"},
    "stepped": {"type", "step", "loss", "learning_rate", "grad_norm", "chars", "seconds"},
    "evaluated": {"type", "step", "nats_per_char", "standard_error", "baseline_nats_per_char", "difference"},
    "saved": {"type", "step", "path", "seconds"},
    "finished": {"type", "step", "reason", "best_step", "total_steps"},
    "result": {"type", "schema", "run", "path", "step", "reason", "exit_code", "nats_per_char"},
}


@pytest.fixture
def ducks(charlm: Charlm) -> Charlm:
    """The command, beside a text."""
    Path("ducks.txt").write_text(TEXT)
    return charlm


def weights(run: str) -> bytes:
    """The weights of a run's last checkpoint."""
    folder = Path("checkpoints", run)
    return (folder / (folder / "latest").read_text().strip() / "model.safetensors").read_bytes()


def test_a_run_as_events_and_the_figures_that_agree(ducks: Charlm) -> None:
    events = rows(ducks("train", "ducks.txt", "--steps", "6", "--eval-every", "3", *TOY, "--json"))
    assert [e["type"] for e in events] == [
        *("begun", "saved", "stepped", "stepped", "stepped", "evaluated", "saved"),
        *("stepped", "stepped", "stepped", "evaluated", "saved", "finished", "result"),
    ]
    for event in events:
        assert set(event) >= EVENTS[event["type"]], event
    last = [e for e in events if e["type"] == "evaluated"][-1]
    result = events[-1]
    assert (result["reason"], result["exit_code"], result["step"]) == ("done", 0, 6)
    evaluated = data(ducks("eval", "--json"))
    assert last["nats_per_char"] == pytest.approx(result["nats_per_char"]) == evaluated["nats_per_char"]
    assert data(ducks("info", "--json"))["nats_per_char"] == result["nats_per_char"]
    made = {Path(name).name for name in files_below("checkpoints/ducks")}
    assert made >= {
        "run.json",
        "plan.json",
        "metrics.jsonl",
        "report.html",
        "vocabulary.json",
        "MANIFEST.json",
    }


def test_the_same_command_gives_the_same_weights_and_another_seed_others(ducks: Charlm) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert ducks("train", "ducks.txt", "--run", name, "--steps", "3", "--seed", seed, *TOY).code == 0
    assert weights("a") == weights("b") != weights("c")


@pytest.mark.parametrize(
    "options",
    [
        "--mixer simple-attention",
        "--mixer convolution",
        "--mixer recurrent --n-embd 16",
        "--mixer attention,convolution --n-layer 2",
        "--position none",
        "--position learned",
        "--position sinusoidal",
        "--position relative",
        "--position alibi",
        "--window 8 --locality",
        "--n-kv-head 1",
        "--ngram-embeddings 3 --ngram-embedding-rows 64 --ngram-embedding-dropout 0.1 --no-prior",
        "--prior --prior-order 3 --prior-dropout 0.2 --prior-chars 2000 --prior-memory 64",
        "--plain --dropout 0.1",
        "--optimizer adamw --learning-rate 0.01 --weight-decay 0.2 --grad-clip 0.5",
        "--grad-accum 2 --muon-lr 0.01 --schedule 0:0,1:1,2:0",
        "--eval-every 1 --eval-chars 64 --patience 1 --save-every 0",
        "--units bytes",
        "--documents line --split documents",
        "--documents separator --separator \\n --val 0.2 --test 0.1",
        "--split blocks --min-count 3 --lowercase --collapse-spaces --newlines lf --normalize nfc",
        "--precision bf16 --seed 2",
    ],
)
def test_each_setting_acts_and_what_is_trained_can_be_used(ducks: Charlm, options: str) -> None:
    toy = list(TOY)
    for name in ("--n-layer", "--n-embd", "--n-head"):
        if name in options or (
            (name == "--n-head" and "convolution" in options.split()) or "recurrent" in options
        ):
            at = toy.index(name) if name in toy else None
            if at is not None:
                del toy[at : at + 2]
    ducks("train", "ducks.txt", "--run", "usual", "--steps", "2", *TOY)
    result = ducks("train", "ducks.txt", "--run", "other", "--steps", "2", *toy, *options.split())
    assert result.code == 0, result.err
    assert ducks("sample", "other", "--length", "5", "--seed", "1").code == 0
    assert data(ducks("eval", "--run", "other", "--json"))["bits_per_char"] > 0
    usual, other = (data(ducks("info", name, "--json")) for name in ("usual", "other"))
    settings = ("model", "training", "text_settings")
    assert any(usual[kind] != other[kind] for kind in settings)


@pytest.mark.parametrize(
    ("options", "code", "facts"),
    [
        ("--n-layer 0", 2, ("n_layer", "0", "1 to 128")),
        ("--n-embd 15 --n-head 2", 2, ("n_embd", "15", "n_head")),
        ("--dropout 1.5", 2, ("dropout", "1.5", "0.9")),
        ("--mixer tape", 2, ("mixer", "tape", "recurrent")),
        ("--position north", 2, ("position", "north", "rotary")),
        ("--window 99", 2, ("window", "99", "block_size")),
        ("--plain --prior", 2, ("prior", "plain")),
        ("--no-prior --prior-order 3", 2, ("prior_order", "3", "no prior")),
        ("--ngram-embedding-rows 100", 2, ("ngram_embedding_rows", "100", "power of two")),
        ("--mixer recurrent --position rotary", 2, ("position", "rotary", "recurrent")),
        ("--model ngram --n-layer 2", 2, ("n_layer", "2", "model ngram")),
        ("--model oracle", 2, ("model", "oracle", "ngram")),
        ("--batch-size 4 --grad-accum 3", 2, ("grad_accum", "3", "batch_size")),
        ("--optimizer adamw --muon-lr 0.1", 2, ("muon_lr", "adamw")),
        ("--seed -1", 2, ("seed", "-1")),
        ("--steps 0", 2, ("steps", "0")),
        ("--time 1s", 2, ("time", "1", "5")),
        ("--time soon", 2, ("time", "soon", "60s")),
        ("--val 2", 2, ("val", "2", "0.9")),
        ("--split documents", 2, ("split", "documents")),
        ("--separator x", 2, ("separator", "documents")),
        ("--encoding klingon", 2, ("klingon",)),
        ("--units words", 2, ("units", "words", "bytes")),
        ("--run a/b", 2, ("a/b",)),
        ("--device tpu", 2, ("device", "tpu", "cpu")),
        ("--schedule 0:1,9:0 --steps 2", 2, ("schedule", "9", "2")),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    ducks: Charlm, options: str, code: int, facts: tuple[str, ...]
) -> None:
    refused(ducks("train", "ducks.txt", *options.split()), code, *facts)
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("content", "code", "facts"),
    [
        (None, 3, ("no.txt",)),
        (b"", 3, ("no.txt", "empty")),
        (b"caf\xe9 au lait " * 20, 3, ("no.txt", "UTF-8")),
        (b"\x00\x01\x02\xff\xfe" * 50, 3, ("no.txt",)),
        (gzip.compress(TEXT.encode(), mtime=0)[:-20], 3, ("no.txt", "gzip")),
    ],
)
def test_what_is_no_text_is_refused(
    charlm: Charlm, content: bytes | None, code: int, facts: tuple[str, ...]
) -> None:
    if content is not None:
        Path("no.txt").write_bytes(content)
    refused(charlm("train", "no.txt", "--steps", "2", *TOY), code, *facts)


def test_texts_of_every_kind(charlm: Charlm) -> None:
    """A folder, compressed, JSON lines, a table, standard input: the same text is the same corpus."""
    lines = TEXT.splitlines(keepends=True)
    Path("poems").mkdir()
    Path("poems/a.txt").write_text("".join(lines[:30]))
    Path("poems/b.txt").write_text("".join(lines[30:]))
    Path("packed.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    Path("posts.jsonl").write_text("".join(json.dumps({"text": line.rstrip("\n")}) + "\n" for line in lines))
    Path("posts.csv").write_text(
        "id,text\n" + "".join(f'{i},"{line.rstrip()}"\n' for i, line in enumerate(lines))
    )
    found = {}
    for name, words, stdin in (
        ("folder", ["poems"], None),
        ("packed", ["packed.txt.gz"], None),
        ("posts", ["posts.jsonl", "--field", "text"], None),
        ("table", ["posts.csv", "--field", "text"], None),
        ("stdin", ["-"], TEXT),
    ):
        result = charlm("train", *words, "--run", name, "--steps", "2", *TOY, stdin=stdin)
        assert result.code == 0, result.err
        found[name] = (weights(name), data(charlm("info", name, "--json"))["corpus"]["sha256"])
    assert len(set(found.values())) == 1


def test_dry_run_shows_the_plan_and_makes_nothing(ducks: Charlm) -> None:
    plan = data(ducks("train", "ducks.txt", "--steps", "7", "--n-layer", "2", "--dry-run", "--json"))
    assert plan["type"] == "plan" and plan["schema"] == 1
    assert plan["model"]["n_layer"] == 2
    assert not Path("checkpoints").exists()


def test_settings_come_from_the_command_line_then_the_environment_then_a_file(ducks: Charlm) -> None:
    Path("c.toml").write_text("seed = 3\nn_layer = 3\ndropout = 0.5\n")
    words = ("train", "ducks.txt", "--steps", "2", "--config", "c.toml", "--seed", "9", "--dry-run", "--json")
    plan = data(ducks(*words, env={"CHARLM_N_LAYER": "2", "CHARLM_SEED": "4"}))
    assert (plan["training"]["seed"], plan["model"]["n_layer"], plan["model"]["dropout"]) == (9, 2, 0.5)
    Path("c.toml").write_text("n_layers = 3\n")
    refused(ducks(*words), 2, "c.toml", "n_layers", "n_layer")
    refused(ducks("train", "ducks.txt", env={"CHARLM_DROPOUT": "7"}), 2, "dropout", "7", "CHARLM_DROPOUT")


def test_a_run_that_was_cut_off_and_resumed_ends_as_one_that_was_not(ducks: Charlm) -> None:
    words = (
        "train",
        "ducks.txt",
        "--steps",
        "40",
        "--dropout",
        "0.1",
        "--save-every",
        "0",
        *TOY,
        "--device",
        "cpu",
    )
    assert ducks(*words, "--run", "whole").code == 0
    child = process(*words, "--run", "cut", "--json")
    assert child.stdout is not None
    for line in child.stdout:
        if json.loads(line)["type"] == "saved" and json.loads(line)["step"] > 2:
            child.kill()
            break
    child.communicate()
    state = data(ducks("info", "cut", "--json"))
    result = ducks("resume", "cut")
    assert result.code == 0 or state["step"] == 40, result.err
    assert weights("cut") == weights("whole")


def test_ctrl_c_saves_and_says_how_to_resume(ducks: Charlm) -> None:
    child = process("train", "ducks.txt", "--run", "long", "--steps", "100000", "--json", *TOY)
    assert child.stdout is not None and child.stderr is not None
    for line in child.stdout:
        if json.loads(line)["type"] == "stepped":
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130 and b"charlm resume long" in err
    assert data(ducks("info", "long", "--json"))["step"] >= 1


def test_a_finished_run_is_resumed_only_by_more_steps_or_time(ducks: Charlm) -> None:
    ducks("train", "ducks.txt", "--steps", "3", *TOY)
    refused(ducks("resume"), 2, "ducks", "3 steps", "--time")
    before = weights("ducks")
    assert ducks("resume", "ducks", "--steps", "2").code == 0
    assert data(ducks("info", "--json"))["step"] == 5 and weights("ducks") != before
    refused(ducks("resume", "nobody"), 4, "nobody")
    refused(
        ducks("train", "ducks.txt", "--run", "ducks", "--steps", "2", *TOY), 2, "ducks", "charlm resume ducks"
    )


def test_resume_if_exists_begins_resumes_and_accepts_a_finished_run(ducks: Charlm) -> None:
    words = ("train", "ducks.txt", "--run", "x", "--steps", "3", *TOY, "--resume-if-exists")
    assert ducks(*words).code == 0
    made = weights("x")
    assert ducks(*words).code == 0 and weights("x") == made
    refused(ducks(*words, "--seed", "5"), 2, "seed", "5")


def test_a_moved_text_is_named_and_checked(ducks: Charlm) -> None:
    ducks("train", "ducks.txt", "--steps", "3", *TOY)
    Path("ducks.txt").rename("moved.txt")
    assert ducks("cache", "--clear", "--yes").code == 0
    refused(ducks("resume", "--steps", "2"), 4, "ducks.txt", "--text")
    Path("other.txt").write_text(TEXT + "more")
    assert ducks("resume", "--steps", "2", "--text", "other.txt").code in (3, 4)
    assert ducks("resume", "--steps", "2", "--text", "moved.txt").code == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "MANIFEST.json", "state.json"])
def test_a_damaged_checkpoint_is_refused_or_the_one_before_is_used(ducks: Charlm, name: str) -> None:
    ducks("train", "ducks.txt", "--steps", "3", *TOY)
    for folder in Path("checkpoints/ducks").glob("step-*"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-3] + b"\x00\x01\x02")
    refused(ducks("sample"), 4, "damaged")


def test_finetuning_begins_with_the_weights_and_keeps_the_old_run(ducks: Charlm) -> None:
    ducks("train", "ducks.txt", "--run", "old", "--steps", "4", *TOY)
    before = files_below("checkpoints/old")
    Path("new.txt").write_text(TEXT.replace("ducks", "geese é"))
    assert (
        ducks("train", "new.txt", "--run", "new", "--from", "old", "--steps", "3", "--threads", "1").code == 0
    )
    assert files_below("checkpoints/old") == before
    found = data(ducks("info", "new", "--json"))
    assert found["from"]["run"] == "old" and found["old_text"] is not None
    refused(ducks("train", "new.txt", "--from", "old", "--n-layer", "3", "--steps", "2"), 2, "n_layer", "old")
    refused(ducks("train", "new.txt", "--from", "nobody", "--steps", "2"), 4, "nobody")


def test_a_time_is_kept(ducks: Charlm) -> None:
    began = time.monotonic()
    result = ducks("train", "ducks.txt", "--time", "6s", "--json", *TOY)
    assert result.code == 0 and rows(result)[-1]["exit_code"] == 0
    assert time.monotonic() - began < 60
