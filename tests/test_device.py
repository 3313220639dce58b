"""Where training computes."""

from collections.abc import Callable, Iterator

import pytest
import torch

from charlm.errors import UsageError
from charlm.training import device
from tests.conftest import Result


def test_a_device_that_is_missing_is_refused() -> None:
    assert device.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="use cpu"):
            device.pick_device("cuda")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch says that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = device.failure_of
    asked.cache_clear()
    yield
    asked.cache_clear()


def test_a_gpu_that_computes_is_used_and_a_line_says_so(
    reported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "failure_of", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda found: "NVIDIA A100")
    assert device.pick_device("auto").type == device.pick_device("cuda").type == "cuda"
    assert device.pick_device("cpu").type == "cpu"
    assert device.gpu_note("auto") == "computing on the GPU: NVIDIA A100; --device cpu computes on the CPU"
    assert device.gpu_note("cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_cannot_compute_gives_way_to_the_cpu_and_a_line_says_why(
    charlm: Callable[..., Result], reported: None
) -> None:
    """As with a driver that does not fit, or a card that another program has."""
    toy = [f"--{name}=16" for name in ("n-embd", "block-size")]
    words = ("train", "ducks.txt", "--steps", "1", "--n-layer=1", "--n-head=2", *toy)
    for named in ((), ("--device", "cuda")):
        done = charlm(*words, *named)
        assert done.code == 0
        (said,) = [line for line in done.err.splitlines() if "GPU" in line]
        assert said.startswith("the GPU (cuda) cannot be used: ") and said.endswith("; computing on the CPU")
    done = charlm(*words, "--device", "cpu")
    assert done.code == 0 and "GPU" not in done.err


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert device.pick_precision(torch.device("cpu")) == expected
