"""How fast the page of a run writes in headless Chromium, beside the sampler in Python, in the same minutes.

    python -m benchmarks.page RUN [--checkpoints DIR] [--length 2000] [--ngram-megabytes X]

Characters per second, medians of rounds in which all take turns: text written by the page's engine in a worker, text
scored by it, and text written by `charlm sample`. Before them: the size of the page's parts, and how long it takes until
the model is open. One core is enough for all: the worker is one thread.
"""

import argparse
import base64
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks import machine
from charlm.checkpoint.run_folder import find_run
from charlm.checkpoint.snapshot import read_snapshot
from charlm.inference.generate import sample_text
from charlm.inference.members import predictor_of
from charlm.inference.sampling_config import SamplingConfig
from charlm.page.container import compressed_size
from charlm.page.pack import PackedModel, pack, transformers_of, weight_arrays
from charlm.page.pruning import page_bytes
from charlm.page.scripts import script, worker_source
from charlm.threads import use_threads

ROUNDS, PROMPT = 3, "The "
TEMPERATURE = 0.8
MEASURE = """async ({prompt, length, temperature, seed}) => {
    const started = performance.now();
    let text = '';
    for await (const piece of engine.generate(prompt, {length, temperature, seed})) text += piece.text;
    const written = performance.now();
    let scored = 0;
    for await (const piece of engine.score(text)) scored += piece.bits.length;
    const ended = performance.now();
    return [1000 * length / (written - started), 1000 * scored / (ended - written)];
}"""


def sizes(packed: PackedModel) -> str:
    """Megabytes in base64 of the whole, the weights, and the n-grams."""
    ngram = packed.snapshot.kneser_ney()
    weights = sum(
        compressed_size(*weight_arrays("", own)[0].values()) for _, own in transformers_of(packed.snapshot)
    )
    parts = {"model": len(packed.data) * 4 / 3, "weights": weights * 4 / 3}
    parts |= {"n-grams": page_bytes(ngram.levels)} if ngram is not None else {}
    return ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in parts.items())


def open_page(browser: Any, folder: Path, data: bytes) -> tuple[Any, float]:
    """A page with the model open, and the seconds that took."""
    source = json.dumps(worker_source()).replace("<", "\\u003c")
    model = base64.b64encode(data).decode()
    path = folder / "page.html"
    path.write_text(
        f'<!doctype html><script type="application/octet-stream" id="model">{model}</script>'
        f"<script>{script('engine')}\nlet engine = new LocalEngine({source}, "
        "() => document.getElementById('model').textContent);</script>",
        "utf-8",
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    started = perf_counter()
    page.evaluate("engine.open()")
    return page, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--length", type=int, default=2000, help="characters written in a round")
    parser.add_argument("--ngram-megabytes", type=float)
    parser.add_argument("--no-sandbox", action="store_true", help="for root")
    options = parser.parse_args()
    use_threads(1)
    snapshot = read_snapshot(find_run(options.checkpoints, options.run), "latest")
    packed = pack(snapshot, ngram_megabytes=options.ngram_megabytes)
    print(machine.line())
    print(f"in the page: {sizes(packed)}")
    if packed.bits_lost is not None:
        print(
            f"pruning costs {packed.bits_lost:.4f} ± {packed.bits_error or 0:.4f} bits/char on held-out text"
        )
    predictor = predictor_of(snapshot)
    found: dict[str, list[float]] = {"written": [], "scored": [], "written in Python": []}
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if options.no_sandbox else []
        )
        page, seconds = open_page(browser, Path(folder), packed.data)
        print(f"open after {seconds:.2f} s in Chromium {browser.version}")
        for round_ in range(ROUNDS):
            asked = {"prompt": PROMPT, "length": options.length, "temperature": TEMPERATURE, "seed": round_}
            written, scored = page.evaluate(MEASURE, asked)
            started = perf_counter()
            sample_text(
                predictor, PROMPT, SamplingConfig(temperature=TEMPERATURE, seed=round_), options.length
            )
            in_python = options.length / (perf_counter() - started)
            for of_way, speed in zip(found.values(), (written, scored, in_python), strict=True):
                of_way.append(speed)
        browser.close()
    for name, speeds in found.items():
        rounds = ", ".join(f"{speed:,.0f}" for speed in speeds)
        print(f"{name:18}{median(speeds):8,.0f} characters/s (rounds: {rounds})")


if __name__ == "__main__":
    main()
