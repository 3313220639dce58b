"""Where training computes."""

from collections.abc import Callable

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
