"""Choose the number of threads to compute with: what was asked for, else the CPUs that this process may use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from charlm.place import Place

ROOT = Path("/")
"""The folder that has `proc` and `sys`."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""torch obeys these itself; if one is set, it is the default, and the CPUs are not counted."""
_in_force: int | None = None
_most: int | None = None

SPINS = 20_000
"""How often a waiting thread of GCC's OpenMP checks again before it sleeps: 0.3 to 1 millisecond, by processor."""


def use_threads(asked: int | None) -> int:
    """Use `asked` threads from now on, by default as many as `default_threads`. Return how many.

    This sets torch's threads. NumPy's matrix products and our own workers use as many or fewer.
    """
    import torch  # here: it is slow to import

    global _in_force, _most
    _most = default_threads()
    _in_force = asked or _most
    torch.set_num_threads(_in_force)
    if asked is not None:
        _limit_matrix_products(asked)
    return _in_force


def change_threads(number: int) -> None:
    """Use another number of threads during a run; `most_threads` stays."""
    import torch

    global _in_force
    _in_force = number
    torch.set_num_threads(number)


def most_threads() -> int:
    """Return how many threads the run that began last would use by default."""
    return _most or default_threads()


def wait_briefly() -> None:
    """Make torch's threads wait for each other only briefly before they sleep; call it before torch is imported.

    Longer busy waiting occupies a processor, and makes steps beside another program take ten times as long. Sleeping at
    once doubles the time of a small step. Where OMP_WAIT_POLICY is set, nothing is changed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restore torch's number of threads when the block ends."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads() -> int:
    """Return the number of threads in force, for our own workers."""
    return _in_force or available()


def default_threads() -> int:
    """Return torch's own choice (a thread per core), but no more than the CPUs that this process may use."""
    import torch

    chosen: int = torch.get_num_threads()
    return chosen if any(map(os.environ.get, THREAD_VARIABLES)) else min(chosen, available())


def available() -> int:
    """Return how many CPUs this process may use, at least 1; ranks on one machine share its CPUs."""
    return max(1, min(limits().values()) // Place.of_environment().local_size)


def limits() -> dict[str, int]:
    """Return how many CPUs each limit allows: the machine, the affinity, the cgroups, PYTHON_CPU_COUNT."""
    found = {"machine": os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = len(os.sched_getaffinity(0))
    quota = cgroup_cpus(ROOT)
    if quota is not None:
        found["cgroup"] = quota
    asked = os.environ.get("PYTHON_CPU_COUNT", "")
    if asked.isascii() and asked.isdigit() and int(asked[:9]) > 0:
        found["PYTHON_CPU_COUNT"] = int(asked[:9])
    elif hasattr(os, "process_cpu_count"):  # since Python 3.13; obeys `-X cpu_count`
        found["python"] = os.process_cpu_count() or 1
    return found


def cgroup_cpus(root: Path) -> int | None:
    """Return how many CPUs the cgroups of this process allow, rounded up; None where they set no limit.

    A limit may be set on any cgroup from that of the process up to the top of the hierarchy. In a container the path
    of the process may not exist, but the top does.
    """
    shares = []
    mine = (line.split(":", 2) for line in _lines(root / "proc/self/cgroup") if line.count(":") >= 2)
    for _, controllers, path in mine:
        tops = [""] if not controllers else ["cpu", "cpu,cpuacct"] if "cpu" in controllers.split(",") else []
        for top in (root / "sys/fs/cgroup" / name for name in tops):  # version 2, or the names of version 1
            folder = top / path.lstrip("/")
            places = [place for place in (folder, *folder.parents) if place.is_relative_to(top)]
            shares += [share for place in places if (share := _share(place)) is not None]
    return max(1, ceil(min(shares))) if shares else None


def _share(cgroup: Path) -> float | None:
    """Return the CPU quota of one cgroup, quota / period, in version 2 or 1; None where it sets no limit."""
    names = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    both = " ".join(line for name in names for line in _lines(cgroup / name)).split()
    try:
        quota, period = map(int, both)
    except ValueError:  # "max", missing, or not what it should be
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _limit_matrix_products(most: int) -> None:
    """Let NumPy's matrix products use at most so many threads; __main__.py gave them one."""
    from threadpoolctl import ThreadpoolController

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    for library in libraries:
        if (library.num_threads or 0) > most:
            library.set_num_threads(most)
