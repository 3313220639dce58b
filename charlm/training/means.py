"""By what means a run computes here: threads, precision, compiler, and how fast that is."""

import torch

from charlm.config import TrainingConfig
from charlm.training.compiling import has_compiler
from charlm.training.device import measure_gflops, measure_threads, pick_precision
from charlm.training.plan import Budget

LOOK_SHARE, LONGEST_LOOK = 0.05, 3.0
"""How long it is waited for a busy machine to be quiet: at most this share of the time, and so many seconds."""


def means_of(
    device: torch.device, training: TrainingConfig, steps: int | None, seconds: float | None = None
) -> tuple[int, Budget]:
    """How many threads compute, and a budget of so many steps, or of these seconds.

    With a number of steps nothing is timed: what the processor is decides alone.
    """
    wanted = None if training.precision == "auto" else training.precision
    compiler = has_compiler(device)
    if steps is not None:
        precision = wanted or pick_precision(device, timed=False)
        return torch.get_num_threads(), Budget(steps=steps, precision=precision, compiler=compiler)
    patience = min(LONGEST_LOOK, LOOK_SHARE * (seconds or 0.0))
    threads, gflops = measure_threads(device, fixed=training.threads is not None, patience=patience)
    precision = wanted or pick_precision(device, timed=True)
    if precision == "bf16":
        gflops = measure_gflops(device, torch.bfloat16)
    return threads, Budget(seconds=seconds, gflops=round(gflops, 1), precision=precision, compiler=compiler)
