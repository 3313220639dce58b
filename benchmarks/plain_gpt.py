"""The trainer that everyone starts from, to measure ours beside: a plain GPT, fp32 or bf16 autocast, AdamW.

Learned positions, LayerNorm before each half of a block, fused attention, GELU, tied head, random
windows. It reads ids and knows nothing of checkpoints, plans or intervals.

    python -m benchmarks.plain_gpt TEXT [--steps 2000]
"""

import argparse
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Its size; the defaults are those of the well-known recipe for a CPU."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    batch_size: int = 12


class PlainBlock(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        C = shape.n_embd
        self.n_head = shape.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        hidden: Tensor = self.down(F.gelu(self.up(self.ln_2(x))))
        return x + hidden


class PlainGPT(nn.Module):
    def __init__(self, shape: Shape, n_symbols: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(n_symbols, shape.n_embd)
        self.places = nn.Embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.n_embd)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(
                    weight, std=0.02 / (2 * shape.n_layer) ** (0.5 if "proj" in name or "down" in name else 0)
                )
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.characters.weight)


class PlainTrainer:
    """Steps of AdamW on random windows."""

    def __init__(
        self,
        ids: Tensor,
        n_symbols: int,
        shape: Shape,
        steps: int,
        compiled: bool = False,
        bf16: bool = False,
    ):
        torch.manual_seed(1337)
        self.ids, self.shape, self.steps, self.step_number, self.bf16 = ids, shape, steps, 0, bf16
        self.model = PlainGPT(shape, n_symbols)
        self.run = torch.compile(self.model) if compiled else self.model
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if p.ndim != 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def step(self) -> float:
        """One step; the seconds that it took."""
        started = perf_counter()
        warm = min(1.0, (self.step_number + 1) / 100)
        done = max(0.0, (self.step_number - 100) / max(1, self.steps - 100))
        for group in self.optimizer.param_groups:
            group["lr"] = warm * (1e-4 + 0.5 * (1 + cos(pi * min(1.0, done))) * 9e-4)
        T = self.shape.block_size
        starts = torch.randint(len(self.ids) - T - 1, (self.shape.batch_size,))
        windows = self.ids[starts[:, None] + torch.arange(T + 1)].long()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.run(windows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step_number += 1
        return perf_counter() - started

    @torch.no_grad()
    def nats(self, ids: Tensor, stride: int) -> float:
        """Mean nats over a text, in windows of a block that begin every `stride` characters."""
        T, sums, n = self.shape.block_size, 0.0, 0
        for start in range(0, len(ids) - T - 1, stride):
            window = ids[start : start + T + 1].long()[None]
            first = 0 if start == 0 else T - stride
            losses = F.cross_entropy(
                self.model(window[:, :-1])[0, first:], window[0, first + 1 :], reduction="none"
            )
            sums, n = sums + float(losses.sum()), n + len(losses)
        return sums / n

    @torch.no_grad()
    def sample(self, streams: int, length: int) -> float:
        """Characters a second, recomputing the block for each, as it is usually done."""
        ids = torch.zeros(streams, 1, dtype=torch.long)
        started = perf_counter()
        for _ in range(length):
            probabilities = F.softmax(self.model(ids[:, -self.shape.block_size :])[:, -1] / 0.8, dim=-1)
            ids = torch.cat((ids, torch.multinomial(probabilities, 1)), dim=1)
        return streams * length / (perf_counter() - started)


def read(path: str) -> tuple[Tensor, Tensor, int]:
    """The ids of the training and the held-out part, and how many symbols there are."""
    text = Path(path).read_text("utf-8")
    symbols = {char: i for i, char in enumerate(sorted(set(text)))}
    ids = torch.tensor([symbols[char] for char in text], dtype=torch.int16)
    n_train = int(len(ids) * 0.9)
    return ids[:n_train], ids[n_train:], len(symbols)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    train, held_out, n_symbols = read(options.text)
    trainer = PlainTrainer(train, n_symbols, Shape(), options.steps)
    seconds = sum(trainer.step() for _ in range(options.steps))
    chars = options.steps * trainer.shape.block_size * trainer.shape.batch_size
    nats = trainer.nats(held_out, 32)
    print(f"{seconds:.1f} s, {chars / seconds:,.0f} characters/s, {nats:.4f} nats at stride 32")


if __name__ == "__main__":
    main()
