"""The result of a run in a comparison: its loss per character and by context, stored beside the run."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from math import log

import numpy as np
import torch
from numpy.typing import NDArray

from charlm import files
from charlm.checkpoint.run_folder import RunFolder, run_command
from charlm.checkpoint.safe_io import (
    MANIFEST,
    MAX_MANIFEST,
    dump_tensors,
    load_tensors,
    read_file,
    read_json,
    write_json,
)
from charlm.checkpoint.snapshot import Snapshot
from charlm.data.tokenizer import Ids
from charlm.errors import CheckpointError
from charlm.evaluation.bootstrap import standard_error
from charlm.evaluation.score import per_char, spread
from charlm.inference.context import ContextRule
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor
from charlm.strict_json import read_as, to_json
from charlm.terminal import one_line
from charlm.training.session import Session
from charlm.training.signals import Stop

CURVE_BLOCKS = 4  # blocks that are read in one pass, so beyond the training length
CURVE_ROWS = 300  # stretches of text that are read in this way
CURVE_CHARS = 1_500  # characters predicted from 1, 2, 4, ... of those before them

CURVE_FEWEST = 30
"""Points of fewer symbols are left out, as too random."""

Curve = list[tuple[float, float, float | None]]
"""Points: a number of symbols, the bits per symbol, and their standard error; None if unknown."""

NAME, NATS = "result.json", "nats.safetensors"
MOST_CHARS = 200_000
"""Held-out characters, with ends of documents, that a comparison scores, from the beginning."""
MOST_NATS = 64 << 20
FARTHEST = 65536


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one run, without the loss of each character."""

    problem: str | None = None  # why there is no figure
    which: str = "latest"
    step: int = 0
    chars: int = 0
    nats_per_char: float = 0.0
    weights: int = 0
    chars_read: int = 0  # in training
    seconds: float = 0.0  # of training
    reach: int | None = None  # characters that can influence a prediction; None: without limit
    fingerprint: str = ""  # of the settings, budget and text that were to be trained
    manifest_sha256: str = ""  # of the checkpoint that was scored
    nats_sha256: str = ""  # of the file that has the score of each character
    before: Curve = field(default_factory=list)  # bits by how many characters stand before
    seen: Curve = field(default_factory=list)  # bits by how many of them may be seen

    def __post_init__(self) -> None:
        if self.problem is None and not 0 < self.chars <= MOST_CHARS:
            raise ValueError(f"it is of {self.chars} characters")
        if not 0 < (self.reach or 1) <= FARTHEST:
            raise ValueError("no model reaches so far")

    @property
    def chars_per_second(self) -> float:
        """The speed of training."""
        return self.chars_read / self.seconds if self.seconds else 0.0


class AlteredError(CheckpointError):
    """A valid result that belongs to another run or other weights, or was edited."""

    def __init__(self, run: RunFolder, why: str) -> None:
        again = one_line(run_command("resume", RunFolder(run.path.parent)))
        super().__init__(f"{NAME} of {run.name} {why}; remove it, then score the run again: {again}")


def find_result(run: RunFolder, fingerprint: str) -> Result | None:
    """Read the result of a run; None if missing or damaged. Raises AlteredError if it is of another run or other weights."""
    try:
        result = read_result(run)
        if result.fingerprint != fingerprint:
            raise AlteredError(run, "belongs to another run or other settings")
        if result.problem is None:
            if result.manifest_sha256 != _manifest_hash(run, result.step):
                raise AlteredError(run, f"does not belong to the weights of step {result.step}")
            read_nats(run, result)
    except AlteredError:
        raise
    except CheckpointError:
        return None
    return result


def _manifest_hash(run: RunFolder, step: int) -> str:
    """Return a hash of a checkpoint's manifest, which has those of all its files."""
    return sha256(read_file(run.folder(step) / MANIFEST, MAX_MANIFEST)).hexdigest()


def keep(run: RunFolder, result: Result) -> Result:
    """Write a result with a hash of all its values, to detect edits. Raises OSError."""
    write_json(run.path / NAME, {**to_json(result), "sha256": _seal(result)})
    return result


def _seal(result: Result) -> str:
    return sha256(json.dumps(to_json(result), sort_keys=True).encode()).hexdigest()


