"""The loop: resume is exact, what goes wrong is undone, and the disk may refuse."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.errors import DivergedError, ResourceError
from charlm.evaluation.score import score_slice
from charlm.inference.members import predictor_of
from charlm.strict_json import to_json
from charlm.training import step
from charlm.training.events import Evaluated, Event, Finished, Saved, SaveFailed, Skipped, Stepped, WentBack
from charlm.training.launch import extend_by_steps, resume_run
from charlm.training.session import TransformerSession
from charlm.training.step import batch_loss
from charlm.training.trainer import Trainer
from tests.conftest import After, Never, toy_run


def everything(session: TransformerSession) -> dict[str, torch.Tensor]:
    """All tensors that the next step depends on."""
    snapshot = session.snapshot()
    return {**snapshot.weights, **snapshot.optimizer}


def assert_same(a: TransformerSession, b: TransformerSession, *, evaluated_alike: bool = True) -> None:
    """Equal in all but seconds; the best step depends on when it was evaluated."""
    for name, tensor in everything(a).items():
        assert torch.equal(tensor, everything(b)[name]), name
    ours, theirs = (to_json(session.state) for session in (a, b))
    for state in (ours, theirs):
        state["seconds"] = None
        if state["parent_loss"] is not None:
            state["parent_loss"]["seconds"] = None
        if not evaluated_alike:
            del state["early_stopping"]
    assert ours == theirs


def resumed(run: RunFolder) -> TransformerSession:
    run.unlock()
    return resume_run(RunFolder(run.path), pytest.fail)


def stopped_and_resumed(
    root: Path, corpus: Corpus, model: dict[str, object], steps: int = 8
) -> TransformerSession:
    """A toy run cut off after three steps and gone on with: it ends as one that was never cut off."""
    run, whole = toy_run(root, corpus, steps, "whole", model=model)
    list(Trainer(whole, run).run(Never()))
    run, part = toy_run(root, corpus, steps, "part", model=model)
    trainer = Trainer(part, run)
    list(trainer.run(After(lambda: trainer.step, 3)))
    session = resumed(run)
    assert session.state.step == 3
    list(Trainer(session, run).run(Never()))
    assert_same(whole, session)
    return session


def test_a_run_killed_between_saves_goes_on_from_the_last_and_ends_the_same(
    tmp_path: Path, corpus: Corpus
) -> None:
    run, whole = toy_run(tmp_path, corpus, 12, "whole", eval_every=100)
    list(Trainer(whole, run).run(Never()))
    run, part = toy_run(tmp_path, corpus, 12, "part", eval_every=100, save_every=0.0)
    trainer = Trainer(part, run)
    events = trainer.run(Never())
    while trainer.step < 8:
        next(events)
    shutil.rmtree(run.folder(run.steps()[-1]))  # as if the last one had never been completed
    session = resumed(run)
    assert 0 < session.state.step < 8
    list(Trainer(session, run).run(Never()))
    assert_same(whole, session)


def test_accumulation_changes_nothing_but_the_last_bits(tmp_path: Path, corpus: Corpus) -> None:
    losses = []
    for n in (1, 4):
        run, session = toy_run(tmp_path, corpus, 10, f"parts-{n}", grad_accum=n)
        losses.append([e.loss for e in Trainer(session, run).run(Never()) if isinstance(e, Stepped)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_final_figure_is_the_predictors_score(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 10)
    figure = [e for e in Trainer(session, run).run(Never()) if isinstance(e, Evaluated)][-1]
    scores = predictor_of(read_snapshot(run, "latest")).score(corpus.held_out)
    assert figure.nats_per_char == pytest.approx(
        -scores.mean() * len(corpus.held_out) / corpus.held_out_chars, rel=1e-6
    )


def poison(monkeypatch: pytest.MonkeyPatch, bad_calls: set[int], how: float = float("nan")) -> None:
    """Make the losses of these calls (from 0) wrong."""
    calls = iter(range(10**6))

    def poisoned(model: torch.nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        return batch_loss(model, *batch) * (how if next(calls) in bad_calls else 1)

    monkeypatch.setattr(step, "batch_loss", poisoned)


def test_a_loss_that_is_not_finite_changes_no_weight(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in (float("nan"), float("inf")):
        poison(monkeypatch, {3}, how)
        run, session = toy_run(tmp_path, corpus, 8, f"run-{how}", eval_every=100)
        before: dict[str, torch.Tensor] = {}
        for event in Trainer(session, run).run(Never()):
            if event.step == 3 and isinstance(event, Stepped):
                before = {name: tensor.clone() for name, tensor in everything(session).items()}
            if isinstance(event, Skipped):
                assert event.step == 4
                assert all(torch.equal(before[name], tensor) for name, tensor in everything(session).items())
        assert session.state.skipped == [4]
        assert session.state.updates == 7


def test_three_in_a_row_go_back_at_half_the_rate_and_past_the_text(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {6, 7, 8})
    run, session = toy_run(tmp_path, corpus, 12, eval_every=5)  # saved at step 5, the best so far
    events = list(Trainer(session, run).run(Never()))
    (back,) = [e for e in events if isinstance(e, WentBack)]
    assert (back.step, back.to_step, back.rate_factor) == (9, 5, 0.5)
    assert session.state.batch_offset == 4, "the next batch is the one after the last that was read"
    after = events[events.index(back) + 1 :]
    assert [e.step for e in after if isinstance(e, Stepped)] == [6, 7, 8, 9, 10, 11, 12]
    assert session.state.rate_factor == 0.5
    assert session.is_finite()


def test_after_three_times_it_gives_up(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(4, 1000)))
    run, session = toy_run(tmp_path, corpus, 12)
    seen: list[Event] = []
    with pytest.raises(DivergedError, match="learning-rate"):
        for event in Trainer(session, run).run(Never()):
            seen.append(event)  # noqa: PERF402  the error comes in the middle
    assert [e.rate_factor for e in seen if isinstance(e, WentBack)] == [0.5, 0.25, 0.125]
    assert read_snapshot(run, "latest").step <= 5, "whole, and from before it went wrong"


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 4)
    trainer = Trainer(session, run)
    list(trainer._save())
    with torch.no_grad():
        session.model.norm.weight[0] = float("nan")
    session.state.step = 3
    assert not list(trainer._save())
    assert run.steps() == [0]


class FullDisk:
    """Refuses checkpoints as long as `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self._publish = files.publish_folder
        monkeypatch.setattr(files, "publish_folder", self)

    def __call__(self, folder: Path, contents: dict[str, bytes]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self._publish(folder, contents)


def test_a_full_disk_does_not_end_a_run_and_is_said_once(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = toy_run(tmp_path, corpus, 10, save_every=0.0, eval_every=100)
    disk = FullDisk(monkeypatch)
    events = []
    for event in Trainer(session, run).run(Never()):
        events.append(event)
        disk.full = event.step < 6
    assert sum(isinstance(e, SaveFailed) for e in events) == 1
    assert [e.step for e in events if isinstance(e, Saved)][-1] == 10
    assert isinstance(events[-1], Finished)


def test_only_a_failed_last_save_is_an_error(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = toy_run(tmp_path, corpus, 3)
    FullDisk(monkeypatch)
    with pytest.raises(ResourceError, match="could not be written"):
        list(Trainer(session, run).run(Never()))


def test_an_extension_goes_on_from_the_end(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 10)
    list(Trainer(session, run).run(Never()))
    session = resumed(run)
    assert session.state.finished == "done"
    extend_by_steps(session, run, 7)
    rates = [e.learning_rate for e in Trainer(session, run).run(Never()) if isinstance(e, Stepped)]
    assert len(rates) == 7
    assert rates[0] < max(rates) > rates[-1]
    assert resumed(run).state.step == 17


def test_an_extension_killed_before_its_first_save_goes_on(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 10)
    list(Trainer(session, run).run(Never()))
    extend_by_steps(resumed(run), run, 7)  # the plan is written; then the process dies
    session = resumed(run)
    assert session.state.finished is None
    list(Trainer(session, run).run(Never()))
    assert resumed(run).state.step == 17


@pytest.mark.parametrize("number", [1, 3], ids=["the first", "the final one"])
def test_a_held_out_loss_that_is_not_finite_goes_back(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run, session = toy_run(tmp_path, corpus, 12)
    broken = iter([False] * (number - 1) + [True])

    def score(*args: object, **kwargs: object) -> object:
        estimate = score_slice(*args, **kwargs)  # type: ignore[arg-type]
        if estimate is not None and next(broken, False):
            estimate.sums[0] = float("nan")
        return estimate

    monkeypatch.setattr("charlm.training.held_out.score_slice", score)
    events = list(Trainer(session, run).run(Never()))
    (back,) = [e for e in events if isinstance(e, WentBack)]
    assert "held-out" in back.reason and back.to_step == (0 if number == 1 else 10)
    assert isinstance(events[-1], Finished) and (events[-1].reason, events[-1].step) == ("done", 12)
    assert [e.step for e in events if isinstance(e, Evaluated)][-1] == 12


@pytest.mark.parametrize("cut", [5, 10])
def test_an_evaluation_that_a_stop_prevents_is_made_after_resuming(
    tmp_path: Path, corpus: Corpus, cut: int
) -> None:
    def figures(events: list[Event]) -> list[tuple[int, float]]:
        return [(e.step, e.nats_per_char) for e in events if isinstance(e, Evaluated)]

    run, whole = toy_run(tmp_path, corpus, 12, "whole")
    expected = figures(list(Trainer(whole, run).run(Never())))
    assert [step for step, _ in expected] == [5, 10, 12]
    run, part = toy_run(tmp_path, corpus, 12, "part")
    trainer = Trainer(part, run)
    seen = figures(list(trainer.run(After(lambda: trainer.step, cut))))
    again = resumed(run)
    assert seen + figures(list(Trainer(again, run).run(Never()))) == expected
    assert_same(whole, again)


def test_a_run_killed_after_its_early_stop_was_saved_trains_no_further(
    tmp_path: Path, corpus: Corpus
) -> None:
    run, session = toy_run(tmp_path, corpus, 12, eval_every=5, patience=1, save_every=0.0)
    for event in Trainer(session, run).run(Never()):
        if isinstance(event, Evaluated):
            session.state.early_stopping.rises = 1
        if isinstance(event, Saved) and event.step == 5 and session.state.early_stopping.rises:
            break
    events = list(Trainer(resumed(run), run).run(Never()))
    assert not [e for e in events if isinstance(e, Stepped)]
    assert isinstance(events[-1], Finished) and (events[-1].reason, events[-1].step) == ("early", 5)


def test_a_best_that_could_not_be_saved_is_not_the_best(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = toy_run(tmp_path, corpus, 12, eval_every=4)
    disk = FullDisk(monkeypatch)
    for event in Trainer(session, run).run(Never()):
        disk.full = event.step < 6
        if isinstance(event, Stepped) and event.step == 9:
            assert session.state.early_stopping.best_step == run.pointed("best") == 8
    assert session.state.early_stopping.best_step == run.pointed("best") == 12, (
        "the last step is compared too"
    )


def test_configurations_come_back(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 2)
    list(Trainer(session, run).run(Never()))
    snapshot = read_snapshot(run, "latest")
    assert isinstance(snapshot.model_config, ModelConfig) and snapshot.model_config == session.model_config
    assert (
        isinstance(snapshot.training_config, TrainingConfig)
        and snapshot.training_config == session.training_config
    )


def test_between_steps_the_predictor_reads_with_the_weights_as_they_are(
    tmp_path: Path, corpus: Corpus
) -> None:
    """A sample shown in the middle of training is of the model of that moment."""
    run, session = toy_run(tmp_path, corpus, 6, model={"ngram_embeddings": 3, "ngram_embedding_rows": 64})
    trainer = Trainer(session, run)
    ids = torch.tensor([[1, 2, 3]])
    seen = []
    for event in trainer.run(Never()):
        if isinstance(event, Stepped):
            session.model.eval()
            state, _ = trainer.session.predictor.step(trainer.session.predictor.start(1), ids[:, :2])
            _, stepped = trainer.session.predictor.step(state, ids[:, 2:])
            expected = torch.log_softmax(session.model(ids)[:, -1].detach(), dim=-1)
            session.model.train()
            n = corpus.vocabulary.n_symbols
            found = torch.log_softmax(stepped[:, :n].float(), dim=-1)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            seen.append(found)
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
