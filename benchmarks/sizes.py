"""Which size ends lowest in a given time: the sweep behind the plan's table.

    python -m benchmarks.sizes TEXT --time 60s [--sizes 3x64/64x24,4x96/64x24] [--seeds 1] [-- OPTIONS]

A size is layers x width / block x batch; without --sizes, the row that the plan would take and its
neighbours. Each is trained by `charlm train` on the first nine tenths of TEXT, the last tenth of which
it holds out, so that the tenth on which figures are reported is never tuned on. What follows -- goes to
`charlm train` as it stands: `-- --ngram-embedding-accumulator 2`.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.machine import charlm, line
from charlm.training.device import measure_gflops
from charlm.training.planner import SIZES

SIZE = re.compile(r"(\d+)x(\d+)/(\d+)x(\d+)")
NAMES = ("--n-layer", "--n-embd", "--block-size", "--batch-size")


def ended(text: str, time: str, size: str, seed: int, more: list[str]) -> tuple[float, int]:
    """Nats per character of the whole held-out part, and the steps that were made."""
    match = SIZE.fullmatch(size)
    if match is None:
        raise SystemExit(f"{size} is no size; write it like 3x64/64x24")
    shape = [word for pair in zip(NAMES, match.groups(), strict=True) for word in pair]
    with tempfile.TemporaryDirectory() as folder:
        charlm("train", text, "--time", time, "--seed", str(seed), "--run", "r", *shape, *more, folder=folder)
        out = charlm("eval", "--run", "r", "--json", folder=folder).out
    data = json.loads(out[out.index("{") :])
    return float(data["nats_per_char"]), int(data["checkpoint"]["step"])


def neighbours(seconds: float) -> list[str]:
    """The row for a time at this machine's speed, the one before and the one after."""
    tflop = seconds * measure_gflops(torch.device("cpu")) / 1e3
    row = max(i for i, size in enumerate(SIZES) if size.tflop <= tflop)
    return [
        f"{size.n_layer}x{size.n_embd}/{size.block_size}x{size.batch_size}"
        for size in SIZES[max(0, row - 1) : row + 2]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--time", required=True, help="as in charlm train: 60s or 10m")
    parser.add_argument("--sizes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("more", nargs="*", help="options for charlm train, after --")
    options = parser.parse_args()
    seconds = float(options.time[:-1]) * {"s": 1, "m": 60, "h": 3600}[options.time[-1]]
    sizes = options.sizes.split(",") if options.sizes else neighbours(seconds)
    print(line())
    print(f"{'layers x width / block x batch':32}{'steps':>7}{'nats':>9}  each seed")
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "training-part.txt")
        text = Path(options.text).read_text("utf-8")
        part.write_text(text[: int(len(text) * 0.9)], "utf-8")
        for size in sizes:
            found = [
                ended(str(part), options.time, size, seed, options.more)
                for seed in range(1, options.seeds + 1)
            ]
            each = ", ".join(f"{nats:.4f}" for nats, _ in found)
            mean, steps = fmean(nats for nats, _ in found), fmean(steps for _, steps in found)
            print(f"{size:32}{steps:7.0f}{mean:9.4f}  {each}", flush=True)


if __name__ == "__main__":
    main()
