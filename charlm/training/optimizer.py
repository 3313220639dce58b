"""The optimizer: Muon for the blocks' matrices, AdamW for the rest, Adagrad for n-gram embeddings.

Axes: N matrices, R rows, C columns; of n-gram embeddings M positions, O n-gram lengths, U different rows read.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from charlm.checkpoint.snapshot import TABLE, initial_optimizer_state
from charlm.model.layers import is_matrix, row_parts
from charlm.model.ngram_layers import NgramEmbeddings
from charlm.model.transformer import LanguageModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
BETAS, EPSILON = (0.9, 0.95), 1e-8
MOMENTUM = 0.95
ROW_EPSILON = 1e-12


class LearningRates(NamedTuple):
    """The learning rates of one step."""

    adamw: float
    muon: float
    ngram_embeddings: float


class Optimizer:
    """Updates the weights of a model, and holds the optimizer's state of each.

    With `muon`, the blocks' matrices are trained by Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon)
    and the rest by AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); with `adamw`, AdamW trains both. N-gram
    embeddings are trained by Adagrad in either case.

    Weight decay applies to the blocks' matrices only: not to gains, positions and the embedding, whose rows are
    also those of the output head.

    It calls the function behind torch's AdamW: constructing the class would import torch's compiler, which
    takes seconds.
    """

    def __init__(
        self,
        model: LanguageModel,
        kind: str,
        weight_decay: float,
        *,
        ngram_embedding_accumulator: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        parameters = dict(model.named_parameters())
        self.state = initial_optimizer_state(parameters, kind)
        self.weights = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        self.weight_decay = weight_decay
        self.ngram_embedding_accumulator = ngram_embedding_accumulator
        self.muon_dtype = torch.bfloat16 if precision == "bf16" else None
        self.ngrams = model.ngrams
        matrices = [name for name, weight in self.weights.items() if is_matrix(name, weight)]
        others = [name for name in self.weights if name not in matrices]
        self.muon_names = matrices if kind == "muon" else []
        self.muon_parts = [row_parts(model, name) for name in self.muon_names]
        self.adamw_groups = (([] if kind == "muon" else matrices, weight_decay), (others, 0.0))
        self.n_updates = torch.zeros((), device=next(iter(self.weights.values())).device)  # made so far

    def update(self, rates: LearningRates, finite: Tensor) -> None:
        """Update the weights, or change nothing where `finite` (a boolean on the device) is False."""
        with torch.no_grad():
            for names, weight_decay in self.adamw_groups:
                self._update_adamw(names, weight_decay, rates.adamw, finite)
            if self.muon_names:
                self._update_muon(rates.muon, finite.float())
            if self.ngrams is not None:
                self._update_ngram_embeddings(self.ngrams, rates.ngram_embeddings, finite.float())
            self.n_updates += finite

    def restore(self, state: Mapping[str, Tensor], n_updates: int) -> None:
        """Restore the state after that many updates."""
        self.n_updates.fill_(n_updates)
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _update_adamw(self, names: list[str], weight_decay: float, rate: float, finite: Tensor) -> None:
        if not names:
            return
        weights: list[Tensor] = [self.weights[name] for name in names]
        adamw(
            weights,
            [_gradient(weight) for weight in weights],
            [self.state[f"exp_avg.{name}"] for name in names],
            [self.state[f"exp_avg_sq.{name}"] for name in names],
            [],
            [self.n_updates.clone() for _ in names],
            fused=True,
            found_inf=(~finite).float(),
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _update_muon(self, rate: float, finite: Tensor) -> None:
        """Orthogonalised Nesterov momentum, scaled by sqrt(R / C) for tall matrices."""
        momenta = []
        for name in self.muon_names:
            gradient = _gradient(self.weights[name]).nan_to_num(0.0, 0.0, 0.0)
            momentum = self.state[f"momentum.{name}"]
            momentum.lerp_(gradient, (1 - MOMENTUM) * finite)
            momenta.append(gradient.lerp(momentum, MOMENTUM))
        directions = orthogonalize_parts(momenta, self.muon_parts, self.muon_dtype)
        for name, part_rows, direction in zip(self.muon_names, self.muon_parts, directions, strict=True):
            weight = self.weights[name]
            weight.mul_(1 - rate * self.weight_decay * finite)
            weight.sub_(direction * (rate * sqrt(max(1.0, part_rows[0] / weight.shape[1])) * finite))

    def _update_ngram_embeddings(self, ngrams: NgramEmbeddings, rate: float, finite: Tensor) -> None:
        """Adagrad with one accumulator per row (Duchi et al. 2011), for the rows that the step has read.

        The first gradients of a plain Adagrad move a row farthest, so it would memorise what follows a rare
        n-gram. A large initial accumulator damps rare rows and hardly changes frequent ones, as smoothing does.
        """
        C = ngrams.table.shape[1]
        read = [
            (index, summed.grad.view(-1, C)) for index, summed in ngrams.pending if summed.grad is not None
        ]
        index, gradients = (torch.cat(tensors) for tensors in zip(*read, strict=True))  # (M, O), (M, C)
        ngrams.pending.clear()
        rows, row_of = torch.unique(index, return_inverse=True)  # (U,), (M, O)
        total = torch.zeros(len(rows), C, device=rows.device)  # each row's gradient
        for order in range(index.shape[1]):
            total.index_add_(0, row_of[:, order], gradients)  # (M, C) into (U, C)
        total.nan_to_num_(0.0, 0.0, 0.0)
        total[rows == ngrams.nothing] = 0
        accumulator = self.state[f"row_square.{TABLE}"]
        # The square of a finite gradient may be infinite, and infinity times 0 is not a number.
        squares = total.square().mean(dim=1)
        accumulated = accumulator[rows] + squares.where(finite > 0, 0.0)
        accumulator[rows] = accumulated
        scale = (accumulated + self.ngram_embedding_accumulator).sqrt() + ROW_EPSILON
        ngrams.table[rows] -= rate * finite * total / scale[:, None]


def orthogonalize(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V' for each matrix U S V' of (N, R, C): Newton-Schulz iteration brings singular values near 1.

    The coefficients are those of Jordan et al. 2024 (Muon); singular values end between 0.7 and 1.2. Computed in
    `dtype` where given: bf16 is precise enough, since the directions need not be exact.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalize_parts(
    updates: Sequence[Tensor], parts: Sequence[Sequence[int]], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Orthogonalise matrices of several shapes, each split into `parts`: row counts of its fused matrices.

    All parts of one shape, or of its transpose, are done in one batch. The results have the updates' shapes.
    """
    pieces = [
        piece
        for update, part_rows in zip(updates, parts, strict=True)
        for piece in torch.split(update, list(part_rows))
    ]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(tuple(sorted(piece.shape)), []).append(i)
    for (low, _), members in groups.items():
        flat = [pieces[i] if pieces[i].shape[0] == low else pieces[i].mT for i in members]
        for i, result in zip(members, orthogonalize(torch.stack(flat), dtype), strict=True):
            pieces[i] = result if pieces[i].shape[0] == low else result.mT
    remaining = iter(pieces)
    return [torch.cat([next(remaining) for _ in part_rows]) for part_rows in parts]


def _gradient(weight: Tensor) -> Tensor:
    return weight.grad if weight.grad is not None else torch.zeros_like(weight)
