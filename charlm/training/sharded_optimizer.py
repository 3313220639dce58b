"""The optimizer for weights that are divided over the ranks; its state is divided like them.

Shapes: W ranks, R rows, r rows of this rank, C columns.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from charlm.checkpoint.snapshot import TABLE
from charlm.checkpoint.tensor_files import rows_of
from charlm.model.transformer import LanguageModel
from charlm.training.distributed import Ranks
from charlm.training.optimizer import (
    CLIP_EPSILON,
    LearningRates,
    Optimizer,
    ReadRows,
    orthogonalize_parts,
)


class ShardedOptimizer(Optimizer):
    """Updates this rank's rows of each weight, and holds the state for these.

    A matrix that Muon trains is orthogonalised by one rank, to which the others send their rows.
    """

    def _parameters(self, model: LanguageModel) -> dict[str, nn.Parameter | Tensor]:
        """Return this rank's rows of the weights, by name."""
        self._model = model
        self._rows = {name: len(weight) for name, weight in model.named_parameters()}
        return own_rows_of(model)

    def _choose_native(self) -> None:
        """Use no compiled optimizer, which needs whole weights; leave AdamW only weights of which this rank has rows."""
        self.adamw_groups = tuple(
            ([name for name in names if self.weights[name].numel()], decay)
            for names, decay in self.adamw_groups
        )

    def clear_gradients(self) -> None:
        """Drop the gradients of the last step, and those of an aborted one."""
        super().clear_gradients()
        for weight in self._model.parameters():
            weight.grad = None

    def clip_and_update(
        self, rates: LearningRates, loss: Tensor, grad_clip: float, read: ReadRows | None
    ) -> tuple[Tensor, Tensor]:
        """Clip the gradients by their norm over all ranks, and update the weights but AdamW's."""
        for name, weight in self._model.named_parameters():
            if isinstance(weight.grad, DTensor):
                self.weights[name].grad = weight.grad.to_local()
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        squares = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum()
        norm = self.ranks.all_reduce(squares).sqrt().float()
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        torch._foreach_mul_(gradients, (grad_clip / (norm + CLIP_EPSILON)).clamp(max=1.0))
        if self.muon_names:
            self._update_muon(rates.muon, finite.float())
        if self.ngrams is not None and read is not None:
            self._update_ngram_embeddings(self.ngrams, read, rates.ngram_embeddings, finite.float())
        return norm, finite

    def _directions(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Orthogonalise matrices of which each rank has some rows (r, C); return the same rows of the results."""
        W, ranks = self.ranks.size, self.ranks
        whole: dict[int, Tensor] = {}
        for i, (name, update) in enumerate(zip(self.muon_names, updates, strict=True)):
            found = ranks.gather_to(i % W, update, self._rows[name])
            if found is not None:
                whole[i] = found
        own = orthogonalize_parts([*whole.values()], [self.muon_parts[i] for i in whole], self.muon_dtype)
        whole = dict(zip(whole, own, strict=True))
        return [
            ranks.scatter_from(i % W, whole.get(i), update, self._rows[name])
            for i, (name, update) in enumerate(zip(self.muon_names, updates, strict=True))
        ]

    def gather(self) -> None:
        """Gather nothing: each rank writes its rows."""

    @property
    def whole_state(self) -> dict[str, Tensor]:
        """The shapes of the whole state, on the meta device."""
        rows = {key: self._rows[key.partition(".")[2]] for key in self.state}
        return {
            key: own.new_empty(rows[key], *own.shape[1:], device="meta") for key, own in self.state.items()
        }

    def rows(self) -> dict[str, Tensor]:
        """Return this rank's rows of the state, as its file has them."""
        return part_of(self.state, self.ranks)

    def restore(self, state: Mapping[str, Tensor], n_updates: int) -> None:
        """Restore this rank's rows from rank 0's state after that many updates."""
        self.n_updates.fill_(n_updates)
        for key, own in self.state.items():
            name, whole = key.partition(".")[2], partial(state.__getitem__, key)
            if name == TABLE:
                self.ranks.broadcast_into(own, whole)
            else:
                self.ranks.scatter_into(own, self._rows[name], whole)


def own_rows_of(model: nn.Module) -> dict[str, nn.Parameter | Tensor]:
    """Return views of this rank's rows (r, ...) of each weight; all rows if it is not divided."""
    found: dict[str, nn.Parameter | Tensor] = {}
    for name, weight in model.named_parameters():
        if isinstance(weight, DTensor):
            found[name] = weight.to_local().detach().requires_grad_(weight.requires_grad)
        else:
            found[name] = weight
    return found


def part_of(held: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the rows of weights or state that this rank writes, also of n-gram embeddings, which it holds whole."""
    tables = {key: tensor for key, tensor in held.items() if key.endswith(TABLE)}
    return {**held, **rows_of(tables, ranks.rank, ranks.size)}
