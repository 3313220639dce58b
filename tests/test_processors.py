"""Threads: what --threads and CHARLM_THREADS do in each command, and which CPUs may be used without them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from charlm import threads as processors
from charlm.threads import cgroup_cpus, threads
from tests.conftest import Result

Charlm = Callable[..., Result]
SHAPE = ["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4"]
TRAIN = ["train", "ducks.txt", *SHAPE, "--steps", "2", "--no-prior"]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Put the number of threads back, whatever a test does."""
    before = torch.get_num_threads(), processors._in_force
    yield
    torch.set_num_threads(before[0])
    processors._in_force = before[1]


def fake(root: Path, mine: str, limits: dict[str, str]) -> Path:
    """A `proc` and a `sys` as a container would have them."""
    for name, text in {
        "proc/self/cgroup": mine,
        **{f"sys/fs/cgroup/{name}": text for name, text in limits.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("mine", "limits", "cpus"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.max": "300000 100000"}, 3),
        (
            "0::/a/b",
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 50000", "cpu.max": "400000 100000"},
            4,
        ),
        ("0::/pod/c", {"cpu.max": "100000 100000"}, 1),
        ("0::/../x", {"cpu.max": "500000 100000"}, 5),
        (
            "2:cpu,cpuacct:/docker/c\n1:memory:/docker/c",
            {"cpu,cpuacct/cpu.cfs_quota_us": "350000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "2:cpu:/a/b\n0::/",
            {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "2:cpu:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("1:memory:/", {}, None),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/\ntorn\n\n1:", {"cpu.max": "what is this"}, None),
    ],
)
def test_the_limits_of_cgroups(tmp_path: Path, mine: str, limits: dict[str, str], cpus: int | None) -> None:
    assert cgroup_cpus(fake(tmp_path, mine, limits)) == cpus


def unset(monkeypatch: pytest.MonkeyPatch, machine: int = 8) -> None:
    """A machine of eight CPUs without a word in the environment."""
    for name in (*processors.THREAD_VARIABLES, "PYTHON_CPU_COUNT", "CHARLM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "process_cpu_count", lambda: machine, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(machine)), raising=False)
    torch.set_num_threads(machine)


def trained_with(charlm: Charlm, *words: str) -> int:
    result = charlm(*TRAIN, "--run", f"run-{len(list(Path().glob('checkpoints/*')))}", *words)
    assert result.code == 0, result.err
    return int(json.loads(charlm("info", "--json").out)["training"]["threads"])


def test_a_run_uses_the_cpus_that_it_may(
    charlm: Charlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset(monkeypatch)
    cgroups = fake(
        tmp_path / "root",
        "0::/pod",
        {"pod/cpu.max": "250000 100000"},
    )
    monkeypatch.setattr(processors, "ROOT", cgroups)
    assert trained_with(charlm) == 3 == torch.get_num_threads() == threads()
    torch.set_num_threads(8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert trained_with(charlm) == 2
    torch.set_num_threads(8)
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1")
    assert trained_with(charlm) == 1
    assert trained_with(charlm, "--threads", "4") == 4
    monkeypatch.setenv("CHARLM_THREADS", "2")
    assert trained_with(charlm) == 2
    assert trained_with(charlm, "--threads", "3") == 3


def test_omp_num_threads_is_obeyed(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    unset(monkeypatch, machine=1)
    torch.set_num_threads(2)  # as torch itself does at its start, by this variable
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert trained_with(charlm) == 2


COMPUTING = {
    "train": TRAIN,
    "counts alone": ["train", "ducks.txt", "--model", "ngram"],
    "resume": ["resume", "ducks", "--steps", "1"],
    "sample": ["sample", "--length", "5"],
    "samples": ["sample", "--length", "5", "-n", "64"],
    "eval": ["eval"],
    "compare": [
        "compare",
        "ducks.txt",
        *SHAPE,
        *("--steps", "1", "--no-prior", "--vary", "position=none,rotary"),
    ],
    "compare two": ["compare", "ducks", "ducks-2"],
    "compress": ["compress", "ducks.txt", "-o", "new.clm"],
    "decompress": ["decompress", "two.clm", "-o", "new.txt"],
    "inspect": ["inspect", "ducks.txt", "--time", "5s"],
    "explain": ["explain", "rotary"],
    "doctor": ["doctor", "--json"],
}


@pytest.mark.parametrize(
    ("name", "asked"),
    [*((name, "option") for name in COMPUTING), ("train", "environment"), ("eval", "environment")],
)
def test_every_command_that_computes_uses_the_threads_asked_for(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, name: str, asked: str
) -> None:
    if name not in ("train", "counts alone", "compare", "inspect", "explain", "doctor"):
        assert charlm(*TRAIN).code == 0
    if name == "compare two":
        assert charlm(*TRAIN).code == 0
    if name == "decompress":
        assert charlm("compress", "ducks.txt", "-o", "two.clm", "--threads", "2").code == 0
    torch.set_num_threads(1)
    words = COMPUTING[name]
    if asked == "option":
        words = [*words, "--threads", "2"]
    else:
        monkeypatch.setenv("CHARLM_THREADS", "2")
    result = charlm(*words)
    assert result.code == 0, result.err
    assert torch.get_num_threads() == 2 == threads()
    if name == "doctor":
        assert json.loads(result.out)["threads"] == 2


def test_where_threads_have_no_effect_the_option_is_refused_and_the_variable_noted(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert charlm(*COMPUTING["compare"], "--run", "both").code == 0
    refused = charlm("resume", "both", "--threads", "2")
    assert refused.code == 2 and "--threads" in refused.err
    monkeypatch.setenv("CHARLM_THREADS", "2")
    resumed = charlm("resume", "both")
    assert resumed.code == 0 and "CHARLM_THREADS has no effect" in resumed.err


def test_resume_keeps_its_threads_and_says_where_they_are_too_many(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset(monkeypatch, machine=1)
    assert charlm(*TRAIN, "--threads", "3").code == 0
    torch.set_num_threads(1)
    resumed = charlm("resume", "--steps", "1")
    assert resumed.code == 0 and torch.get_num_threads() == 3
    assert "uses 3 threads" in resumed.err and "--threads 1" in resumed.err
