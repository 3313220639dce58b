"""What training on a GPU gives, in one command and one table; nobody has run it on a GPU yet (docs/gpu.md).

    python -m benchmarks.gpu TEXT [--device cuda] [--loss 1.4697] [--toy]

TEXT is Tiny Shakespeare (`charlm data get tinyshakespeare`). Four parts: checks that the device computes what the CPU does,
exactly resumes, waits for no number between readings, and scores and samples what the CPU does; the time, from the start of the process and with compiling,
to a held-out loss (1.4697: nanoGPT's figure for this text, after about three minutes of an A100); characters per second
and the share of the device's peak (MFU) of steps of each size, compiled and not; and what the plan would train at 10^14 to
10^17 operations per second, which is an estimate. With --toy all of it is tiny, for a test on the CPU.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.machine import line
from benchmarks.time_to_loss import ours
from benchmarks.train import session_of
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.inference.generate import sample_text
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.ngram.build import build, training_folds
from charlm.ngram.device_rows import DeviceNgrams
from charlm.training.device import gpu_note, is_accelerator, pick_device, pick_precision, wait_for
from charlm.training.planner import choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import ESTIMATED_SIZES, SIZES, Budget, Size
from charlm.training.step import compile_model, train_step
from charlm.training.trainer import READ_EVERY

PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40": 181e12,
    "4090": 165e12,
    "3090": 71e12,
    "T4": 65e12,
}
"""Products in bf16 (fp16 of a T4), operations per second, dense, as the makers state them."""
TARGET = 1.4697
LADDER = (8, 10, 12, 15, 20, 25, 30, 45, 60, 90, 120)
SPEEDS = (1e14, 1e15, 1e16, 1e17)
TOY = Size(n_layer=1, n_embd=32, n_head=2, block_size=32, batch_size=4, learning_rate=1e-2)


def session(
    corpus: Corpus, size: Size, device: str, precision: str, *, prior: bool = False
) -> TransformerSession:
    """A model before its first step."""
    model = ModelConfig(
        n_layer=size.n_layer,
        n_head=size.n_head,
        n_embd=size.n_embd,
        block_size=size.block_size,
        prior=prior,
        dropout=0.0,  # whose random numbers differ with the device
        ngram_embedding_dropout=None if prior else 0.0,
    )
    training = TrainingConfig(
        batch_size=size.batch_size,
        learning_rate=size.learning_rate,
        device=device,
        precision=precision,
        compile="off",
    )
    return session_of(corpus, choose(Budget(steps=10**4), len(corpus.train), model, training))


def losses(found: TransformerSession, steps: int) -> list[float]:
    """Of so many steps, read at the end."""
    taken = []
    for _ in range(steps):
        loss, _ = train_step(found, found.learning_rates())
        taken.append(loss.clone())
        found.state.step += 1
    return [float(loss) for loss in taken]


def checks(corpus: Corpus, device: torch.device) -> Iterator[tuple[str, bool, str]]:
    """Name, outcome and figure of each check."""
    V, ids = corpus.vocabulary.n_symbols, corpus.train[:20_000]
    folds = training_folds(len(ids), 0)
    model = build(ids, V, 5, memory=1 << 28, folds=folds).model
    starts, T, K = np.arange(0, len(ids) - 200, 997), 128, model.order
    at = starts[:, None] + np.arange(-K, T)
    read = np.where(at >= 0, ids[np.maximum(at, 0)], V).astype(np.int64)
    fold = np.searchsorted(folds[1:-1], at[:, K:] + 1, side="right")
    rows = DeviceNgrams(model, device).log_rows(
        torch.from_numpy(read).to(device), torch.from_numpy(fold).to(device)
    )
    off = float(np.abs(rows.cpu().numpy() - model.log_rows(ids, starts, T, folds=folds)).max())
    yield "rows of the prior as on the CPU", off <= 2e-6, f"{off:.1e}"
    for prior in (False, True):
        name = "with the prior" if prior else "without the prior"

        def fresh(on: str, *, compiled: bool = False, prior: bool = prior) -> TransformerSession:
            found = session(corpus, TOY, on, "fp32", prior=prior)
            if compiled:
                failure = compile_model(found)
                assert failure is None, failure
            return found

        plain = losses(fresh(device.type), 40)
        off = float(np.abs(np.subtract(plain, losses(fresh("cpu"), 40))).max())
        yield f"40 steps {name} as on the CPU", off <= 0.02, f"{off:.1e}"
        yield f"40 steps {name} repeat bit for bit", plain == losses(fresh(device.type), 40), ""
        try:
            off = float(np.abs(np.subtract(plain, losses(fresh(device.type, compiled=True), 40))).max())
            yield f"compiled steps {name}", off <= 0.02, f"{off:.1e}"
        except AssertionError as error:
            yield f"compiled steps {name}", False, str(error)
        yield f"a step {name} waits for nothing", *waits(fresh(device.type))
        trained = fresh("cpu")
        losses(trained, 40)
        yield from inference_checks(trained, device, name)


def inference_checks(
    trained: TransformerSession, device: torch.device, name: str
) -> Iterator[tuple[str, bool, str]]:
    """The same of scores and of the likeliest text, by a model that was trained on the CPU."""
    ids, scores, texts = trained.corpus.held_out[:20_000], [], []
    for on in (torch.device("cpu"), device):
        weights = {key: weight.clone() for key, weight in trained.model.state_dict().items()}
        predictor = TransformerPredictor.of(
            trained.model_config, weights, trained.corpus.vocabulary, trained.kneser_ney
        )
        predictor.model.to(on)
        scores.append(predictor.score(ids))
        texts.append(sample_text(predictor, "", SamplingConfig(temperature=0), 300))
    off = float(np.abs(scores[0] - scores[1]).max())
    yield f"scores {name} as on the CPU", off <= 1e-3, f"{off:.1e}"
    yield f"the likeliest text {name} as on the CPU", texts[0] == texts[1], ""


def waits(found: TransformerSession) -> tuple[bool, str]:
    """Whether steps between two readings make the host wait; torch tells only on CUDA."""
    losses(found, 3)
    if found.device.type != "cuda":
        return True, "not asked: only CUDA tells"
    try:
        torch.cuda.set_sync_debug_mode("error")
        train_step(found, found.learning_rates())
    except RuntimeError as error:
        return False, str(error)[:100]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True, ""


def speed(
    corpus: Corpus, size: Size, device: str, precision: str, *, compiled: bool, rounds: int
) -> list[str]:
    """Size, way, characters and operations per second, share of the peak, seconds of compiling."""
    row = [f"{size.n_layer} x {size.n_embd}, {size.batch_size} x {size.block_size}", precision]
    try:
        found = session(corpus, size, device, precision)
        started = perf_counter()
        failure = compile_model(found) if compiled else None
        seconds = perf_counter() - started
        if failure is not None:
            return [*row, f"not compiled: {failure[:40]}", "", "", ""]
        losses(found, 3)
        times = []
        for _ in range(rounds):
            begun = perf_counter()
            losses(found, READ_EVERY)
            wait_for(found.device)
            times.append((perf_counter() - begun) / READ_EVERY)
    except torch.OutOfMemoryError:
        return [*row, "out of memory", "", "", ""]
    a_second = size.gflop * 1e9 / median(times)
    name = torch.cuda.get_device_name() if found.device.type == "cuda" else ""
    peak = next((peak for card, peak in PEAKS.items() if card in name), None)
    mfu = f"{a_second / peak:.1%}" if peak else "peak unknown"
    how = f"compiled in {seconds:.0f} s" if compiled else "not compiled"
    return [*row, how, f"{size.chars / median(times):,.0f}", f"{a_second:.2e}", mfu]


def planned() -> Iterator[list[str]]:
    """Speed, time, text, size and steps that the plan would choose: an estimate."""
    for n_train in (10**6, 10**8, 10**9):
        for a_second in SPEEDS:
            budget = Budget(seconds=600.0, gflops=a_second / 1e9, precision="bf16", compiler=True)
            for member in choose(budget, n_train, ModelConfig(), TrainingConfig(), n_symbols=65).plan.members[
                -1:
            ]:
                size = Size.of(member.model, member.training)
                shape = f"{size.n_layer} x {size.n_embd}, {size.batch_size} x {size.block_size}"
                yield [f"{a_second:.0e}", "10 min", f"{n_train:,}", shape, f"{member.end:,}"]


def print_table(title: str, head: list[str], rows: Iterator[list[str]]) -> None:
    """Rows as they come, in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def to_loss(text: str, device: str, target: float, ladder: tuple[int, ...]) -> Iterator[list[str]]:
    """Time budget, loss and wall time, until the loss is reached."""
    for seconds in ladder:
        for compiled in ("off", "on"):
            nats, wall = ours(text, seconds, 1, ["--device", device, "--compile", compiled])
            yield [f"{seconds} s", compiled, f"{nats:.4f}", f"{wall:.1f} s", "reached" * (nats <= target)]
            if nats <= target:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--loss", type=float, default=TARGET, help="nats per character to reach")
    parser.add_argument("--toy", action="store_true", help="tiny sizes and times, for a test")
    options = parser.parse_args()
    path = Path(options.text).absolute()
    corpus = prepare(path.read_text(encoding="utf-8"), TextConfig())
    device = pick_device(options.device)
    print(line())
    print(gpu_note(options.device) or "no GPU: this is the CPU's path")
    found = ([name, "ok" if ok else "FAILED", figure] for name, ok, figure in checks(corpus, device))
    print_table("Checks", ["check", "outcome", "largest difference"], found)
    sizes = (TOY,) if options.toy else (*SIZES, *ESTIMATED_SIZES * is_accelerator(device))
    rows = (
        speed(
            corpus,
            size,
            device.type,
            pick_precision(device),
            compiled=compiled,
            rounds=1 if options.toy else 5,
        )
        for size in sizes
        for compiled in ((False,) if options.toy else (False, True))
    )
    print_table("Speed", ["size, batch", "precision", "", "chars/s", "FLOP/s", "MFU"], rows)
    if not options.toy:
        times = to_loss(str(path), device.type, options.loss, LADDER)
        print_table(f"Time to {options.loss} nats", ["--time", "--compile", "nats/char", "wall", ""], times)
    print_table(
        "What the plan would train (an estimate)",
        ["FLOP/s", "time", "characters", "size, batch", "steps"],
        planned(),
    )


if __name__ == "__main__":
    main()
