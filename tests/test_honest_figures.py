"""What a command says of a model is known, comparable, and marked where it is not: errors, best steps, baselines."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Ids
from charlm.evaluation.score import Estimate, Slice, score_slice, spread
from charlm.inference.members import predictor_of
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor
from charlm.training.events import Evaluated, Finished
from charlm.training.launch import extend_by_steps, resume_run
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, Result, toy_run

Run = Callable[..., Result]
FAST = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--batch-size", "4")


def evaluations(name: str) -> list[dict[str, object]]:
    lines = Path("checkpoints", name, "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "Evaluated"]


def refused_constant(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def test_of_a_few_characters_nothing_looks_like_a_measurement(charlm: Run) -> None:
    Path("hello.txt").write_text('print("hello")\n')
    trained = charlm("train", "hello.txt", "--steps", "3", "--run", "few")
    assert trained.code == 0, trained.err
    report = Path("checkpoints/few/report.html").read_text()
    info, listed, scored = charlm("info", "few"), charlm("runs"), charlm("eval")
    for shown in (trained.out, trained.err, report, info.out):
        assert "± ?" in shown and "± 0.0000" not in shown
        assert "too few for a reliable score" in shown
    assert "too little text" in listed.out
    for shown in (trained.out, report, scored.out):
        assert "xz 0." not in shown and "xz, for comparison" not in shown
    for line in scored.out.splitlines():
        if line.split(" ")[0] in ("uniform", "unigram", "kneser-ney", "this"):
            assert "2 characters: too few for a reliable score" in line
    assert all(event["standard_error"] is None for event in evaluations("few"))
    assert all(event["difference_error"] is None for event in evaluations("few"))
    for words in (("info", "few", "--json"), ("runs", "--json"), ("eval", "--json")):
        found = json.loads(charlm(*words).out, parse_constant=refused_constant)
        assert found.get("standard_error") is None
        assert found.get("baselines", {}).get("xz") is None


def test_an_error_that_is_tiny_is_never_printed_as_zero(charlm: Run) -> None:
    Path("same.txt").write_text("a" * 3_000)
    trained = charlm(
        "train", "same.txt", "--steps", "2", "--eval-every", "1", "--run", "same", "--prior", *FAST
    )
    assert trained.code == 0, trained.err
    report = Path("checkpoints/same/report.html").read_text()
    for shown in (trained.out, trained.err, report, charlm("info", "same").out):
        assert "± <0.0" in shown or "± &lt;0.0" in shown
        assert not re.search(r"± -?0\.0+(?![0-9])|-0\.0+(?![0-9])", shown)


@pytest.mark.parametrize("words", [("--model", "ngram"), ("--steps", "2", "--no-prior", *FAST)])
def test_a_single_character_held_out_is_scored_in_training_too(charlm: Run, words: tuple[str, ...]) -> None:
    Path("one.txt").write_text("s")
    trained = charlm("train", "ducks.txt", "--val-file", "one.txt", "--run", "one", *words)
    assert trained.code == 0, trained.err
    assert "1 of 1 characters" in trained.out and "too few for a reliable score" in trained.out
    (last,) = evaluations("one")[-1:]
    scored = json.loads(charlm("eval", "--json").out)
    assert last["nats_per_char"] == pytest.approx(scored["nats_per_char"], abs=1e-6)
    assert last["standard_error"] is None and last["chars"] == scored["chars"] == 1


def test_a_file_of_a_few_characters_has_no_ratio_that_means_anything(charlm: Run) -> None:
    for name, steps in (("ducks", "2"), ("other", "3")):
        charlm("train", "ducks.txt", "--steps", steps, "--run", name, *FAST)
    Path("few.txt").write_text("to be")
    for command in (("compress", "few.txt", "-o", "few.clm"), ("decompress", "few.clm", "-o", "again.txt")):
        assert "5 characters: too few for a reliable score" in charlm(*command).out
    examined = charlm("inspect", "few.txt").out
    assert "xz compresses" not in examined and "too few for a reliable score" in " ".join(examined.split())
    assert "too few for a reliable score" in charlm("compare", "ducks", "other", "--on", "few.txt").out


def test_a_last_step_that_is_worse_on_the_same_windows_is_not_the_best(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its figure, on more text, is lower."""
    run, session = toy_run(tmp_path, corpus, 12)
    common = spread(session.predictor.rule, len(corpus.held_out), 100, corpus.held_out_chars).chunks

    def score(predictor: Predictor, ids: Ids, part: Slice, *more: object, **how: object) -> Estimate | None:
        estimate = score_slice(predictor, ids, part, *more, **how)  # type: ignore[arg-type]
        if estimate is None or len(part.chunks) == len(common):
            return estimate
        change = np.where(np.isin(part.chunks, common), 1.0, -3.0)  # nats a symbol
        return replace(estimate, sums=estimate.sums + change * estimate.symbols)

    monkeypatch.setattr("charlm.training.held_out.score_slice", score)
    events = list(Trainer(session, run).run(Never()))
    *_, before, closing = (e for e in events if isinstance(e, Evaluated))
    assert closing.nats_per_char < before.nats_per_char < closing.compared_nats_per_char
    last = events[-1]
    assert not closing.is_best and isinstance(last, Finished)
    assert last.best_step == run.pointed("best") == before.step == 10
    assert session.state.early_stopping.rises == 0, "the closing evaluation ends nothing"


