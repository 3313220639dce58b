"""The plain decoder as Qwen3, which other programs know: its weights under their names, in their shapes, and back.

Shapes: V ids, untrained bytes included, N symbols, C width (n_embd), E exported width, H heads, K key and value heads, D head
size, F hidden size of SwiGLU, G its exported size.

The plain decoder computes what Qwen3 computes (Yang et al. 2025, arXiv 2505.09388), but for the bytes that training never
saw: they need ids, so that any text has some, and must not be predicted, whereas a head without bias gives a row of zeros
the logit 0, which may be the highest. So the exported model has a few channels more. In the first of them every embedding
has the same small number, which no block changes. The last norm makes it large, and the head subtracts it from the logits of
the untrained bytes. What it adds to the squares in each norm is taken from that norm's epsilon, so everything else
is computed as before. The other new channels are zeros; they make sizes multiples of 32, as quantization needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from charlm.config import ModelConfig
from charlm.model.layers import NORM_EPS, swiglu_hidden

MULTIPLE = 32
"""Of the exported sizes: the numbers in a block of quantized weights."""
ROPE_BASE = 10_000.0
SINK_GAIN = 1e3
"""Of the constant in the last norm, and again in the head: together they make the logits of untrained bytes about a
million times the constant, divided by the size of the last layer's output."""


