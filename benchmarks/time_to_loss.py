"""How long it takes, from the start of the process to its end, to a model of a given loss.

    python -m benchmarks.time_to_loss TEXT --loss 1.874 [--ladder 8,10,12,15,20,30] [--plain] [-- OPTIONS]

Tries the times of a ladder, the shortest first, until `charlm eval` of the whole held-out part is at
most that many nats per character for each of seeds 1, 2 and 3. With --plain also the plain trainer:
the time of the fewest steps, of a ladder, after which its own score is as low. What follows -- goes to
`charlm train`: `-- --no-prior` for the transformer alone.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.machine import charlm, line
from benchmarks.plain_gpt import PlainTrainer, Shape, read

PLAIN_LADDER = (500, 1000, 2000, 3000, 4000)


def ours(text: str, seconds: float, seed: int, more: list[str]) -> tuple[float, float]:
    """Nats per character by `charlm eval`, and the wall time of the training."""
    with tempfile.TemporaryDirectory() as folder:
        time = ["--time", f"{seconds:g}s", "--seed", str(seed)]
        ran = charlm("train", text, *time, "--run", "r", *more, folder=folder)
        result = charlm("eval", "--run", "r", "--json", folder=folder)
        data = json.loads(result.out[result.out.index("{") :])
        return float(data["nats_per_char"]), ran.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--loss", type=float, required=True, help="nats per character")
    parser.add_argument("--ladder", default="8,10,12,15,20,30,45,60")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("more", nargs="*", help="options for charlm train, after --")
    options = parser.parse_args()
    text = str(Path(options.text).absolute())
    print(line())
    for seconds in map(float, options.ladder.split(",")):
        results = [ours(text, seconds, seed, options.more) for seed in range(1, options.seeds + 1)]
        worst = max(nats for nats, _ in results)
        wall = max(taken for _, taken in results)
        each = ", ".join(f"{nats:.4f}" for nats, _ in results)
        print(f"--time {seconds:g}s: {each} nats; wall at most {wall:.1f} s", flush=True)
        if worst <= options.loss:
            print(f"{options.loss} nats in {wall:.1f} s")
            break
    if options.plain:
        plain(text, options.loss)


def plain(text: str, loss: float) -> None:
    """The same of the plain trainer, its imports and its reading left out."""
    train, held_out, n_symbols = read(text)
    for steps in PLAIN_LADDER:
        trainer = PlainTrainer(train, n_symbols, Shape(), steps)
        seconds = sum(trainer.step() for _ in range(steps))
        nats = trainer.nats(held_out, 32)
        print(f"plain, {steps} steps: {nats:.4f} nats after {seconds:.1f} s of steps", flush=True)
        if nats <= loss:
            return


if __name__ == "__main__":
    main()
