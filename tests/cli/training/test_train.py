"""`charlm train`: what each option does, what a run leaves behind, and what is refused and how."""

import hashlib
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.kept import keys
from tests.cli.training.conftest import TEXT, Charlm, Result, tiny

Trained = tuple[Charlm, Result]

CORPUS = keys(
    str="label key sha256",
    list="sources",
    int="chars train_chars held_out_chars",
)
BEGUN = keys(
    int="schema step total_steps",
    str="run path",
    dict="corpus model training",
    float="ngram_bits_per_char",
)
STEPPED = keys(
    int="step chars",
    float="loss learning_rate grad_norm seconds",
)
EVALUATED = keys(
    int="step chars of_chars blocks",
    float=("nats_per_char standard_error baseline_nats_per_char difference difference_error seconds"),
    bool="is_best final",
)
RESULT = keys(
    int="schema exit_code step evaluated_chars best_step",
    str="reason run path text created finished state command report",
    float=(
        "nats_per_char bits_per_char standard_error baseline_nats_per_char"
        " difference_from_baseline difference_error seconds"
    ),
    dict="corpus versions text_settings model training",
)


def assert_schema(row: dict[str, Any], schema: dict[str, type]) -> None:
    """All of these keys are there with these types, and every number is finite."""
    assert {name: type(row.get(name)) for name in schema} == schema
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def train(
    charlm: Charlm, *words: str, steps: int | None = 2, text: str = "ducks.txt", **changes: Any
) -> Result:
    """Train a tiny model, and give the result of that, which must succeed."""
    length = [] if steps is None else ["--steps", str(steps)]
    result = charlm("train", text, *length, "--json", *tiny(**changes), *words)
    assert result.code == 0, result.err
    return result


