"""What several ranks cost: bytes that travel in a step, throughput on this machine, and efficiency elsewhere on paper.

    python -m benchmarks.ranks TEXT [--steps 60]

1. Bytes that two ranks give to each collective in a step, and what travels per rank, against the least there can be: an
   all-reduce of every gradient moves 2 (W - 1) / W of its bytes in and out of each of W ranks (Patarasuk and Yuan 2009).
2. Symbols a second of one rank with two threads, and of two ranks with one thread each, on the same batches: run it alone.
3. Expected efficiency of GPUs, computed, with its assumptions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.machine import line
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.place import Place
from charlm.training.distributed import meeting

N_LAYER, N_EMBD, N_HEAD, BLOCK_SIZE, BATCH_SIZE = 6, 256, 4, 256, 16
SIZE = ("--n-layer", N_LAYER, "--n-embd", N_EMBD, "--n-head", N_HEAD, "--block-size", BLOCK_SIZE)
TRAVELS = {
    "all_reduce": 2.0,
    "reduce_scatter": 1.0,
    "all_gather": 1.0,
}  # times (W - 1) / W of the bytes given
COUNTED_STEPS = 3

MODELS = {"124 M": (0.124e9, 65_536), "1.3 B": (1.3e9, 32_768), "7 B": (7e9, 16_384)}
"""Weights, and symbols of each GPU in a step."""
CLUSTERS = {"8": (1, 8), "4 x 8": (4, 8), "64 x 8": (64, 8)}
NETWORKS = {"400 Gb/s for each GPU": 50e9, "100 Gb/s for each node": 12.5e9 / 8}
"""Bytes a second between nodes, for each GPU, in each direction."""
GPU_FLOPS, NVLINK, BACKWARD, NUMBER = 400e12, 300e9, 2 / 3, 4
"""Sustained in bf16; bytes a second within a node; share of a step in which gradients can travel; bytes of a gradient."""


def throughput(text: str, steps: int, *words: str) -> float:
    """Symbols a second, by the median step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "charlm",
            "train",
            text,
            "--plain",
            *SIZE,
            "--batch-size",
            BATCH_SIZE,
        ]
        command += ["--steps", steps, "--eval-every", 100_000, "--precision", "fp32", "-q", *words]
        command += ["--name", "x", "--checkpoints", folder]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        rows = map(json.loads, Path(folder, "x", "metrics.jsonl").read_text().splitlines())
        taken: list[float] = [row["seconds"] for row in rows if row["event"] == "Stepped"]
    return BATCH_SIZE * BLOCK_SIZE / median(taken[5:])


def count_bytes(text: str) -> None:
    """In each rank: take a few steps, and print what rank 0 gave to each collective in one."""
    from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
    from charlm.training.planner import choose
    from charlm.training.session import TransformerSession
    from charlm.training.sizes import Budget
    from charlm.training.step import train_step

    with meeting(Place.of_environment(), {}, "cpu") as ranks:
        corpus = load([text], TextConfig()).corpus
        size = ModelConfig(plain=True, n_layer=N_LAYER, n_embd=N_EMBD, n_head=N_HEAD, block_size=BLOCK_SIZE)
        choice = choose(Budget(steps=10), len(corpus.train), size, TrainingConfig(batch_size=BATCH_SIZE))
        facts = CorpusFacts(label="", sources=(), key=corpus.key, sha256=corpus.sha256)
        session = TransformerSession(
            corpus, choice.plan, RunFacts(name="", command="", created="", corpus=facts, text=TextConfig())
        )
        ranks.payload.clear()
        for _ in range(COUNTED_STEPS):
            train_step(session, session.learning_rates())
        if ranks.is_first:
            share = (ranks.size - 1) / ranks.size
            weights = sum(weight.nbytes for weight in session.optimizer.weights.values())
            given = {kind: n / COUNTED_STEPS for kind, n in ranks.payload.items()}
            travelled = sum(TRAVELS[kind] * share * n for kind, n in given.items())
            least = 2 * share * weights
            for kind, n in given.items():
                print(f"  {kind:15} {n:14,.0f} bytes given")
            print(
                f"  travelled       {travelled:14,.0f} bytes in and out of each rank, at least {least:,.0f}: {travelled / least:.4f} times"
            )


def efficiency(weights: float, symbols: float, nodes: int, gpus: int, network: float) -> float:
    """The share of its time that a GPU computes. Gradients travel during the backward pass, updated weights after it."""
    compute = 6 * weights * symbols / GPU_FLOPS
    ranks = nodes * gpus
    half = (
        weights * NUMBER * (ranks - 1) / ranks
    )  # of an all-reduce: the scattered sums, or the gathered weights
    seconds = half / NVLINK + (
        half / gpus / network if nodes > 1 else 0
    )  # a GPU has its part of the node's sum
    return compute / (max(compute, (1 - BACKWARD) * compute + seconds) + seconds)


def on_paper() -> None:
    print("efficiency on paper:")
    print(
        f"  {'weights':8} {'symbols/GPU':>12} {'GPUs':>8}  " + "  ".join(f"{name:>24}" for name in NETWORKS)
    )
    for name, (weights, symbols) in MODELS.items():
        for cluster, (nodes, gpus) in CLUSTERS.items():
            figures = [efficiency(weights, symbols, nodes, gpus, speed) for speed in NETWORKS.values()]
            print(
                f"  {name:8} {symbols:12,} {cluster:>8}  " + "  ".join(f"{100 * e:22.0f} %" for e in figures)
            )
    print(
        f"  assumed: {GPU_FLOPS / 1e12:.0f} TFLOP/s sustained for each GPU, 6 operations for each weight and symbol, "
        f"{NVLINK / 1e9:.0f} GB/s within a node, which sums before it sends,\n  gradients and weights of {NUMBER} bytes, gradients hidden behind the backward "
        "pass (2/3 of the step), weights not hidden, no latency; memory is not looked at"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    text = str(Path(options.text).absolute())
    if Place.of_environment().size > 1:
        count_bytes(text)
        return
    print(line())
    print("two ranks, a step:", flush=True)
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "benchmarks.ranks",
        text,
    ]
    subprocess.run([sys.executable, *launch], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    one = throughput(text, options.steps, "--threads", "2")
    two = throughput(text, options.steps, "--ranks", "2", "--threads", "1")
    print(f"one rank, two threads:        {one:10,.0f} symbols/s")
    print(f"two ranks, one thread each:   {two:10,.0f} symbols/s, {two / one:.3f} times")
    on_paper()


if __name__ == "__main__":
    main()
