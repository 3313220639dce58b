"""The blocks and the loss in C learn what the modules learn, for every shape, clone and precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from charlm.config import ModelConfig
from charlm.model import fused
from charlm.model.transformer import LanguageModel
from charlm.native.library import VARIABLE
from tests.conftest import clones

V = 37
CLONES = clones()
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not CLONES, reason="the package was installed without a C compiler"),
]
Gradients = dict[str, Tensor]

SHAPES = {
    "default": {},
    "odd length": {"block_size": 33},
    "one position": {"block_size": 1},
    "one head of 16": {"n_head": 1, "n_embd": 16},
    "one head of 128": {"n_head": 1, "n_embd": 128, "block_size": 70},
    "heads of 18": {"n_embd": 36},
    "heads of 2": {"n_embd": 4},
    "grouped queries": {"n_head": 4, "n_kv_head": 2},
    "one key head": {"n_head": 4, "n_kv_head": 1},
    "window": {"window": 5},
    "window of 1": {"window": 1},
    "dropout": {"dropout": 0.2},
    "prior": {"prior": True},
    "n-gram embeddings": {"ngram_embeddings": 3, "ngram_embedding_rows": 64},
}


def new_model(**settings: object) -> LanguageModel:
    """A model whose weights are all random, so that nothing is hidden behind a zero."""
    defaults = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 64,
        "block_size": 32,
        "dropout": 0.0,
        "ngram_embeddings": 1,
    }
    model = LanguageModel(ModelConfig(**{**defaults, "prior": False, **settings}), V)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        scale = 0.3 if weight.ndim == 1 else 0.7 / weight.shape[-1] ** 0.5
        weight.data = torch.randn(weight.shape, generator=generator) * scale + (weight.ndim == 1)
    if model.ngrams is not None:
        model.ngrams.table.data[model.ngrams.nothing] = 0
    return model.train()


@contextmanager
def clone(name: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def batch(model: LanguageModel, B: int, *, documents: bool = False) -> tuple[Tensor, ...]:
    """Ids, targets, documents and a prior."""
    generator, T = torch.Generator().manual_seed(2), model.block_size
    ids = torch.randint(0, V, (B, T + 1), generator=generator)
    docs = (torch.rand(B, T, generator=generator) < 0.2).cumsum(1) if documents else None
    prior = torch.log_softmax(torch.randn(B, T, V, generator=generator), -1)
    prior[0] = 0  # as prior dropout leaves it
    return ids[:, :-1], ids[:, 1:], docs, prior if model.prior is not None else None  # type: ignore[return-value]


def learn(
    model: LanguageModel, name: str, data: tuple[Tensor, ...], *, bf16: bool = False
) -> tuple[float, Gradients]:
    """The loss and every gradient, by one clone, or by the modules ("0")."""
    model.zero_grad()
    torch.manual_seed(3)
    with clone(name):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            assert (fused.kernels_for(model) is None) == (name == "0")
            loss = model.loss(*data)
        loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    if model.ngrams is not None:
        ((_, summed),) = model.ngrams.pending
        assert summed.grad is not None
        found["ngrams"] = summed.grad
        model.ngrams.pending.clear()
    return loss.item(), found


def distance(a: Gradients, b: Gradients) -> float:
    """How far apart all gradients are, relative to their length."""
    assert a.keys() == b.keys()
    gap = sum(((a[name] - b[name]).double() ** 2).sum() for name in a)
    return float((gap / sum((b[name].double() ** 2).sum() for name in b)) ** 0.5)


@pytest.mark.parametrize("name", CLONES)
@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_loss_and_gradients_are_those_of_the_modules(settings: dict[str, object], name: str) -> None:
    model = new_model(**settings)
    data = batch(model, 3, documents="window" not in settings)
    loss, gradients = learn(model, name, data)
    expected, reference = learn(model, "0", data)
    assert loss == pytest.approx(expected, rel=1e-5)
    for weight, gradient in reference.items():
        length = float(gradient.norm())
        assert float((gradients[weight] - gradient).norm()) <= 1e-5 * length + 1e-7, weight


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Whatever the shape: nothing is read beyond a buffer's end, and the loss and gradients agree."""
    n_head = data.draw(st.integers(1, 4))
    model = new_model(
        n_layer=1,
        n_head=n_head,
        n_kv_head=data.draw(st.sampled_from([n for n in range(1, n_head + 1) if n_head % n == 0])),
        n_embd=n_head * 2 * data.draw(st.integers(1, 20)),
        block_size=(T := data.draw(st.integers(1, 90))),
        window=data.draw(st.none() | st.integers(1, T)),
        prior=data.draw(st.booleans()),
    )
    given_data = batch(model, data.draw(st.integers(1, 3)), documents=data.draw(st.booleans()))
    loss, gradients = learn(model, data.draw(st.sampled_from(CLONES)), given_data)
    _, reference = learn(model, "0", given_data)
    exact_data = tuple(
        each.double() if each is not None and each.is_floating_point() else each for each in given_data
    )
    expected, exact = learn(deepcopy(model).double(), "0", exact_data)
    assert loss == pytest.approx(expected, rel=1e-5)
    # Norms of a few numbers near zero can magnify any rounding, the modules' too.
    assert distance(gradients, exact) < 1e-5 + 4 * distance(reference, exact)