def test_an_extended_run_compares_with_the_best_so_far(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 3, eval_every=100)
    list(Trainer(session, run).run(Never()))
    assert run.pointed("best") == 3
    run.unlock()
    session = resume_run(RunFolder(run.path), pytest.fail)
    extend_by_steps(session, run, 20)
    list(Trainer(session, run).run(Never()))
    assert run.pointed("best") == session.state.early_stopping.best_step == 23


def test_a_best_whose_pointer_was_not_written_is_found_again(tmp_path: Path, corpus: Corpus) -> None:
    """Killed between the checkpoint and the pointer to it."""
    run, session = toy_run(tmp_path, corpus, 12)
    list(Trainer(session, run).run(Never()))
    (run.path / "best").unlink()
    run.unlock()
    resume_run(RunFolder(run.path), pytest.fail)
    assert run.pointed("best") == 12


def test_each_evaluation_is_compared_with_the_baseline_on_its_own_windows(
    tmp_path: Path, corpus: Corpus
) -> None:
    run, session = toy_run(tmp_path, corpus, 12, model={"prior": True, "prior_order": 4})
    events = [e for e in Trainer(session, run).run(Never()) if isinstance(e, Evaluated)]
    snapshot = read_snapshot(run, "latest")
    model, counts = predictor_of(snapshot), snapshot.ngram
    ids, rule = corpus.held_out, model.rule
    assert model.prior is not None and counts is not None
    for event, symbols in ((events[0], 100), (events[-1], len(ids))):
        part = spread(rule, len(ids), symbols, corpus.held_out_chars)
        alone = score_slice(NgramPredictor(model.prior, corpus.vocabulary), ids, part, rule=rule)
        assert alone is not None and event.baseline_nats_per_char == pytest.approx(alone.nats_per_char)
        assert event.difference == pytest.approx(event.nats_per_char - alone.nats_per_char)
    ours, whole = score_slice(model, ids, part), alone
    assert ours is not None and whole is not None
    paired = ours.minus(whole)
    assert events[-1].difference_error == pytest.approx(paired.standard_error, rel=1e-3)
    nats = -NgramPredictor(model.prior, corpus.vocabulary).score(ids)
    assert whole.sums.sum() == pytest.approx(nats.sum()), "each symbol, by all of its context"


def test_windows_of_counts_are_pieces_of_their_score(tmp_path: Path, corpus: Corpus) -> None:
    _, session = toy_run(tmp_path, corpus, 1, model={"prior": True, "prior_order": 4})
    assert session.kneser_ney is not None
    predictor, rule = NgramPredictor(session.kneser_ney, corpus.vocabulary), session.predictor.rule
    ids = corpus.vocabulary.encode(TEXT[-700:] + "Ж" + TEXT[:50])
    chunks = [0, 3, 4, 9, rule.n_chunks(len(ids)) - 1]
    whole = predictor.score(ids)
    for k, row in zip(chunks, predictor.score_chunks(ids, chunks, rule), strict=True):
        _, first, end = rule.chunk(k, len(ids))
        assert np.allclose(row, whole[first:end])


def test_what_was_read_once_at_most_is_not_memorised(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = count()

    def rising(*parameters: object, **how: object) -> Estimate | None:
        estimate = score_slice(*parameters, **how)  # type: ignore[arg-type]
        return estimate and replace(estimate, sums=estimate.sums + next(worse) * estimate.symbols)

    monkeypatch.setattr("charlm.training.held_out.score_slice", rising)
    run, session = toy_run(tmp_path, corpus, 400, eval_every=2, patience=2, save_every=100.0)
    events = list(Trainer(session, run).run(Never()))
    assert isinstance(events[-1], Finished) and events[-1].reason == "early"
    assert 0 <= session.chars_read - len(corpus.train) < 6 * session.chars_per_step
