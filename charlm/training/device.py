"""Where training computes: device, threads, precision, and how fast the machine is.

The paths for GPUs (CUDA, Apple's MPS) are written here and nowhere else. They have not been tested, so
`auto` is the CPU.
"""

import ctypes
import os
import platform
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median

import torch

from charlm.errors import UsageError

PRODUCT = 768
"""Size of the matrix product that stands for the machine's speed."""
PRODUCT_SECONDS = 0.03
QUIET_ROUNDS, BUSY_ROUNDS = 3, 5
"""How often the speed is measured: where nothing else is at work, and at least where something is."""
PAUSE_SECONDS = 0.1
UNDISTURBED = 0.85
"""Share of the threads' time that they get, and of the fastest round that the slowest has, on a quiet machine."""
WORTH_HALVING = 1.2
BF16_FEATURES = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16")
"""Features of processors that multiply bf16 numbers faster than fp32, as torch calls them."""
WORTH_ROUNDING = 1.3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST_KEPT = -1, -3, 1 << 30


def pick_device(wanted: str) -> torch.device:
    """The device that `auto` (the CPU), `cpu`, `cuda` or `mps` means; UsageError where it is missing."""
    if wanted == "auto":
        wanted = "cpu"
    if wanted not in ("cpu", *gpus()):
        raise UsageError(f"--device {wanted}: torch finds no such device here; use cpu, or auto")
    return torch.device(wanted)


def gpus() -> list[str]:
    """The names of the GPU devices that torch finds here."""
    with warnings.catch_warnings():  # an unusable driver is a warning of torch
        warnings.simplefilter("ignore")
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, present in there.items() if present]


def about_gpu(wanted: str) -> str | None:
    """What to say where `auto` leaves a GPU idle."""
    found = gpus() if wanted == "auto" else []
    if not found:
        return None
    return f"training on the CPU; there is a GPU: --device {found[0]} uses it, which has not been tested"


def has_bf16(device: torch.device) -> bool:
    """Does the device multiply bf16 numbers by instructions of its own?"""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # since torch 2.11
        return any(features.get(name) for name in BF16_FEATURES)
    return False


def pick_precision(device: torch.device, *, timed: bool) -> str:
    """`bf16` where the device has it, and with `timed` only if products in it are faster, in most of several tries."""
    if not has_bf16(device):
        return "fp32"
    if not timed:
        return "bf16"
    gains = [measure_gflops(device, torch.bfloat16) / measure_gflops(device) for _ in range(QUIET_ROUNDS)]
    return "bf16" if median(gains) > WORTH_ROUNDING else "fp32"


def computing(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Within it the products of a model are made in that precision; weights and sums stay fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def keep_memory() -> None:
    """Ask the C library to keep freed memory, so that a step's large tensors are not asked for anew.

    On glibc this saves a step most of its page faults; elsewhere it does nothing.
    """
    if os.name != "posix":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(setting, LARGEST_KEPT)


def measure_threads(device: torch.device, *, fixed: bool = False, patience: float = 0.0) -> tuple[int, float]:
    """How many threads compute fastest, all or half of them, and their GFLOP/s; uses that many.

    On a machine that is busy with something else, threads wait for each other in every product, and
    half of them can be several times faster. With `fixed` the number stays as it is. What is measured
    decides a whole run, so where the machine looks busy it is measured again for up to `patience`
    seconds, and medians decide: a process that is busy for a moment decides nothing.
    """
    most = torch.get_num_threads()
    numbers = (most,) if fixed or device.type != "cpu" or most == 1 else (most, most // 2)
    speeds: dict[int, list[float]] = {number: [] for number in numbers}
    started, quiet = time.perf_counter(), True
    while True:
        for number in numbers:
            torch.set_num_threads(number)
            before = time.perf_counter(), time.process_time()
            speeds[number].append(measure_gflops(device))
            if number == most and device.type == "cpu":
                took, computed = time.perf_counter() - before[0], time.process_time() - before[1]
                quiet = quiet and computed > UNDISTURBED * most * took
        all_speeds, best = speeds[most], max(numbers, key=lambda number: median(speeds[number]))
        quiet = quiet and min(all_speeds) > UNDISTURBED * max(all_speeds) and best == most
        enough = len(all_speeds) >= (QUIET_ROUNDS if quiet else BUSY_ROUNDS)
        if enough and (quiet or time.perf_counter() - started >= patience):
            break
        if not quiet:
            time.sleep(min(PAUSE_SECONDS, patience / BUSY_ROUNDS))
    faster = median(speeds[best]) > WORTH_HALVING * median(all_speeds)
    chosen = best if faster else most
    torch.set_num_threads(chosen)
    return chosen, median(speeds[chosen])


def measure_gflops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The speed of a plain matrix product here, in 10^9 operations a second."""
    a = torch.ones(PRODUCT, PRODUCT, device=device, dtype=dtype)
    float((a @ a)[0, 0])
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < PRODUCT_SECONDS or len(times) < 3:
        before = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for a GPU
        times.append(time.perf_counter() - before)
    return 2 * PRODUCT**3 / median(times) / 1e9


def machine(threads: int) -> str:
    """The machine in a few words, as a figure of speed must name it."""
    name = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if "model name" in line), platform.machine()
    )
    used = f"{threads} thread{'s' * (threads > 1)}"
    return (
        f"{name}, {platform.system()}, {used}, torch {torch.__version__}, Python {platform.python_version()}"
    )


def _cpuinfo() -> list[str]:
    """What Linux says of its processors; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
