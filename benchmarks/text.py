"""How fast a text is prepared, in how much memory, and what a step of training then costs.

    python -m benchmarks.text [--megabytes 1 10 100 1000] [--folder /tmp]

Texts are made on the spot: the manual inside Python (ASCII) and, for the multilingual one, lines of
it beside Greek, Cyrillic, Chinese and emoji, repeated and perturbed. Beside each: `wc -m` in a UTF-8
locale, and a plain Python encoder (a dict of characters) on at most 10 MB. Memory: the highest that
the process had (Linux only), less what it had after importing torch and all of charlm. Steps of training
are taken on all sizes in turns, in one process; beside the median, how the middle half of the rounds lies.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from benchmarks.machine import line
from charlm.data.sources import read_manual

OTHER = (
    "το γρήγορο καφέ αλεπού πηδάει ",
    "Съешь же ещё этих мягких булок ",
    "天地玄黃宇宙洪荒日月盈昃辰宿列張 ",
    "👩‍👩‍👧 🦆 ",
)
ROUNDS, FIRST = 300, 20
CHILD = """
import json, sys, time
import torch
from benchmarks.text import memory
import charlm.training.session
from charlm.data.text_config import TextConfig
from charlm.data.load import load
before, started = memory(), time.perf_counter()
corpus = load([sys.argv[1]], TextConfig()).corpus
took = time.perf_counter() - started
peak = memory()
started = time.perf_counter()
load([sys.argv[1]], TextConfig())
again = time.perf_counter() - started
print(json.dumps([took, peak - before, again, corpus.key]))
"""
STEPS = """
import json, sys
from benchmarks.text import step_seconds
print(json.dumps(step_seconds(sys.argv[2:], sys.argv[1] == "counts")))
"""


def memory() -> float:
    """The most that this process had in memory, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def step_seconds(keys: list[str], counts: bool) -> list[list[float]]:
    """Of the corpora in the cache: seconds of every step of the same small model on each, taken in turns."""
    import torch

    from benchmarks.train import our_step, session_of
    from charlm.config import ModelConfig, TrainingConfig
    from charlm.data.corpus import reopen
    from charlm.training.planner import choose
    from charlm.training.sizes import Budget

    torch.set_num_threads(1)
    model = ModelConfig(
        n_layer=2, n_head=2, n_embd=64, block_size=64, dropout=0.0, ngram_embeddings=1, prior=counts
    )
    training = TrainingConfig(batch_size=16, learning_rate=1e-4, device="cpu")
    sessions = []
    for key in keys:
        corpus = reopen(key)
        assert corpus is not None, "it was just put there"
        choice = choose(Budget(steps=10**6), len(corpus.train), model, training)
        sessions.append(session_of(corpus, choice))
    times = [[our_step(session, native=True) for session in sessions] for _ in range(FIRST + ROUNDS)]
    return times[FIRST:]


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
        file.flush()
        os.fsync(file.fileno())  # as a text is that was there before


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


def child(code: str, arguments: list[str], folder: str) -> Any:
    """What a process of its own prints, one thread, its cache in that folder."""
    environment = {**os.environ, "CHARLM_CACHE": str(Path(folder) / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, check=True, capture_output=True
    )
    return json.loads(done.stdout)


def show_steps(megabytes: list[int], keys: list[str], folder: str) -> None:
    """What a step costs on each text, as a multiple of what it costs on the first, round by round."""
    for kind in ("no prior", "counts"):
        rounds = child(STEPS, [kind, *keys], folder)
        for i, size in enumerate(megabytes):
            low, middle, high = quantiles([times[i] / times[0] for times in rounds], n=4)
            seconds = median(times[i] for times in rounds)
            of_first = f"{middle:.3f} ({low:.3f} to {high:.3f}) of the first" if i else ""
            print(f"a step on {size:5} MB, {kind:9} {1000 * seconds:6.2f} ms {of_first}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    print(line())
    print(f"{'text':18} {'MB/s':>6} {'wc -m':>6} {'plain':>6} {'memory':>8} {'again':>8}")
    for multilingual in (False, True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            keys = []
            for megabytes in options.megabytes:
                path = Path(folder) / "text"
                make(path, megabytes, multilingual)
                counted, plain = wc(path), plain_encoder(path)
                took, peak, again, key = child(CHILD, [str(path)], folder)
                keys.append(key)
                name = f"{megabytes} MB {'mixed' if multilingual else 'ASCII'}"
                speed = path.stat().st_size / took / 1e6
                print(
                    f"{name:18} {speed:6.0f} {counted:6.0f} {plain:6.0f} {peak:5.0f} MB {1000 * again:5.0f} ms",
                    flush=True,
                )
            show_steps(options.megabytes, keys, folder)


if __name__ == "__main__":
    main()
