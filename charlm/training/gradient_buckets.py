"""All-reduce of gradients in data-parallel training, in buckets that are sent during the backward pass."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from charlm.training.distributed import Ranks, Work

BUCKET_BYTES = 4 << 20
"""Approximate size of a bucket: large enough to hide its latency, small enough that the first one is sent early."""


class Bucket(ABC):
    """Gradients that are sent together, of the weights at the indices `places`."""

    def __init__(self, places: Sequence[int]) -> None:
        self.places = list(places)
        self.missing: set[int] = set()  # weights whose gradients are still to come

    @abstractmethod
    def take(self, place: int, gradient: Tensor | None) -> None:
        """Copy the gradient of a weight; None means zeros."""

    @abstractmethod
    def leave(self, ranks: Ranks) -> Work:
        """Start the collective that sums the bucket."""


class SumBucket(Bucket):
    """Gradients concatenated in one tensor, of which every rank gets the sum."""

    def __init__(self, places: Sequence[int], weights: Sequence[Tensor]) -> None:
        super().__init__(places)
        sizes = [weight.numel() for weight in weights]
        # The last number is for the loss of the batch, which the first bucket carries.
        self.flat = torch.zeros(sum(sizes) + 1, device=weights[0].device, dtype=weights[0].dtype)
        parts = torch.split(self.flat[:-1], sizes)
        self.views = {place: part.view_as(w) for place, part, w in zip(places, parts, weights, strict=True)}

    def take(self, place: int, gradient: Tensor | None) -> None:
        """Copy the gradient of a weight; None means zeros."""
        if gradient is None:
            self.views[place].zero_()
        else:
            self.views[place].copy_(gradient)

    def leave(self, ranks: Ranks) -> Work:
        """Start the all-reduce of the bucket."""
        return ranks.start_all_reduce(self.flat)


class GradientBuckets:
    """Sums gradients over the ranks. The last weights, whose gradients come first, are in the first bucket.

    Buckets are sent in the same order on all ranks, each as soon as it is complete (Li et al. 2020, arXiv 2006.15704).
    One carries the loss too. Each rank's gradient must be weighted by its rows already.
    """

    def __init__(self, weights: Sequence[Tensor], ranks: Ranks, scattered: Sequence[Bucket] = ()) -> None:
        """`scattered`: further buckets, of whose sums each rank gets a part."""
        self._weights, self._ranks = list(weights), ranks
        elsewhere = {place for bucket in scattered for place in bucket.places}
        self._sums = self._sum_buckets(
            [place for place in range(len(self._weights)) if place not in elsewhere]
        )
        # The gradient of the very first weight comes last.
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
        """Prepare for the last backward pass of the step; `loss`: this rank's share of the batch's loss."""
        self._sums[0].flat[-1] = loss
        for bucket in self._buckets:
            bucket.missing = set(bucket.places)
        self._next, self._armed = 0, True

    def finish(self) -> Tensor:
        """Wait until all gradients are summed over the ranks; return the loss of the whole batch. Raises RankError."""
        for place in {place for bucket in self._buckets for place in bucket.missing}:
            self._ready(place)
        self._armed = False
        for work in self._works:
            work.wait()
        self._works.clear()
        for weight in self._weights:
            weight.grad = None  # no rank has all of a scattered gradient
        for bucket in self._sums:
            for place, view in bucket.views.items():
                self._weights[place].grad = view
        return self._sums[0].flat[-1].clone()

    def _ready(self, place: int, _: Tensor | None = None) -> None:
        """Take the gradient of a weight, or zeros, and send the buckets that are complete."""
        if not self._armed:
            return
        for bucket in self._of[place]:
            bucket.take(place, self._weights[place].grad)
            bucket.missing.discard(place)
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._works.append(self._buckets[self._next].leave(self._ranks))
            self._next += 1
