"""The path of a GPU, on the CPU: what can be proved without a card. On a machine with one, it runs on that too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.data.corpus import Corpus
from charlm.training import batches, device, optimizer, session, step, trainer
from charlm.training.events import Event, Stepped
from charlm.training.session import TransformerSession
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run

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
