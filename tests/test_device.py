"""Where training computes."""

from collections.abc import Callable

import pytest
import torch

from charlm.config import TrainingConfig
from charlm.errors import UsageError
from charlm.training import device
from tests.conftest import Result


@pytest.mark.parametrize(
    ("speeds", "fixed", "expected"),
    [
        ({4: 100.0, 2: 60.0}, False, (4, 100.0)),
        ({4: 50.0, 2: 58.0}, False, (4, 50.0)),
        ({4: 20.0, 2: 60.0}, False, (2, 60.0)),
        ({4: 20.0, 2: 60.0}, True, (4, 20.0)),
    ],
)
def test_half_the_threads_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, speeds: dict[int, float], fixed: bool, expected: tuple[int, float]
) -> None:
    used = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(device, "measure_gflops", lambda *_: speeds[used[-1]])
    assert device.measure_threads(torch.device("cpu"), fixed=fixed) == expected
    assert used[-1] == expected[0]


class Clock:
    """A machine on which time passes only in products and pauses; it is busy for its first `busy` seconds."""

    def __init__(self, busy: float, speeds: dict[int, float], disturbed: dict[int, float]) -> None:
        self.now, self.computed, self.threads = 0.0, 0.0, 4
        self.busy, self.speeds, self.disturbed = busy, speeds, disturbed

    def measure(self, *_: object) -> float:
        busy = self.now < self.busy
        self.now += 0.03
        self.computed += 0.03 * self.threads * (0.6 if busy else 1.0)
        return (self.disturbed if busy else self.speeds)[self.threads]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def use(self, threads: int) -> None:
        self.threads = threads


@pytest.mark.parametrize(
    ("busy", "expected"),
    [(0.0, (4, 100.0)), (0.1, (4, 100.0)), (1.0, (4, 100.0)), (1e9, (2, 50.0))],
    ids=["quiet", "a tenth of a second", "a second", "all the time"],
)
def test_a_machine_that_is_busy_for_a_moment_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, busy: float, expected: tuple[int, float]
) -> None:
    clock = Clock(busy, {4: 100.0, 2: 55.0}, {4: 20.0, 2: 50.0})
    monkeypatch.setattr(torch, "get_num_threads", lambda: clock.threads)
    monkeypatch.setattr(torch, "set_num_threads", clock.use)
    monkeypatch.setattr(device, "measure_gflops", clock.measure)
    monkeypatch.setattr(device.time, "sleep", clock.sleep)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(device.time, "process_time", lambda: clock.computed)
    assert device.measure_threads(torch.device("cpu"), patience=3.0) == expected
    assert clock.threads == expected[0] and clock.now < 3.5
    assert busy or clock.now < 0.3


@pytest.mark.parametrize("slow", range(6))
def test_one_slow_moment_does_not_decide_the_precision(monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
    calls = iter(range(6))

    def measured(_: object, dtype: torch.dtype = torch.float32) -> float:
        return (3.0 if dtype == torch.bfloat16 else 1.0) / (20.0 if next(calls) == slow else 1.0)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(device, "measure_gflops", measured)
    assert device.pick_precision(torch.device("cpu"), timed=True) == "bf16"


def test_a_device_that_is_missing_is_refused() -> None:
    assert device.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="use cpu"):
            device.pick_device("cuda")


def test_a_gpu_is_used_only_where_it_is_named_and_a_line_says_so(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths for GPUs have not been tested. Where torch says that there is one, nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("auto").type == "cpu" and device.pick_device("cuda").type == "cuda"
    toy = [f"--{name}=16" for name in ("n-embd", "block-size")]
    done = charlm("train", "ducks.txt", "--steps", "1", "--n-layer=1", "--n-head=2", *toy)
    assert done.code == 0
    assert "training on the CPU; --device cuda uses the GPU" in done.err
    named = charlm("train", "ducks.txt", "--steps", "1", "--n-layer=1", "--n-head=2", *toy, "--device", "cpu")
    assert named.code == 0 and "GPU" not in named.err


def test_the_speed_is_a_speed() -> None:
    assert 0.1 < device.measure_gflops(torch.device("cpu")) < 1e6


@pytest.mark.parametrize(
    ("features", "timed", "rounded", "expected"),
    [
        ({"avx512_bf16": True}, False, 1.0, "bf16"),  # by the table alone
        ({"amx_bf16": True}, True, 2.5, "bf16"),
        ({"avx512_bf16": True}, True, 1.1, "fp32"),
        ({"avx2": True, "avx512_bf16": False}, True, 9.0, "fp32"),
        ({}, False, 9.0, "fp32"),
    ],
)
def test_precision_follows_the_processor_and_what_was_timed(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], timed: bool, rounded: float, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    monkeypatch.setattr(
        device, "measure_gflops", lambda _, dtype=torch.float32: rounded if dtype == torch.bfloat16 else 1.0
    )
    assert device.pick_precision(torch.device("cpu"), timed=timed) == expected


def test_with_steps_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> float:
        raise AssertionError("timed")

    monkeypatch.setattr(device, "measure_gflops", measured)
    for wanted in ("auto", "fp32", "bf16"):
        _, budget = device.measure_budget(torch.device("cpu"), TrainingConfig(precision=wanted), 10)
        assert wanted in ("auto", budget.precision)
