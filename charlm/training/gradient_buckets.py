"""The sum of all ranks' gradients, in buckets that travel while the backward pass goes on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from charlm.training.distributed import Ranks, Work

BUCKET_BYTES = 4 << 20
"""Of a bucket, about: large enough that its latency does not count, small enough that the first one leaves early."""


class Bucket(ABC):
    """Gradients that travel together, of the weights at `places`."""

    def __init__(self, places: Sequence[int]) -> None:
        self.places = list(places)
        self.missing: set[int] = set()  # whose gradient is not there yet

    @abstractmethod
    def take(self, place: int, gradient: Tensor | None) -> None:
        """Copy the gradient of a weight; None is one of zeros."""

    @abstractmethod
    def leave(self, ranks: Ranks) -> Work:
        """Begin to travel."""


class SumBucket(Bucket):
    """Gradients of which every rank gets the sum, one after another in one tensor."""

    def __init__(self, places: Sequence[int], weights: Sequence[Tensor]) -> None:
        super().__init__(places)
        sizes = [weight.numel() for weight in weights]
        # The last number is for the loss of the batch, which the first bucket to leave carries.
        self.flat = torch.zeros(sum(sizes) + 1, device=weights[0].device, dtype=weights[0].dtype)
        parts = torch.split(self.flat[:-1], sizes)
        self.views = {place: part.view_as(w) for place, part, w in zip(places, parts, weights, strict=True)}

    def take(self, place: int, gradient: Tensor | None) -> None:
        """Copy the gradient of a weight; None is one of zeros."""
        if gradient is None:
            self.views[place].zero_()
        else:
            self.views[place].copy_(gradient)

    def leave(self, ranks: Ranks) -> Work:
        """Begin to travel."""
        return ranks.begin_sum(self.flat)


class GradientBuckets:
    """Sums gradients over the ranks. The last weights, whose gradients come first, are in the first bucket.

    Buckets leave in the same order on all ranks, each as soon as its gradients are there (Li et al. 2020, arXiv
    2006.15704). One carries the loss too. Each rank's gradient must be weighted by its rows already.
    """

    def __init__(self, weights: Sequence[Tensor], ranks: Ranks, scattered: Sequence[Bucket] = ()) -> None:
        """`scattered`: buckets of other weights, of whose sums each rank gets a part."""
        self._weights, self._ranks = list(weights), ranks
        elsewhere = {place for bucket in scattered for place in bucket.places}
        self._sums = self._sum_buckets(
            [place for place in range(len(self._weights)) if place not in elsewhere]
        )
        # The gradient of the first weight of all comes last.
        self._buckets = sorted([*self._sums, *scattered], key=lambda bucket: -min(bucket.places))
        self._of = [[b for b in self._buckets if place in b.places] for place in range(len(self._weights))]
        self._armed, self._next = False, 0
        self._works: list[Work] = []
        for place, weight in enumerate(self._weights):
            weight.register_post_accumulate_grad_hook(partial(self._ready, place))  # type: ignore[no-untyped-call]

    def _sum_buckets(self, places: Sequence[int]) -> list[SumBucket]:
        groups: list[list[int]] = [[]]
        room = BUCKET_BYTES
        for place in reversed(places):
            if room <= 0:
                groups.append([])
                room = BUCKET_BYTES
            groups[-1].append(place)
            room -= self._weights[place].nbytes
        return [SumBucket(group, [self._weights[place] for place in group]) for group in groups]

    def begin(self, loss: Tensor) -> None:
        """The backward pass that follows is the last of the step; `loss`: this rank's share of the batch's loss."""
        self._sums[0].flat[-1] = loss
        for bucket in self._buckets:
            bucket.missing = set(bucket.places)
        self._next, self._armed = 0, True

    def finish(self) -> Tensor:
        """Wait until every gradient is the sum over all ranks; the loss of the whole batch. Raises RankError."""
        for place in {place for bucket in self._buckets for place in bucket.missing}:
            self._ready(place)
        self._armed = False
        for work in self._works:
            work.wait()
        self._works.clear()
        for weight in self._weights:
            weight.grad = None  # of what was scattered no rank has all
        for bucket in self._sums:
            for place, view in bucket.views.items():
                self._weights[place].grad = view
        return self._sums[0].flat[-1].clone()

    def _ready(self, place: int, _: Tensor | None = None) -> None:
        """The gradient of a weight is there, or there will be none."""
        if not self._armed:
            return
        for bucket in self._of[place]:
            bucket.take(place, self._weights[place].grad)
            bucket.missing.discard(place)
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._works.append(self._buckets[self._next].leave(self._ranks))
            self._next += 1
