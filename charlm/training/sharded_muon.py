"""Muon with its matrices shared out over the ranks, each of which holds the momenta of its own and orthogonalises them.

Shapes: W ranks, P matrices of a rank, R rows, C columns.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from charlm.training.distributed import Ranks, Work
from charlm.training.gradient_buckets import BUCKET_BYTES, Bucket

Orthogonalize = Callable[[Tensor], Tensor]
"""A function that returns about U V' of each matrix (P, R, C)."""


class Piece(NamedTuple):
    """A matrix that is part of a fused weight."""

    name: str
    place: int  # index of the weight
    first_row: int
    n_rows: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return its rows of the weight, or of a tensor of the same shape."""
        return tensor[self.first_row : self.first_row + self.n_rows]


class ScatterBucket(Bucket):
    """Gradients of up to W P matrices (R, C), which a reduce-scatter sums: each rank gets those of its own matrices."""

    def __init__(self, pieces: Sequence[Piece], weights: Mapping[str, Tensor], ranks: Ranks) -> None:
        """Rank r owns every W-th piece, from r on; if there are too few, some ranks have zeros."""
        super().__init__(sorted({piece.place for piece in pieces}))
        weight = weights[pieces[0].name]
        R, C = pieces[0].of(weight).shape
        W, P = ranks.size, -(-len(pieces) // ranks.size)
        self._pieces = {piece: (i % W, i // W) for i, piece in enumerate(pieces)}
        self.flat = torch.zeros(W, P, R, C, device=weight.device, dtype=weight.dtype)  # later the weights
        self.gradients = torch.zeros(P, R, C, device=weight.device, dtype=weight.dtype)
        self.momenta = torch.zeros_like(self.gradients)
        self.own = {piece: i for piece, (rank, i) in self._pieces.items() if rank == ranks.rank}
        self.shape_rate = sqrt(max(1.0, R / C))
        self._weights, self._rank = weights, ranks.rank

    def take(self, place: int, gradient: Tensor | None) -> None:
        """Copy the gradient of a weight; None means zeros."""
        for piece, at in self._pieces.items():
            if piece.place == place:
                if gradient is None:
                    self.flat[at].zero_()
                else:
                    self.flat[at].copy_(piece.of(gradient))

    def leave(self, ranks: Ranks) -> Work:
        """Start the reduce-scatter of the bucket."""
        return ranks.start_reduce_scatter(self.gradients, self.flat)

    def update(
        self, orthogonalize: Orthogonalize, rate: float | Tensor, decay: float, momentum: float, by: Tensor
    ) -> None:
        """Update this rank's matrices by `by` times their gradients."""
        gradients = (self.gradients * by).nan_to_num(0.0, 0.0, 0.0)
        finite = torch.isfinite(by).to(gradients.dtype)
        self.momenta.lerp_(gradients, (1 - momentum) * finite)
        directions = orthogonalize(gradients.lerp(self.momenta, momentum))
        new = self.flat[self._rank]
        for piece, i in self.own.items():
            new[i] = piece.of(self._weights[piece.name].detach())
        new.mul_(1 - rate * decay * finite).sub_(directions * (rate * self.shape_rate * finite))

    def gathered(self, ranks: Ranks) -> dict[Piece, Tensor]:
        """Gather the momenta of all pieces."""
        room = torch.empty_like(self.flat)
        room[ranks.rank] = self.momenta
        ranks.start_all_gather(room).wait()
        return {piece: room[at] for piece, at in self._pieces.items()}

    def put_back(self) -> None:
        """Copy the weights that all ranks have updated into the model."""
        for piece, at in self._pieces.items():
            piece.of(self._weights[piece.name].detach()).copy_(self.flat[at])


class ShardedMuon:
    """Muon's matrices, their momenta and their gradients, shared out over the ranks.

    The traffic of a matrix is that of an all-reduce of its gradient: a reduce-scatter before the update, and an
    all-gather of the weights after it. Rows of equal shape share a bucket (Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054).
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        names: Sequence[str],
        parts: Sequence[Sequence[int]],
        ranks: Ranks,
    ) -> None:
        """`weights`: all trained weights; `names`: those of matrices; `parts`: the rows of the matrices fused in each."""
        place = {name: i for i, name in enumerate(weights)}
        pieces = [
            Piece(name, place[name], first_row, n_rows)
            for name, rows in zip(names, parts, strict=True)
            for first_row, n_rows in zip(accumulate(rows, initial=0), rows, strict=False)
        ]
        shapes: dict[tuple[int, ...], list[Piece]] = {}
        for piece in reversed(pieces):  # the last ones' gradients come first
            shapes.setdefault(tuple(piece.of(weights[piece.name]).shape), []).append(piece)
        self.buckets: list[ScatterBucket] = []
        self._ranks = ranks
        for alike in shapes.values():
            one = alike[0].of(weights[alike[0].name]).numel() * weights[alike[0].name].element_size()
            n = ranks.size * max(1, BUCKET_BYTES // (one * ranks.size))
            self.buckets += [ScatterBucket(alike[i : i + n], weights, ranks) for i in range(0, len(alike), n)]

    def sum_of_squares(self) -> Tensor:
        """Return the sum of squares of the gradients of all ranks' matrices."""
        own = torch.stack([bucket.gradients.double().square().sum() for bucket in self.buckets]).sum()
        return self._ranks.all_reduce(own)

    def update(
        self, orthogonalize: Orthogonalize, rate: float | Tensor, decay: float, momentum: float, by: Tensor
    ) -> None:
        """Update all matrices by `by` times their gradients; nothing changes where it is not finite."""
        works = []
        for bucket in self.buckets:  # each is sent while the next one is computed
            bucket.update(orthogonalize, rate, decay, momentum, by)
            works.append(self._ranks.start_all_gather(bucket.flat))
        for bucket, work in zip(self.buckets, works, strict=True):
            work.wait()
            bucket.put_back()

    def gather(self, state: Mapping[str, Tensor]) -> None:
        """Put the momenta of all ranks' matrices into `state`, by name."""
        for bucket in self.buckets:
            for piece, at in bucket.gathered(self._ranks).items():
                piece.of(state[f"momentum.{piece.name}"]).copy_(at)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore this rank's momenta from the whole state."""
        for bucket in self.buckets:
            for piece, i in bucket.own.items():
                bucket.momenta[i] = piece.of(state[f"momentum.{piece.name}"])
