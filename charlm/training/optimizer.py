"""The optimizer: Muon for the blocks' matrices, AdamW for the rest, Adagrad for n-gram embeddings.

Axes: N matrices, R rows, C columns; for n-gram embeddings M positions, O n-gram lengths, U different rows read.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import inf, isfinite, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.functional import pad
from torch.optim.adamw import adamw

from charlm.checkpoint.snapshot import TABLE, initial_optimizer_state
from charlm.model.layers import is_matrix, row_parts
from charlm.model.ngram_layers import NgramEmbeddings
from charlm.model.transformer import LanguageModel
from charlm.native.library import Library
from charlm.native.optimizer_kernels import (
    Moments,
    MuonPiece,
    NativeNewtonSchulz,
    NativeOptimizer,
    NgramEmbeddingUpdate,
)
from charlm.native.tensors import library_for
from charlm.training.device import is_accelerator
from charlm.training.distributed import ALONE, Ranks
from charlm.training.gradient_buckets import GradientBuckets
from charlm.training.sharded_muon import ShardedMuon

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
BETAS, EPSILON = (0.9, 0.95), 1e-8
MOMENTUM = 0.95
NORM_EPSILON, ROW_EPSILON = 1e-7, 1e-12
CLIP_EPSILON = 1e-6  # as in torch


Rate = float | Tensor
"""A learning rate: a number, or on a GPU a tensor without dimensions, so that a change does not recompile the step."""
ReadRows = tuple[Tensor, Tensor]
"""Rows (M, O) of n-gram embeddings that a step has read, and the gradients (M, C) of their sums."""


class LearningRates(NamedTuple):
    """The learning rates of one step."""

    adamw: Rate
    muon: Rate
    ngram_embeddings: Rate


class Optimizer:
    """Updates the weights of a model, and holds the state for each.

    With `muon`, the blocks' matrices are trained by Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon)
    and the rest by AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); with `adamw`, AdamW trains both. N-gram
    embeddings are trained by Adagrad in either case.

    Weight decay applies to the blocks' matrices only: not to gains, positions and the embedding, which is also the
    output head.

    It calls the function behind torch's AdamW, since constructing the class would import torch's compiler, which
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
        ranks: Ranks = ALONE,
        positions: int = 0,
    ) -> None:
        """`positions`: the most that one of several ranks reads in a step."""
        self.ranks, self.positions = ranks, positions
        parameters = self._parameters(model)
        self.weights = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        self.weight_decay = weight_decay
        self.ngram_embedding_accumulator = ngram_embedding_accumulator
        self.muon_dtype = torch.bfloat16 if precision == "bf16" else None
        self.ngrams = model.ngrams
        matrices = [name for name, weight in self.weights.items() if is_matrix(name, weight)]
        others = [name for name in self.weights if name not in matrices]
        self.muon_names = matrices if kind == "muon" else []
        self.muon_parts = [row_parts(model, name) for name in self.muon_names]
        self.sharded: ShardedMuon | None = None
        self.gathered: dict[str, Tensor] = {}
        kept = dict(parameters)
        if ranks.is_distributed and self.muon_names and not ranks.shards:
            self.sharded = ShardedMuon(self.weights, self.muon_names, self.muon_parts, ranks)
            kept = {name: weight for name, weight in parameters.items() if name not in self.muon_names}
        self.state = initial_optimizer_state(kept, kind)  # without the momenta that the ranks share out
        self.adamw_groups: tuple[tuple[list[str], float], ...] = (
            ([] if kind == "muon" else matrices, weight_decay),
            (others, 0.0),
        )
        self.n_updates = torch.zeros((), device=next(iter(self.weights.values())).device)  # made so far
        self.iterations: list[NewtonSchulz | NativeNewtonSchulz] = []
        self.native = self._choose_native()
        self.on_device = is_accelerator(self.n_updates.device)
        self.compiled: Callable[..., tuple[Tensor, Tensor]] | None = (
            None  # torch.compile of `clip_and_update`
        )

    def _parameters(self, model: LanguageModel) -> dict[str, nn.Parameter | Tensor]:
        """Return the weights of the model, trained or not, by name."""
        return dict(model.named_parameters())

    def clear_gradients(self) -> None:
        """Drop the gradients of the last step, and those of an aborted one."""
        for weight in self.weights.values():
            weight.grad = None
        if self.ngrams is not None:
            self.ngrams.pending.clear()

    def update(self, rates: LearningRates, loss: Tensor, grad_clip: float = inf) -> Tensor:
        """Clip the gradients to a norm of `grad_clip` and update the weights. Returns the norm before clipping.

        Nothing changes if `loss` or the norm is not finite, which is decided on the device.
        """
        with torch.no_grad():
            if self.native is not None:
                return self._update_native(self.native, rates, loss, grad_clip)
            read = None if self.ngrams is None else self._pending(self.ngrams)
            if self.sharded is not None:
                norm, finite = self._clip_and_update_sharded(self.sharded, rates, loss, grad_clip, read)
            else:
                norm, finite = (self.compiled or self.clip_and_update)(rates, loss, grad_clip, read)
            for names, weight_decay in self.adamw_groups:
                self._update_adamw(names, weight_decay, rates.adamw, finite)
            self.n_updates += finite
            return norm

    def clip_and_update(
        self, rates: LearningRates, loss: Tensor, grad_clip: float, read: ReadRows | None
    ) -> tuple[Tensor, Tensor]:
        """Clip the gradients, and update the weights but AdamW's. Returns the norm, and whether it and the loss are finite.

        On a GPU nothing here synchronises with the host, and it compiles as one graph. (AdamW is one fused kernel of
        torch, which torch does not compile.)
        """
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), grad_clip)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        if self.muon_names:
            self._update_muon(rates.muon, finite.float())
        if self.ngrams is not None and read is not None:
            self._update_ngram_embeddings(self.ngrams, read, rates.ngram_embeddings, finite.float())
        return norm, finite

    def _clip_and_update_sharded(
        self,
        sharded: ShardedMuon,
        rates: LearningRates,
        loss: Tensor,
        grad_clip: float,
        read: ReadRows | None,
    ) -> tuple[Tensor, Tensor]:
        """Do what `clip_and_update` does, with Muon's matrices shared out over the ranks."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = (norm.double().square() + sharded.sum_of_squares()).sqrt().float()
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        scale = (grad_clip / (norm + CLIP_EPSILON)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        self._update_sharded(sharded, rates.muon, scale.where(finite, nan))
        if self.ngrams is not None and read is not None:
            self._update_ngram_embeddings(self.ngrams, read, rates.ngram_embeddings, finite.float())
        return norm, finite

    def _update_sharded(self, sharded: ShardedMuon, rate: Rate, scale: Tensor) -> None:
        """Update the matrices that the ranks share out by Muon, from `scale` times their gradients."""
        sharded.update(
            lambda stack: orthogonalize(stack, self.muon_dtype), rate, self.weight_decay, MOMENTUM, scale
        )

    def gradient_buckets(self) -> GradientBuckets:
        """Return the buckets in which the ranks sum the gradients of all weights."""
        scattered = [] if self.sharded is None else self.sharded.buckets
        return GradientBuckets(list(self.weights.values()), self.ranks, scattered)

    def _pending(self, ngrams: NgramEmbeddings) -> ReadRows:
        """Return the rows (M, O) of n-gram embeddings that all ranks read, and the gradients (M, C) of their sums."""
        index, gradients = ngrams.take_pending()
        if not self.ranks.is_distributed:
            return index, gradients
        missing = (0, 0, 0, self.positions - len(index))  # for ranks with a window less than others
        index, gradients = pad(index, missing, value=ngrams.nothing), pad(gradients, missing)
        return self.ranks.all_gather_rows(index), self.ranks.all_gather_rows(gradients)

    @property
    def whole_state(self) -> dict[str, Tensor]:
        """The state of all weights, for a checkpoint; its shared-out part is as last gathered."""
        return {**self.state, **self.gathered}

    def rows(self) -> dict[str, Tensor]:
        """Return this rank's rows of the state, if the ranks divide it."""
        raise NotImplementedError

    def gather(self) -> None:
        """Gather the state that the ranks share out, for `whole_state`."""
        if self.sharded is not None:
            shapes = {f"momentum.{name}": self.weights[name] for name in self.muon_names}
            self.gathered = {name: torch.empty_like(weight) for name, weight in shapes.items()}
            self.sharded.gather(self.gathered)

    def restore(self, state: Mapping[str, Tensor], n_updates: int) -> None:
        """Restore the state after that many updates."""
        self.n_updates.fill_(n_updates)
        if self.sharded is not None:
            self.sharded.restore(state)
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _choose_native(self) -> NativeOptimizer | None:
        """Return the compiled optimizer if it supports all weights; None: torch's functions are used."""
        weights = {
            name: w for name, w in self.weights.items() if self.sharded is None or name not in self.muon_names
        }
        table = [] if self.ngrams is None else [self.ngrams.table]
        found = library_for([*weights.values(), *self.state.values(), *table])
        if found is None:
            return None
        place = {name: i for i, name in enumerate(weights)}
        moments = {
            place[name]: Moments(self.state[f"exp_avg.{name}"], self.state[f"exp_avg_sq.{name}"], decay)
            for names, decay in self.adamw_groups
            for name in names
        }
        if self.ngrams is not None:
            accumulators = self.state[f"row_square.{TABLE}"]
            self.native_ngrams = NgramEmbeddingUpdate(found, self.ngrams.table, accumulators)
        pieces = self._stack_pieces(found, place) if self.sharded is None else []
        return NativeOptimizer(found, list(weights.values()), moments, pieces)

    def _stack_pieces(self, found: Library, place: Mapping[str, int]) -> list[MuonPiece]:
        """Stack the matrices that are fused in weights by shape (or the transpose's), to orthogonalise each stack in one
        batch.
        """
        cuts = [
            (name, first_row, R, self.weights[name].shape[1])
            for name, part_rows in zip(self.muon_names, self.muon_parts, strict=True)
            for first_row, R in zip(accumulate(part_rows, initial=0), part_rows, strict=False)
        ]
        room, dtype = {}, self.muon_dtype
        shapes = Counter((min(R, C), max(R, C)) for *_, R, C in cuts)
        for (low, high), n in shapes.items():
            iteration: NativeNewtonSchulz | NewtonSchulz
            if NativeNewtonSchulz.fits(found, high, low, dtype):
                stack = torch.empty(n, high, low, dtype=dtype)
                iteration = NativeNewtonSchulz(found, stack, NEWTON_SCHULZ, ITERATIONS)
            else:
                iteration = NewtonSchulz(torch.empty(n, low, high, dtype=dtype))
            self.iterations.append(iteration)
            room[low, high] = zip(iteration.stack, iteration.result, strict=True)
        return [
            MuonPiece(
                place[name], first_row, R, self.state[f"momentum.{name}"], *next(room[min(R, C), max(R, C)])
            )
            for name, first_row, R, C in cuts
        ]

    def _update_native(
        self, native: NativeOptimizer, rates: LearningRates, loss: Tensor, grad_clip: float
    ) -> Tensor:
        """`update` by the compiled kernels."""
        adamw_rate, muon_rate, row_rate = map(float, rates)
        norm = native.read_gradients()
        if self.sharded is not None:
            norm = sqrt(norm**2 + float(self.sharded.sum_of_squares()))
        finite = isfinite(float(loss)) and isfinite(norm)
        if finite:
            self.n_updates += 1
            scale = min(1.0, grad_clip / (norm + CLIP_EPSILON))
            native.adamw(scale, adamw_rate, BETAS, EPSILON, int(self.n_updates))
            native.muon_momentum(scale, MOMENTUM, NORM_EPSILON)
            for iteration in self.iterations:
                iteration.run()
            native.muon_apply(muon_rate, self.weight_decay)
            if self.sharded is not None:
                self._update_sharded(self.sharded, muon_rate, torch.tensor(scale))
            for weight in self.weights.values():
                increment_version(weight)  # tells others that they have changed
        if self.ngrams is not None:
            index, gradients = self._pending(self.ngrams)
            if finite:
                initial = self.ngram_embedding_accumulator
                self.native_ngrams(index, gradients, row_rate, initial, ROW_EPSILON)
                increment_version(self.ngrams.table)
        return torch.tensor(norm)

    def _update_adamw(self, names: list[str], weight_decay: float, rate: Rate, finite: Tensor) -> None:
        if not names:
            return
        weights: list[Tensor] = [self.weights[name] for name in names]
        adamw(
            weights,
            [_gradient(weight) for weight in weights],
            [self.state[f"exp_avg.{name}"] for name in names],
            [self.state[f"exp_avg_sq.{name}"] for name in names],
            [],
            [*self.n_updates.expand(len(names)).clone().unbind()],
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

    def _update_muon(self, rate: Rate, finite: Tensor) -> None:
        """Update by orthogonalised Nesterov momentum, scaled by sqrt(R / C) for tall matrices."""
        momenta = []
        for name in self.muon_names:
            gradient = _gradient(self.weights[name]).nan_to_num(0.0, 0.0, 0.0)
            momentum = self.state[f"momentum.{name}"]
            momentum.lerp_(gradient, (1 - MOMENTUM) * finite)
            momenta.append(gradient.lerp(momentum, MOMENTUM))
        directions = self._directions(momenta)
        for name, part_rows, direction in zip(self.muon_names, self.muon_parts, directions, strict=True):
            weight = self.weights[name]
            weight.mul_(1 - rate * self.weight_decay * finite)
            weight.sub_(direction * (rate * sqrt(max(1.0, part_rows[0] / weight.shape[1])) * finite))

    def _directions(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Orthogonalise the updates of Muon's weights."""
        return orthogonalize_parts(updates, self.muon_parts, self.muon_dtype)

    def _update_ngram_embeddings(
        self, ngrams: NgramEmbeddings, read: ReadRows, rate: Rate, finite: Tensor
    ) -> None:
        """Update the rows that the step has read by Adagrad, with one accumulator per row (Duchi et al. 2011).

        The first gradients of plain Adagrad move a row farthest, so it would memorise what follows a rare n-gram.
        A large initial accumulator damps rare rows and hardly changes frequent ones, as smoothing does. On a GPU
        all rows count as read, since the host would have to wait for the number of different ones.
        """
        index, gradients = read  # (M, O), (M, C)
        accumulator = self.state[f"row_square.{TABLE}"]
        rows: Tensor | slice = slice(None)
        nothing: Tensor | int
        row_of, n_rows, nothing = index, len(accumulator), ngrams.nothing
        if not self.on_device:
            found, row_of = torch.unique(index, return_inverse=True)  # (U,), (M, O)
            rows, n_rows, nothing = found, len(found), found == ngrams.nothing
        total = torch.zeros(n_rows, gradients.shape[1], device=gradients.device)  # each row's gradient
        for order in range(index.shape[1]):
            total.index_add_(0, row_of[:, order], gradients)  # (M, C) into (U, C)
        total.nan_to_num_(0.0, 0.0, 0.0)
        total[nothing] = 0
        # The square of a finite gradient may be infinite, and infinity times 0 is not a number.
        squares = total.square().mean(dim=1)
        accumulated = accumulator[rows] + squares.where(finite > 0, 0.0)
        accumulator[rows] = accumulated
        scale = (accumulated + self.ngram_embedding_accumulator).sqrt() + ROW_EPSILON
        ngrams.table[rows] -= rate * finite * total / scale[:, None]


class NewtonSchulz:
    """Newton-Schulz iteration of a stack of matrices (N, R, C) of norm 1, R <= C, in buffers of its own."""

    def __init__(self, stack: Tensor) -> None:
        self.stack, self.result = stack, torch.empty_like(stack)
        N, R, _ = stack.shape
        self._gram, self._polynomial = stack.new_empty(2, N, R, R)

    def run(self) -> Tensor:
        """Repeat X = (a I + b X X' + c (X X')^2) X for each matrix X; overwrites the stack."""
        a, b, c = NEWTON_SCHULZ
        gram, polynomial, x, y = self._gram, self._polynomial, self.stack, self.result
        for _ in range(ITERATIONS):
            torch.bmm(x, x.mT, out=gram)
            torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
            torch.baddbmm(x, polynomial, x, beta=a, out=y)
            x, y = y, x
        assert x is self.result, "the number of iterations is odd"
        return x


def orthogonalize(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return about U V' for each matrix U S V' of (N, R, C): Newton-Schulz iteration brings singular values near 1.

    The coefficients are those of Jordan et al. 2024 (Muon); singular values end between 0.7 and 1.2. Computed in
    `dtype` if given: bf16 is precise enough, since the directions need not be exact.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + NORM_EPSILON)).to(dtype or x.dtype)
    x = NewtonSchulz(x).run()
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
