"""By what means a run computes here: threads, precision, compiler, and how fast that is."""

import torch

from charlm.config import TrainingConfig
from charlm.training.compiling import has_compiler
from charlm.training.device import measure_gflops, measure_threads, pick_precision
from charlm.training.plan import Budget


def means_of(device: torch.device, training: TrainingConfig, steps: int | None) -> tuple[int, Budget]:
    """How many threads compute, and a budget of so many steps, or of seconds yet to be named.

    With a number of steps nothing is timed: what the processor is decides alone.
    """
    wanted = None if training.precision == "auto" else training.precision
    compiler = has_compiler(device)
    if steps is not None:
        precision = wanted or pick_precision(device, timed=False)
        return torch.get_num_threads(), Budget(steps=steps, precision=precision, compiler=compiler)
    threads, gflops = measure_threads(device, fixed=training.threads is not None)
    precision = wanted or pick_precision(device, timed=True)
    if precision == "bf16":
        gflops = measure_gflops(device, torch.bfloat16)
    return threads, Budget(gflops=round(gflops, 1), precision=precision, compiler=compiler)
