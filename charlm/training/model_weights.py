"""The weights of a model in training: whole in each process, or divided over the ranks."""

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
    """Weights that this process has whole, so that there is nothing to gather."""

    optimizer_class = Optimizer

    def __init__(self, model: LanguageModel, ranks: Ranks) -> None:
        """The weights of a model that is the same on all ranks."""
        self.model, self.ranks = model, ranks

    def buckets(self, optimizer: Optimizer) -> GradientBuckets | None:
        """What sums the gradients of several ranks."""
        return optimizer.gradient_buckets() if self.ranks.talks else None

    def passing(self) -> AbstractContextManager[None]:
        """Around a forward and backward pass: raise RankError where it waits for a rank that does not answer."""
        return nullcontext()

    def predictor(self, vocabulary: Vocabulary, prior: KneserNey | None) -> TransformerPredictor:
        """What predicts by these weights, as they are at the time."""
        return TransformerPredictor(self.model, vocabulary, prior)

    def together(self) -> AbstractContextManager[None]:
        """Around what any rank predicts, on all of them: where the weights are divided, each pass needs all."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """The weights as this process has them; where they are divided, their shapes on the meta device."""
        return dict(self.model.state_dict())

    def gathered(self) -> dict[str, Tensor]:
        """A copy of all weights, on all ranks. Raises RankError."""
        return {name: weight.detach().clone() for name, weight in self.model.state_dict().items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights: where the ranks divide them rank 0's, else the same on all."""
        self.model.load_state_dict(weights)

    def rows(self) -> dict[str, Tensor]:
        """This rank's rows of the weights, where the ranks divide them."""
        raise NotImplementedError

    def is_finite(self) -> bool:
        """Are all weights finite, on all ranks? Raises RankError."""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())


def initial_weights(
    config: ModelConfig, n_symbols: int, seed: int, ranks: Ranks, device: torch.device
) -> ModelWeights:
    """The weights of a new model on the device, as the ranks have them: rank 0's."""
    generator = torch.Generator().manual_seed(seed)
    if not ranks.shards:
        model = LanguageModel(config, n_symbols)
        initialise(model, generator)
        model.train().to(device)
        ranks.spread([*model.parameters()])  # the same where processors round differently
        return ModelWeights(model, ranks)
    from charlm.training.sharded_weights import ShardedWeights  # here: FSDP is slow to import

    return ShardedWeights(config, n_symbols, generator, ranks, device)
