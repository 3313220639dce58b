"""Scoring and sampling on a GPU, without one: the path of a GPU on torch's meta device, which has shapes and no numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charlm.inference import members
from charlm.model.transformer import LanguageModel
from charlm.training import device
from tests.cli.kept import TEXT, bring, refused, thinned
from tests.conftest import Result

Charlm = Callable[..., Result]
TOY = (
    *(
        "--steps=12",
        "--n-layer=1",
        "--n-embd=16",
        "--block-size=16",
        "--batch-size=4",
        "--threads=1",
        "--device=cpu",
    ),
)
HEADS = "--n-head=2"
RUNS = {
    "plain": ("--plain", HEADS, *TOY),
    "prior": (HEADS, *TOY),
    "documents": ("--documents=line", HEADS, *TOY),
    "mixture": ("--members=no-prior,prior,ngram", "--reserved-chars=500", HEADS, *TOY),
    "recurrent": ("--mixer=recurrent", *TOY),
    "ngram": ("--model=ngram",),
}
COMMANDS = {
    "eval": ("eval", "short.txt", "--json"),
    "eval --online": ("eval", "short.txt", "--online", "--json"),
    "surprisal": ("surprisal", "short.txt", "--by", "char", "--format", "jsonl"),
    "sample": ("sample", "-n", "3", "--seed", "3", "--length", "20", "--json"),
}


@pytest.fixture
def runs(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command, where a run of each kind lies; they are trained once."""
    made = [("train", "ducks.txt", "-q", "--run", name, *how) for name, how in RUNS.items()]
    bring(charlm, tmp_path_factory, *made)
    Path("short.txt").write_text(TEXT[:90])
    return charlm


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is found and works: the meta device, from which every number that is copied back is a zero."""
    real, cpu = device.pick_device, torch.Tensor.cpu

    def pick(wanted: str) -> torch.device:
        found = real(wanted)
        return torch.device("meta") if found.type == "cuda" else found

    monkeypatch.setattr(device, "gpus", lambda: ["cuda"])
    monkeypatch.setattr(device, "failure_of", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda found: "NVIDIA A100")
    monkeypatch.setattr("charlm.run.pick_device", pick)
    monkeypatch.setattr(
        torch.Tensor,
        "cpu",
        lambda self: torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else cpu(self),
    )


def lines(result: Result) -> list[dict[str, object]]:
    """The lines of JSON without what a clock says."""
    assert result.code == 0, result.err
    found = [json.loads(line) for line in result.out.splitlines()]
    return [{key: value for key, value in row.items() if key != "chars_per_second"} for row in found]


@pytest.mark.parametrize("kind", ["prior", "mixture", "ngram"])
@pytest.mark.parametrize("command", ["eval", "surprisal", "sample"])
def test_the_cpu_by_name_is_the_default_bit_for_bit(runs: Charlm, command: str, kind: str) -> None:
    words = (*COMMANDS[command], "--run", kind)
    assert lines(runs(*words, "--device", "cpu")) == lines(runs(*words))


@pytest.mark.parametrize(
    "kind", thinned([kind for kind in RUNS if kind != "ngram"], "prior", "documents", "recurrent")
)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_kind_of_run_computes_on_the_device_and_says_so(
    runs: Charlm, as_gpu: None, command: str, kind: str
) -> None:
    """On the meta device a number that the host reads is an error, and so is a tensor that was left on the CPU."""
    if command == "eval --online" and kind == "documents":
        pytest.skip("refused")
    done = runs(*COMMANDS[command], "--run", kind, "--device", "cuda")
    found = lines(done)
    assert done.err.count("computing on the GPU: NVIDIA A100; --device cpu computes on the CPU") == 1
    assert "cannot" not in done.err
    if command != "surprisal":
        assert {row["device"] for row in found} == {"meta"}
    assert [row["device"] for row in lines(runs(*COMMANDS["eval"], "--run", kind))] == ["cpu"]


@pytest.mark.parametrize("command", ["eval", "surprisal", "sample"])
def test_a_device_that_is_not_there_is_refused_as_train_refuses_it(
    runs: Charlm, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(device, "gpus", list)
    expected = runs("train", "ducks.txt", "--steps", "1", "--device", "mps")
    done = runs(*COMMANDS[command], "--run", "plain", "--device", "mps")
    refused(done, expected.code, "--device mps: PyTorch finds no such device; use cpu or auto")
    assert done.err.splitlines()[-1] == expected.err.splitlines()[-1]
    refused(runs(*COMMANDS[command], "--device", "gpu"), 2, "auto, cpu, cuda, mps; did you mean cuda?")
    monkeypatch.setenv("CHARLM_DEVICE", "cuda")
    refused(runs(*COMMANDS[command], "--run", "plain"), 2, "--device was set by the variable CHARLM_DEVICE")
    done = runs(*COMMANDS[command], "--run", "plain", "--device", "auto")
    assert done.code == 0 and "GPU" not in done.err


def test_a_gpu_has_no_effect_on_an_n_gram_model(runs: Charlm, as_gpu: None) -> None:
    refused(
        runs("eval", "--run", "ngram", "--device", "cuda"), 2, "--device cuda", "n-gram model", "leave it out"
    )
    done = runs("eval", "--json", "--run", "ngram", "--device", "auto")
    assert lines(done)[0]["device"] == "cpu" and "GPU" not in done.err


def test_a_gpu_that_does_not_work_gives_way_to_the_cpu_and_a_line_says_why(
    runs: Charlm, as_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the trial at the start finds out, and one that lacks what this model needs."""
    expected = lines(runs("eval", "--json", "--run", "mixture"))
    real = LanguageModel.hidden

    def lacking(self: LanguageModel, ids: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        if ids.is_meta:
            raise NotImplementedError("The operator 'aten::_fused_rms_norm' is not implemented for MPS")
        return real(self, ids, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "hidden", lacking)
    for why in ("aten::_fused_rms_norm", "its memory is taken"):
        done = runs("eval", "--json", "--run", "mixture", "--device", "cuda")
        assert lines(done) == expected
        (said,) = [line for line in done.err.splitlines() if "cannot" in line]
        assert "the GPU (" in said and why in said and said.endswith("computing on the CPU")
        monkeypatch.setattr(device, "failure_of", lambda name: "its memory is taken")


def out_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, kind: str = "CUDA out of memory") -> list[int]:
    """From now on a device has no room for more than so many texts at once; those that were tried."""
    real, tried = LanguageModel.hidden, list[int]()

    def limited(self: LanguageModel, ids: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        tried.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError(kind)
        return real(self, ids, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "hidden", limited)
    return tried


def test_where_memory_is_full_fewer_windows_are_scored_at_once_and_it_is_said(
    runs: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    words = ("surprisal", "ducks.txt", "--by", "char", "--format", "jsonl", "--run", "plain")
    expected = lines(runs(*words))
    tried = out_of_memory(monkeypatch, 40)
    done = runs(*words)
    assert max(tried) > 160 and tried[-1] <= 40
    halvings = [line for line in done.err.splitlines() if "memory" in line]
    assert (
        halvings[-1].startswith("the device's memory is full; ") and len(halvings) == len(set(halvings)) > 1
    )
    assert [row["bits"] for row in lines(done)] == pytest.approx([row["bits"] for row in expected], rel=1e-4)
    out_of_memory(monkeypatch, 0)
    failed = runs("eval", "ducks.txt", "--run", "plain")
    assert failed.code == 6 and "too small for a single window; give --device cpu" in failed.err


def test_where_memory_is_full_fewer_prompts_are_continued_at_once(
    runs: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    with open("prompts.txt", "w") as file:
        file.write("".join(f"{i} little\n" for i in range(10, 30)))
    words = ("sample", "--prompts", "prompts.txt", "-n", "2", "--seed", "3", "--length", "40", "--json")
    expected = lines(runs(*words, "--run", "prior"))
    out_of_memory(monkeypatch, 8)
    done = runs(*words, "--run", "prior")
    assert lines(done) == expected and len(expected) == 40
    assert [line for line in done.err.splitlines() if "memory" in line] == [
        f"the device's memory is full; {n} prompts are computed at once from now on" for n in (10, 5, 2)
    ]
    failed = runs("sample", "-n", "9", "--run", "prior")
    assert failed.code == 6 and "too small for 9 samples at once; write fewer" in failed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_gpu_that_fails_on_the_way_is_an_error_that_says_what_to_do(
    runs: Charlm, as_gpu: None, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    real = LanguageModel.logits

    def broken(self: LanguageModel, hidden: torch.Tensor, prior: torch.Tensor | None = None) -> torch.Tensor:
        if hidden.requires_grad or "--online" not in COMMANDS[command]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\n...")
        return real(self, hidden, prior)

    monkeypatch.setattr(members, "_move", lambda found, to: [each.model.to(to) for each in found] and None)
    monkeypatch.setattr(LanguageModel, "logits", broken)
    failed = runs(*COMMANDS[command], "--run", "plain", "--device", "cuda")
    assert failed.code == 6 and "the GPU failed (CUDA error: an illegal memory access" in failed.err
    assert failed.err.splitlines()[-1].endswith("give --device cpu, or try again when it is free")
