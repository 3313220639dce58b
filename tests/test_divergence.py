"""Losses and gradients that are not finite, and runs that diverge: never saved, always said, once for real."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.reporting.log import METRICS, MetricsLog, read_log
from charlm.training import step
from charlm.training.events import Event, Finished, Saved, Skipped, Stepped, WentBack
from charlm.training.step import batch_loss
from charlm.training.trainer import Trainer
from tests.cli.kept import TOY
from tests.conftest import Never, toy_run
from tests.test_loop import everything, poison

WRONG = (float("nan"), float("inf"), float("-inf"))


class Spoiled(torch.autograd.Function):
    """The same number, and a gradient that is none."""

    @staticmethod
    def forward(ctx, x, how):  # type: ignore[no-untyped-def]
        ctx.how = how
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * ctx.how, None


def spoil_gradients(monkeypatch: pytest.MonkeyPatch, bad_calls: set[int], how: float) -> None:
    """Make the gradients of these calls (from 0) wrong, and leave the losses."""
    calls = iter(range(10**6))

    def spoiled(model: torch.nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        loss = batch_loss(model, *batch)
        return Spoiled.apply(loss, how) if next(calls) in bad_calls else loss  # type: ignore[no-any-return,no-untyped-call]

    monkeypatch.setattr(step, "batch_loss", spoiled)


@pytest.mark.parametrize("how", WRONG, ids=str)
@pytest.mark.parametrize("where", ["loss", "gradients"])
@pytest.mark.parametrize(
    "made",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon", "grad_accum": 2},
        {"model": {"ngram_embeddings": 2, "ngram_embedding_rows": 64}},
    ],
    ids=["adamw", "muon", "n-grams"],
)
def test_one_that_is_not_finite_changes_nothing_that_is_learned(
    tmp_path: Path,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    how: float,
    made: dict[str, object],
) -> None:
    parts = made.get("grad_accum", 1)
    (poison if where == "loss" else spoil_gradients)(monkeypatch, {3 * parts}, how)  # type: ignore[operator]
    run, session = toy_run(
        tmp_path, corpus, 6, eval_every=100, **{**made, "model": dict(made.get("model", {}))}
    )  # type: ignore[call-overload]
    before: dict[str, torch.Tensor] = {}
    for event in Trainer(session, run).run(Never()):
        if isinstance(event, Stepped) and event.step == 3:
            before = {name: tensor.clone() for name, tensor in everything(session).items()}
        if isinstance(event, Skipped):
            assert event.step == 4
            assert all(torch.equal(before[name], tensor) for name, tensor in everything(session).items())
    assert session.state.skipped == [4] and session.state.updates == 5
    assert session.is_finite()


@pytest.mark.parametrize("where", ["loss", "gradients"])
def test_all_of_it_is_in_the_log_and_nothing_of_it_is_saved(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (poison if where == "loss" else spoil_gradients)(monkeypatch, {2, 6, 7, 8}, float("nan"))
    run, session = toy_run(tmp_path, corpus, 12, eval_every=5, save_every=0.0)
    log = MetricsLog(run.path, 0)
    for event in Trainer(session, run).run(Never()):
        log(event)
        if isinstance(event, Saved):
            assert session.is_finite() and not session.state.divergence.suspected
            saved = read_snapshot(run, str(event.step), training=True)  # which refuses what is not finite
            assert all(bool(torch.isfinite(t).all()) for t in saved.optimizer.values())
    events = read_log(run.path / METRICS)
    assert [event.step for event in events if isinstance(event, Skipped)] == [3, 7, 8, 9]
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert back.step == 9 and back.to_step <= 6 and back.rate_factor == 0.5
    assert "not finite" in back.reason
    assert isinstance(events[-1], Finished)


def test_what_never_gets_better_ends_with_code_5_and_leaves_the_last_good_save(
    charlm,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison(monkeypatch, set(range(5, 10_000)))
    result = charlm(
        "train", "ducks.txt", "--steps", "40", *TOY, "--save-every", "0", "--no-prior", "--run", "bad"
    )
    assert result.code == 5
    assert result.err.rstrip().splitlines()[-1].startswith("error: training diverged again")
    assert "--learning-rate" in result.err and result.err.count("times the learning rate") == 3
    run = RunFolder(Path("checkpoints/bad"))
    assert 0 < read_snapshot(run, "latest", training=True).step <= 5
    events = [json.loads(line)["event"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert events.count("WentBack") == 3 and events.count("Skipped") >= 12


def test_a_rate_far_too_high_recovers_by_itself_and_says_what_it_did(tmp_path: Path) -> None:
    """A real case: nothing is injected."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 7)))) for _ in range(40)]
    corpus = prepare(" ".join(rng.choice(words, 3000)), TextConfig())
    run, session = toy_run(
        tmp_path,
        corpus,
        300,
        learning_rate=RATE,
        eval_every=1000,
        save_every=0.0,
        patience=0,
        optimizer="adamw",
    )
    events: list[Event] = list(Trainer(session, run).run(Never()))
    back = [event for event in events if isinstance(event, WentBack)]
    assert back and all("nats" in event.reason or "counting" in event.reason for event in back)
    assert [event.rate_factor for event in back] == [0.5 ** (i + 1) for i in range(len(back))]
    last = events[-1]
    assert isinstance(last, Finished) and last.reason == "done"
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert np.mean(losses[-50:]) < session.state.divergence.unigram_nats, "better than counting characters"
    assert read_snapshot(run, "latest").step == 300


RATE = 5.0
