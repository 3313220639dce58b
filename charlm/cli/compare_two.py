"""`charlm compare RUN-A RUN-B`: two trained runs on the same text, and where each is the better one."""

from collections.abc import Sequence
from pathlib import Path

from charlm.checkpoint.snapshot import Snapshot
from charlm.cli.console import count, foreign, note_files, print_json, table, text_of, warn
from charlm.cli.loading import chosen, corpus_of_run, working
from charlm.config import TextConfig
from charlm.data.reader import read_texts
from charlm.data.tokenizer import without_ends
from charlm.errors import TextError, UsageError
from charlm.evaluation.baselines import Baseline
from charlm.evaluation.bootstrap import too_few
from charlm.evaluation.report import Evaluation, evaluate
from charlm.experiments.pairwise import Passage, SideBySide, side_by_side
from charlm.inference.context import ContextRule
from charlm.settings import settings_of
from charlm.terminal import one_line
from charlm.training.run_text import Moved

READING = ("field", "encoding", "separator", "normalize", "newlines", "lowercase", "collapse_spaces")
"""Settings that shape the characters of a text that is read."""


def compare_two(
    root: Path,
    names: tuple[str, str],
    on: str | None,
    encoding: str | None,
    field: str | None,
    moved: Moved | None = None,
    *,
    as_json: bool,
) -> None:
    """Score both on the same text and show how they differ. Raises CheckpointError and UsageError."""
    for option, value in (("--encoding", encoding), ("--field", field)):
        if value is not None and on is None:
            raise UsageError(f"{option} cannot act without --on FILE")
    runs = [chosen(root, name, None) for name in names]
    corpora = [corpus_of_run(snapshot, needed=on is None, moved=moved) for snapshot, _, _ in runs]
    if on is None:
        first, second = corpora
        assert first is not None and second is not None
        held_out = [first.held_out_text(), second.held_out_text()]
        if without_ends(held_out[0]) != without_ends(held_out[1]):
            raise UsageError(
                f"{names[0]} and {names[1]} have not held out the same text; name one for both with --on FILE"
            )
        named = f"held-out part of {text_of(runs[0][0].run)}"
        read = [[(named, text)] for text in held_out]
    else:
        sources = [
            read_texts([on], TextConfig.from_json(snapshot.run["text"]), encoding=encoding, field=field)
            for snapshot, _, _ in runs
        ]
        note_files(dict.fromkeys(note for source in sources for note in source.notes))
        read = [list(source.files) for source in sources]
        texts_alone = [[without_ends(text) for _, text in texts] for texts in read]
        if texts_alone[0] != texts_alone[1]:
            raise UsageError(_read_differently(names, [snapshot for snapshot, _, _ in runs], on))
    if not any(text for _, text in read[0]):
        raise TextError("there is no text to compare them on; name one with --on FILE")
    pair = zip(runs, read, corpora, strict=True)
    with working("scoring") as watch:
        evaluations = [
            evaluate(snapshot, which, texts, ContextRule.of_model(snapshot.model_config), corpus, watch)
            for (snapshot, _, which), texts, corpus in pair
        ]
        watch("comparing", 0, None)
        found = side_by_side(names, (evaluations[0], evaluations[1]))
    if evaluations[0].figure.ends != evaluations[1].figure.ends:
        warn("the bits of one figure include those of the ends of documents, and those of the other do not")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _read_differently(names: tuple[str, str], snapshots: Sequence[Snapshot], on: str) -> str:
    """Why two runs cannot be compared on a file: by which settings each reads it."""
    settings = [setting for setting in settings_of(TextConfig) if setting.name in READING]
    configs = [TextConfig.from_json(snapshot.run["text"]) for snapshot in snapshots]
    ways = []
    for name, config in zip(names, configs, strict=True):
        differing = [s for s in settings if len({getattr(c, s.name) for c in configs}) > 1]
        said = ", ".join(f"{s.name} {getattr(config, s.name) or 'none'}" for s in differing)
        ways.append(f"{name} with {said}")
    return (
        f"{one_line(on)} is another text to each run, so their figures cannot be compared: {' and '.join(ways)}. "
        "Compare runs that read text alike"
    )


def _show(found: SideBySide) -> None:
    rows = [_line(name, e) for name, e in zip(found.names, found.evaluations, strict=True)]
    for name, stick in found.evaluations[0].baselines.items():
        if isinstance(stick, Baseline):
            rows.append(
                (name, f"{stick.bits_per_char:.4f}", "", "adapts to this text" if stick.adaptive else "")
            )
    table(rows, header=("run", "bits/char", "95 %", "context"), numbers=(1,))
    print()
    print(_difference(found))
    for name, other, passages in zip(found.names, reversed(found.names), found.better, strict=True):
        print(
            f"\nwhere {name} is better than {other}, in bits:" if passages else f"\n{name} is nowhere better"
        )
        for passage in passages:
            print(_passage(passage))
    for text in dict.fromkeys(w for e in found.evaluations for w in e.warnings):
        warn(text)


def _line(name: str, evaluation: Evaluation) -> tuple[str, ...]:
    interval = evaluation.interval_bits
    around = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
    around = around or too_few(evaluation.figure.chars)[2:]
    return name, f"{evaluation.figure.bits_per_char:.4f}", around, evaluation.context


def _difference(found: SideBySide) -> str:
    a, b = found.names
    better, worse = (a, b) if found.difference <= 0 else (b, a)
    gap = abs(found.difference)
    chars = f"on {count(found.evaluations[0].figure.chars)} characters"
    if found.interval is None:
        return f"{better} is better than {worse} by {gap:.4f} bits/char {chars}: too few for an interval"
    low, high = sorted(map(abs, found.interval)) if found.interval[0] * found.interval[1] > 0 else (0.0, 0.0)
    about = (
        f"95 %: {low:.4f} to {high:.4f}, by the text alone; other seeds would move it too"
        if high
        else "which is less than the text alone lets it vary"
    )
    return f"{better} is better than {worse} by {gap:.4f} bits/char {chars} ({about})"


def _passage(passage: Passage) -> str:
    shown = foreign(passage.text.replace("\n", "⏎"))
    return f"  {passage.bits[0]:6.1f} and {passage.bits[1]:6.1f}  at {count(passage.offset):>9}  {shown}"
