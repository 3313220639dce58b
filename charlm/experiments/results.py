"""The result of a run of a comparison: its loss on every character, stored beside the run."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray

from charlm import files
from charlm.checkpoint.run_folder import RunFolder, run_command
from charlm.checkpoint.safe_io import (
    NGRAM_FILE,
    dump_tensors,
    load_tensors,
    read_file,
    read_json,
    read_manifest,
    write_json,
)
from charlm.checkpoint.snapshot import Snapshot
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError
from charlm.evaluation.score import per_char
from charlm.experiments.curves import BEYOND, Curve, by_symbols_before, by_symbols_seen
from charlm.inference.predictor import predictor_of
from charlm.terminal import one_line
from charlm.training.session import Session
from charlm.training.signals import Stop

NAME, NATS = "result.json", "nats.safetensors"
MOST_CHARS = 200_000
"""Held-out characters, and ends of documents, that a comparison scores, from their beginning."""
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
    reach: int | None = None  # characters that can act on a prediction; None: without limit
    of: str = ""  # the fingerprint of what was to be trained
    weights_sha256: str = ""  # of the checkpoint that was scored, and of its n-gram table
    ngram_sha256: str = ""
    nats_sha256: str = ""  # of the file that has the score of each character
    before: Curve  # bits by how many characters stand before
    seen: Curve  # bits by how many of them may be seen

    @property
    def chars_per_second(self) -> float:
        """In training."""
        return self.chars_read / self.seconds if self.seconds else 0.0


class AlteredError(CheckpointError):
    """A valid result that belongs to another run, other weights, or was edited."""

    def __init__(self, run: RunFolder, why: str) -> None:
        again = one_line(run_command("resume", RunFolder(run.path.parent)))
        super().__init__(f"{NAME} of {run.name} {why}; remove it, then score the run again: {again}")


def is_there(run: RunFolder, of: str | None = None) -> bool:
    """Whether the run has a valid result; CheckpointError where it belongs to another run or other weights.

    `of` is the fingerprint of what was to be trained.
    """
    try:
        result = read_result(run)
        if of is not None and result.of != of:
            raise AlteredError(run, "belongs to another run or other settings")
        if result.problem is None:
            if (result.weights_sha256, result.ngram_sha256) != _hashes(run, result.step):
                raise AlteredError(run, f"does not belong to the weights of step {result.step}")
            read_nats(run, result)
    except AlteredError:
        raise
    except CheckpointError:
        return False
    return True


def _hashes(run: RunFolder, step: int) -> tuple[str, str]:
    """SHA-256 of a checkpoint's weights and of its n-gram table, from its manifest."""
    manifest = read_manifest(run.folder(step))
    entries = {**manifest["files"], **manifest["run_files"]}
    return tuple(str(entries.get(name, {}).get("sha256", "")) for name in ("model.safetensors", NGRAM_FILE))  # type: ignore[return-value]


def failed(run: RunFolder, problem: str, of: str = "") -> Result:
    """The result of a run that has no figure."""
    result = Result(problem=problem, of=of, before=[], seen=[])
    _write(run, result)
    return result


def _write(run: RunFolder, result: Result) -> None:
    write_json(run.path / NAME, {**asdict(result), "sha256": _seal(asdict(result))})


def _seal(values: dict[str, Any]) -> str:
    """A hash of all values, to detect edits."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def score(
    run: RunFolder,
    snapshot: Snapshot,
    which: str,
    session: Session,
    corpus: Corpus,
    stop: Stop,
    of: str = "",
) -> Result | None:
    """Score a trained model on the held-out text and keep it; None if stopped. Raises OSError.

    `of` is the fingerprint of what was to be trained.
    """
    predictor = predictor_of(snapshot, device=session.device)
    text = corpus.held_out_text()[:MOST_CHARS]
    ids = corpus.vocabulary.encode(text)
    rows = [predictor.score(ids[:1])]
    for row in predictor.score_windows(ids, range(predictor.rule.windows(len(ids)))):
        if stop.is_set():
            return None
        rows.append(row)
    nats = per_char(corpus.vocabulary, text, -np.concatenate(rows))
    model = snapshot.model_config
    block_size = predictor.rule.block_size
    longest = block_size * (1 if model.position == "learned" else BEYOND)
    scale = len(ids) / len(nats)  # from a symbol to a character
    scores = dump_tensors({"nats": torch.from_numpy(nats)})
    weights, ngram = _hashes(run, snapshot.step)
    result = Result(
        of=of,
        weights_sha256=weights,
        ngram_sha256=ngram,
        nats_sha256=sha256(scores).hexdigest(),
        which=which,
        step=snapshot.step,
        chars=len(nats),
        nats_per_char=float(nats.mean()),
        weights=sum(weight.numel() for weight in snapshot.weights.values()),
        chars_read=session.state.step * session.chars_per_step,
        seconds=session.state.seconds,
        reach=model.reach,
        before=_scaled(by_symbols_before(predictor, ids, longest), scale),
        seen=_scaled(by_symbols_seen(predictor, ids, block_size), scale),
    )
    files.replace(run.path / NATS, scores)
    _write(run, result)
    return result


def read_result(run: RunFolder) -> Result:
    """What `score` kept; CheckpointError where it is damaged, or was changed since."""
    try:
        data = read_json(run.path / NAME)
        if "sha256" not in data:
            raise ValueError("an earlier version wrote it without recording the weights")
        sealed = data.pop("sha256")
        whole = _seal(data) == sealed
        before, seen = (_curve(data.pop(name)) for name in ("before", "seen"))
        result = Result(before=before, seen=seen, **_checked(data))
        if result.problem is None and not 0 < result.chars <= MOST_CHARS:
            raise ValueError(f"it is of {result.chars} characters")
        if not 0 < (result.reach or 1) <= FARTHEST:
            raise ValueError("no model reaches so far")
        if not whole:
            raise AlteredError(run, "was changed after it was written")
        return result
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{NAME} of {run.name} is damaged: {error}") from None


def read_nats(run: RunFolder, result: Result) -> NDArray[np.float64]:
    """Nats of each character (N,), as `score` kept them; CheckpointError where they are damaged."""
    expected = {"nats": torch.empty(result.chars, dtype=torch.float64, device="meta")}
    data = read_file(run.path / NATS, MOST_NATS)
    if sha256(data).hexdigest() != result.nats_sha256:
        raise CheckpointError(f"{NATS} of {run.name} is damaged: it is not what was written with {NAME}")
    loaded = load_tensors(data, expected, f"{NATS} of {run.name}")
    nats: NDArray[np.float64] = loaded["nats"].numpy()
    return nats


def _scaled(curve: Curve, scale: float) -> Curve:
    return [(x, bits * scale, None if error is None else error * scale) for x, bits, error in curve]


def _curve(points: Any) -> Curve:
    """As `score` kept it; results of older versions have no errors."""
    read = [(*point, None) if len(point) == 2 else point for point in points]
    return [(float(x), float(y), None if error is None else float(error)) for x, y, error in read]


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    """The values of a Result but its curves; TypeError for one of another type than its field's."""
    types = get_type_hints(Result)
    for name, value in data.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    return data
