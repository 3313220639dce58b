"""The weights of a model in training: replicated in each process, or sharded over the ranks."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from charlm.config import ModelConfig
from charlm.data.tokenizer import Vocabulary
from charlm.inference.predictor import TransformerPredictor
from charlm.model.transformer import LanguageModel, initialise
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.distributed import Ranks
from charlm.training.gradient_buckets import GradientBuckets
from charlm.training.optimizer import Optimizer


class ModelWeights:
    """Weights that each process holds whole, so that nothing has to be gathered."""

    optimizer_class = Optimizer

    def __init__(self, model: LanguageModel, ranks: Ranks) -> None:
        """`model` is the same on all ranks."""
        self.model, self.ranks = model, ranks

    def buckets(self, optimizer: Optimizer) -> GradientBuckets | None:
        """Return the buckets that sum the gradients of several ranks; None for a process alone."""
        return optimizer.gradient_buckets() if self.ranks.is_distributed else None

    def passing(self) -> AbstractContextManager[None]:
        """Return a context for a forward and backward pass; raises RankError there if a rank does not answer."""
        return nullcontext()

    def predictor(self, vocabulary: Vocabulary, prior: KneserNey | None) -> TransformerPredictor:
        """Return a predictor that shares these weights, so that it follows their updates."""
        return TransformerPredictor(self.model, vocabulary, prior)

    def together(self) -> AbstractContextManager[None]:
        """Return a context for predictions of any rank, which all ranks enter: a pass of divided weights needs all."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of this process; if they are divided, their shapes on the meta device."""
        return dict(self.model.state_dict())

    def gathered(self) -> dict[str, Tensor]:
        """Return a copy of all weights, on all ranks. Raises RankError."""
        return {name: weight.detach().clone() for name, weight in self.model.state_dict().items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load these weights, which are the same on all ranks; if the ranks divide them, rank 0's."""
        self.model.load_state_dict(weights)

    def rows(self) -> dict[str, Tensor]:
        """Return this rank's rows of the weights, if the ranks divide them."""
        raise NotImplementedError

    def is_finite(self) -> bool:
        """Whether all weights are finite, on all ranks. Raises RankError."""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())


def initial_weights(
    config: ModelConfig, n_symbols: int, seed: int, ranks: Ranks, device: torch.device
) -> ModelWeights:
    """Initialise the weights of a new model on the device, replicated or divided: all ranks get rank 0's."""
    generator = torch.Generator().manual_seed(seed)
    if not ranks.shards:
        model = LanguageModel(config, n_symbols)
        initialise(model, generator)
        model.train().to(device)
        ranks.broadcast([*model.parameters()])  # processors may round differently
        return ModelWeights(model, ranks)
    from charlm.training.sharded_weights import ShardedWeights  # here: FSDP is slow to import

    return ShardedWeights(config, n_symbols, generator, ranks, device)
