"""The device that training computes on: precision, memory, compilation, and the machine in words.

GPUs (CUDA, Apple's MPS) are handled here and nowhere else. They are untested, so `auto` is the CPU.
"""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from charlm.errors import UsageError
from charlm.native.library import status
from charlm.terminal import one_line
from charlm.threads import threads

if TYPE_CHECKING:
    from charlm.model.transformer import LanguageModel

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16")
"""Processor features, by torch's names, that make bf16 products faster than fp32."""
CPU_COMPILERS = ("g++", "clang++", "c++", "cl")
"""What TorchInductor looks for on a CPU."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MAX_KEPT = -1, -3, 1 << 30


def pick_device(wanted: str) -> torch.device:
    """The device for `auto` (the CPU), `cpu`, `cuda` or `mps`. Raises UsageError where it is missing."""
    if wanted == "auto":
        wanted = "cpu"
    if wanted not in ("cpu", *gpus()):
        raise UsageError(f"--device {wanted}: PyTorch finds no such device; use cpu or auto")
    return torch.device(wanted)


def gpus() -> list[str]:
    """The GPU devices that torch finds."""
    with warnings.catch_warnings():  # an unusable driver is a warning of torch
        warnings.simplefilter("ignore")
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, present in there.items() if present]


def unused_gpu_note(wanted: str) -> str | None:
    """A note for the user where `auto` leaves a GPU idle."""
    found = gpus() if wanted == "auto" else []
    if not found:
        return None
    return f"training on the CPU; --device {found[0]} uses the GPU, which is untested"


def has_bf16(device: torch.device) -> bool:
    """Does the device have bf16 instructions?"""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # since torch 2.11
        return any(features.get(name) for name in BF16_FEATURES)
    return False


def pick_precision(device: torch.device) -> str:
    """`bf16` where the device has it, else `fp32`."""
    return "bf16" if has_bf16(device) else "fp32"


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in that precision inside the block; weights and sums stay fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the random numbers of that device; torch.manual_seed seeds all devices, which takes 0.4 ms."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def keep_memory() -> None:
    """Make the C library keep freed memory: on glibc it saves most page faults of a step; elsewhere no effect."""
    if os.name != "posix":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(setting, MAX_KEPT)


def has_compiler(device: torch.device) -> bool:
    """Can torch compile for this device: is there a C++ compiler (CPU) or Triton (GPU)?"""
    if device.type == "cpu":
        found = [path for name in (os.environ.get("CXX", ""), *CPU_COMPILERS) if (path := shutil.which(name))]
        if (
            sys.platform == "darwin" and not _has_developer_tools()
        ):  # those of /usr/bin only offer to install them
            found = [path for path in found if not path.startswith("/usr/bin/")]
        return bool(found)
    return device.type == "cuda" and bool(torch.utils._triton.has_triton())


@cache
def _has_developer_tools() -> bool:
    """Whether Apple's developer tools are installed."""
    try:
        command, nothing = ["/usr/bin/xcode-select", "-p"], subprocess.DEVNULL
        return subprocess.run(command, stdout=nothing, stderr=nothing, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def compile_blocks(model: "LanguageModel", trial_loss: Callable[[], Tensor]) -> str | None:
    """Compile the model's blocks; returns the reason if it fails, and then the model stays uncompiled.

    torch compiles, and fails, at the first forward and backward pass, so a trial pass is made here; nothing is
    learned from it.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.compiled = torch.compile(model.run_blocks, dynamic=False)
            trial_loss().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001, whatever a compiler may raise
        model.compiled = None
        return one_line(f"{type(error).__name__}: {error}", limit=200)
    finally:
        model.zero_grad(set_to_none=True)
        if model.ngrams is not None:
            model.ngrams.pending.clear()
    return None


def describe_machine(n_threads: int) -> str:
    """Processor, system, threads, versions and compiled kernels in one line, to go with a measured speed."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    found = re.search(r"model name\s*: *(.*)", cpuinfo)
    return (
        f"{found[1].strip() if found else platform.machine()}, {platform.system()}, {n_threads} "
        f"thread{'s' * (n_threads > 1)}, torch {torch.__version__}, Python {platform.python_version()}, {status()}"
    )
