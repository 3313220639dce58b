"""Computing on a GPU: batches that fit its memory, and its failures as plain messages."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

from charlm.errors import ResourceError
from charlm.terminal import one_line

T = TypeVar("T")
Say = Callable[[str], None]
quietly: Say = logging.getLogger("charlm").info


class Batches:
    """Batches of work that fit a device's memory: when one does not fit, batches are halved from then on."""

    def __init__(self, what: str, single: str, remedy: str = "give --device cpu") -> None:
        """Words for messages: `what` is computed, `single` is one of it, `remedy` what to do if one does not fit."""
        self._what, self._single, self._remedy = what, single, remedy
        self._most: int | None = None  # None: all fitted

    def of(
        self,
        items: Sequence[int],
        at_once: int,
        compute: Callable[[Sequence[int]], Iterable[T]],
        device: torch.device,
        say: Say,
    ) -> Iterator[T]:
        """Yield what `compute` returns for the items, at most `at_once` together; `say` is called when memory is full.

        Raises ResourceError for a single item that does not fit, and if the GPU fails.
        """
        i = 0
        with gpu_failures(device):
            while i < len(items):
                part, found = items[i : i + min(at_once, self._most or at_once)], None
                with suppress(torch.OutOfMemoryError):
                    found = compute(part)
                if found is not None:
                    yield from found
                    i += len(part)
                else:  # the memory was freed with the error
                    self._most = self._halved(len(part), device, say)

    def _halved(self, n: int, device: torch.device, say: Say) -> int:
        if n == 1:
            raise ResourceError(
                f"the memory of {device.type} is too small for {self._single}; {self._remedy}"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        say(f"the device's memory is full; {n // 2:,} {self._what} are computed at once from now on")
        return n // 2


@contextmanager
def gpu_failures(device: torch.device) -> Iterator[None]:
    """Raise ResourceError if the GPU fails or its memory is full."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError and NotImplementedError too
        if device.type == "cpu":
            raise
        raise ResourceError(
            f"the GPU failed ({one_line(str(error), limit=160)}); give --device cpu, or try again when it is free"
        ) from None
