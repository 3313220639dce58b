"""What an update costs: our Muon, torch's own, and AdamW, on the matrices of each size of the plan.

    python -m benchmarks.optimizers [--rows 6]

Milliseconds of one update, medians, in turns: of the blocks' matrices by torch's, of the whole model by
ours, clipping included. Torch's Muon takes each weight by itself and a fused one (queries, keys and values)
as a whole; ours cuts those into the matrices that they are and does all of one shape together. The last line
is what importing torch's class costs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import torch

from benchmarks.train import untrained
from charlm.training.device import describe_machine, keep_memory
from charlm.training.optimizer import LearningRates
from charlm.training.sizes import SIZES


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    started = perf_counter()
    action()
    return 1000 * (perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_memory()
    print(describe_machine(torch.get_num_threads()))
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    loss, rates = torch.tensor(1.0), LearningRates(adamw=0.0, muon=1e-4, ngram_embeddings=0.0)
    importing = timed(lambda: torch.optim.Muon([weight]))
    print(f"{'layers x width':16}{'ours':>9}{'torch':>9}{'AdamW':>9}   milliseconds an update")
    for size in SIZES[: options.rows]:
        optimizer = untrained(size, plain=True).optimizer
        matrices = [optimizer.weights[name] for name in optimizer.muon_names]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        muon, adamw = torch.optim.Muon(matrices, lr=1e-4), torch.optim.AdamW(matrices, lr=1e-4, fused=True)
        with torch.no_grad():
            rounds = [
                (
                    timed(partial(optimizer.update, rates, loss, 1.0)),
                    timed(muon.step),
                    timed(adamw.step),
                )
                for _ in range(options.rounds)
            ]
        ours, theirs, plain = (median(times) for times in zip(*rounds, strict=True))
        print(f"{size.n_layer} x {size.n_embd:<12}{ours:9.1f}{theirs:9.1f}{plain:9.1f}", flush=True)
    print(f"constructing torch's class for the first time: {importing / 1000:.1f} s")


if __name__ == "__main__":
    main()
