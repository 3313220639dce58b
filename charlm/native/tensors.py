"""Torch tensors as arguments of C functions; separate from library.py, which is imported without loading torch."""

from collections.abc import Iterable

import torch
from torch import Tensor

from charlm.native.library import Library, library


def library_for(tensors: Iterable[Tensor]) -> Library | None:
    """Return the compiled kernels if they are available and the tensors are contiguous, fp32 and on the CPU."""
    plain = all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
        for tensor in tensors
    )
    return library() if plain else None


def address(tensor: Tensor | None) -> int | None:
    """Return the pointer to a contiguous tensor; a null pointer for None."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
