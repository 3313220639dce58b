"""Counts alone as a model: made, saved, and used like any other; what contradicts them is refused by name."""

import json
import string
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, ResourceError
from charlm.evaluation.score import score_text
from charlm.inference.members import predictor_of
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.ngram.build import fit
from charlm.training.events import Counted, Evaluated, Finished, Saved
from charlm.training.launch import resume_run, start_run
from charlm.training.ngram_session import NgramSession
from charlm.training.planner import choose
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.cli.kept import TOY
from tests.conftest import After, Never, Result, repeat_words


def counted(
    root: Path, corpus: Corpus, name: str = "counts", **model: object
) -> tuple[RunFolder, NgramSession]:
    """A run of counts alone, counted and not saved."""
    loaded = Loaded(corpus=corpus, notes=(), sources=(), label="a toy")
    config = ModelConfig(model="ngram", **model)  # type: ignore[arg-type]
    choice = choose(Budget(), len(corpus.train), config, TrainingConfig())
    choice = replace(choice, plan=choice.plan.record(decided="size", at_step=0))
    run = RunFolder.create(root, name)
    session = start_run(run, loaded, TextConfig(), choice, "charlm train")
    assert isinstance(session, NgramSession)
    return run, session


@pytest.mark.parametrize("order", [None, 0, 1, 3])
def test_what_is_saved_scores_as_the_counts_do(tmp_path: Path, corpus: Corpus, order: int | None) -> None:
    run, session = counted(tmp_path, corpus, prior_order=order)
    events = list(Trainer(session, run).run(Never()))
    assert [type(event) for event in events] == [Counted, Evaluated, Saved, Finished]
    snapshot = read_snapshot(run, "latest")
    n = corpus.vocabulary.n_symbols
    model = fit(corpus.train, n, order, memory=1 << 30).model
    text = corpus.held_out_text()
    expected = score_text(NgramPredictor(model, corpus.vocabulary), "", text).nats
    saved = predictor_of(snapshot)
    assert snapshot.model_config.prior_order == model.order
    np.testing.assert_array_equal(score_text(saved, "", text).nats, expected)
    evaluated = next(event for event in events if isinstance(event, Evaluated))
    assert evaluated.nats_per_char == pytest.approx(expected.mean(), rel=1e-12)
    assert evaluated.chars == len(text)


def test_a_stop_is_obeyed_and_gone_on_from(tmp_path: Path, corpus: Corpus) -> None:
    run, session = counted(tmp_path, corpus)
    events = list(Trainer(session, run).run(After(lambda: 0, 0)))
    assert isinstance(events[-1], Finished) and events[-1].reason == "SIGINT"
    run.unlock()
    again = resume_run(run, pytest.fail)
    assert again.state.finished is None and again.state.last_evaluation is None
    events = list(Trainer(again, run).run(Never()))
    assert [type(event) for event in events] == [Evaluated, Saved, Finished]
    assert read_snapshot(run, "latest").state["finished"] == "done"
    assert read_snapshot(run, "latest").ngram == session.ngram


