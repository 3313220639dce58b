"""Convert the weights of a plain decoder to those of Qwen3, an architecture that other programs run, and back.

Shapes: V ids, untrained bytes included, N symbols, C width (n_embd), E exported width, H heads, K key and value heads, D head
size, F hidden size of SwiGLU, G its exported size.

The plain decoder computes what Qwen3 computes (Yang et al. 2025, arXiv 2505.09388), except for bytes that training never
saw. They need ids, so that any text can be encoded, but must not be predicted; a head without bias would give their rows
of zeros the logit 0, which may be the highest. So the exported model has a few more channels. In the first one, every
embedding has the same small constant, which no block changes. The last norm makes it large, and the head subtracts it from
the logits of the untrained bytes. What it adds to the mean square in each norm is taken from that norm's epsilon, so
everything else is computed as before. The other new channels are zeros; they make sizes multiples of 32, as quantization
needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from charlm.config import ModelConfig
from charlm.model.layers import NORM_EPS, swiglu_hidden

MULTIPLE = 32
"""Exported sizes are multiples of this, the number of weights in a quantization block."""
ROPE_BASE = 10_000.0
SINK_GAIN = 1e3
"""The gain of the constant in the last norm, and again in the head: together they lower the logits of untrained bytes by
about a million times the constant, divided by the size of the last layer's output."""


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
        """Return the sizes for a plain decoder with `n_symbols`, exported with a row for each of `n_ids`."""
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
        """G: F rounded up to a multiple of 32."""
        return -(-self.hidden // MULTIPLE) * MULTIPLE

    @property
    def constant(self) -> float:
        """The first new channel of every embedding; its square is half of what epsilon adds to the sum of C squares."""
        return sqrt(NORM_EPS * self.n_embd / 2)

    @property
    def norm_eps(self) -> float:
        """The epsilon of the exported norms, which adds the other half."""
        return NORM_EPS * self.n_embd / (2 * self.width)

    @property
    def norm_scale(self) -> float:
        """The factor on the gains of norms, since mean squares are over E numbers instead of C."""
        return sqrt(self.n_embd / self.width)

    @property
    def query_scale(self) -> float:
        """The factor on queries and keys before their norms, so that the new epsilon acts there as the old one did."""
        return sqrt(self.norm_eps / NORM_EPS)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of all weights."""
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
    """Return what Qwen3 cannot compute of this model, in words; None if it can compute all of it."""
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
    """Convert the weights (float32) of a plain decoder to Qwen3's, with logits divided by `temperature`."""
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
    """Convert the output of `to_qwen3` back to the weights of a plain decoder.

    Raises ValueError if `to_qwen3` would not give these: another program trained them, or the file was changed.
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
    """Yield the name of each weight in Qwen3, its values (a view of ours), and the factor on them."""
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
