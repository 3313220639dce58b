"""How fast a text is prepared, in how much memory, and what a step of training then costs.

    python -m benchmarks.text [--megabytes 1 10 100 1000] [--folder /tmp]

Texts are made on the spot: the manual inside Python (ASCII) and, for the multilingual one, lines of
it beside Greek, Cyrillic, Chinese and emoji, repeated and perturbed. Beside each: `wc -m` in a UTF-8
locale, and a plain Python encoder (a dict of characters) on at most 10 MB. Memory: the highest that
the process had (Linux only), less what it had after importing torch and all of charlm.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.machine import line
from charlm.text.manual import read_manual

OTHER = (
    "το γρήγορο καφέ αλεπού πηδάει ",
    "Съешь же ещё этих мягких булок ",
    "天地玄黃宇宙洪荒日月盈昃辰宿列張 ",
    "👩‍👩‍👧 🦆 ",
)
CHILD = """
import json, resource, sys, time
import torch
from benchmarks.text import memory, step_seconds
import charlm.training.session
from charlm.config import TextConfig
from charlm.text.load import load
before, started = memory(), time.perf_counter()
corpus = load([sys.argv[1]], TextConfig()).corpus
took = time.perf_counter() - started
peak = memory()
started = time.perf_counter()
load([sys.argv[1]], TextConfig())
again = time.perf_counter() - started
print(json.dumps([took, peak - before, again, step_seconds(corpus)]))
"""


def memory() -> float:
    """The most that this process had in memory, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def step_seconds(corpus) -> float:  # type: ignore[no-untyped-def]
    """The median of 200 steps of a small model."""
    from statistics import median

    import torch

    from charlm.config import ModelConfig, TrainingConfig
    from charlm.training.events import Stepped
    from charlm.training.loop import Trainer
    from charlm.training.plan import Budget, choose
    from charlm.training.session import Session

    torch.set_num_threads(1)
    model = ModelConfig(n_layer=2, n_head=2, n_embd=64, block_size=64, dropout=0.0)
    training = TrainingConfig(batch_size=16, learning_rate=1e-4, device="cpu")
    choice = choose(Budget(steps=10**6), len(corpus.train), model, training)
    trainer = Trainer(Session(corpus, choice.model, choice.training, choice.plan, {}), None)  # type: ignore[arg-type]
    times: list[float] = []
    while len(times) < 220:
        times += [event.seconds for event in trainer._step() if isinstance(event, Stepped)]
    return median(times[20:])


def make(path: Path, megabytes: int, multilingual: bool) -> None:
    """A text of that size: lines of the manual in a random order, some of their letters changed."""
    rng = random.Random(0)
    lines = [
        text for text in read_manual().encode("ascii", "ignore").decode().splitlines(True) if len(text) > 9
    ]
    if multilingual:
        lines = [rng.choice(OTHER) * rng.randint(0, 2) + text for text in lines]
    with open(path, "wb") as file:
        while file.tell() < megabytes * 1_000_000:
            rng.shuffle(lines)
            letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
            file.write("".join(lines).replace("e", letter, rng.randint(0, 1000)).encode())


def plain_encoder(path: Path) -> float:
    """MB/s of what is usually written: a dict of characters, and a list of ids."""
    with open(path, encoding="utf-8") as file:
        text = file.read(10_000_000)
    started = perf_counter()
    ids = {char: i for i, char in enumerate(sorted(set(text)))}
    assert len([ids[char] for char in text]) == len(text)
    return len(text.encode()) / (perf_counter() - started) / 1e6


def wc(path: Path) -> float:
    """MB/s of `wc -m`."""
    started = perf_counter()
    subprocess.run(
        ["wc", "-m", str(path)], env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True, capture_output=True
    )
    return path.stat().st_size / (perf_counter() - started) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    print(line())
    print(f"{'text':18} {'MB/s':>6} {'wc -m':>6} {'plain':>6} {'memory':>8} {'again':>8} {'step':>9}")
    for multilingual in (False, True):
        for megabytes in options.megabytes:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                path = Path(folder) / "text"
                make(path, megabytes, multilingual)
                counted, plain = wc(path), plain_encoder(path)
                environment = {
                    **os.environ,
                    "CHARLM_CACHE": str(Path(folder) / "cache"),
                    "OMP_NUM_THREADS": "1",
                }
                child = subprocess.run(
                    [sys.executable, "-c", CHILD, str(path)], env=environment, check=True, capture_output=True
                )
                took, peak, again, step = json.loads(child.stdout)
                name = f"{megabytes} MB {'mixed' if multilingual else 'ASCII'}"
                speed = path.stat().st_size / took / 1e6
                print(
                    f"{name:18} {speed:6.0f} {counted:6.0f} {plain:6.0f} {peak:5.0f} MB {1000 * again:5.0f} ms "
                    f"{1000 * step:6.2f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
