"""The context rule: what each prediction may see, in training's held-out loss, sampling and evaluation alike.

With W = block_size and h = stride (W // 2 by default), character t is predicted from text[s(t):t], where
s(t) = h * max(0, ceil((t - W) / h)): it sees between W - h and W characters. A text is therefore scored in
chunks: chunk k reads W characters from k * h on, and scores those that chunk k - 1 has not scored.

The n-gram prior is not bound by that: it always sees its few characters before t, unless
`reset_prior_at_start`. A model that carries its state (a recurrent net) reads on from the first character
instead: s(t) = 0, in chunks of W new characters each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from charlm.config import ModelConfig


class Chunk(NamedTuple):
    """A part of a text that is read at once: ids[start : end - 1] predict ids[first:end]."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class ContextRule:
    """The rule for one block size and stride. A stride of `block_size` means chunks without overlap."""

    block_size: int
    stride: int
    carried: bool = False
    reset_prior_at_start: bool = False  # the n-gram prior sees nothing before the chunk either

    @classmethod
    def of(cls, block_size: int, stride: int | None = None, *, carried: bool = False) -> "ContextRule":
        """Return the rule with a stride of half a block by default. Raises ValueError if `stride` is not allowed."""
        if carried:
            if stride is not None:
                raise ValueError(
                    f"`stride={stride}` has no effect: this model carries its state from symbol to symbol, and sees "
                    "all of them"
                )
            return cls(block_size, block_size, carried=True)
        if stride is not None and not 1 <= stride <= block_size:
            raise ValueError(f"`stride` is {stride}; allowed: 1 to {block_size}, the model's block size")
        return cls(block_size, stride or max(1, block_size // 2))

    @classmethod
    def of_order(cls, order: int) -> "ContextRule":
        """Return the rule of an n-gram model, which sees exactly `order` characters before each."""
        return cls(max(1, order), 1)

    @classmethod
    def of_model(cls, config: ModelConfig, stride: int | None = None) -> "ContextRule":
        """Return the rule of a model of this configuration. Raises ValueError if `stride` is not allowed."""
        if config.is_ngram:
            assert config.prior_order is not None
            if stride is not None:
                raise ValueError(
                    f"`stride={stride}` has no effect: the n-gram model sees {config.prior_order} symbols before each, "
                    "whatever the stride"
                )
            return cls.of_order(config.prior_order)
        assert config.block_size
        return cls.of(config.block_size, stride, carried=config.carries_state)

    def start(self, t: int) -> int:
        """Return s(t), where the context of character t begins."""
        return 0 if self.carried else self.stride * self._moves(t)

    def n_chunks(self, n: int) -> int:
        """Return the number of chunks that score characters 1 to n - 1 (character 0 has no context)."""
        return 0 if n < 2 else 1 + self._moves(n - 1)

    def chunk_of(self, t: int) -> int:
        """Return the chunk that scores character t, t > 0."""
        return self._moves(t)

    def chunk(self, k: int, n: int) -> Chunk:
        """Return chunk k of a text of n characters."""
        start = k * self.stride
        end = min(start + self.block_size + 1, n)
        return Chunk(start, self.start_of_scores(k), end)

    def start_of_scores(self, k: int) -> int:
        """Return the first character that chunk k scores."""
        return 1 if k == 0 else k * self.stride + self.block_size - self.stride + 1

    def describe(self, unit: str, prior_order: int = 0) -> str:
        """Describe the context of each symbol in words; a symbol is a `unit`."""
        if self.carried:
            return f"all {unit}s before each (state carried from one to the next)"
        least, most = self.block_size - self.stride, self.block_size
        words = f"{max(1, least)} to {most} {unit}s before each (block {most}, stride {self.stride})"
        return f"{words}; the n-gram prior always sees {prior_order}" if prior_order > least else words

    def _moves(self, t: int) -> int:
        """Return how often the window has moved when character t is predicted."""
        return max(0, -((self.block_size - t) // self.stride))
