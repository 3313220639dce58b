"""The compiled update of the weights is torch's: on every clone, whatever the gradients, on any number of threads."""

from collections.abc import Iterator

import pytest
import torch

from charlm.config import ModelConfig
from charlm.model.ngram_layers import NgramEmbeddings
from charlm.model.transformer import LanguageModel, initialise
from charlm.native.library import VARIABLE, library
from charlm.native.optimizer_kernels import NativeNewtonSchulz
from charlm.training.optimizer import ITERATIONS, NEWTON_SCHULZ, LearningRates, Optimizer, orthogonalize
from tests.conftest import clones

RATES = LearningRates(adamw=0.01, muon=0.02, ngram_embeddings=0.05)
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not clones(), reason="the package was built without a C compiler"),
]


@pytest.fixture(params=clones())
def clone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Made:
    """A model and its optimizer, on one path."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        kind: str = "muon",
        precision: str = "fp32",
        n_embd: int = 36,
    ) -> None:
        monkeypatch.setenv(VARIABLE, path)
        config = ModelConfig(
            n_layer=2, n_head=2, n_embd=n_embd, block_size=12, ngram_embeddings=3, ngram_embedding_rows=32
        )
        self.model = LanguageModel(config, 9)
        initialise(self.model, torch.Generator().manual_seed(1))
        self.optimizer = Optimizer(
            self.model.train(), kind, 0.1, ngram_embedding_accumulator=1e-4, precision=precision
        )
        assert (self.optimizer.native is None) == (path == "0")

    def step(self, seed: int, *, scale: float = 1.0, loss: float = 1.0, grad_clip: float = 1.0) -> float:
        """One update by random gradients, from two batches of n-grams; the norm."""
        generator = torch.Generator().manual_seed(seed)
        for weight in self.optimizer.weights.values():
            weight.grad = scale * torch.randn(weight.shape, generator=generator)
        assert self.model.ngrams is not None
        for _ in range(2):
            ids = torch.randint(9, (3, 12), generator=generator)
            sums = self.model.ngrams(ids, self.model.ngrams.no_ids(3))
            sums.grad = scale * torch.randn(sums.shape, generator=generator)
        return float(self.optimizer.update(RATES, torch.tensor(loss), grad_clip))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**dict(self.model.named_parameters()), **self.optimizer.state}

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}


def assert_agree(ours: Made, theirs: Made, tolerance: float, directions: float) -> None:
    for (name, a), b in zip(ours.tensors().items(), theirs.tensors().values(), strict=True):
        orthogonal = name in theirs.optimizer.muon_names
        atol = RATES.muon * directions if orthogonal else tolerance
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("n_embd", [36, 64])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_clone_updates_as_torch(
    monkeypatch: pytest.MonkeyPatch, clone: str, kind: str, precision: str, n_embd: int
) -> None:
    """Of width 64, the matrices suit the compiled products."""
    theirs, ours = (Made(monkeypatch, path, kind, precision, n_embd) for path in ("0", clone))
    for seed in range(3):
        norms = [made.step(seed, grad_clip=(1.0, 0.1, 1e6)[seed]) for made in (ours, theirs)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert_agree(ours, theirs, 2e-6, 1e-4 if precision == "fp32" else 0.1)


@pytest.mark.parametrize("scale", [1e-25, 1e15, 1e17, 1e25])
def test_tiny_and_huge_gradients_do_the_same_on_both_paths(
    monkeypatch: pytest.MonkeyPatch, clone: str, scale: float
) -> None:
    """A norm whose square is no fp32 number is infinite, and then nothing changes."""
    theirs, ours = (Made(monkeypatch, path) for path in ("0", clone))
    norms = []
    for made in (theirs, ours):
        made.step(0)
        before = made.copy()
        norms.append(made.step(1, scale=scale))
        changed = any(not torch.equal(before[name], tensor) for name, tensor in made.tensors().items())
        assert changed == (scale < 1e18)
        assert all(tensor.isfinite().all() for tensor in made.tensors().values())
    assert norms[0] == pytest.approx(norms[1], rel=1e-6, abs=1e-20)
    assert_agree(ours, theirs, 1e-5, 1e-3)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_step_that_is_not_finite_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, clone: str, bad: str, value: float
) -> None:
    whole, other = (Made(monkeypatch, clone) for _ in range(2))
    for made in (whole, other):
        made.step(0)
    before = other.copy()
    if bad == "loss":
        other.step(1, loss=value)
    else:
        assert not torch.tensor(other.step(1, scale=value)).isfinite()
    assert all(torch.equal(before[name], tensor) for name, tensor in other.tensors().items())
    whole.step(2), other.step(2)
    later = other.tensors()
    assert all(torch.equal(later[name], tensor) for name, tensor in whole.tensors().items())


def test_a_bad_number_in_the_gradient_of_ngrams_counts_as_zero(
    monkeypatch: pytest.MonkeyPatch, clone: str
) -> None:
    theirs, ours = (Made(monkeypatch, path) for path in ("0", clone))
    for made in (theirs, ours):
        ngrams = made.model.ngrams
        assert ngrams is not None
        sums = ngrams(torch.tensor([[1, 2, 3, 4]]), ngrams.no_ids(1))
        sums.grad = torch.ones_like(sums)
        sums.grad[0, 1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        made.optimizer.update(RATES, torch.tensor(1.0))
        assert ngrams.table.isfinite().all() and (ngrams.table != 0).any()
    assert_agree(ours, theirs, 1e-6, 1e-4)


@pytest.mark.parametrize("n_embd", [36, 64])
@pytest.mark.parametrize(("kind", "precision"), [("muon", "fp32"), ("muon", "bf16"), ("adamw", "fp32")])
def test_the_number_of_threads_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, all_threads: None, clone: str, kind: str, precision: str, n_embd: int
) -> None:
    found = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        made = Made(monkeypatch, clone, kind, precision, n_embd)
        norms = [made.step(seed) for seed in range(3)]
        found.append((norms, made.copy()))
    for norms, tensors in found[1:]:
        assert norms == found[0][0]
        assert all(torch.equal(tensor, found[0][1][name]) for name, tensor in tensors.items())


def some_ngrams(dropout: float = 0.0) -> NgramEmbeddings:
    config = ModelConfig(
        n_embd=20, ngram_embeddings=4, ngram_embedding_rows=64, ngram_embedding_dropout=dropout
    )
    made = NgramEmbeddings(config, 20)
    torch.nn.init.normal_(made.table, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.table[made.nothing] = 0
    return made


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("n_positions", [1, 2, 17])
def test_every_clone_sums_the_same_rows_as_torch(
    monkeypatch: pytest.MonkeyPatch, clone: str, dropout: float, documents: bool, n_positions: int
) -> None:
    """Also those of ids that the vocabulary does not have, and the same ones are dropped."""
    made, generator = some_ngrams(dropout).train(), torch.Generator().manual_seed(1)
    ids = torch.randint(-2, 23, (20, n_positions), generator=generator)
    ids[18], ids[19] = -(2**63), 2**63 - 1
    before = torch.randint(-1, 21, (20, 3), generator=generator)
    docs = (torch.rand(20, n_positions, generator=generator) < 0.2).cumsum(dim=1) if documents else None
    found = {}
    for path in ("0", clone):
        monkeypatch.setenv(VARIABLE, path)
        torch.manual_seed(2)
        sums = made(ids, before, docs)
        ((index, _),) = made.pending
        made.pending.clear()
        found[path] = (index, sums.detach())
    assert torch.equal(found["0"][0], found[clone][0])
    torch.testing.assert_close(found["0"][1], found[clone][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("n_matrices", "n_rows", "n_columns"), [(1, 32, 32), (5, 40, 32), (3, 176, 64), (2, 256, 96)]
)
def test_compiled_newton_schulz_iteration_is_as_near_the_exact_one_as_torch_is(
    monkeypatch: pytest.MonkeyPatch, clone: str, n_matrices: int, n_rows: int, n_columns: int
) -> None:
    monkeypatch.setenv(VARIABLE, clone)
    found = library()
    assert found is not None
    if not NativeNewtonSchulz.fits(found, n_rows, n_columns, torch.bfloat16):
        pytest.skip("torch iterates here")
    x = torch.randn(n_matrices, n_rows, n_columns, generator=torch.Generator().manual_seed(0))
    exact = orthogonalize(x.double())
    unit = (x / x.norm(dim=(1, 2), keepdim=True)).bfloat16()
    iteration = NativeNewtonSchulz(found, unit, NEWTON_SCHULZ, ITERATIONS)
    iteration.run()
    ours, theirs = (
        y.double().sub(exact).norm() for y in (iteration.result, orthogonalize(x, torch.bfloat16))
    )
    assert ours < 1.1 * theirs < 0.05 * exact.norm()
