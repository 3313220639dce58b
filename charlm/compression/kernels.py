"""By what means probabilities are computed: encoder and decoder must compute bit for bit alike."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import charlm
from charlm.compression.container import Means

THREADS, MOST_THREADS = 1, 1024
"""How many threads compute unless told, and at most.

Products are split among threads by how many there are, and each split rounds in its own way.
"""


@contextmanager
def exactly(threads: int) -> Iterator[None]:
    """Within it torch and NumPy's products use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def means(precision: torch.dtype, threads: int = THREADS) -> Means:
    """By what means a model of that precision computes here, with so many threads."""
    return Means(
        charlm=charlm.__version__,
        torch=str(torch.__version__),
        numpy=np.__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        processor=torch.backends.cpu.get_cpu_capability(),
        numpy_kernels=_numpy_kernels(),
        products=_products(),
        precision=str(precision).removeprefix("torch."),
        threads=threads,
    )


def _numpy_kernels() -> str:
    """The widest instructions that NumPy's loops use here."""
    config = np.show_config(mode="dicts")
    assert isinstance(config, dict)
    found = config.get("SIMD Extensions", {}).get("found") or ["baseline"]
    return str(found[-1])


def _products() -> str:
    libraries = (each for each in threadpool_info() if each["user_api"] == "blas")
    return " ".join(
        sorted({f"{each['internal_api']} {each['version']} {each.get('architecture')}" for each in libraries})
    )
