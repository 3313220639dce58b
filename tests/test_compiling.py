"""Compiled blocks: the same training, and never a reason for it to fail."""

import subprocess
from pathlib import Path

import pytest
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.training import device
from charlm.training.events import Compiled, Finished, Stepped
from charlm.training.planner import choose
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run

CPU = torch.device("cpu")


def trained(root: Path, corpus: Corpus, **training: object) -> tuple[list[object], dict[str, torch.Tensor]]:
    run, session = toy_run(
        root, corpus, 4, model={"ngram_embeddings": 2, "ngram_embedding_rows": 64}, **training
    )
    events = list(Trainer(session, run).run(Never()))
    return events, {name: tensor.clone() for name, tensor in session.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.skipif(not device.has_compiler(CPU), reason="there is no C++ compiler")
def test_compiled_blocks_learn_the_same(tmp_path: Path, corpus: Corpus) -> None:
    events, compiled = trained(tmp_path / "compiled", corpus, compile="on")
    (said,) = [e for e in events if isinstance(e, Compiled)]
    assert said.failure is None
    _, eager = trained(tmp_path / "eager", corpus, compile="off")
    for name, tensor in eager.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def _at_once(*_: object, **__: object) -> object:
    raise RuntimeError("no compiler")


def _later(function: object, **_: object) -> object:
    return _at_once


@pytest.mark.parametrize("fails", [_at_once, _later])
def test_where_compiling_fails_training_goes_on_without_and_it_is_said(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, fails: object
) -> None:
    monkeypatch.setattr(torch, "compile", fails)
    events, weights = trained(tmp_path / "compiled", corpus, compile="on")
    (said,) = [e for e in events if isinstance(e, Compiled)]
    assert said.failure == "RuntimeError: no compiler"
    assert len([e for e in events if isinstance(e, Stepped)]) == 4
    assert isinstance(events[-1], Finished) and events[-1].reason == "done"
    _, eager = trained(tmp_path / "eager", corpus, compile="off")
    assert all(torch.equal(weights[name], tensor) for name, tensor in eager.items())


def test_it_compiles_by_itself_only_where_that_is_repaid() -> None:
    def compiled(steps: int, compiler: bool = True, wanted: str = "auto") -> str:
        budget = Budget(steps=steps, compiler=compiler)
        return choose(budget, 10**7, ModelConfig(), TrainingConfig(compile=wanted)).training.compile

    assert compiled(100) == "off"
    assert compiled(100, wanted="on") == "on"
    assert compiled(10**6) == "on"
    assert compiled(10**6, compiler=False) == "off"
    assert compiled(10**6, wanted="off") == "off"


def test_what_the_kernels_compute_is_not_compiled_by_torch_unless_asked() -> None:
    def compiled(mixer: str, wanted: str = "auto") -> str:
        budget = Budget(steps=10**6, compiler=True, kernels=True)
        return choose(
            budget, 10**7, ModelConfig(mixer=mixer), TrainingConfig(compile=wanted)
        ).training.compile

    assert compiled("attention") == "off"
    assert compiled("attention", wanted="on") == "on"
    assert compiled("convolution") == "on"


@pytest.mark.parametrize("installed", [True, False])
def test_on_a_mac_without_developer_tools_no_compiler_of_apples_is_run(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """There /usr/bin/c++ exists all the same, and opens a dialog that offers to install them."""
    asked: list[list[str]] = []

    def ask(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0 if installed else 2)

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("subprocess.run", ask)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "c++" else None)
    device._has_developer_tools.cache_clear()
    assert device.has_compiler(torch.device("cpu")) == installed
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}")
    assert device.has_compiler(torch.device("cpu"))
    assert asked == [["/usr/bin/xcode-select", "-p"]]
    device._has_developer_tools.cache_clear()
