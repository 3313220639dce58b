"""The path of a GPU, on the CPU: what can be proved without a card. Where there is one, benchmarks/gpu.py runs it there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import charlm
from benchmarks import gpu as benchmark
from charlm.checkpoint.run_folder import RunFolder
from charlm.data.corpus import Corpus
from charlm.errors import ResourceError, UsageError
from charlm.ngram.build import TrainingPrior, build
from charlm.ngram.device_rows import DeviceNgrams
from charlm.training import batches, device, optimizer, session, step, trainer
from charlm.training.events import Event, LeftDevice, Planned, Stepped
from charlm.training.launch import resume_run
from charlm.training.optimizer import LearningRates, Optimizer
from charlm.training.session import TransformerSession
from charlm.training.sizes import SIZES, Budget, StepTime, choose_size
from charlm.training.step import batch_loss
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, After, Never, toy_run

NGRAMS = {"ngram_embeddings": 3, "ngram_embedding_rows": 64, "ngram_embedding_dropout": 0.2}
PRIOR = {"prior": True, "prior_order": 3, "prior_dropout": 0.3, "ngram_embeddings": 1}
MODELS = {"n-gram embeddings": NGRAMS, "prior": PRIOR}


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a GPU: its steps take the way of a GPU's, by torch alone."""
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    for module in (device, batches, optimizer, session, step, trainer):
        monkeypatch.setattr(module, "is_accelerator", lambda found: True)
    monkeypatch.setattr("charlm.model.transformer.masks_by_flag", lambda found: True)
    monkeypatch.setattr(device, "pick_precision", lambda found: "fp32")


def trained(
    root: Path, corpus: Corpus, steps: int = 45, name: str = "run", **settings: object
) -> tuple[RunFolder, TransformerSession, list[Event]]:
    run, found = toy_run(root, corpus, steps, name, **settings)
    events = list(Trainer(found, run).run(Never()))
    run.unlock()
    return run, found, events


