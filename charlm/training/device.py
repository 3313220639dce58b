"""The device that charlm computes on: its choice, precision, memory, compilation, and a description of the machine.

The code for GPUs (CUDA, Apple's MPS) is here. No GPU was available, so it has not run on one (docs/gpu.md).
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
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from charlm.errors import UsageError
from charlm.native.library import status
from charlm.terminal import one_line
from charlm.threads import threads

if TYPE_CHECKING:
    from charlm.model.transformer import LanguageModel
    from charlm.training.optimizer import Optimizer

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16")
"""Processor features, by torch's names, that make bf16 products faster than fp32."""
CPU_COMPILERS = ("g++", "clang++", "c++", "cl")
"""The compilers that TorchInductor looks for on a CPU."""
LEAST_MEMORY = 512 << 20
"""Free memory, in bytes, that a GPU needs; with less, another program is using it."""
GRAPH_TRIALS = 3
"""Steps until CUDA graphs are replayed: torch warms up, records, replays."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MAX_KEPT = -1, -3, 1 << 30


def pick_device(wanted: str) -> torch.device:
    """Return the device for `auto` (a GPU that works, else the CPU), `cpu`, `cuda` or `mps`.

    Falls back to the CPU if a GPU exists but cannot compute. Raises UsageError if the wanted GPU is missing.
    """
    found = gpus()
    if wanted not in ("auto", "cpu", *found):
        raise UsageError(f"--device {wanted}: PyTorch finds no such device; use cpu or auto")
    candidates = found if wanted == "auto" else [name for name in found if name == wanted]
    return torch.device(next((name for name in candidates if failure_of(name) is None), "cpu"))


def gpus() -> list[str]:
    """Return the GPU devices that torch finds."""
    with warnings.catch_warnings():  # an unusable driver is a warning of torch
        warnings.simplefilter("ignore")
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, present in there.items() if present]


def is_accelerator(device: torch.device) -> bool:
    """Whether it is a GPU, which computes steps asynchronously."""
    return device.type != "cpu"


@cache
def failure_of(name: str) -> str | None:
    """Return why a GPU cannot compute (driver, busy, memory taken, operators), by a small trial; None if it can."""
    device = torch.device(name)
    try:
        if name == "cuda":
            _make_repeatable()
            free, _ = torch.cuda.mem_get_info()
            if free < LEAST_MEMORY:
                return f"only {free >> 20:,} MB of its memory are free"
        x = torch.ones(1, 1, 16, 16, device=device, requires_grad=True)
        y = F.scaled_dot_product_attention(x @ x, x, x, is_causal=True)
        F.rms_norm(y, (16,)).square().sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return None if bool(torch.isfinite(x.grad).all()) else "its results are not finite"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return one_line(str(error), limit=160)


def _make_repeatable() -> None:
    """Make CUDA deterministic, so that a resumed run equals an uninterrupted one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def gpu_note(wanted: str) -> str | None:
    """Tell the user that a GPU is used, or why not; None if there is none, or none is wanted."""
    found = [] if wanted == "cpu" else gpus()
    device = pick_device(wanted) if found else torch.device("cpu")
    if is_accelerator(device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple's MPS"
        return f"computing on the GPU: {one_line(name)}; --device cpu computes on the CPU"
    failures = (
        f"the GPU ({name}) cannot be used: {failure_of(name)}; computing on the CPU" for name in found
    )
    return next(failures, None)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device. For CUDA the copy is from pinned memory, and asynchronous."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # since torch 2.11
        return any(features.get(name) for name in BF16_FEATURES)
    return False


def pick_precision(device: torch.device) -> str:
    """Return `bf16` if the device has it, else `fp32`."""
    return "bf16" if has_bf16(device) else "fp32"


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in that precision inside the block; weights and sums stay fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work, to time it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the random numbers of that device; torch.manual_seed seeds all devices, which takes 0.4 ms."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def keep_memory() -> None:
    """Make the C library keep freed memory, which saves most page faults of a step on glibc; elsewhere no effect."""
    if os.name != "posix":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(setting, MAX_KEPT)


def has_compiler(device: torch.device) -> bool:
    """Whether torch can compile for this device: a C++ compiler (CPU) or Triton (GPU) is there."""
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
    """Compile the model's blocks; if that fails, leave the model uncompiled and return the reason.

    torch compiles, and fails, at the first forward and backward pass, so a trial pass is made here, which changes no
    weight.
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


def compile_step(
    model: "LanguageModel", optimizer: "Optimizer", trial: Callable[[], None], *, graphs: bool
) -> str | None:
    """Compile loss and update of a GPU's step, each as one graph; return the reason if it fails.

    `trial` takes a step that changes nothing, in which torch compiles. `graphs`: replay them as CUDA graphs, which
    saves launching each kernel; if that fails, kernels are launched one by one.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads()))
    how = partial(torch.compile, fullgraph=True, dynamic=False, mode="reduce-overhead" if graphs else None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if graphs:
                for tensor in (*optimizer.weights.values(), *optimizer.state.values(), optimizer.n_updates):
                    torch._dynamo.mark_static_address(tensor)
            model.compiled_loss, optimizer.compiled = how(model.torch_loss), how(optimizer.clip_and_update)
            for _ in range(GRAPH_TRIALS if graphs else 1):
                trial()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001, whatever a compiler may raise
        model.compiled_loss = optimizer.compiled = None
        if graphs:
            return compile_step(model, optimizer, trial, graphs=False)
        return one_line(f"{type(error).__name__}: {error}", limit=200)
    finally:
        optimizer.clear_gradients()
    return None


def describe_machine(n_threads: int) -> str:
    """Describe processor, system, threads, versions and compiled kernels in one line, to go with a measured speed."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    found = re.search(r"model name\s*: *(.*)", cpuinfo)
    return (
        f"{found[1].strip() if found else platform.machine()}, {platform.system()}, {n_threads} "
        f"thread{'s' * (n_threads > 1)}, torch {torch.__version__}, Python {platform.python_version()}, {status()}"
    )