def test_a_full_disk_is_an_error_and_leaves_nothing_half_done(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = counted(tmp_path, corpus)
    monkeypatch.setattr(files, "free_space", lambda _: 0)
    with pytest.raises(ResourceError, match="free some space"):
        list(Trainer(session, run).run(Never()))
    assert run.steps() == []


def test_counts_of_another_order_than_the_configuration_says_are_refused(
    tmp_path: Path, corpus: Corpus
) -> None:
    run, session = counted(tmp_path, corpus, prior_order=2)
    session.model_config = replace(session.model_config, prior_order=3)
    list(Trainer(session, run).run(Never()))
    run.unlock()
    with pytest.raises(CheckpointError, match="order"):
        resume_run(run, pytest.fail)


def test_random_text_gets_no_context_and_no_counts_are_worse_than_the_unigram(
    charlm: Callable[..., Result],
) -> None:
    Path("random.txt").write_text("".join(np.random.default_rng(1).choice(list(string.ascii_letters), 6000)))
    charlm("train", "random.txt", "--model", "ngram")
    figures = json.loads(charlm("eval", "--json").out)
    baselines = {name: found["bits_per_char"] for name, found in figures["baselines"].items()}
    assert figures["prior_order"] == 0 and "no characters before each" in charlm("eval").out
    assert figures["bits_per_char"] == pytest.approx(baselines["kneser-ney"], abs=1e-9)
    assert baselines["kneser-ney"] <= baselines["unigram"] + 1e-3
    assert charlm(*repeat_words(charlm)).code == 0
    infos = [json.loads(charlm("info", name, "--json").out) for name in ("random", "random-2")]
    assert infos[0]["ngram_sha256"] == infos[1]["ngram_sha256"]


REFUSED = [
    *("--n-layer 2", "--n-embd 16", "--n-head 2", "--block-size 8", "--position rotary", "--dropout 0.1"),
    *("--window 4", "--locality", "--ngram-embeddings 2", "--n-kv-head 1", "--plain", "--no-prior"),
    *("--prior-dropout 0.1", "--time 10s", "--steps 5", "--optimizer adamw", "--learning-rate 0.1"),
    *("--batch-size 2", "--seed 3", "--device cpu", "--precision fp32", "--compile off"),
    *("--schedule 0:1,5:0", "--patience 1", "--save-every 5", "--eval-every 3", "--grad-clip 2"),
]


def test_what_acts_on_a_transformer_only_is_refused_by_name(charlm: Callable[..., Result]) -> None:
    for option in REFUSED:
        result = charlm("train", "ducks.txt", "--model", "ngram", *option.split())
        assert result.code == 2 and option.split()[0] in result.err and "--model ngram" in result.err


def test_it_is_compared_with_a_transformer_of_any_shape(charlm: Callable[..., Result]) -> None:
    result = charlm(
        "compare", "ducks.txt", "--vary", "model=ngram,transformer", "--steps", "4", "--json", *TOY
    )
    assert result.code == 0, result.err
    assert "different values" not in result.err
    found = json.loads(result.out)
    rows = {row["values"]["model"]: row for row in found["rows"]}
    assert rows["ngram"]["weights"] == 0 and rows["ngram"]["reach"] == 4
    assert rows["ngram"]["bits_per_char"] == pytest.approx(found["baselines"]["kneser-ney"]["bits_per_char"])
    assert found["ngram_by_order"]["4"] == found["baselines"]["kneser-ney"]["bits_per_char"]
    page = Path("checkpoints/ducks-model/comparison.html").read_text()
    assert "n-grams, 1 character" in page and "2 to 4 characters" in page
    assert charlm("resume", "ducks-model").code == 0
    two = charlm(
        "compare",
        "--checkpoints",
        "checkpoints/ducks-model",
        "model-ngram.seed-1",
        "model-transformer.seed-1",
    )
    assert two.code == 0 and "is better than" in two.out


def test_orders_are_compared_and_what_cannot_act_there_is_refused(charlm: Callable[..., Result]) -> None:
    words = ("compare", "ducks.txt", "--model", "ngram", "--vary", "prior_order=1,3")
    result = charlm(*words, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    for row in found["rows"]:
        same = found["ngram_by_order"][str(row["values"]["prior_order"])]
        assert row["bits_per_char"] == pytest.approx(same, rel=1e-9)
    for more in ("--steps 4", "--time 9s", "--batch-size 2", "--seed 2", "--vary learning_rate=1,2"):
        refused = charlm(*words, *more.split())
        assert (refused.code == 2 and more.split()[0] == "--vary") or more[2:6].replace(
            "-", "_"
        ) in refused.err


def test_their_interval_is_judged_by_stretches_of_text(tmp_path: Path, corpus: Corpus) -> None:
    run, session = counted(tmp_path, corpus)
    evaluated = next(e for e in Trainer(session, run).run(Never()) if isinstance(e, Evaluated))
    nats = -session.predictor.score(corpus.held_out)[1:]
    alone = float(np.std(nats)) / np.sqrt(len(nats))
    assert evaluated.standard_error != pytest.approx(alone, rel=0.01)
    assert evaluated.blocks < len(nats) / 50 and evaluated.nats_per_char / log(2) < 1