def score(
    run: RunFolder, snapshot: Snapshot, which: str, session: Session, stop: Stop, fingerprint: str
) -> Result | None:
    """Score a trained model on the held-out text and keep it; None if stopped. Raises OSError."""
    predictor, corpus = predictor_of(snapshot, device=session.device), session.corpus
    text = corpus.held_out_text()[:MOST_CHARS]
    ids = corpus.vocabulary.encode(text)
    rows = [predictor.score(ids[:1])]
    for row in predictor.score_chunks(ids, range(predictor.rule.n_chunks(len(ids)))):
        if stop.is_set():
            return None
        rows.append(row)
    nats = per_char(corpus.vocabulary, text, -np.concatenate(rows))
    model = snapshot.model_config
    block_size = predictor.rule.block_size
    longest = block_size * (1 if model.position == "learned" else CURVE_BLOCKS)
    scale = len(ids) / len(nats)  # from a symbol to a character
    scores = dump_tensors({"nats": torch.from_numpy(nats)})
    result = Result(
        fingerprint=fingerprint,
        manifest_sha256=_manifest_hash(run, snapshot.step),
        nats_sha256=sha256(scores).hexdigest(),
        which=which,
        step=snapshot.step,
        chars=len(nats),
        nats_per_char=float(nats.mean()),
        weights=sum(weight.numel() for weight in snapshot.all_weights.values()),
        chars_read=session.chars_read,
        seconds=session.state.seconds,
        reach=model.reach,
        before=_scaled(by_symbols_before(predictor, ids, longest), scale),
        seen=_scaled(by_symbols_seen(predictor, ids, block_size), scale),
    )
    files.replace(run.path / NATS, scores)
    return keep(run, result)


def read_result(run: RunFolder) -> Result:
    """Read what `keep` wrote. Raises CheckpointError if it is damaged, AlteredError if it was changed since."""
    data = read_json(run.path / NAME)
    seal = data.pop("sha256", None)
    result = read_as(Result, data, f"{NAME} of {run.name}")
    if seal != _seal(result):
        raise AlteredError(run, "was changed after it was written")
    return result


def read_nats(run: RunFolder, result: Result) -> NDArray[np.float64]:
    """Read the nats of each character (N,), as `score` kept them. Raises CheckpointError if they are damaged."""
    expected = {"nats": torch.empty(result.chars, dtype=torch.float64, device="meta")}
    data = read_file(run.path / NATS, MOST_NATS)
    if sha256(data).hexdigest() != result.nats_sha256:
        raise CheckpointError(f"{NATS} of {run.name} is damaged: it is not what was written with {NAME}")
    loaded = load_tensors(data, expected, f"{NATS} of {run.name}")
    nats: NDArray[np.float64] = loaded["nats"].numpy()
    return nats


def _scaled(curve: Curve, scale: float) -> Curve:
    return [(x, bits * scale, None if error is None else error * scale) for x, bits, error in curve]


def by_symbols_before(predictor: Predictor, ids: Ids, longest: int) -> Curve:
    """Measure bits per symbol by the number of symbols before it, up to `longest`, all read in one pass.

    Each point is the mean over the symbols with x/2 to x others before them. The n-gram prior sees no further
    back.
    """
    rule = ContextRule(longest, longest, reset_prior_at_start=True)
    chunks = spread(rule, len(ids), CURVE_ROWS * longest, len(ids)).chunks
    rows = [row for row in predictor.score_chunks(ids, chunks, rule) if len(row) == longest]
    if not rows:
        return []
    bits = -np.stack(rows) / log(2)  # (rows, longest): column p has p + 1 symbols before it
    powers = _powers(longest)
    return [
        _point(high, bits[:, low:high].mean(axis=1))
        for low, high in zip([0, *powers], powers, strict=False)
        if len(rows) * (high - low) >= CURVE_FEWEST
    ]


def by_symbols_seen(predictor: Predictor, ids: Ids, block_size: int) -> Curve:
    """Measure bits of the same symbols, each predicted from the last 1, 2, 4, ... up to a block before it."""
    if len(ids) - block_size < CURVE_FEWEST:
        return []
    chosen = np.unique(np.linspace(block_size, len(ids) - 1, CURVE_CHARS).astype(int))
    curve: Curve = []
    for seen in _powers(block_size):
        # Its chunk k reads ids[k : k + seen] and scores the one after; the prior sees no more.
        rule = ContextRule(seen, 1, reset_prior_at_start=True)
        chunks = [int(t) - seen for t in chosen]
        scores = [row[-1] for row in predictor.score_chunks(ids, chunks, rule)]
        curve.append(_point(seen, -np.array(scores) / log(2)))
    return curve


def _point(x: int, bits: NDArray[np.float64]) -> tuple[float, float, float | None]:
    """Return a point from values in the order of the text, (N,)."""
    return float(x), float(bits.mean()), standard_error(bits)


def _powers(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]
