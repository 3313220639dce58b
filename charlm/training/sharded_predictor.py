"""The predictor for weights that are divided over the ranks: they run forward passes together, each on its own text.

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
    """Predicts within `together`: a pass gathers the weights block by block, so every rank takes part in each pass.

    A rank that has less to compute than others runs passes of one symbol meanwhile.
    """

    def __init__(
        self,
        model: LanguageModel,
        outputs: Callable[..., Tensor],
        vocabulary: Vocabulary,
        prior: KneserNey | None,
        ranks: Ranks,
    ) -> None:
        """`outputs`: the model's `hidden`, wrapped to gather the weights."""
        super().__init__(model, vocabulary, prior, native=False)
        self._outputs, self._ranks = outputs, ranks

    def hidden(
        self,
        ids: Tensor,
        cache: ModelCache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """Return the last block's output (B, T, C) for this rank's ids (B, T); others compute theirs. Raises RankError."""
        self._does_any_compute(True)
        try:
            # Gathered weights are kept for training, which cannot use inference-mode tensors.
            with self._ranks.communicating(), torch.inference_mode(False), torch.no_grad():
                return self._outputs(ids, cache, docs, log_prior)
        except torch.OutOfMemoryError:  # the others wait in the pass, so it cannot be repeated in parts
            raise ResourceError(
                f"the memory of {self.device.type} is full on rank {self._ranks.rank} in scoring held-out text; give a "
                "smaller --block-size or --n-embd, or more ranks"
            ) from None

    def new_cache(self, batch_size: int) -> ModelCache:
        """Return an empty cache for `batch_size` texts."""
        with torch.inference_mode(False):
            like = torch.empty(0, device=self.device, dtype=self.precision)
            return self.model.new_cache(batch_size, like)

    def help(self) -> None:
        """Take part in the passes of other ranks until none needs more. Raises RankError."""
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        while self._does_any_compute(False):
            with self._ranks.communicating(), torch.no_grad():
                self._outputs(nothing)

    def _does_any_compute(self, mine: bool) -> bool:
        return bool(self._ranks.all_reduce(torch.tensor([int(mine)])))