def weights(result: Result) -> str:
    """The SHA-256 of the last weights of the run that was trained; its file is in every last checkpoint."""
    (saved,) = result.of("saved")[-1:]
    return hashlib.sha256(Path(saved["path"], "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> str:
    """The weights after six steps of what the options below change."""
    command = Charlm(tmp_path_factory.mktemp("plain"), cache)
    result = command("train", "ducks.txt", "--steps", "6", "--json", *tiny())
    saved = Path(command.folder, result.of("saved")[-1]["path"], "model.safetensors")
    return hashlib.sha256(saved.read_bytes()).hexdigest()


# What a run says and leaves behind


def test_the_rows_of_json_have_these_keys_and_types(trained: Trained) -> None:
    _, result = trained
    kinds = [row["type"] for row in result.rows]
    assert kinds[0] == "begun" and kinds[-2:] == ["finished", "result"]
    assert [row["step"] for row in result.of("stepped")] == list(range(1, 13))
    assert [row["step"] for row in result.of("evaluated")] == [5, 10, 12]
    assert [row["final"] for row in result.of("evaluated")] == [False, False, True]
    assert [row["step"] for row in result.of("saved")] == [0, 5, 10, 12]
    for kind, schema in (
        ("begun", BEGUN),
        ("stepped", STEPPED),
        ("evaluated", EVALUATED),
        ("result", RESULT),
    ):
        for row in result.of(kind):
            assert_schema(row, schema)
    assert_schema(result.json["corpus"], CORPUS)
    assert result.of("finished")[0] | {"type": 0} == {
        "type": 0,
        "step": 12,
        "reason": "done",
        "best_step": 12,
        "total_steps": 12,
    }


def test_the_figures_agree_with_each_other_and_with_eval(trained: Trained) -> None:
    charlm, result = trained
    last, final = result.of("evaluated")[-1], result.json
    for name in ("nats_per_char", "standard_error", "baseline_nats_per_char", "difference_error"):
        assert final[name] == last[name]
    assert final["difference_from_baseline"] == last["difference"]
    assert final["bits_per_char"] == pytest.approx(final["nats_per_char"] / math.log(2))
    assert last["difference"] == pytest.approx(last["nats_per_char"] - last["baseline_nats_per_char"])
    assert last["chars"] == last["of_chars"] == final["corpus"]["held_out_chars"] == 407
    assert final["corpus"]["chars"] == len(TEXT) == final["corpus"]["train_chars"] + 407
    again = charlm("eval", "--run", "ducks", "--json")
    assert again.code == 0, again.err
    assert again.json["nats_per_char"] == pytest.approx(final["nats_per_char"], abs=1e-6)
    assert charlm("info", "ducks", "--json").json["nats_per_char"] == final["nats_per_char"]


def test_it_learns(trained: Trained) -> None:
    figures = [row["nats_per_char"] for row in trained[1].of("evaluated")]
    assert figures == sorted(figures, reverse=True) and figures[0] < math.log(34)


def test_the_folder_of_a_run_holds_its_checkpoints_log_and_report(trained: Trained) -> None:
    charlm, result = trained
    run = charlm.folder / "checkpoints" / "ducks"
    assert Path(charlm.folder, result.json["path"]) == run
    report = Path(charlm.folder, result.json["report"]).read_text("utf-8")
    assert "<html" in report and "ducks" in report and f"{result.json['bits_per_char']:.4f}" in report
    assert json.loads((run / "run.json").read_text("utf-8"))["name"] == "ducks"
    assert (run / "latest").read_text("ascii").strip() == "step-00000012"
    assert (run / "best").read_text("ascii").strip() == "step-00000012"
    names = {path.name for path in run.iterdir()}
    assert {"step-00000010", "step-00000012", "metrics.jsonl", "vocabulary.json", "plan.json"} <= names
    assert "step-00000005" not in names, "only the last checkpoints are kept"
    files = {path.name for path in (run / "step-00000012").iterdir()}
    assert files >= {"config.json", "model.safetensors", "state.json", "train_state.safetensors"}
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    finals = [row for row in log if row.get("final")]
    assert [row["nats_per_char"] for row in finals] == [result.json["nats_per_char"]]
    assert not [name for name in names if name.startswith(".tmp")]


def test_without_json_a_table_goes_out_and_the_rest_to_standard_error(charlm: Charlm) -> None:
    result = charlm("train", "ducks.txt", "--steps", "2", *tiny())
    assert result.code == 0
    assert "ducks" in result.out and "bits/char" in result.out
    assert "3,663" in result.err and "charlm sample" in result.err
    quiet = charlm("train", "ducks.txt", "--steps", "2", "--quiet", *tiny())
    assert quiet.code == 0 and "bits/char" in quiet.out and len(quiet.err) < len(result.err) / 2
    assert "\x1b" not in charlm("train", "ducks.txt", "--steps", "1", "--no-color", *tiny()).err


def test_the_same_command_makes_the_same_weights(charlm: Charlm) -> None:
    assert weights(train(charlm)) == weights(train(charlm))
    assert {path.name for path in Path("checkpoints").iterdir()} == {"ducks", "ducks-2"}


# What each option does


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"n_layer": 2}, None),
        ({"n_head": 4}, None),
        ({"n_embd": 32}, None),
        ({"block_size": 8}, None),
        ({"dropout": 0.5}, None),
        ({"n_kv_head": 1}, None),
        ({"window": 4}, None),
        ({"locality": True}, None),
        ({"ngram_embeddings": 2}, None),
        ({"ngram_embeddings": 3, "ngram_embedding_rows": 64}, None),
        ({"ngram_embedding_dropout": 0.5}, None),
        ({"plain": True}, {"plain": True, "ngram_embeddings": 1, "prior": False}),
        ({"prior": True}, None),
        ({"prior": True, "prior_order": 2}, None),
        ({"prior": True, "prior_dropout": 0.5}, None),
        ({"batch_size": 8}, None),
        ({"grad_accum": 2}, {"grad_accum": 2}),
        ({"learning_rate": 0.02}, None),
        ({"optimizer": "adamw"}, None),
        ({"muon_lr": 0.5}, None),
        ({"ngram_embedding_lr": 0.5}, None),
        ({"ngram_embedding_accumulator": 5.0}, None),
        ({"weight_decay": 9.0}, None),
        ({"grad_clip": 0.01}, None),
        ({"schedule": "0:1,6:0"}, None),
        ({"seed": 2}, None),
        ({"precision": "bf16"}, None),
        *(({"mixer": name, "n_head": None}, None) for name in ("convolution", "recurrent")),
        ({"mixer": "simple-attention"}, None),
        ({"mixer": "attention,recurrent", "n_layer": 2}, None),
        *(({"position": name}, None) for name in ("none", "learned", "sinusoidal", "relative", "alibi")),
    ],
    ids=lambda value: "-".join(map(str, value)) if value else None,
)
def test_an_option_of_the_model_or_training_changes_the_weights(
    charlm: Charlm, plain_weights: str, changes: dict[str, Any], shown: dict[str, Any] | None
) -> None:
    result = train(charlm, steps=6, **changes)
    said = result.json["model"] | result.json["training"]
    assert said.items() >= (shown or {k: v for k, v in changes.items() if v is not None}).items()
    assert weights(result) != plain_weights
    assert math.isfinite(result.json["nats_per_char"])


