"""The transformer: causal, the same on a prefix, rows independent, first loss that of a guess."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from charlm.config import ModelConfig
from charlm.model import attention
from charlm.model.attention import PositionInfo, attend
from charlm.model.positions import Rotary, rotate
from charlm.model.transformer import LanguageModel, initialise


def make(
    n_embd: int = 16,
    n_head: int = 2,
    n_layer: int = 2,
    block_size: int = 12,
    n_symbols: int = 11,
    *,
    random: bool = True,
) -> LanguageModel:
    model = LanguageModel(
        ModelConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size, dropout=0.0),
        n_symbols,
    )
    generator = torch.Generator().manual_seed(3)
    initialise(model, generator)
    if random:  # output projections start at zero, which would hide what the blocks do
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.double().eval()


def test_causal_by_gradient() -> None:
    model = make()
    ids = torch.arange(10)[None] % 11
    x = model.embedding.weight.detach()[ids].requires_grad_()
    model.embed = lambda *_: x  # type: ignore[method-assign]
    for t in range(10):
        gradient = torch.autograd.grad(model(ids)[0, t].sum(), x)[0][0]
        assert (gradient[t + 1 :] == 0).all(), "a later character reached an earlier prediction"
        assert (gradient[: t + 1].abs().sum(dim=1) > 0).all(), "an earlier character did not"


def test_the_output_on_a_prefix_is_the_prefix_of_the_output() -> None:
    model = make()
    ids = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(0))
    whole = model(ids)
    for T in range(1, 13):
        torch.testing.assert_close(model(ids[:, :T]), whole[:, :T], rtol=0, atol=1e-12)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    model = make()
    ids = torch.randint(11, (4, 12), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_embd", [64, 128, 256, 512, 768])
@pytest.mark.parametrize("n_symbols", [65, 320])
def test_the_first_loss_is_that_of_a_guess(n_embd: int, n_symbols: int) -> None:
    model = make(n_embd, n_embd // 32, 2, 64, n_symbols, random=False)
    ids = torch.randint(n_symbols, (8, 65), generator=torch.Generator().manual_seed(2))
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - log(n_symbols)) < 0.05


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_attention_by_plain_products_is_the_fused_kernels_and_so_are_its_gradients(kv_heads: int) -> None:
    g = torch.Generator().manual_seed(5)
    shapes = ((2, 3, 7, 8), (2, kv_heads, 7, 8), (2, kv_heads, 7, 8))
    q, k, v = (torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in shapes)
    bias = torch.zeros(7, 7, dtype=torch.float64).masked_fill(~torch.ones(7, 7).tril().bool(), -torch.inf)
    found = []
    for up_to in (0, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "max_plain_length", lambda device, up_to=up_to: up_to)
            out = attend(q, k, v, PositionInfo(bias, lambda q: q), None)
        found.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-11)
    wide = (x.expand(2, 3, 7, 8) for x in (q, k, v))
    reference = F.scaled_dot_product_attention(*wide, is_causal=True)
    torch.testing.assert_close(found[1][0], reference.transpose(1, 2).flatten(2), rtol=0, atol=1e-12)


def test_which_attention_is_used_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name in ("attend_plain", "attend_fused"):
        how = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda *x, name=name, how=how: used.append(name) or how(*x))
    for capability, block in (("AVX512", 256), ("AVX512", 257), ("AVX2", 64)):
        monkeypatch.setattr(attention, "CPU_CAPABILITY", capability)
        x = torch.zeros(1, 1, block, 2)
        for learned in (False, True):  # a learned bias has no fused derivative
            bias = torch.zeros(block, block, requires_grad=learned)
            attend(x, x, x, PositionInfo(bias, lambda q: q), None)
    assert used == ["attend_plain"] * 2 + ["attend_fused", "attend_plain"] * 2


def test_an_unknown_id_reads_as_nothing() -> None:
    model = make()
    assert (model.embed(torch.tensor([[11, 200]])) == 0).all()


def test_a_line_is_memorised() -> None:
    model = make(32, 2, 1, 32, 30, random=False).float().train()
    line = torch.randint(30, (1, 33), generator=torch.Generator().manual_seed(8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(line[:, :-1])[0], line[0, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_what_one_layer_computes_written_out() -> None:
    """RMSNorm, rotary attention with normed queries and keys, SwiGLU, tied head: by hand."""
    model = make(8, 2, 1, 6, 5)
    ids = torch.tensor([[1, 4, 0, 2]])

    def norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    block, E = model.blocks[0], model.embedding.weight
    x = E[ids[0]]  # (T, C)
    qkv = norm(x, block.mixer_norm.weight) @ block.mixer.qkv.weight.T
    heads = []
    for h in range(2):
        q, k, v = (qkv[:, part * 8 + h * 4 : part * 8 + h * 4 + 4] for part in range(3))
        q, k = norm(q, block.mixer.q_norm.weight), norm(k, block.mixer.k_norm.weight)
        angles = Rotary(ModelConfig(n_embd=8, n_head=2)).angles(torch.arange(4), x)
        q, k = rotate(q, angles), rotate(k, angles)
        scores = (q @ k.T / 2).masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    x = x + torch.cat(heads, -1) @ block.mixer.out.weight.T
    gate, up = (norm(x, block.mlp_norm.weight) @ block.mlp.gate_up.weight.T).chunk(2, -1)
    x = x + (F.silu(gate) * up) @ block.mlp.down.weight.T
    torch.testing.assert_close(model(ids)[0], norm(x, model.norm.weight) @ E.T, rtol=0, atol=1e-12)
