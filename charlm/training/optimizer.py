"""The optimizer: Muon for the blocks' matrices, AdamW for the rest, Adagrad for n-gram embeddings.

Axes: N matrices, R rows, C columns.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from charlm.checkpoint.snapshot import TABLE, remembered
from charlm.model.layers import is_matrix, row_parts
from charlm.model.ngram_embeddings import NgramEmbeddings
from charlm.model.transformer import LanguageModel

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V' for each matrix U S V' of (N, R, C): its singular values brought near 1.

    Newton and Schulz's iteration with the coefficients of Jordan et al. 2024 (Muon), whose singular
    values end between 0.7 and 1.2, all matrices of one shape at once. With `dtype` computed in that:
    where bf16 is faster its rounding does no harm, since the directions need not be exact.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalised_parts(
    updates: Sequence[Tensor], parts: Sequence[Sequence[int]], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The same for matrices of several shapes, each cut into the rows that are matrices of their own.

    All parts of one shape, or of its transpose, are done together. The results have the updates' shapes.
    """
    pieces = [
        piece
        for update, rows in zip(updates, parts, strict=True)
        for piece in torch.split(update, list(rows))
    ]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(tuple(sorted(piece.shape)), []).append(i)
    done: list[Tensor] = list(pieces)
    for (low, _), members in groups.items():
        flat = [pieces[i] if pieces[i].shape[0] == low else pieces[i].mT for i in members]
        for i, found in zip(members, orthogonalised(torch.stack(flat), dtype), strict=True):
            done[i] = found if pieces[i].shape[0] == low else found.mT
    counts = [len(rows) for rows in parts]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [torch.cat(done[s : s + n]) if n > 1 else done[s] for s, n in zip(starts, counts, strict=True)]


BETAS, EPSILON = (0.9, 0.95), 1e-8
MOMENTUM = 0.95
ROW_EPSILON = 1e-12


class Rates(NamedTuple):
    """The learning rates of a step."""

    adamw: float
    muon: float
    ngrams: float


class Optimizer:
    """What is remembered of each weight, and the update that comes of it.

    With `muon`, the blocks' matrices go by Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon)
    and all else by AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); without, all goes by AdamW.
    Only the blocks' matrices are pulled towards zero: gains, positions and the embedding, whose rows
    are also the head's, find their own size.

    It calls the function behind torch's AdamW. Constructing the class would import torch's compiler,
    which takes seconds.
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
        named = dict(model.named_parameters())
        self.state = remembered(named, kind)
        self.weights = {name: weight for name, weight in named.items() if weight.requires_grad}
        self.weight_decay = weight_decay
        self.ngram_embedding_accumulator = ngram_embedding_accumulator
        self.rounded = torch.bfloat16 if precision == "bf16" else None
        self.ngrams = model.ngrams
        self.by_muon = [n for n in self.weights if f"momentum.{n}" in self.state]
        self.parts = [row_parts(model, name) for name in self.by_muon]
        by_adamw = [n for n in self.weights if n not in self.by_muon]
        decayed = [n for n in by_adamw if is_matrix(n, self.weights[n])]
        self.groups = ((decayed, weight_decay), ([n for n in by_adamw if n not in decayed], 0.0))
        device = next(iter(self.weights.values())).device
        self.updates = torch.zeros((), device=device)

    def update(self, rates: Rates, good: Tensor) -> None:
        """One update, or none where `good` (a boolean on the device) is False: no weight changes then."""
        with torch.no_grad():
            for names, decay in self.groups:
                self._adamw(names, decay, rates.adamw, good)
            if self.by_muon:
                self._muon(rates.muon, good.float())
            if self.ngrams is not None:
                self._rows(self.ngrams, rates.ngrams, good.float())
            self.updates += good

    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Put back what `state` was after that many updates."""
        self.updates.fill_(updates)
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _adamw(self, names: list[str], decay: float, rate: float, good: Tensor) -> None:
        if not names:
            return
        weights: list[Tensor] = [self.weights[name] for name in names]
        first, second = (
            [self.state[f"{kind}.{name}"] for name in names] for kind in ("exp_avg", "exp_avg_sq")
        )
        adamw(
            weights,
            [_gradient(weight) for weight in weights],
            first,
            second,
            [],
            [self.updates.clone() for _ in names],
            fused=True,
            found_inf=(~good).float(),
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=decay,
            eps=EPSILON,
            maximize=False,
        )

    def _muon(self, rate: float, good: Tensor) -> None:
        """Nesterov's momentum, made orthogonal. Tall matrices move farther: their columns are as long."""
        updates = []
        for name in self.by_muon:
            gradient = _gradient(self.weights[name]).nan_to_num(0.0, 0.0, 0.0)
            momentum = self.state[f"momentum.{name}"]
            momentum.lerp_(gradient, (1 - MOMENTUM) * good)
            updates.append(gradient.lerp(momentum, MOMENTUM))
        directions = orthogonalised_parts(updates, self.parts, self.rounded)
        for name, rows, direction in zip(self.by_muon, self.parts, directions, strict=True):
            weight = self.weights[name]
            weight.mul_(1 - rate * self.weight_decay * good)
            weight.sub_(direction * (rate * sqrt(max(1.0, rows[0] / weight.shape[1])) * good))

    def _rows(self, ngrams: NgramEmbeddings, rate: float, good: Tensor) -> None:
        """Adagrad with one number a row (Duchi et al. 2011), for the rows that the step has read.

        Alone it would move a vector farthest at its first gradients, and so learn by heart what follows
        an n-gram that occurs twice. Taking some gradient as seen before, it moves those little, and
        frequent ones as ever: what smoothing is to counts.
        """
        C = ngrams.table.shape[1]
        index = torch.cat([flat for flat, _ in ngrams.pending])  # (M, O)
        gradients = torch.cat(
            [summed.grad.view(-1, C) for _, summed in ngrams.pending if summed.grad is not None]
        )
        ngrams.pending.clear()
        rows, place = torch.unique(index, return_inverse=True)  # (U,), (M, O)
        total = torch.zeros(len(rows), C, device=rows.device)
        for order in range(index.shape[1]):
            total.index_add_(0, place[:, order], gradients)
        total.nan_to_num_(0.0, 0.0, 0.0)
        total[rows == ngrams.nothing] = 0
        square = self.state[f"row_square.{TABLE}"]
        seen = square[rows] + good * total.square().mean(dim=1)
        square[rows] = seen
        length = (seen + self.ngram_embedding_accumulator).sqrt() + ROW_EPSILON
        ngrams.table[rows] -= rate * good * total / length[:, None]


def _gradient(weight: Tensor) -> Tensor:
    return weight.grad if weight.grad is not None else torch.zeros_like(weight)