@pytest.mark.parametrize(
    "changes",
    [{"eval_every": 2}, {"eval_chars": 100}, {"save_every": 0.0}, {"patience": 9}, {"prior_memory": 64}],
    ids=str,
)
def test_an_option_of_measuring_or_saving_leaves_the_weights(
    charlm: Charlm, plain_weights: str, changes: dict[str, Any]
) -> None:
    result = train(charlm, steps=6, **changes)
    assert result.json["training"].items() >= changes.items()
    assert weights(result) == plain_weights
    steps = [row["step"] for row in result.of("evaluated")]
    assert steps == ([2, 4, 6] if "eval_every" in changes else [5, 6])
    assert (result.of("evaluated")[0]["chars"] < 407) == ("eval_chars" in changes)
    saved = {row["step"] for row in result.of("saved")}
    assert (saved == set(range(7))) == ("save_every" in changes)


def test_patience_ends_training_where_it_memorises(charlm: Charlm) -> None:
    Path("two.txt").write_bytes(("ab" * 60 + "ba" * 3 + "cdefghij").encode() * 2)
    result = train(
        charlm,
        text="two.txt",
        steps=200,
        patience=1,
        eval_every=3,
        learning_rate=0.1,
        ngram_embeddings=8,
        val=0.3,
    )
    done = result.json
    assert result.code == 0 and done["reason"] == done["finished"] == "early"
    assert done["best_step"] < done["step"] < 200
    run = Path("checkpoints/two")
    assert (run / "best").read_text("ascii").strip() == f"step-{done['best_step']:08d}"


def test_counts_alone_are_a_model(charlm: Charlm) -> None:
    result = charlm("train", "ducks.txt", "--model", "ngram", "--prior-order", "3", "--json")
    assert result.code == 0, result.err
    assert result.json["model"].items() >= {"model": "ngram", "prior_order": 3}.items()
    assert 0 < result.json["nats_per_char"] < math.log(34)
    some = charlm("train", "ducks.txt", "--model", "ngram", "--prior-chars", "500", "--json")
    assert some.of("counted")[0]["chars"] < result.of("counted")[0]["chars"]
    alone = charlm("train", "ducks.txt", "--model", "ngram", "--steps", "5")
    assert alone.code == 2 and "steps" in alone.err and "ngram" in alone.err


