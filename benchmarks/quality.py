"""What whole trainings end at: the counts alone, with them, and without them, by time and by seed.

    python -m benchmarks.quality [--times 20s,60s] [--seeds 1] [--priors with,without] [--tune] [--chars N] TEXT [-- OPTIONS]

Each figure is nats per character over the whole held-out tenth by `charlm eval --json`, once at the
usual stride of half a block and once at a stride of a whole block (in brackets), of a model that
`charlm train --time ...` made, caches empty; `wall` is of the whole training process. `counts` is what
Kneser-Ney makes of the same text. With --tune the last tenth of TEXT is cut off before: the tenth that
is then held out is one to tune on. With --chars only so many characters of the beginning are taken. What
follows -- goes to `charlm train` as it stands.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from math import log
from pathlib import Path

from benchmarks.machine import charlm, line


@dataclass(frozen=True)
class Ended:
    """One training, measured."""

    nats: float
    blocks: float  # nats at a stride of a whole block
    counts: float
    wall: float
    step: int


def ended(text: str, time: str, seed: int, more: list[str]) -> Ended:
    """Train and evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("train", text, "--time", time, "--seed", str(seed), "--run", "r", *more)
        wall = charlm(*words, folder=folder).seconds
        usual = _figures(folder)
        whole = _figures(folder, "--stride", str(usual["block_size"]))
    counts = usual["baselines"]["kneser-ney"]["bits_per_char"] * log(2)
    return Ended(usual["nats_per_char"], whole["nats_per_char"], counts, wall, usual["checkpoint"]["step"])


def _figures(folder: str, *more: str) -> dict:  # type: ignore[type-arg]
    out = charlm("eval", "--run", "r", "--json", *more, folder=folder).out
    return json.loads(out[out.index("{") :])  # type: ignore[no-any-return]


def cut(text: str, folder: str, chars: int | None, tune: bool) -> str:
    """The beginning of a text, as a file of the same name."""
    whole = Path(text).read_text("utf-8")[:chars]
    kept = Path(folder) / Path(text).name
    kept.write_text(whole[: len(whole) * 9 // 10] if tune else whole, "utf-8")
    return str(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--times", default="20s,60s")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--priors", default="with,without", help="with the n-gram prior, without, or both")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--chars", type=int)
    parser.add_argument("more", nargs="*")
    options = parser.parse_args()
    text = str(Path(options.text).absolute())
    print(line())
    print(f"{'time':8}{'':12}{'counts':>8}  nats at half a block (a whole block), seed by seed; worst; wall")
    with tempfile.TemporaryDirectory() as folder:
        text = cut(text, folder, options.chars, options.tune)
        for time in options.times.split(","):
            for name in options.priors.split(","):
                switch = {"with": [], "without": ["--no-prior"]}[name]
                seeds = range(1, options.seeds + 1)
                found = [ended(text, time, seed, [*switch, *options.more]) for seed in seeds]
                each = ", ".join(f"{e.nats:.4f} ({e.blocks:.4f})" for e in found)
                worst, wall = max(e.nats for e in found), max(e.wall for e in found)
                row = f"{time:8}{name:12}{found[0].counts:8.4f}  {each}; {worst:.4f}; {wall:.1f} s"
                print(row, flush=True)


if __name__ == "__main__":
    main()
