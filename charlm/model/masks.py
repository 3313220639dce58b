"""Masks: which positions a query may read. And locality, a learned preference for near ones.

Shapes: B batch, H heads, T query positions, S key positions.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig


class Mask(Protocol):
    """A rule for which keys a query may read; rules are combined with `and`."""

    def __call__(self, q_pos: Tensor, k_pos: Tensor, docs: Tensor | None) -> Tensor:
        """Return True where it may, (T, S) or (B, 1, T, S), for positions (T,), (S,) and documents (B, S)."""


class Causal:
    """A causal layer: position t reads positions up to t, and none after it.

    A model that predicts the next character must not see it. In training all positions of a window
    predict at once, each the character after it, so a layer that reads ahead would read the answer.
    Attention is restricted by a mask: softmax(scores + m), with m(t, s) = 0 where s <= t and minus
    infinity elsewhere, which gives later positions a weight of zero. Recurrent and convolutional
    layers read backwards by construction. Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3.
    """

    def __call__(self, q_pos: Tensor, k_pos: Tensor, docs: Tensor | None) -> Tensor:
        """True (T, S) where the key does not come after the query."""
        return k_pos[None, :] <= q_pos[:, None]


class Window:
    """A sliding window: a layer reads the last N positions and none before them.

    Position t reads s where |t - s| < N, so it is itself one of the N. This is a hard prior: within one
    layer nothing far away can matter, whatever is learned. L layers, each reading the outputs of the
    one below, reach L (N - 1) + 1 characters.
    Child et al. 2019, arXiv 1904.10509; Beltagy et al. 2020, arXiv 2004.05150.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, q_pos: Tensor, k_pos: Tensor, docs: Tensor | None) -> Tensor:
        """True (T, S) where key and query are fewer than `size` apart."""
        return (q_pos[:, None] - k_pos[None, :]).abs() < self.size


class Documents:
    """Document masking: a position reads its own document only.

    Position t reads s where document(t) = document(s). Training windows are cut without regard to
    where one document ends and the next begins, and the end of one story says little about the next.
    A recurrent layer starts each document with an empty state, and a convolution sees zeros beyond a
    document's edges. Zhao et al. 2024, arXiv 2402.13991.
    """

    def __call__(self, q_pos: Tensor, k_pos: Tensor, docs: Tensor | None) -> Tensor:
        """True (B, 1, T, S) where query and key belong to the same document."""
        assert docs is not None
        return (docs[:, q_pos, None] == docs[:, None, k_pos])[:, None]


def documents_of(ids: Tensor, end: int | None) -> Tensor | None:
    """Return the document number of each of `ids` (B, T); None where the vocabulary has no end symbol.

    The end symbol starts the next document: as an input it belongs to that one, as a target to the one before.
    """
    return None if end is None else (ids == end).cumsum(dim=1).to(positions_on(ids.device))


def positions_on(device: torch.device) -> torch.device:
    """Return the device to compute positions, documents and masks on: that of the ids, but the CPU for MPS (no float64)."""
    return torch.device("cpu") if device.type == "mps" else device


class Locality(nn.Module):
    """A soft locality prior: scores fall with distance, at a rate that each head learns.

    bias(t, s) = -m_h exp(a_h) |t - s|, with ALiBi's slope m_h for head h (`charlm explain
    alibi`) and a learned a_h. At a_h = 0, where it starts, this is ALiBi. A window forbids what
    is far away; this only demands a better match of it. Chi et al. 2022, arXiv 2205.09921, who
    also learn a power of the distance.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_head
        self.bias_scale = nn.Parameter(torch.empty(config.n_head))  # (H,)

    def bias(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """The bias on the scores: (H, T, S)."""
        slopes = alibi_slopes(len(self.bias_scale), q_pos.device).to(self.bias_scale) * self.bias_scale.exp()
        distance = (q_pos[:, None] - k_pos[None, :]).abs().to(slopes)
        return -slopes[:, None, None] * distance


def alibi_slopes(n_head: int, device: torch.device | None = None) -> Tensor:
    """Return ALiBi's slopes, by which the scores of each head fall per position: (H,), in float64.

    2^(-8 h / H) for h = 1 to H where H is a power of two. Otherwise the slopes of the next lower power, then every
    second one of the next higher. Press et al. 2022, arXiv 2108.12409, and its published code.
    """
    power = 1 << (n_head.bit_length() - 1)

    def slopes(n: int) -> Tensor:
        return 2.0 ** (-8 * torch.arange(1, n + 1, dtype=torch.float64, device=device) / n)

    return torch.cat((slopes(power), slopes(2 * power)[::2][: n_head - power]))


def masks_of(config: ModelConfig, *, documents: bool) -> list[Mask]:
    """Return the masks that a configuration asks for."""
    masks: list[Mask] = [Causal()] if config.causal else []
    masks += [Window(config.window)] if config.window is not None else []
    return [*masks, Documents()] if documents else masks


def allowed_by(masks: Sequence[Mask], q_pos: Tensor, k_pos: Tensor, docs: Tensor | None = None) -> Tensor:
    """Return True where every mask allows reading: (T, S), (B, 1, T, S), or (1, 1) without masks."""
    everything = torch.ones((1, 1), dtype=torch.bool, device=q_pos.device)
    return reduce(torch.logical_and, (mask(q_pos, k_pos, docs) for mask in masks), everything)


def as_bias(allowed: Tensor, like: Tensor) -> Tensor:
    """Return a bias on scores: 0 where a key may be read, minus infinity elsewhere, with dtype and device of `like`."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, -torch.inf).to(like)