def test_a_context_may_be_long_in_a_large_vocabulary(charlm: Charlm) -> None:
    """Of 600 characters each takes ten bits, so the keys of more than six are no numbers."""
    chars = [chr(0x4E00 + i) for i in range(600)]
    Path("many.txt").write_text("".join(chars + Random(1).choices(chars, k=6000)), "utf-8")
    beside = train(charlm, "--prior-order", "8", text="many.txt", steps=1, prior=True)
    assert "n-gram prior of 8 characters," in beside.err
    alone = charlm("train", "many.txt", "--model", "ngram", "--prior-order", "8", "--run", "alone")
    assert "n-gram model of 8 characters" in alone.err and "instead" not in alone.err
    assert charlm("info", "alone", "--json").json["model"]["prior_order"] == 8
    sampled = [charlm("sample", "--run", "alone", "--length", "50", "--seed", "1") for _ in range(2)]
    assert sampled[0].code == 0 and sampled[0].out == sampled[1].out


@pytest.mark.parametrize("words", [["--device=cpu"], ["--verify-cache"], ["--quiet"]], ids=str)
def test_how_it_is_done_changes_no_weights(charlm: Charlm, plain_weights: str, words: list[str]) -> None:
    assert weights(train(charlm, *words, steps=6)) == plain_weights


@pytest.mark.parametrize("changes", [{"threads": 2}, {"precision": "bf16"}, {"compile": "on"}], ids=str)
def test_how_it_is_computed_is_in_the_plan(charlm: Charlm, changes: dict[str, Any]) -> None:
    result = charlm("train", "ducks.txt", "--steps", "2", "--dry-run", "--json", *tiny(**changes))
    if "compile" in changes and result.code:  # where there is no compiler
        assert result.code in (2, 6) and "compile" in result.err
        return
    assert result.code == 0, result.err
    assert result.json["training"].items() >= changes.items()


def test_checkpoints_and_run_say_where_a_run_is(charlm: Charlm) -> None:
    result = train(charlm, "--checkpoints", "else/where", "--run", "Name_1.x")
    assert Path(result.json["path"]) == Path("else/where/Name_1.x") and Path(result.json["path"]).is_dir()
    assert not Path("checkpoints").exists()


def test_a_dry_run_shows_the_plan_and_writes_nothing(charlm: Charlm) -> None:
    result = charlm("train", "ducks.txt", "--steps", "7", "--dry-run", "--json", *tiny(eval_every=None))
    (row,) = result.rows
    assert result.code == 0 and row["type"] == "plan" and type(row["schema"]) is int
    assert row["model"]["n_embd"] == 16 and row["training"]["batch_size"] == 4
    (decision,) = row["plan"]["decisions"]
    assert decision["steps"] == 7 and decision["schedule"].startswith("0:")
    shown = charlm("train", "ducks.txt", "--steps", "7", "--dry-run", *tiny())
    assert shown.code == 0 and "charlm train ducks.txt --steps 7" in shown.out and "--n-embd 16" in shown.out
    assert not Path("checkpoints").exists()


def test_what_is_not_given_is_planned_from_a_time(charlm: Charlm) -> None:
    row = charlm("train", "ducks.txt", "--time", "9h", "--dry-run", "--json", *tiny()).json
    (decision,) = row["plan"]["decisions"]
    # The seconds count from when the process began, which is that of all tests here.
    assert decision["steps"] is None and 1 <= decision["seconds"] <= 9 * 3600
    both = charlm("train", "ducks.txt", "--time", "3s", "--steps", "3")
    assert both.code == 2 and "--time" in both.err and "--steps" in both.err


def test_a_run_with_a_time_plans_its_steps_and_ends_with_them(charlm: Charlm) -> None:
    result = charlm.process(
        "train", "ducks.txt", "--time", "6s", "--patience", "0", "--json", *tiny(threads=1)
    )
    assert result.code == 0, result.err
    assert result.json["reason"] == "done" and result.json["step"] == result.of("finished")[0]["total_steps"]
    assert result.json["seconds"] > 0
