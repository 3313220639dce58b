"""`--to onnx`: write a graph for onnxruntime, with the keys and values of the preceding text as inputs and outputs.

Shapes: B batch, T positions, P positions before, S = P + T, C width, L layers, H heads, K key and value heads, D head size, V
ids, N symbols, W block size.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from math import log, log1p
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from charlm import files
from charlm.checkpoint.snapshot import empty_model
from charlm.export import need
from charlm.export.decoder import PlainDecoder, tokenizer_json
from charlm.inference.predictor import ESCAPE
from charlm.model.attention import Attention, split_heads
from charlm.model.positions import rotary_turns, rotate
from charlm.model.qwen3 import ROPE_BASE
from charlm.model.transformer import Block

INPUTS = ("input_ids", "past_keys", "past_values")
OUTPUTS = ("logits", "keys", "values")


class OnnxDecoder(nn.Module):
    """A plain decoder without branches on its input, as a graph requires. The softmax of its logits is charlm's prediction."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, decoder: PlainDecoder) -> None:
        super().__init__()
        model = empty_model(decoder.config, decoder.shape.n_symbols)
        model.load_state_dict(decoder.snapshot.weights, assign=True)
        self.model, self.shape, self.temperature = model.eval(), decoder.shape, decoder.temperature
        turns = rotary_turns(decoder.shape.head_size, ROPE_BASE, torch.arange(decoder.shape.block_size))
        turns = torch.cat((turns, turns), dim=-1)  # (W, D)
        self.register_buffer("cosines", turns.cos().float())
        self.register_buffer("sines", turns.sin().float())

    def forward(self, ids: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, T, V) after `ids` (B, T), and keys and values (L, B, K, S, D), including the past (L, B, K, P, D)."""
        P, T = past_keys.shape[3], ids.shape[1]
        pos = torch.arange(P, P + T)
        angles = self.cosines.index_select(0, pos), self.sines.index_select(0, pos)
        hidden = torch.arange(P + T)[None, :] > pos[:, None]  # (T, S)
        x = self.model.embed(ids)  # (B, T, C)
        all_keys, all_values = [], []
        for i, module in enumerate(self.model.blocks):
            block = cast(Block, module)
            attention = cast(Attention, block.mixer)
            normal = block.mixer_norm(x)
            q, k, v = (split_heads(part, attention.head_size) for part in attention.qkv.split(normal))
            q, k = rotate(attention.q_norm(q), angles), rotate(attention.k_norm(k), angles)
            k, v = torch.cat((past_keys[i], k), dim=2), torch.cat((past_values[i], v), dim=2)
            all_keys.append(k)
            all_values.append(v)
            x = x + attention.out(self._attend(q, k, v, hidden))
            x = x + block.mlp(block.mlp_norm(x))
        logits = self.model.logits(self.model.norm(x)) / self.temperature  # (B, T, N)
        return self._with_escape(logits), torch.stack(all_keys), torch.stack(all_values)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        """Attend: (B, T, C) from q (B, H, T, D), k and v (B, K, S, D); groups of heads share keys and values."""
        group = self.shape.n_head // self.shape.n_kv_head
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(-2, -1) * self.shape.head_size**-0.5  # (B, H, T, S)
        weights: Tensor = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _with_escape(self, logits: Tensor) -> Tensor:
        """Extend logits of symbols (B, T, N) to all ids (B, T, V): bytes that training never saw share a small probability."""
        unseen = self.shape.n_ids - self.shape.n_symbols
        if not unseen:
            return logits
        share = torch.logsumexp(logits, dim=-1, keepdim=True) + log(ESCAPE / unseen) - log1p(-ESCAPE)
        return torch.cat((logits, share.expand(-1, -1, unseen)), dim=-1)


def write_onnx(decoder: PlainDecoder, folder: Path) -> None:
    """Write model.onnx and tokenizer.json into a folder. Raises UsageError without the extra, OSError."""
    need("onnx", "onnx", "onnxscript", "tokenizers")
    shape, model = decoder.shape, OnnxDecoder(decoder)
    keys, values = torch.zeros(
        2, shape.n_layer, 2, shape.n_kv_head, 3, shape.head_size
    )  # two tensors, else they would become one input
    batch, new, before = (torch.export.Dim(name) for name in ("batch", "new", "before"))
    with _silence():
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 4, dtype=torch.int64), keys, values),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: batch, 1: new}, {1: batch, 3: before}, {1: batch, 3: before}),
            external_data=False,
            verbose=False,
        )
    assert program is not None, "what dynamo exports is returned"
    data = program.model_proto.SerializeToString()
    files.write_synced(folder / "model.onnx", data)
    files.write_synced(folder / "tokenizer.json", tokenizer_json(decoder, "onnx"))


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress torch's messages about its own passes and about packages that it does not find."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
