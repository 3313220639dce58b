"""The one rule for what a prediction may see, in training's figures, sampling and evaluation alike.

With W = block_size and h = stride (W // 2 unless told), character t is predicted from
text[s(t):t], s(t) = h * max(0, ceil((t - W) / h)): it sees between W - h and W characters.
So the text is read in windows of W: window k starts at k * h, and scores what the one before
has not.

Counts (charlm/counts/) are not bound by it, unless a rule says so (`counts_bound`): their few characters
before t they always see, where a window begins too. A model that carries its state reads on instead, from the first character: s(t) = 0. Its windows
are W new characters each, read in order.
"""

from dataclasses import dataclass

from charlm.config import ModelConfig


@dataclass(frozen=True)
class ContextRule:
    """The rule for one block size; a stride equal to it gives blocks without overlap."""

    block_size: int
    stride: int
    carried: bool = False
    counts_bound: bool = False  # counts, too, see nothing before the start of the window

    @classmethod
    def of(cls, block_size: int, stride: int | None = None, *, carried: bool = False) -> "ContextRule":
        """The rule with its usual stride, half a block; ValueError if `stride` cannot act."""
        if carried:
            if stride is not None:
                raise ValueError(
                    f"stride is {stride}, which cannot act: this model carries its state from symbol to "
                    "symbol, and sees all of them"
                )
            return cls(block_size, block_size, carried=True)
        if stride is not None and not 1 <= stride <= block_size:
            raise ValueError(f"stride is {stride}; allowed: 1 to {block_size}, the model's block size")
        return cls(block_size, stride or max(1, block_size // 2))

    @classmethod
    def of_order(cls, order: int) -> "ContextRule":
        """The rule of counts, which see exactly so many characters before each."""
        return cls(max(1, order), 1)

    @classmethod
    def of_model(cls, config: ModelConfig, stride: int | None = None) -> "ContextRule":
        """The rule that a model of this configuration is read under; ValueError if `stride` cannot act."""
        if config.is_ngram:
            assert config.prior_order is not None
            if stride is not None:
                raise ValueError(
                    f"stride is {stride}, which cannot act: counts see {config.prior_order} symbols before "
                    "each, whatever the stride"
                )
            return cls.of_order(config.prior_order)
        assert config.block_size
        return cls.of(config.block_size, stride, carried=config.carries_state)

    def start(self, t: int) -> int:
        """Where the text that predicts character t begins."""
        return 0 if self.carried else self.stride * self._moves(t)

    def windows(self, n: int) -> int:
        """How many windows it takes to score characters 1 to n - 1 (character 0 has no context)."""
        return 0 if n < 2 else 1 + self._moves(n - 1)

    def window(self, k: int, n: int) -> tuple[int, int, int]:
        """(start, first, end) of window k of a text of n: it reads from `start`, scores first..end-1."""
        start = k * self.stride
        end = min(start + self.block_size + 1, n)
        return start, 1 if k == 0 else start + self.block_size - self.stride + 1, end

    def _moves(self, t: int) -> int:
        """How often the window has moved on when character t is predicted."""
        return max(0, -((self.block_size - t) // self.stride))
