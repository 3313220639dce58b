"""The plan's tables: what size of a model, and what batches, did best for how much computing."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """A row of the table: from this much computing on, this model and batch did best."""

    tflop: float  # the machine's plain matrix product over the whole budget, in 10^12 operations
    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int
    learning_rate: float

    @property
    def weights(self) -> int:
        """Weights in the blocks, about: attention 4 C^2, SwiGLU 8 C^2."""
        return 12 * self.n_layer * self.n_embd**2

    @property
    def step_gflop(self) -> float:
        """Operations of one step, forward and backward, in 10^9: 6 a weight and 12 C T a layer."""
        per_char = 6 * self.weights + 12 * self.n_layer * self.n_embd * self.block_size
        return per_char * self.block_size * self.batch_size / 1e9


SIZES = (
    Size(tflop=0, n_layer=2, n_embd=64, n_head=2, block_size=64, batch_size=16, learning_rate=6e-3),
    Size(tflop=1.5, n_layer=3, n_embd=64, n_head=2, block_size=64, batch_size=16, learning_rate=6e-3),
    Size(tflop=4, n_layer=3, n_embd=64, n_head=2, block_size=64, batch_size=24, learning_rate=6e-3),
    Size(tflop=20, n_layer=4, n_embd=96, n_head=3, block_size=64, batch_size=24, learning_rate=6e-3),
    Size(tflop=50, n_layer=4, n_embd=128, n_head=4, block_size=128, batch_size=16, learning_rate=4e-3),
    Size(tflop=150, n_layer=5, n_embd=160, n_head=5, block_size=128, batch_size=16, learning_rate=3e-3),
    Size(tflop=400, n_layer=6, n_embd=256, n_head=8, block_size=128, batch_size=32, learning_rate=2e-3),
    Size(tflop=2_000, n_layer=6, n_embd=384, n_head=6, block_size=256, batch_size=48, learning_rate=1.5e-3),
    Size(tflop=50_000, n_layer=12, n_embd=768, n_head=12, block_size=512, batch_size=64, learning_rate=6e-4),
)
SIZES_WITH_COUNTS = (
    Size(tflop=0, n_layer=2, n_embd=64, n_head=2, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=5, n_layer=3, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=15, n_layer=4, n_embd=96, n_head=3, block_size=128, batch_size=8, learning_rate=6e-3),
    Size(tflop=30, n_layer=4, n_embd=128, n_head=4, block_size=256, batch_size=8, learning_rate=4e-3),
    Size(tflop=150, n_layer=5, n_embd=160, n_head=5, block_size=512, batch_size=6, learning_rate=3e-3),
    *(size for size in SIZES if size.tflop >= 400),
)
"""For a model that begins from counts. They know what is near, so what it adds is far: long blocks pay."""