@pytest.mark.parametrize("name", CLONES)
@pytest.mark.parametrize("settings", [{}, {"prior": True}, {"n_head": 4, "n_kv_head": 2}, {"window": 7}])
def test_in_bf16_it_is_no_farther_from_fp32_than_the_modules_are(
    settings: dict[str, object], name: str
) -> None:
    model = new_model(**settings)
    data = batch(model, 8)
    exact_loss, exact = learn(model, "0", data)
    loss, gradients = learn(model, name, data, bf16=True)
    _, modules = learn(model, "0", data, bf16=True)
    assert loss == pytest.approx(exact_loss, rel=2e-3)
    assert 0 < distance(gradients, exact) < 1.2 * distance(modules, exact)


@pytest.mark.parametrize("bf16", [False, True])
def test_no_output_depends_on_a_later_input(bf16: bool) -> None:
    model = new_model(n_layer=3, block_size=40)
    x = torch.randn(2, 40, 64, requires_grad=True)
    with clone(CLONES[0]), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        kernels = fused.kernels_for(model)
        assert kernels is not None
        y = fused.run_blocks(model, kernels, x, None)
    for t in (0, 17, 31, 32, 38):
        (gradient,) = torch.autograd.grad(y[:, t].float().square().sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all() and (gradient[:, : t + 1] != 0).any(dim=-1).all()


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    """Those that the kernels sum over rows: torch's products have an order of their own."""
    model, before = new_model(n_head=4, n_kv_head=2), torch.get_num_threads()
    data, found = batch(model, 5, documents=True), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(learn(model, CLONES[0], data))
    finally:
        torch.set_num_threads(before)
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6) and distance(gradients, found[0][1]) < 1e-6


def test_a_weight_that_is_not_a_number_makes_a_loss_that_is_none() -> None:
    for weight in (
        "blocks.0.mixer.qkv.weight",
        "blocks.1.mlp.gate_up.weight",
        "norm.weight",
        "embedding.weight",
    ):
        model = new_model()
        model.get_parameter(weight).data.view(-1)[3] = torch.nan
        loss, _ = learn(model, CLONES[0], batch(model, 4))
        assert loss != loss, weight


@pytest.mark.parametrize("target", [V, -1, 2**40])
def test_a_target_outside_the_vocabulary_is_refused(target: int) -> None:
    model = new_model()
    ids, targets, *_ = batch(model, 2)
    targets = targets.clone()
    targets[1, 3] = target
    with clone(CLONES[0]), pytest.raises(IndexError):
        model.loss(ids, targets)


def test_scoring_takes_the_kernels_and_says_the_same() -> None:
    model = new_model(n_head=4, n_kv_head=2).eval()
    ids = batch(model, 4)[0]
    with torch.inference_mode():
        found = model(ids)
        with clone("0"):
            torch.testing.assert_close(found, model(ids), rtol=1e-4, atol=1e-4)


def test_a_hook_on_a_part_is_called() -> None:
    for part in ("blocks.1.mixer.out", "norm"):
        model, seen = new_model(), []
        model.get_submodule(part).register_forward_hook(lambda *_, seen=seen: seen.append(1))
        model(batch(model, 2)[0])
        assert seen == [1], part


def test_two_backward_passes_add_up_and_the_loss_can_be_scaled() -> None:
    model = new_model()
    data = batch(model, 2)
    _, once = learn(model, CLONES[0], data)
    model.zero_grad()
    for _ in range(2):
        (model.loss(*data) / 2).backward()
    assert distance({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, once) < 1e-6