def weights(found: TransformerSession) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in found.model.state_dict().items()}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_path_of_a_gpu_learns_what_that_of_the_cpu_does(
    tmp_path: Path, corpus: Corpus, model: dict[str, object], request: pytest.FixtureRequest
) -> None:
    _, on_cpu, said = trained(tmp_path / "cpu", corpus, 12, model=model)
    request.getfixturevalue("as_gpu")
    _, on_gpu, heard = trained(tmp_path / "gpu", corpus, 12, model=model)
    losses = [[e.loss for e in events if isinstance(e, Stepped)] for events in (said, heard)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    for name, tensor in weights(on_cpu).items():
        torch.testing.assert_close(weights(on_gpu)[name], tensor, rtol=2e-2, atol=2e-3, msg=name)


def test_figures_are_read_once_in_twenty_steps_and_before_an_evaluation(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, found = toy_run(tmp_path, corpus, 45, eval_every=30)
    real, known, seen = step.train_step, list[int](), 0
    monkeypatch.setattr(trainer, "train_step", lambda *args: known.append(seen) or real(*args))
    steps = []
    for event in Trainer(found, run).run(Never()):
        if isinstance(event, Stepped):
            seen += 1
            steps.append(event.step)
    assert known == [0] * 20 + [20] * 10 + [30] * 10 + [40] * 5
    assert steps == [*range(1, 46)]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("end", [None, 0], ids=["", "documents"])
def test_no_number_of_a_step_is_read_by_the_host(
    as_gpu: None,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, object],
    end: int | None,
) -> None:
    """On the meta device there are no numbers: to read one is an error, and so is a shape that depends on one."""
    monkeypatch.setattr(optimizer, "adamw", lambda *args, **more: None)  # torch has it, but not for meta
    _, found = toy_run(tmp_path, corpus, 5, model={**model, "dropout": 0.1})
    batch, meta = found.batch_source.take(0), torch.device("meta")
    prior = None if batch.log_prior is None else batch.log_prior.to(meta)
    found.model.to(meta)
    update = Optimizer(found.model, "muon", 0.1)
    loss = batch_loss(found.model, batch.ids.to(meta), prior, end)
    loss.backward()  # type: ignore[no-untyped-call]
    rates = LearningRates(*torch.ones(3, device=meta).unbind())
    assert update.update(rates, loss.detach(), 1.0).device == meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(loss)


def test_rows_of_the_prior_are_looked_up_without_the_host() -> None:
    ids = np.random.default_rng(1).integers(0, 5, 500).astype(np.uint8)
    ngrams = DeviceNgrams(build(ids, 5, 3, memory=1 << 24).model, torch.device("cpu"))
    for level in ngrams._levels:
        for name in ("keys", "counts", "longer", "discounts"):
            held = getattr(level, name)
            object.__setattr__(level, name, None if held is None else held.to("meta"))
    assert ngrams.log_rows(torch.zeros(2, 10, dtype=torch.long, device="meta")).shape == (2, 7, 5)


def test_before_a_text_stands_its_boundary_whatever_type_holds_its_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The boundary is the number of symbols, 300, which would be 44 in a byte."""
    ids, folds = np.arange(200, dtype=np.uint8), np.array([0, 100, 200])
    prior = TrainingPrior(build(ids, 300, 3, memory=1 << 24, folds=folds).model, ids, folds)
    monkeypatch.setattr(DeviceNgrams, "log_rows", lambda self, contexts, folds: contexts)
    found = batches._LookedUp(prior, torch.device("cpu")).after(np.array([0]), 4)
    assert found.tolist() == [[*[300] * prior.model.order, 0, 1, 2, 3]]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    as_gpu: None, tmp_path: Path, corpus: Corpus, model: dict[str, object]
) -> None:
    _, whole, _ = trained(tmp_path, corpus, 45, "whole", model={**model, "dropout": 0.1})
    run, cut = toy_run(tmp_path, corpus, 45, "cut", model={**model, "dropout": 0.1})
    first = Trainer(cut, run)
    list(first.run(After(lambda: first.step, 13)))
    assert first.step == 13
    run.unlock()
    resumed = resume_run(run, pytest.fail)
    assert isinstance(resumed, TransformerSession)
    list(Trainer(resumed, run).run(Never()))
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def out_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """From now on a device has no room for more than so many windows at once."""
    real = step.batch_loss

    def limited(model: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "batch_loss", limited)


def test_where_memory_is_full_the_batch_is_halved_and_it_is_said_and_resumed_alike(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, roomy, _ = trained(tmp_path, corpus, 30, "roomy", batch_size=8)
    out_of_memory(monkeypatch, 4)
    _, found, events = trained(tmp_path, corpus, 30, "tight", batch_size=8)
    (said,) = [e for e in events if isinstance(e, Planned) and e.splits_batches]
    assert said.step == 0 and found.plan.decisions[-1]["grad_accum"] == 2
    assert [e.step for e in events if isinstance(e, Stepped)] == [*range(1, 31)]
    for name, tensor in weights(roomy).items():  # the same batches, summed in another order
        torch.testing.assert_close(weights(found)[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
    cut, begun = toy_run(tmp_path, corpus, 30, "cut", batch_size=8)
    first = Trainer(begun, cut)
    list(first.run(After(lambda: first.step, 7)))
    cut.unlock()
    resumed = resume_run(cut, pytest.fail)
    assert isinstance(resumed, TransformerSession) and resumed.training_config.grad_accum == 2
    list(Trainer(resumed, cut).run(Never()))
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in weights(found).items())


def test_memory_that_fills_on_the_way_changes_the_parts_from_that_step_on(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, found = toy_run(tmp_path, corpus, 30)
    real = trainer.train_step

    def fills(session: TransformerSession, rates: LearningRates) -> object:
        if session.state.step == 13 and session.training_config.grad_accum == 1:
            session.optimizer.clear_gradients()
            batch_loss(session.model, session.batch_source.take(13).ids).backward()  # type: ignore[no-untyped-call]
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(session, rates)

    monkeypatch.setattr(trainer, "train_step", fills)
    events = list(Trainer(found, run).run(Never()))
    (said,) = [e for e in events if isinstance(e, Planned) and e.splits_batches]
    assert said.step == 13 and found.plan.decisions[-1]["at_step"] == 13
    assert [e.step for e in events if isinstance(e, Stepped)] == [*range(1, 31)]
    run.unlock()
    assert found.plan.member_at(0, 12).training.grad_accum == 1
    assert found.plan.member_at(0, 13).training.grad_accum == 2


def test_where_a_single_window_does_not_fit_it_is_an_error_that_says_what_to_do(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(monkeypatch, 0)
    with pytest.raises(ResourceError, match="too small for a single window; try a smaller --block-size"):
        trained(tmp_path, corpus)


def test_a_gpu_that_cannot_compute_a_step_gives_way_to_the_cpu(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, as_gpu: None
) -> None:
    on_gpu = [True]
    for module in (device, batches, optimizer, session, step, trainer):
        monkeypatch.setattr(module, "is_accelerator", lambda found: on_gpu[0])
    real = TransformerSession.compute_on_cpu
    monkeypatch.setattr(
        TransformerSession,
        "compute_on_cpu",
        lambda self, run: on_gpu.clear() or on_gpu.append(False) or real(self, run),
    )

    def lacking(*args: object, **more: object) -> torch.Tensor:
        if on_gpu[0]:
            raise NotImplementedError("The operator 'aten::_fused_rms_norm' is not implemented for MPS")
        return batch_loss(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "batch_loss", lacking)
    _, found, events = trained(tmp_path, corpus, 12, "left")
    (left,) = [e for e in events if isinstance(e, LeftDevice)]
    assert "aten::_fused_rms_norm" in left.reason
    monkeypatch.setattr(step, "batch_loss", batch_loss)
    _, plain, _ = trained(tmp_path, corpus, 12, "plain")
    assert all(torch.equal(weights(found)[name], tensor) for name, tensor in weights(plain).items())


def test_an_error_of_the_gpu_ends_the_run_with_what_to_do(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\n...")

    monkeypatch.setattr(trainer, "train_step", broken)
    with pytest.raises(ResourceError, match=r"the GPU failed at step 0 .CUDA error.*: resume the run"):
        trained(tmp_path, corpus)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_loss_that_is_not_finite_changes_nothing(
    as_gpu: None, tmp_path: Path, corpus: Corpus, model: dict[str, object], kind: str
) -> None:
    _, found = toy_run(tmp_path, corpus, 5, model=model, optimizer=kind)
    step.train_step(found, found.learning_rates())
    before = {**weights(found), **{k: v.clone() for k, v in found.optimizer.state.items()}}
    step.idle_step(found)
    after = {**weights(found), **found.optimizer.state}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert float(found.optimizer.n_updates) == 1


@pytest.mark.parametrize(
    "model", [PRIOR, pytest.param(NGRAMS, marks=pytest.mark.slow)], ids=["prior", "n-gram"]
)
def test_loss_and_update_compile_as_one_graph_each_and_once(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, model: dict[str, object]
) -> None:
    """No graph break (`fullgraph` makes it an error), and no recompilation while rates change."""
    from torch._dynamo.utils import counters  # here: it takes seconds to import

    compiling = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, mode=None, **more: compiling(*args, backend="aot_eager", **more)
    )
    torch._dynamo.reset()
    counters.clear()
    _, found = toy_run(tmp_path / "compiled", corpus, 60, model={**model, "dropout": 0.1})
    assert step.compile_model(found) is None
    assert counters["stats"]["unique_graphs"] == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses = [take(found) for _ in range(50)]
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    _, plain = toy_run(tmp_path / "plain", corpus, 60, model={**model, "dropout": 0.1})
    np.testing.assert_allclose([take(plain) for _ in range(50)], losses, rtol=1e-3)


def take(session: TransformerSession) -> float:
    """The loss of a step."""
    loss, _ = step.train_step(session, session.learning_rates())
    session.state.step += 1
    return float(loss)


@pytest.mark.parametrize("resident", [True, False], ids=["kept", "looked up"])
def test_rows_of_the_prior_made_on_the_device_are_those_of_the_cpu(
    as_gpu: None, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, resident: bool
) -> None:
    if not resident:
        monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    _, found = toy_run(tmp_path, corpus, 40, model={**PRIOR, "prior_order": 5}, reserved_chars=300)
    assert found.prior_rows is not None
    for number in range(40):
        made = found.batch_source.take(number).log_prior
        assert made is not None
        expected = found.prior_rows.batch(number)
        if resident:  # in half precision
            np.testing.assert_allclose(made.numpy(), expected, rtol=1e-3, atol=1e-6)
        else:
            np.testing.assert_allclose(made.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("end", [None, 0])
@pytest.mark.parametrize("order", [0, 1, 4])
def test_looked_up_rows_are_those_of_the_cpu_with_documents_and_unseen_contexts(
    order: int, end: int | None
) -> None:
    ids = np.random.default_rng(2).integers(0, 7, 3000).astype(np.uint8)
    model = build(ids, 7, order, memory=1 << 24, end=end).model
    read = np.random.default_rng(3).integers(0, 7, (3, order + 20))
    read[0, :order] = 7  # nothing is before the start of a text
    rows = DeviceNgrams(model, torch.device("cpu")).log_rows(torch.from_numpy(read))
    for text, found in zip(read, rows.numpy(), strict=True):
        whole = np.log(model.rows(model.contexts(text[None])[0, order:]))
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)


def test_many_rows_are_looked_up_in_parts() -> None:
    ids = np.random.default_rng(2).integers(0, 7, 3000).astype(np.uint8)
    ngrams = DeviceNgrams(build(ids, 7, 2, memory=1 << 24).model, torch.device("cpu"))
    read = torch.from_numpy(np.random.default_rng(3).integers(0, 7, (3, 22)))
    whole = ngrams.log_rows(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm.ngram.device_rows.NUMBERS_AT_ONCE", 50)
        assert torch.equal(ngrams.log_rows(read), whole)


def test_the_benchmark_runs_here_on_a_toy_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the compiler, which takes a minute and is tested above."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 3)
    monkeypatch.setattr(benchmark, "compile_model", lambda session: None)
    monkeypatch.setattr(sys, "argv", ["gpu", str(text), "--device", "cpu", "--toy"])
    benchmark.main()
    said = capsys.readouterr().out
    assert "FAILED" not in said and said.count("| ok |") == 13
    assert re.search(r"\| 1 x 32, 4 x 32 \| (fp32|bf16) \| not compiled \|", said)
    assert "| 1e+17 |" in said


def test_sizes_that_were_never_measured_are_for_machines_as_fast_as_a_gpu() -> None:
    def widest(gflops: float) -> int:
        budget = Budget(seconds=3600.0, gflops=gflops)
        return choose_size("no-prior", budget, 10**9).n_embd

    assert widest(100.0) <= 768 < widest(1e6) <= widest(1e8)
    of_a_cpu = Budget(
        seconds=3600.0,
        timed=(StepTime(kind="no-prior", size=SIZES[4], threads=2, precision="fp32", seconds=0.1),),
    )
    assert not of_a_cpu.sizes_beyond


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_run_samples_and_scores_on_the_device_that_is_named(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, model: dict[str, object]
) -> None:
    run, _, _ = trained(tmp_path, corpus, 12, model=model)
    on_cpu = charlm.load(run.path)
    with pytest.raises(UsageError, match="use cpu or auto"):
        charlm.load(run.path, device="mps")
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    monkeypatch.setattr("charlm.model.transformer.masks_by_flag", lambda found: True)
    as_on_gpu = charlm.load(run.path, device="auto")
    assert as_on_gpu.device.type == "cpu"
    assert as_on_gpu.score(TEXT[:500]) == pytest.approx(on_cpu.score(TEXT[:500]), rel=1e-3)
    assert as_on_gpu.sample("over", length=40, temperature=0) == on_cpu.sample(
        "over", length=40, temperature=0
    )
