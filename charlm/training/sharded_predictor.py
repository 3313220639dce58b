"""The predictor of weights that the ranks have divided: they compute forward passes together, each of a text of its own.

Shapes: B texts side by side, T positions, C width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm.data.tokenizer import Vocabulary
from charlm.errors import ResourceError
from charlm.inference.predictor import TransformerPredictor
from charlm.model.kv_cache import ModelCache
from charlm.model.transformer import LanguageModel
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.distributed import Ranks


class ShardedPredictor(TransformerPredictor):
    """Predicts within `together`: a pass gathers the weights block by block, so every rank takes part in each.

    A rank that has nothing to compute, or less than others, passes one symbol through the model in their company.
    """

    def __init__(
        self,
        model: LanguageModel,
        outputs: Callable[..., Tensor],
        vocabulary: Vocabulary,
        prior: KneserNey | None,
        ranks: Ranks,
    ) -> None:
        """`outputs`: the model's `hidden`, which gathers the weights."""
        super().__init__(model, vocabulary, prior, native=False)
        self._outputs, self._ranks = outputs, ranks

    def hidden(
        self,
        ids: Tensor,
        cache: ModelCache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """The last block's output (B, T, C) for this rank's ids (B, T), while others compute theirs. Raises RankError."""
        self._does_any_compute(True)
        try:
            # What is gathered is kept for training, which cannot use tensors of the inference mode.
            with self._ranks.talking(), torch.inference_mode(False), torch.no_grad():
                return self._outputs(ids, cache, docs, log_prior)
        except (
            torch.OutOfMemoryError
        ):  # the others are in the middle of the pass, so it cannot be tried in parts
            raise ResourceError(
                f"the memory of {self.device.type} is full on rank {self._ranks.rank} in scoring held-out text; give a "
                "smaller --block-size or --n-embd, or more ranks"
            ) from None

    def new_cache(self, batch_size: int) -> ModelCache:
        """An empty cache for `batch_size` texts."""
        with torch.inference_mode(False):
            like = torch.empty(0, device=self.device, dtype=self.precision)
            return self.model.new_cache(batch_size, like)

    def help(self) -> None:
        """Take part in the passes of other ranks until all need no more. Raises RankError."""
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        while self._does_any_compute(False):
            with self._ranks.talking(), torch.no_grad():
                self._outputs(nothing)

    def _does_any_compute(self, mine: bool) -> bool:
        return bool(self._ranks.sum(torch.tensor([int(mine)])))
