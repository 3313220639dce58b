"""Permutation equivariance: attention without mask and positions takes its input as a set."""

import torch
from torch.nn.utils import vector_to_parameters

from charlm.config import ModelConfig
from charlm.model.example import Example, some
from charlm.model.positions import POSITIONS
from charlm.model.transformer import LanguageModel

ORDER = (2, 0, 1, 5, 3, 4)
"""Not the reverse, which keeps every distance: ALiBi, which knows nothing else, would not notice."""


class Equivariance:
    """Permutation equivariance: permuted inputs give the same outputs, permuted alike.

    f(P x) = P f(x) for every permutation P of the positions. So it is with attention where nothing is
    masked and no position is given: a weighted mean does not ask in which order it is taken, and
    the rest of a block acts at each position by itself. That is right for sets, such as points in
    space. In text it does harm: what is said of "dog" in "dog bites man" is said of it in "man bites
    dog" too. A causal mask ends it, since the place decides who reads whom, and so do positions of any
    kind. Zaheer et al. 2017, arXiv 1703.06114; with attention: Lee et al. 2019, arXiv 1810.00825.
    """

    @staticmethod
    def example() -> Example:
        """Models with random weights, with and without mask and positions, on permuted inputs."""
        kinds = [("none", "none"), ("causal", "none")]
        kinds += [("none", position) for position in POSITIONS if position != "none"]
        rows = tuple((mask, position, _written(_difference(mask, position))) for mask, position in kinds)
        says = "The largest |f(P x) - P f(x)| of a model with random weights, six positions permuted:"
        return Example(says, ("mask", "positions", "difference"), rows)


def _difference(mask: str, position: str) -> float:
    """How far the logits of the permuted input are from the permuted logits."""
    model = _model(position, causal=mask == "causal")
    ids, order = torch.arange(len(ORDER)), torch.tensor(ORDER)
    with torch.no_grad():
        straight, permuted = (model(x[None])[0] for x in (ids, ids[order]))  # (T, V) each
    return float((permuted - straight[order]).abs().max())


def _model(position: str, *, causal: bool) -> LanguageModel:
    """One block of width 8, a symbol for each position, in float64, every weight random: all acts."""
    n = len(ORDER)
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=n, position=position, causal=causal)
    model = LanguageModel(config, n).double().eval()
    weights = some(sum(weight.numel() for weight in model.parameters()))
    vector_to_parameters(weights / 2, model.parameters())
    return model


def _written(difference: float) -> str:
    return f"{difference:.0e}" if difference < 1e-6 else f"{difference:.3f}"
