"""The weights of six short runs, as they were recorded. `python -m tests.cli.test_golden` records them anew.

A changed hash means that the mathematics, the random streams or the order of the data changed: a model is another
one after the same command. That may be wanted; then the commit that records new hashes says why, and so does the
changelog. It is never a side effect of tidying up.

Every product is computed by one thread in fp32, by kernels that are the same on all x86-64 processors as far as
libraries offer that. Where the libraries or the architecture are not those of the record, or a processor still
computes otherwise, only the figures are compared.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

RECORD = Path(__file__).with_name("golden.json")
TEXT = "".join(
    f"{i} little ducks went swimming one day, {'over the hills' * (i % 3)} and far away.\n" for i in range(60)
)
SMALL = [
    *("--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "32", "--batch-size"),
    *("8", "--dropout", "0.1", "--seed", "7"),
]
EXACT = ["--steps", "12", "--threads", "1", "--precision", "fp32", "--device", "cpu", "--compile", "off"]
COMMANDS = {
    "plain": ["train", "ducks.txt", "--run", "plain", "--plain", *SMALL, *EXACT],
    "prior": ["train", "ducks.txt", "--run", "prior", "--prior", "--ngram-embeddings", "3", *SMALL, *EXACT],
    "ngram": ["train", "ducks.txt", "--run", "ngram", "--model", "ngram", "--prior-order", "3"],
    "documents": [
        *("train", "ducks.txt", "--run", "documents", "--documents", "line", "--prior"),
        *SMALL,
        *EXACT,
    ],
    "finetuned": ["train", "new.txt", "--run", "finetuned", "--from", "prior", "--seed", "7", *EXACT],
    "compared": ["compare", "ducks.txt", "--vary", "position=none,rotary", "--no-prior", *SMALL, *EXACT],
}
FOLDER = {"compared": "ducks-position/position-rotary.seed-7"}
SAME_KERNELS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "CHARLM_NATIVE": "0",
    "OMP_NUM_THREADS": "1",
}
CHILD = "import json, sys\nfrom charlm.__main__ import main\nfor words in json.load(sys.stdin):\n    sys.argv = ['charlm', *words]\n    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code, words\n"


def environment() -> str:
    """What the recorded weights depend on besides this project."""
    return f"{platform.machine()} torch {torch.__version__.split('+')[0]} numpy {np.__version__}"


def processor() -> str:
    """The kind of processor, as far as it can be told."""
    said = [torch.backends.cpu.get_cpu_capability()]
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = dict(
            line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line
        )
        known = {name.strip(): value.strip() for name, value in lines.items()}
        said += [f"{name} {known[name]}" for name in ("vendor_id", "cpu family", "model") if name in known]
    return ", ".join(said)


def fingerprint(*folders: Path) -> str:
    """SHA-256 over all tensors of these folders' files, but the optimizer's, whatever their names."""
    parts = []
    for path in sorted(path for folder in folders for path in folder.glob("*.safetensors")):
        if path.name.startswith("train_state"):
            continue
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                tensor = file.get_tensor(name).contiguous()
                data = tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes()
                parts.append(f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}")
    assert parts, folders
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Train the six, and what became of each."""
    (folder / "ducks.txt").write_text(TEXT)
    (folder / "new.txt").write_text(TEXT.replace("ducks", "geese").replace("hills", "fjells"))
    env = {**os.environ, **SAME_KERNELS, "CHARLM_CACHE": str(folder / "cache")}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        input=json.dumps(list(COMMANDS.values())),
        text=True,
        cwd=folder,
        env=env,
        capture_output=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    found = {}
    for name in COMMANDS:
        run = folder / "checkpoints" / FOLDER.get(name, name)
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        figure = [e["nats_per_char"] for e in events if e.get("event") == "Evaluated"][-1]
        last = run / (run / "latest").read_text().strip()
        found[name] = {"sha256": fingerprint(run, last), "nats_per_char": round(figure, 6)}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    yield measure(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_weights_are_those_of_the_record(found: dict[str, dict[str, Any]], name: str) -> None:
    record = json.loads(RECORD.read_text())
    assert found[name]["nats_per_char"] == pytest.approx(record["runs"][name]["nats_per_char"], abs=1e-3)
    if environment() not in record["environments"]:
        pytest.skip(f"weights were recorded for {record['environments']}, this is {environment()}")
    if found[name]["sha256"] != record["runs"][name]["sha256"] and processor() not in record["processors"]:
        pytest.skip("this processor computes the last digits otherwise; the figures agree")
    assert found[name]["sha256"] == record["runs"][name]["sha256"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        runs = measure(Path(place))
    record = {"environments": [environment()], "processors": [processor()], "runs": runs}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
