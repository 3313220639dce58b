"""Where training computes."""

import pytest
import torch

from charlm.errors import UsageError
from charlm.training import device


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
    monkeypatch.setattr(device, "measure_gflops", lambda _: speeds[used[-1]])
    assert device.measure_threads(torch.device("cpu"), fixed=fixed) == expected
    assert used[-1] == expected[0]


def test_a_device_that_is_missing_is_refused() -> None:
    assert device.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="use cpu"):
            device.pick_device("cuda")


def test_the_speed_is_a_speed() -> None:
    assert 0.1 < device.measure_gflops(torch.device("cpu")) < 1e6
