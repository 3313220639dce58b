"""The one rule for what a prediction may see, in training's figures, sampling and evaluation alike.

With W = block_size and h = stride (W // 2 unless told), character t is predicted from
text[s(t):t], s(t) = h * max(0, ceil((t - W) / h)): it sees between W - h and W characters.
So the text is read in windows of W: window k starts at k * h, and scores what the one before
has not.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ContextRule:
    """The rule for one block size; a stride equal to it gives blocks without overlap."""

    block_size: int
    stride: int

    @classmethod
    def of(cls, block_size: int, stride: int | None = None) -> "ContextRule":
        """The rule with its usual stride, half a block; ValueError if `stride` cannot act."""
        if stride is not None and not 1 <= stride <= block_size:
            raise ValueError(f"stride is {stride}; allowed: 1 to {block_size}, the model's block size")
        return cls(block_size, stride or max(1, block_size // 2))

    def start(self, t: int) -> int:
        """Where the text that predicts character t begins."""
        return self.stride * max(0, -((self.block_size - t) // self.stride))

    def windows(self, n: int) -> int:
        """How many windows it takes to score characters 1 to n - 1 (character 0 has no context)."""
        return 0 if n < 2 else 1 + self.start(n - 1) // self.stride

    def window(self, k: int, n: int) -> tuple[int, int, int]:
        """(start, first, end) of window k of a text of n: it reads from `start`, scores first..end-1."""
        start = k * self.stride
        end = min(start + self.block_size + 1, n)
        return start, 1 if k == 0 else start + self.block_size - self.stride + 1, end
