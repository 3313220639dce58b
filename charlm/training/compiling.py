"""The blocks compiled for training by torch's TorchInductor, where that is repaid; never a failure."""

import os
import warnings

import torch

from charlm.compiled import compilers
from charlm.processors import threads
from charlm.terminal import one_line
from charlm.training.device import computing
from charlm.training.session import Session
from charlm.training.step import batch_loss

COMPILERS = ("g++", "clang++", "c++", "cl")
"""What TorchInductor asks for on a CPU."""


def has_compiler(device: torch.device) -> bool:
    """Is there what it takes to compile: a C++ compiler for a CPU, Triton for a GPU?"""
    if device.type == "cpu":
        return bool(compilers((os.environ.get("CXX", ""), *COMPILERS)))
    return device.type == "cuda" and bool(torch.utils._triton.has_triton())


def compile_blocks(session: Session) -> str | None:
    """Compile the model's blocks for batches of this run, and try them; why not, where it fails.

    Compiling happens at the first call, forward and backward, and fails there if it fails. So that is
    done here, with a batch of the first symbol, from which nothing is learned. What failed is taken
    back, and the run goes on as if it had not been tried.
    """
    model, config = session.model, session.training_config
    assert config.batch_size
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads()))
    ids = torch.zeros(config.batch_size // config.accumulation, model.block_size + 1, dtype=torch.long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.compiled = torch.compile(model.through, dynamic=False)
            with computing(session.device, config.precision):
                loss = batch_loss(model, ids.to(session.device), end=session.corpus.vocabulary.end)
            loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001, whatever a compiler may raise
        model.compiled = None
        return one_line(f"{type(error).__name__}: {error}", limit=200)
    finally:
        model.zero_grad(set_to_none=True)
        if model.ngrams is not None:
            model.ngrams.pending.clear()
    return None
