"""bf16: the products are rounded, the sums are not, and the loss is the same within noise."""

from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch.nn import functional

from charlm.data.corpus import Corpus
from charlm.training import optimizer as muon
from charlm.training import step
from charlm.training.events import Stepped
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run

STEPS = 200


def losses(folder: Path, corpus: Corpus, precision: str, seed: int = 1, **model: object) -> list[float]:
    run, session = toy_run(folder, corpus, STEPS, precision=precision, seed=seed, model=model)
    return [e.loss for e in Trainer(session, run).run(Never()) if isinstance(e, Stepped)]


def test_bf16_and_fp32_come_to_the_same_loss_within_noise(tmp_path: Path, corpus: Corpus) -> None:
    found = {
        (precision, seed): losses(tmp_path / f"{precision}{seed}", corpus, precision, seed)
        for precision, seed in (("fp32", 1), ("fp32", 2), ("bf16", 1))
    }
    start = found["bf16", 1][0]
    fp32, other, bf16 = (fmean(losses[-50:]) for losses in found.values())
    assert start - fp32 > 0.5
    assert abs(bf16 - fp32) < max(2 * abs(fp32 - other), 0.02 * (start - fp32))


def test_products_are_rounded_and_the_loss_the_weights_and_the_optimizer_are_not(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_NATIVE", "0")  # torch's modules show what the kernels do inside
    _, session = toy_run(tmp_path, corpus, 3, precision="bf16")
    seen: dict[str, torch.dtype] = {}
    block = session.model.blocks[0]
    block.mlp.down.register_forward_hook(lambda m, x, y: seen.update(product=y.dtype))  # type: ignore[union-attr,operator]
    block.register_forward_hook(lambda m, x, y: seen.update(stream=y.dtype))
    entropy = functional.cross_entropy
    monkeypatch.setattr(
        functional, "cross_entropy", lambda logits, y: seen.update(logits=logits.dtype) or entropy(logits, y)
    )
    step.train_step(session, session.learning_rates())
    assert seen == {"product": torch.bfloat16, "stream": torch.float32, "logits": torch.float32}
    kept = [*session.model.parameters(), *session.optimizer.state.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def test_newton_and_schulz_in_bf16_find_the_same_directions() -> None:
    matrices = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(1))
    exact, rounded = muon.orthogonalize(matrices), muon.orthogonalize(matrices, torch.bfloat16)
    assert rounded.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), rounded.flatten(1))
    assert cosine.min() > 0.99
