"""The context rule: what each prediction may see, in training's held-out loss, sampling and evaluation alike.

With W = block_size and h = stride (W // 2 by default), character t is predicted from text[s(t):t], where
s(t) = h * max(0, ceil((t - W) / h)): it sees between W - h and W characters. A text is therefore read in windows of W.
Window k starts at k * h and scores the characters that window k - 1 has not scored.

The n-gram prior is not bound by the window: it always sees its few characters before t, unless `prior_bound`. A model
that carries its state (a recurrent net) reads on from the first character instead: s(t) = 0, in windows of W new
characters each.
"""

from dataclasses import dataclass

from charlm.config import ModelConfig


@dataclass(frozen=True)
class ContextRule:
    """The rule for one block size and stride. A stride of `block_size` means windows without overlap."""

    block_size: int
    stride: int
    carried: bool = False
    prior_bound: bool = False  # the n-gram prior, too, sees nothing before the start of the window

    @classmethod
    def of(cls, block_size: int, stride: int | None = None, *, carried: bool = False) -> "ContextRule":
        """The rule with a stride of half a block by default. Raises ValueError if `stride` is not allowed."""
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
        """The rule of an n-gram model, which sees exactly `order` characters before each."""
        return cls(max(1, order), 1)

    @classmethod
    def of_model(cls, config: ModelConfig, stride: int | None = None) -> "ContextRule":
        """The rule of a model of this configuration. Raises ValueError if `stride` is not allowed."""
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
        """s(t): where the context of character t begins."""
        return 0 if self.carried else self.stride * self._moves(t)

    def windows(self, n: int) -> int:
        """How many windows score characters 1 to n - 1 (character 0 has no context)."""
        return 0 if n < 2 else 1 + self._moves(n - 1)

    def window(self, k: int, n: int) -> tuple[int, int, int]:
        """(start, first, end) of window k of a text of n: it reads from `start`, and scores first .. end - 1."""
        start = k * self.stride
        end = min(start + self.block_size + 1, n)
        return start, 1 if k == 0 else start + self.block_size - self.stride + 1, end

    def describe(self, unit: str, prior_order: int = 0) -> str:
        """The context of each symbol in words; a symbol is a `unit`."""
        if self.carried:
            return f"all {unit}s before each (state carried from one to the next)"
        least, most = self.block_size - self.stride, self.block_size
        words = f"{max(1, least)} to {most} {unit}s before each (block {most}, stride {self.stride})"
        return f"{words}; the n-gram prior always sees {prior_order}" if prior_order > least else words

    def _moves(self, t: int) -> int:
        """How often the window has moved when character t is predicted."""
        return max(0, -((self.block_size - t) // self.stride))