@dataclass(frozen=True, kw_only=True)
class Qwen3Shape:
    """The sizes of an exported model."""

    n_ids: int  # V
    n_symbols: int  # N
    n_layer: int
    n_head: int  # H
    n_kv_head: int  # K
    head_size: int  # D
    n_embd: int  # C
    block_size: int
    hidden: int  # F

    @classmethod
    def of(cls, config: ModelConfig, n_symbols: int, n_ids: int) -> "Qwen3Shape":
        """The sizes for a plain decoder with so many symbols, and rows for so many ids."""
        assert config.n_embd and config.n_head and config.n_layer and config.block_size
        return cls(
            n_ids=n_ids,
            n_symbols=n_symbols,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head or config.n_head,
            head_size=config.head_size,
            n_embd=config.n_embd,
            block_size=config.block_size,
            hidden=swiglu_hidden(config.n_embd),
        )

    @property
    def width(self) -> int:
        """E: the next multiple of 32 above C."""
        return (self.n_embd // MULTIPLE + 1) * MULTIPLE

    @property
    def wide_hidden(self) -> int:
        """G: the multiple of 32 from F on."""
        return -(-self.hidden // MULTIPLE) * MULTIPLE

    @property
    def constant(self) -> float:
        """What every embedding has in its first new channel; its square is half of what epsilon adds to C squares."""
        return sqrt(NORM_EPS * self.n_embd / 2)

    @property
    def norm_eps(self) -> float:
        """The epsilon of the exported norms: the other half."""
        return NORM_EPS * self.n_embd / (2 * self.width)

    @property
    def norm_scale(self) -> float:
        """What the gains of norms are multiplied by, since a mean of squares is over E numbers instead of C."""
        return sqrt(self.n_embd / self.width)

    @property
    def query_scale(self) -> float:
        """What queries and keys are multiplied by before their norms, so that those have the epsilon of before."""
        return sqrt(self.norm_eps / NORM_EPS)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes of all weights."""
        E, G, D = self.width, self.wide_hidden, self.head_size
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.n_ids, E)}
        of_layer = {
            "input_layernorm": (E,),
            "self_attn.q_proj": (self.n_head * D, E),
            "self_attn.k_proj": (self.n_kv_head * D, E),
            "self_attn.v_proj": (self.n_kv_head * D, E),
            "self_attn.o_proj": (E, self.n_head * D),
            "self_attn.q_norm": (D,),
            "self_attn.k_norm": (D,),
            "post_attention_layernorm": (E,),
            "mlp.gate_proj": (G, E),
            "mlp.up_proj": (G, E),
            "mlp.down_proj": (E, G),
        }
        for i in range(self.n_layer):
            shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in of_layer.items()}
        return shapes | {"model.norm.weight": (E,), "lm_head.weight": (self.n_ids, E)}


def why_not_qwen3(config: ModelConfig) -> str | None:
    """What in a transformer Qwen3 cannot compute, in words; None if it can compute all of it."""
    config = config.completed()
    if config.is_ngram:
        return "is an n-gram model"
    if config.prior:
        return "starts from an n-gram prior"
    if (config.ngram_embeddings or 1) > 1:
        return "has n-gram embeddings"
    if set(config.mixers) != {"attention"}:
        return f"has layers of the kind {', '.join(name for name in config.mixers if name != 'attention')}"
    if config.position != "rotary":
        return "has no positions" if config.position == "none" else f"has {config.position} positions"
    if config.window is not None:
        return f"has a window of {config.window}"
    return "learns locality" if config.locality else None


def to_qwen3(weights: Mapping[str, Tensor], shape: Qwen3Shape, temperature: float = 1.0) -> dict[str, Tensor]:
    """The weights (float32) of a plain decoder, whose logits are divided by `temperature`, as those of Qwen3."""
    C, N = shape.n_embd, shape.n_symbols
    found = {name: torch.zeros(size) for name, size in shape.tensors().items()}
    for name, part, scale in _parts(weights, shape, temperature):
        found[name][tuple(slice(n) for n in part.shape)] = part * scale
    found["model.embed_tokens.weight"][:, C] = shape.constant
    found["model.norm.weight"][C] = SINK_GAIN
    found["lm_head.weight"][N:, C] = -SINK_GAIN
    return found


def from_qwen3(
    tensors: Mapping[str, Tensor], shape: Qwen3Shape, temperature: float = 1.0
) -> dict[str, Tensor]:
    """The weights of a plain decoder from those that `to_qwen3` made of them.

    Raises ValueError if it would not make these: another program has trained them, or the file was changed.
    """
    C, N = shape.n_embd, shape.n_symbols
    D, kv = shape.head_size, shape.n_kv_head * shape.head_size
    empty = {
        "embedding.weight": torch.empty(N, C),
        "norm.weight": torch.empty(C),
        **{
            f"blocks.{i}.{name}": torch.empty(size)
            for i in range(shape.n_layer)
            for name, size in {
                "mixer_norm.weight": (C,),
                "mixer.qkv.weight": (C + 2 * kv, C),
                "mixer.q_norm.weight": (D,),
                "mixer.k_norm.weight": (D,),
                "mixer.out.weight": (C, C),
                "mlp_norm.weight": (C,),
                "mlp.gate_up.weight": (2 * shape.hidden, C),
                "mlp.down.weight": (C, shape.hidden),
            }.items()
        },
    }
    for name, part, scale in _parts(empty, shape, temperature):
        part.copy_(tensors[name][tuple(slice(n) for n in part.shape)] / scale)
    again = to_qwen3(empty, shape, temperature)
    for name, tensor in again.items():
        if not torch.allclose(tensor, tensors[name], rtol=1e-5, atol=1e-7):
            raise ValueError(f"{name} was changed after charlm wrote it")
    return empty


def _parts(
    weights: Mapping[str, Tensor], shape: Qwen3Shape, temperature: float
) -> Iterator[tuple[str, Tensor, float]]:
    """The name of each weight in Qwen3, its values (a view of ours), and what they are multiplied by."""
    scale, query = shape.norm_scale, shape.query_scale
    C, kv = shape.n_embd, shape.n_kv_head * shape.head_size
    yield "lm_head.weight", weights["embedding.weight"], 1.0
    yield "model.embed_tokens.weight", weights["embedding.weight"], 1.0
    for i in range(shape.n_layer):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        q, k, v = torch.split(weights[f"{ours}.mixer.qkv.weight"], [C, kv, kv])
        gate, up = torch.split(weights[f"{ours}.mlp.gate_up.weight"], shape.hidden)
        yield f"{theirs}.input_layernorm.weight", weights[f"{ours}.mixer_norm.weight"], scale
        yield f"{theirs}.self_attn.q_proj.weight", q, query
        yield f"{theirs}.self_attn.k_proj.weight", k, query
        yield f"{theirs}.self_attn.v_proj.weight", v, 1.0
        yield f"{theirs}.self_attn.q_norm.weight", weights[f"{ours}.mixer.q_norm.weight"], 1.0
        yield f"{theirs}.self_attn.k_norm.weight", weights[f"{ours}.mixer.k_norm.weight"], 1.0
        yield f"{theirs}.self_attn.o_proj.weight", weights[f"{ours}.mixer.out.weight"], 1.0
        yield f"{theirs}.post_attention_layernorm.weight", weights[f"{ours}.mlp_norm.weight"], scale
        yield f"{theirs}.mlp.gate_proj.weight", gate, 1.0
        yield f"{theirs}.mlp.up_proj.weight", up, 1.0
        yield f"{theirs}.mlp.down_proj.weight", weights[f"{ours}.mlp.down.weight"], 1.0
    yield "model.norm.weight", weights["norm.weight"], scale / temperature
