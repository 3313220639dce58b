"""How fast text is sampled: one stream and many, a mixture beside its members, with counts and without, by torch, plainly.

    python -m benchmarks.sample [--run RUN] [--checkpoints DIR] [--length 2000] [--streams 1,8,64] [--threads N]

For each number of streams, in characters per second, medians of rounds in which all take turns: the
run with its n-gram prior ("counts") and without, as the command samples it; the same two by torch
with a cache, one thread, which is what serves where the fast decoder does not; a plain sampler that
recomputes a block for each character; and the seconds to the first character. Of a run of several members:
the mixture, and each member alone. Each speed is followed by its ratio to the first. Then the score of a text,
and a long prompt. Without a run: a model of the plan's size for a minute, untrained, without counts. The
bound is what one stream could reach if reading the weights once a character, at the speed of copying
memory, were all there is to do.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks import machine
from benchmarks.plain_gpt import PlainTrainer, Shape
from benchmarks.train import untrained
from charlm.checkpoint.run_folder import find_run
from charlm.checkpoint.snapshot import TABLE, read_snapshot
from charlm.inference.generate import Piece, generate
from charlm.inference.members import MixturePredictor, predictor_of
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.inference.recent import without_recent
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.transformer import LanguageModel
from charlm.threads import use_threads
from charlm.training.sizes import SIZES

ROUNDS, SCORED, PROMPT = 3, 40_000, 100_000
COPIED = 64 << 20


def measure(predictor: Predictor, streams: int, length: int, prompt: str = "0") -> tuple[float, float]:
    """Characters a second, and seconds to the first one."""
    threads = torch.get_num_threads()
    if predictor.single_threaded:
        torch.set_num_threads(1)
    started, first, chars = perf_counter(), 0.0, 0
    for piece in generate(predictor, [prompt], SamplingConfig(seed=1), n=streams, length=length):
        if isinstance(piece, Piece):
            first = first or perf_counter() - started
            chars += len(piece.text)
    speed = chars / (perf_counter() - started)
    torch.set_num_threads(threads)
    return speed, first


def without_counts(predictor: TransformerPredictor, *, native: bool = True) -> TransformerPredictor:
    """The same weights but for those that read the prior."""
    config = replace(predictor.model.config, prior=False, prior_order=None, prior_dropout=None)
    model = LanguageModel(config, predictor.model.n_symbols)
    weights = {n: w for n, w in predictor.model.state_dict().items() if not n.startswith("prior.")}
    model.load_state_dict(weights)
    return TransformerPredictor(model.eval(), predictor.vocabulary, native=native)


def transformers_of(predictor: Predictor) -> list[TransformerPredictor]:
    """The transformers that predict."""
    members = predictor.members if isinstance(predictor, MixturePredictor) else [predictor]
    return [member for member in members if isinstance(member, TransformerPredictor)]


def ways_of(predictor: Predictor) -> dict[str, Predictor]:
    """The predictors to compare, by the names of their columns."""
    if isinstance(predictor, MixturePredictor):
        named = {f"{i}: {member_name(member)}": member for i, member in enumerate(predictor.members, 1)}
        return {"mixture": predictor, **named}
    assert isinstance(predictor, TransformerPredictor), "an n-gram model has nothing to compare"
    in_torch = TransformerPredictor(predictor.model, predictor.vocabulary, predictor.prior, native=False)
    ways: dict[str, Predictor] = {
        "without": without_counts(predictor),
        "torch without": without_counts(predictor, native=False),
    }
    return ways if predictor.prior is None else {"counts": predictor, **ways, "torch counts": in_torch}


def member_name(member: Predictor) -> str:
    """What a member is."""
    return member.model.config.kind if isinstance(member, TransformerPredictor) else member.kind


def speeds(ways: dict[str, Predictor], plain: PlainTrainer, streams: int, length: int) -> str:
    """One row of the table."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    firsts, usual = [], []
    for predictor in ways.values():
        measure(predictor, streams, 20)
    for _ in range(ROUNDS):
        for name, predictor in ways.items():
            speed, first = measure(predictor, streams, length)
            found[name].append(speed)
            if name == next(iter(ways)):
                firsts.append(first)
        usual.append(plain.sample(streams, 25))
    speed, *others = map(median, found.values())
    columns = "".join(f"{other:11,.0f}{other / speed:7.2f}x" for other in others)
    return f"{streams:7}{speed:14,.0f}{columns}{median(usual):9,.0f}{1000 * median(firsts):9.1f} ms"


def bound(predictors: Sequence[TransformerPredictor]) -> float:
    """Characters a second if each cost one reading of all weights (of the n-grams, only some rows)."""
    weights = [w for each in predictors for n, w in each.model.state_dict().items() if n != TABLE]
    source = np.ones(COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(5):
        started = perf_counter()
        np.copyto(target, source)
        times.append(perf_counter() - started)
    bandwidth = 2 * COPIED / min(times)
    return bandwidth / float(sum(w.numel() * w.element_size() for w in weights))


def scoring(ways: dict[str, Predictor]) -> str:
    """Characters a second that are scored, by all ways but torch."""
    first = next(iter(ways.values()))
    ids = np.random.default_rng(0).integers(0, first.vocabulary.n_symbols, SCORED)
    times: dict[str, list[float]] = {name: [] for name in ways if not name.startswith("torch")}
    for _ in range(ROUNDS):
        for name, seconds in times.items():
            started = perf_counter()
            ways[name].score(ids)
            seconds.append(perf_counter() - started)
    return ", ".join(f"{SCORED / median(seconds):,.0f} ({name})" for name, seconds in times.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--length", type=int, default=2000, help="characters of one stream")
    parser.add_argument("--streams", default="1,8,64")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    use_threads(options.threads)
    if options.run:
        snapshot = read_snapshot(find_run(options.checkpoints, options.run), "latest")
        predictor = without_recent(predictor_of(snapshot))  # as samples are drawn
    else:
        session = untrained(SIZES[2])
        predictor = TransformerPredictor(session.model.eval(), session.corpus.vocabulary)
    transformers = transformers_of(predictor)
    largest = max(transformers, key=lambda each: (each.model.config.n_embd or 0, each.rule.block_size))
    config = largest.model.config
    assert config.n_layer and config.n_embd and config.block_size
    shape = Shape(config.n_layer, max(1, config.n_embd // 32), config.n_embd, config.block_size)
    plain = PlainTrainer(torch.zeros(1000, dtype=torch.int16), largest.model.n_symbols, shape, 1)
    print(machine.line())
    print(f"{config.n_layer} layers of width {config.n_embd}, block {config.block_size}")
    fast = all(each.start(1).decoder is not None for each in transformers)
    print(f"sampled by {f'the fast decoder, {predictor.kernels}' if fast else 'torch with a cache'}")
    ways = ways_of(predictor)
    first, *others = ways
    print(f"streams{first:>14}{''.join(f'{name:>19}' for name in others)}    plain       first")
    for streams in map(int, options.streams.split(",")):
        length = max(3 * config.block_size, options.length // streams)  # the window moves several times
        print(speeds(ways, plain, streams, length), flush=True)
    print(f"scored, characters/s: {scoring(ways)}")
    for n in (PROMPT // 10, PROMPT):
        _, seconds = measure(predictor, 1, 1, "0 1 " * (n // 4))
        print(f"first character after a prompt of {n:,} characters: {1000 * seconds:.1f} ms")
    print(f"bound for one stream: {bound(transformers):,.0f} characters/s")


if __name__ == "__main__":
    main()
