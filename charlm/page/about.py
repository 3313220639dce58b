"""Collect what a page shows about a run, as plain JSON: figures, curves, settings, a sample and notes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import ceil, isfinite, log
from pathlib import PurePath
from statistics import fmean
from typing import TYPE_CHECKING, Any

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import acts
from charlm.evaluation.bootstrap import plus_minus
from charlm.reporting.log import METRICS, SAMPLES, Sample, read_log
from charlm.suggestions import written_time
from charlm.terminal import one_line
from charlm.training.describe import joined, several
from charlm.training.events import Evaluated, Stepped
from charlm.training.state import read_state

if TYPE_CHECKING:
    from charlm.page.pack import PackedModel
    from charlm.run import Run

Json = dict[str, Any]
BITS = "bits per character"
HELD_OUT, BASELINE = "held-out", "baseline"
"""The keys of the figures with which the page compares a text."""
MOST_POINTS = 300
"""Most points of the training curve."""


def about(run: "Run") -> Json:
    """Return what the page shows of a run at its checkpoint: `figures`, `settings`, `curves`, `sample`, `notes`.

    Raises CheckpointError where the checkpoint is damaged.
    """
    snapshot = run.snapshot
    events = [event for event in read_log(run.path / METRICS) if event.step <= snapshot.step]
    samples = [
        row.text
        for row in read_log(run.path / SAMPLES)
        if isinstance(row, Sample) and row.step <= snapshot.step
    ]
    return {
        "figures": list(_figures(snapshot)),
        "settings": list(_settings(snapshot)),
        "curves": _curves(snapshot, events),
        "sample": samples[-1] if samples else "",
        "notes": list(_notes(snapshot)),
    }


def page_notes(packed: "PackedModel") -> list[str]:
    """Return sentences for the page's notes on what packing lost."""
    notes = [
        "The weights are stored in 16 bits, so figures can differ from charlm's own in the third decimal."
    ]
    if packed.bits_lost is not None:
        cost = plus_minus(
            packed.bits_lost * log(2), packed.bits_error and packed.bits_error * log(2), sign="+"
        )
        notes.append(
            f"Rare n-grams were left out to make the page smaller; on held-out text that costs {cost} {BITS}."
        )
    return notes


def _figures(snapshot: Snapshot) -> Iterator[Json]:
    state = read_state(snapshot.state)
    last = state.last_evaluation
    if last is not None:
        held_out = _figure("Held-out text", last.nats_per_char / log(2), BITS, HELD_OUT)
        error = last.standard_error
        yield held_out | ({} if error is None else {"error": error / log(2)})
        if last.baseline_nats_per_char is not None:
            yield _figure("N-grams on held-out text", last.baseline_nats_per_char / log(2), BITS, BASELINE)
    n_weights = sum(weight.numel() for weight in snapshot.all_weights.values())
    if n_weights:
        yield _figure("Parameters", n_weights)
        yield _figure(
            "Training", written_time(round(state.seconds)) or "under 1s", several(snapshot.step, "step")
        )
    yield _figure("Text to train on", snapshot.run.corpus.train_chars, "characters")
    yield _figure("Vocabulary", snapshot.vocabulary.n_symbols, "symbols")


def _figure(label: str, value: float | str, unit: str = "", key: str | None = None) -> Json:
    return {"label": label, "value": value, "unit": unit} | ({"key": key} if key else {})


def _settings(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield the settings of model and training; those in which several members differ, of each."""
    members = [*((m.model_config, m.training_config) for m in snapshot.earlier)]
    members.append((snapshot.model_config, snapshot.training_config))
    values = dict[str, list[str]]()
    for model, training in members:
        for name, value in {**model.to_json(), **training.to_json()}.items():
            if value is not None and acts(snapshot.model_config.model, name):
                values.setdefault(name, []).append(one_line(str(value)))
    for name, of_members in values.items():
        same = len(set(of_members)) == 1
        yield name, of_members[0] if same else ", then ".join(of_members)
    facts = snapshot.run
    yield "text", one_line(PurePath(facts.corpus.label).name)  # without the path, since a page is passed on
    yield "text's SHA-256", facts.corpus.sha256
    yield "trained with", ", ".join(f"{name} {version}" for name, version in facts.versions.items())


def _curves(snapshot: Snapshot, events: Sequence[Any]) -> list[Json]:
    """Return curves of bits per character against steps; None splits a curve where another member's training begins."""
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    alone = [(e.member, e.step, e.compared_nats_per_char / log(2)) for e in evaluated if not e.mixed]
    mixed = [(e.step, e.nats_per_char / log(2)) for e in evaluated if e.mixed][-1:]
    beside = [
        (e.step, e.baseline_nats_per_char / log(2)) for e in evaluated if e.baseline_nats_per_char is not None
    ]
    curves: list[Json] = [
        {"name": "held-out", "points": _parted(alone)},
        {"name": "training", "points": _training(snapshot, events)},
        {"name": "n-gram model", "points": _finite(beside)},
        {"name": f"mixture of {joined(evaluated[-1].mixed)}" if mixed else "", "points": _finite(mixed)},
    ]
    return [curve for curve in curves if curve["points"]]


def _training(snapshot: Snapshot, events: Sequence[Any]) -> list[tuple[int, float | None]]:
    """Return the loss of batches, averaged over several steps; empty if a symbol is not a character."""
    if snapshot.vocabulary.units != "chars":
        return []
    steps = [(e.member, e.step, e.loss / log(2)) for e in events if isinstance(e, Stepped)]
    every = ceil(len(steps) / MOST_POINTS) or 1
    thinned = list[tuple[int, int, float]]()
    for member, of_member in groupby(steps, key=lambda point: point[0]):
        points = list(of_member)
        for i in range(0, len(points), every):
            bucket = points[i : i + every]
            thinned.append((member, bucket[len(bucket) // 2][1], fmean(bits for _, _, bits in bucket)))
    return _parted(thinned)


def _parted(points: Iterable[tuple[int, int, float]]) -> list[tuple[int, float | None]]:
    """Join points (member, step, bits) into one curve, split between members."""
    found = list[tuple[int, float | None]]()
    for _, of_member in groupby(points, key=lambda point: point[0]):
        some = _finite((step, bits) for _, step, bits in of_member)
        found += [(some[0][0], None)] if found and some else []
        found += some
    return found


def _finite(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the finite points, which JSON can hold."""
    return [(step, bits) for step, bits in points if isfinite(bits)]


def _notes(snapshot: Snapshot) -> Iterator[str]:
    mixture = snapshot.mixture
    if mixture is not None and mixture.recent is not None:
        yield (
            "When a text is measured, what stood earlier in it corrects the predictions (recent n-grams); when text is "
            "written, it does not, or the model would repeat itself."
        )
    if snapshot.vocabulary.end is not None:
        yield "A text is read as the beginning of a document, since the model was trained on documents."
