"""The sum of all ranks' gradients, in buckets that travel while the backward pass goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from charlm.training.distributed import Ranks, Work

BUCKET_BYTES = 4 << 20
"""Of a bucket, about: large enough that its latency does not count, small enough that the first one leaves early."""


@dataclass
class _Bucket:
    """The gradients of some weights, one after another in one tensor."""

    flat: Tensor
    places: list[int]  # of the weights
    views: list[Tensor]  # of `flat`, one for each weight
    missing: set[int] = field(default_factory=set)  # weights whose gradient is not there yet


class GradientBuckets:
    """Sums gradients over the ranks. The last weights, whose gradients come first, are in the first bucket.

    Buckets leave in the same order on all ranks, as soon as their gradients are there (Li et al. 2020, arXiv 2006.15704).
    The first one carries the loss too. Each rank's gradient must be weighted by its rows already.
    """

    def __init__(self, weights: Sequence[Tensor], ranks: Ranks) -> None:
        self._weights, self._ranks = list(weights), ranks
        self._buckets: list[_Bucket] = []
        self._loss_view = torch.zeros(1)
        self._armed = False
        self._next = 0
        self._works: list[Work] = []
        self._bucket_of: dict[int, int] = {}
        self._fill_buckets()
        for place, weight in enumerate(self._weights):
            weight.register_post_accumulate_grad_hook(partial(self._ready, place))  # type: ignore[no-untyped-call]

    def _fill_buckets(self) -> None:
        groups: list[list[int]] = [[]]
        room = BUCKET_BYTES
        for place in reversed(range(len(self._weights))):
            if room <= 0:
                groups.append([])
                room = BUCKET_BYTES
            groups[-1].append(place)
            room -= self._weights[place].nbytes
        for number, places in enumerate(groups):
            weights = [self._weights[place] for place in places]
            sizes = [weight.numel() for weight in weights]
            flat = weights[0].new_zeros(sum(sizes) + (number == 0))
            parts = torch.split(flat[: sum(sizes)], sizes)
            views = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
            self._buckets.append(_Bucket(flat, places, views))
            self._bucket_of |= dict.fromkeys(places, number)
        self._loss_view = self._buckets[0].flat[-1:]

    def begin(self, loss: Tensor) -> None:
        """The backward pass that follows is the last of the step; `loss`: this rank's share of the batch's loss."""
        self._loss_view.copy_(loss)
        for bucket in self._buckets:
            bucket.missing = set(bucket.places)
        self._next, self._armed = 0, True

    def finish(self) -> Tensor:
        """Wait until every gradient is the sum over all ranks; the loss of the whole batch. Raises RankError."""
        for bucket in self._buckets:
            for place in list(bucket.missing):
                self._ready(place)
        self._armed = False
        for work in self._works:
            work.wait()
        self._works.clear()
        for bucket in self._buckets:
            for place, view in zip(bucket.places, bucket.views, strict=True):
                self._weights[place].grad = view
        return self._loss_view[0].clone()

    def _ready(self, place: int, _: Tensor | None = None) -> None:
        """The gradient of a weight is there, or there will be none."""
        if not self._armed:
            return
        bucket, gradient = self._buckets[self._bucket_of[place]], self._weights[place].grad
        view = bucket.views[bucket.places.index(place)]
        if gradient is None:
            view.zero_()
        else:
            view.copy_(gradient)
        bucket.missing.discard(place)
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._works.append(self._ranks.begin_sum(self._buckets[self._next].flat))
            self._next += 1
