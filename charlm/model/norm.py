"""RMSNorm: a vector brought to unit mean square, times a learned gain."""

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Norm(nn.RMSNorm):
    """x / sqrt(mean(x^2)) times a gain. Zhang and Sennrich 2019, arXiv 1910.07467.

    torch's, but for inputs of another precision than the gain: the gain follows the input, else
    torch would take a slower way.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., size)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
