"""Which positions may be read, and which are preferred: masks, and one soft prior.

Axes: B batch, H heads, T positions asked about, S positions read.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, table


class Mask(Protocol):
    """May the position of a query read the position of a key?"""

    def __call__(self, q_pos: Tensor, k_pos: Tensor, q_doc: Tensor | None, k_doc: Tensor | None) -> Tensor:
        """True (T, S) or (B, 1, T, S) where it may, from places (T,), (S,) and documents (B, T), (B, S)."""


class Causal:
    """A causal layer: position t reads positions up to t, and none after it.

    Whoever is to predict the next character must not see it. In training all positions of a window
    predict at once, each the one after it, so a layer that reads ahead would read the answer.
    Attention is kept from it by a mask: softmax(scores + m), with m(t, s) = 0 where s <= t and minus
    infinity elsewhere, which leaves those a weight of zero. A recurrent layer and a convolution are
    built to read backwards only. Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3.
    """

    def __call__(self, q_pos: Tensor, k_pos: Tensor, q_doc: Tensor | None, k_doc: Tensor | None) -> Tensor:
        """True (T, S) where a key does not come after the query."""
        return k_pos[None, :] <= q_pos[:, None]

    @staticmethod
    def example() -> Example:
        """The weights of four positions whose scores are all alike."""
        weights = _weights(Causal(), 4)
        return table("Equal scores, masked, after softmax: no weight on what follows.", weights, "t", "reads")


class Window:
    """A hard window: a layer reads the last N positions and none before them.

    Position t reads s where |t - s| < N, so itself is one of the N. A prior through a mask: within one
    layer what is far cannot act, whatever is learned. Through L layers, each reading the outputs of
    the one below, L (N - 1) + 1 characters can.
    Child et al. 2019, arXiv 1904.10509; Beltagy et al. 2020, arXiv 2004.05150.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, q_pos: Tensor, k_pos: Tensor, q_doc: Tensor | None, k_doc: Tensor | None) -> Tensor:
        """True (T, S) where key and query are fewer than `size` apart."""
        return (q_pos[:, None] - k_pos[None, :]).abs() < self.size

    @staticmethod
    def example() -> Example:
        """A window of two, in one causal layer and through two."""
        one = _weights(both(Causal(), Window(2)), 5)
        return table("What of each position arrives through two layers of window 2:", one @ one, "t", "of")


class Documents:
    """Documents kept apart: a position reads its own document only.

    Position t reads s where document(t) = document(s). Windows of text are cut without regard to where
    one document ends and the next begins, and what stands before a story's beginning says little about
    the story. A recurrent layer begins each document with an empty state, and to a convolution all
    around it is zero. Zhao et al. 2024, arXiv 2402.13991.
    """

    def __call__(self, q_pos: Tensor, k_pos: Tensor, q_doc: Tensor | None, k_doc: Tensor | None) -> Tensor:
        """True (B, 1, T, S) where query and key belong to the same document."""
        assert q_doc is not None and k_doc is not None
        return (q_doc[:, :, None] == k_doc[:, None, :])[:, None]

    @staticmethod
    def example() -> Example:
        """Two documents in one window."""
        weights = _weights(both(Causal(), Documents()), 5, torch.tensor([[0, 0, 1, 1, 1]]))[0, 0]
        return table("Positions 0, 1 are one document, 2 to 4 another; equal scores:", weights, "t", "reads")


def documents_of(ids: Tensor, end: int | None) -> Tensor | None:
    """The document that each of `ids` (B, T) belongs to, on the CPU; None where nothing tells them apart.

    An end is what the next document begins with: read, it is the first of that; predicted, the last.
    """
    return None if end is None else (ids == end).cumsum(dim=1).cpu()


class Locality(nn.Module):
    """A soft prior: scores fall with distance, as steeply as each head has learned.

    bias(t, s) = -m_h exp(a_h) |t - s|, with ALiBi's slope m_h for head h (`charlm explain alibi`) and
    with a_h learned, from 0, where this is ALiBi. A window forbids what is far; this asks a better
    match of it. Chi et al. 2022, arXiv 2205.09921, where a power of the distance is learned as well.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_head
        self.bias_scale = nn.Parameter(torch.empty(config.n_head))  # (H,)

    def bias(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """What is added to the scores: (H, T, S)."""
        slopes = alibi_slopes(len(self.bias_scale)).to(self.bias_scale) * self.bias_scale.exp()
        distance = (q_pos[:, None] - k_pos[None, :]).abs().to(slopes)
        return -slopes[:, None, None] * distance

    @staticmethod
    def example() -> Example:
        """The weights of one head of two, before anything was learned and after it grew steeper."""
        prior = Locality(ModelConfig(n_embd=4, n_head=2))
        nn.init.zeros_(prior.bias_scale)
        places = torch.arange(6)
        with torch.no_grad():
            before = torch.softmax(prior.bias(places, places)[0, -1], dim=-1)
            prior.bias_scale.add_(2)
            after = torch.softmax(prior.bias(places, places)[0, -1], dim=-1)
        return table(
            "How the last of six positions weighs all, scores alike, before and after a head grew steeper:",
            torch.stack((before, after)),
            "a",
            "reads",
            names=("0", "2"),
        )


def alibi_slopes(n_head: int) -> Tensor:
    """How steeply the scores of each head fall: (H,), in float64.

    2^(-8 h / H) where H is a power of two; otherwise those of the next lower power, then every
    second of the next higher. Press et al. 2022, arXiv 2108.12409, and its published code.
    """
    power = 1 << (n_head.bit_length() - 1)

    def steps(n: int) -> Tensor:
        return 2.0 ** (-8 * torch.arange(1, n + 1, dtype=torch.float64) / n)

    return torch.cat((steps(power), steps(2 * power)[::2][: n_head - power]))


def both(*masks: Mask) -> Mask:
    """The mask that allows what each of them allows."""

    def composed(q_pos: Tensor, k_pos: Tensor, q_doc: Tensor | None, k_doc: Tensor | None) -> Tensor:
        allowed = torch.ones((1, 1), dtype=torch.bool)
        for mask in masks:
            allowed = allowed & mask(q_pos, k_pos, q_doc, k_doc)
        return allowed

    return composed


def masks_of(config: ModelConfig, *, documents: bool) -> Mask:
    """All that a configuration asks for."""
    masks: list[Mask] = [Causal()] if config.causal else []
    masks += [Window(config.window)] if config.window is not None else []
    masks += [Documents()] if documents else []
    return both(*masks)


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """The mask as numbers to add to scores: 0 where True, minus infinity elsewhere."""
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf).to(like)


def _weights(mask: Mask, n: int, docs: Tensor | None = None) -> Tensor:
    """What softmax makes of equal scores among `n` positions: (n, n)."""
    places = torch.arange(n)
    return torch.softmax(as_bias(mask(places, places, docs, docs), torch.zeros(())), dim=-1)
