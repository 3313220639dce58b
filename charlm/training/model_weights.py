"""The weights of a model in training: whole in each process, or divided over the ranks."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from charlm.model.transformer import LanguageModel
from charlm.training.distributed import Ranks
from charlm.training.gradient_buckets import GradientBuckets
from charlm.training.optimizer import Optimizer


class ModelWeights:
    """Weights that this process has whole, so that there is nothing to gather."""

    optimizer_class = Optimizer

    def __init__(self, model: LanguageModel, ranks: Ranks) -> None:
        """The ranks take the weights of rank 0."""
        self.model, self.ranks = model, ranks
        self.whole = model
        """The model with all weights, from `gather` to `forget`."""
        ranks.spread([*model.parameters()])  # the same where processors round differently

    def buckets(self, optimizer: Optimizer) -> GradientBuckets | None:
        """What sums the gradients of several ranks."""
        return optimizer.gradient_buckets() if self.ranks.talks else None

    def passing(self) -> AbstractContextManager[None]:
        """Around a forward and backward pass: raise RankError where it waits for a rank that does not answer."""
        return nullcontext()

    def gather(self) -> None:
        """Gather all weights on all ranks, for what comes before the next step. Raises RankError."""

    def forget(self) -> None:
        """Give up what was gathered, since the weights are about to change."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights, which are the same on all ranks."""
        self.model.load_state_dict(weights)

    def is_finite(self) -> bool:
        """Are all weights finite, on all ranks? Raises RankError."""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())


def weights_of(model: LanguageModel, ranks: Ranks, device: torch.device) -> ModelWeights:
    """The weights of a new model on the device, as the ranks have them: rank 0's."""
    if not ranks.shards:
        return ModelWeights(model.to(device), ranks)
    from charlm.training.sharded_weights import ShardedWeights  # here: FSDP is slow to import

    return ShardedWeights(model, ranks, device)
