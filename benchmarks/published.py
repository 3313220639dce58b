"""Train and score on a published text by the protocol of the papers, and print beside it what they report.

    python -m benchmarks.published [text8|enwik8] [--file FILE] [--time 8h] [--seed 1] [--share 1.0] [-- OPTIONS]

The protocol: the first 90 million symbols to train on, the next 5 million held out, the last 5 million to test
on; symbols are characters of text8 and bytes of enwik8. Everything is chosen on the held-out part, and the whole
test part is scored once, at the end. FILE is what `charlm data get` downloads to data/ if it is not named, and is
refused unless it has the published hash. What follows -- goes to `charlm train` as it stands.

With --share 0.001 only so much of the beginning of FILE is divided in the same proportions, and no hash is
checked: that tries the program, and its figure cannot be compared with any other.

Published figures are those that the papers state of themselves. Each is of the test part, of one model that does
not learn while it reads, unless it says otherwise. Costs are given where the authors state them.
"""

import argparse
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import charlm, line
from charlm.data.datasets import TEXTS


@dataclass(frozen=True)
class Reported:
    """A figure that a paper states."""

    bits: float
    what: str
    source: str
    cost: str = "not stated"


@dataclass(frozen=True)
class Ours:
    """One training, scored on the whole test part."""

    bits: float
    low: float | None
    high: float | None
    symbols: int
    wall: float
    scoring: float
    kind: str


AL_RFOU = "Al-Rfou et al. 2018, arXiv:1808.04444"
XL = "Dai et al. 2019, arXiv:1901.02860"
DYNAMIC = "Krause et al. 2019, arXiv:1904.08378"
SPAN = "Sukhbaatar et al. 2019, arXiv:1905.07799, and its code's README"
T64, T12 = "transformer of 64 layers (T64), 235M parameters", "transformer of 12 layers (T12), 44M parameters"
T64_COST = "175 hours on one Cloud TPU v2, 2.5 million steps, for the best model"
SPAN_COST = "170,000 steps, less than 2.4 days on 8 V100"
REPORTED = {
    "text8": (
        Reported(1.13, T64, AL_RFOU, T64_COST),
        Reported(1.18, T12, AL_RFOU),
        Reported(1.08, "Transformer-XL of 24 layers, 277M parameters", XL),
        Reported(1.038, "Transformer-XL of 24 layers, learning while it reads (dynamic evaluation)", DYNAMIC),
        Reported(1.07, "adaptive attention span, 209M parameters", SPAN),
        Reported(1.11, "adaptive attention span, 39M parameters", SPAN),
    ),
    "enwik8": (
        Reported(1.06, T64, AL_RFOU),
        Reported(1.11, T12, AL_RFOU),
        Reported(0.99, "Transformer-XL of 24 layers, 277M parameters", XL),
        Reported(0.940, "Transformer-XL of 24 layers, learning while it reads (dynamic evaluation)", DYNAMIC),
        Reported(0.98, "adaptive attention span, 209M parameters", SPAN, SPAN_COST),
        Reported(1.02, "adaptive attention span, 38M parameters", SPAN),
    ),
}


def checked(name: str, file: Path, share: float, folder: str) -> Path:
    """The file, if it is the published text; with a share the beginning of whatever it is. Raises SystemExit."""
    text = TEXTS[name]
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; to download it: charlm data get {name}")
    if share < 1:
        cut = Path(folder) / f"{name}-beginning"
        data = file.read_bytes()[: int(share * text.size)]
        cut.write_bytes(data.decode("utf-8", "ignore").encode())
        return cut
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, text.algorithm).hexdigest()
    if file.stat().st_size != text.size or digest != text.digest:
        raise SystemExit(f"{file} is not the published {name}: its {text.algorithm} is {digest}")
    return file.absolute()


def ours(name: str, file: Path, time: str, seed: int, more: list[str]) -> Ours:
    """Train, and score the whole test part once."""
    text = TEXTS[name]
    units = "bytes" if name == "enwik8" else "chars"
    split = ("--val", str(text.val), "--test", str(text.test), "--units", units)
    with tempfile.TemporaryDirectory() as folder:
        words = ("train", str(file), *split, "--time", time, "--seed", str(seed), "--run", "r", *more)
        wall = charlm(*words, folder=folder).seconds
        scored = charlm("eval", "--run", "r", "--part", "test", "--json", folder=folder)
        found = json.loads(scored.out[scored.out.index("{") :])
    factor = found["bits_per_unit"] / found["bits_per_char"]
    low, high = found["ci95_bits_per_char"] or (None, None)
    return Ours(
        bits=found["bits_per_unit"],
        low=None if low is None else low * factor,
        high=None if high is None else high * factor,
        symbols=found["units"],
        wall=wall,
        scoring=scored.seconds,
        kind=found["kind"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=tuple(REPORTED), default="text8")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--time", default="8h")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("more", nargs="*")
    options = parser.parse_args()
    if not 0 < options.share <= 1:
        parser.error("--share must be more than 0 and at most 1")
    unit = "byte" if options.name == "enwik8" else "character"
    print(line())
    with tempfile.TemporaryDirectory() as folder:
        named = options.file or Path("data") / TEXTS[options.name].file_name
        file = checked(options.name, named, options.share, folder)
        found = ours(options.name, file, options.time, options.seed, options.more)
    beside = " (of the beginning of a text: comparable with nothing)" if options.share < 1 else ""
    interval = "" if found.low is None else f", 95 % interval {found.low:.4f} to {found.high:.4f}"
    print(f"{found.bits:.4f} bits per {unit}{interval}: this run{beside}")
    print(
        f"       {found.kind}, --time {options.time}, seed {options.seed}; training took {found.wall:.0f} s, scoring the "
        f"{found.symbols:,} {unit}s of the test part {found.scoring:.0f} s"
    )
    print(f"\npublished for the test part of {options.name}, in bits per {unit}:")
    for row in sorted(REPORTED[options.name], key=lambda row: row.bits):
        print(f"{row.bits:<6} {row.what}; {row.source}; cost: {row.cost}")


if __name__ == "__main__":
    main()
