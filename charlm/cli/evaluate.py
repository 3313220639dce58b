"""`charlm eval`: score texts in bits per character, next to baselines."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES, count, finish, load_run, print_json, table, warn
from charlm.cli.mistakes import check_files
from charlm.cli.options import (
    ROOT,
    AsJson,
    Checkpoints,
    Encoding,
    Field,
    MovedText,
    MovedValFile,
    Part,
    Run,
    Stride,
    Threads,
    Which,
    check_part,
    with_settings,
)
from charlm.config import DeviceConfig
from charlm.errors import UsageError
from charlm.training.request import build
from charlm.training.request_text import moved_text, note_files

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.evaluation.calibration import Reliability
    from charlm.evaluation.report import Evaluation
    from charlm.run import Run as TrainedRun

EXAMPLES = """Examples:
  charlm eval                               the newest run on its held-out text
  charlm eval chapter.txt --run novels      any text
  charlm eval posts.jsonl --field body      a field of its records
  charlm eval --part test                   the test set, for the final score
  charlm eval --stride 64 --json            as JSON; a stride of the block size scores blocks without overlap
  charlm eval --online                      also score adaptively, to compare with xz and ppmd"""

OF_KIND = {"model": "this model", "ngram": "its n-gram prior"}
OF_MIXTURE = {"model": "this mixture", "ngram": "its n-gram model"}
LEARNS = "adapts to every 64 {word}s after scoring them; compare it only with xz and ppmd"

NOT_THERE = {
    "chars": "not in the vocabulary",
    "bytes": "with bytes that training never saw",
}

Learning = Annotated[
    bool,
    typer.Option(
        "--online",
        help="Also score adaptively: model and n-grams learn from every 64 symbols after scoring them.",
    ),
]


@with_settings({"Options": DeviceConfig})
def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="Texts to score. [default: the run's held-out part]"),
    ] = None,
    run: Run = None,
    checkpoint: Which = None,
    stride: Stride = None,
    part: Part = None,
    online: Learning = False,
    encoding: Encoding = None,
    field: Field = None,
    threads: Threads = None,
    text: MovedText = None,
    val_file: MovedValFile = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Measure how well a model predicts a text.

    charlm scores every character once, predicting it from the characters before it; context does not cross
    files.
    """
    check_files("eval", files or [], checkpoints)
    check_part(part, files, encoding=encoding, field=field)
    device = build(DeviceConfig, settings).device
    from charlm.threads import use_threads

    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint, device)
    if online:
        _check_learns(model.snapshot)
    from charlm.data.reader import read_texts
    from charlm.run import evaluate_run

    texts = None
    if files:
        source = read_texts(files, model.text_config, encoding=encoding, field=field)
        note_files(source.notes, MESSAGES)
        texts = source.files
    moved = moved_text(text, val_file)
    evaluation = evaluate_run(model, texts, part or "held-out", stride, moved=moved, messages=MESSAGES)
    if online:
        evaluation = _with_online_figures(evaluation, model)
    print_json({"run": model.name} | evaluation.to_json()) if as_json else _show(model.name, evaluation)


def _check_learns(snapshot: "Snapshot") -> None:
    """Raise UsageError for a run on which --online has no effect."""
    if snapshot.vocabulary.end is not None:
        raise UsageError("--online has no effect on a run with --documents; leave it out")
    if snapshot.model_config.is_ngram:
        raise UsageError("--online needs a transformer, and this run is an n-gram model; leave it out")


def _with_online_figures(evaluation: "Evaluation", model: "TrainedRun") -> "Evaluation":
    """Add the figures of models that adapt while they read, showing progress."""
    from charlm.evaluation.adaptive import DynamicModel, scoring_online

    texts = [(text.name, text.text) for text in evaluation.figure.texts]
    work = scoring_online(DynamicModel(model.snapshot, evaluation.rule, device=model.device), texts)
    return replace(evaluation, online=finish(work, "learning as it reads"))


def _calibration(found: "Reliability") -> str:
    return (
        f"{found.ece:.4f}  (says {100 * found.confidence:.1f} % sure, right in {100 * found.accuracy:.1f} %; "
        f"by chance about {found.ece_by_chance:.4f})"
    )


def _show(name: str, evaluation: "Evaluation") -> None:
    from charlm.evaluation.bootstrap import too_few
    from charlm.training.describe import joined

    figure = evaluation.figure
    interval = evaluation.interval_bits
    few = too_few(figure.chars)
    around = (
        f"  (95 %: {interval[0]:.4f} to {interval[1]:.4f})" if interval else "  (too short for an interval)"
    )
    around = f"  ({few[2:]})" if few else around
    rows = [
        ("bits per character", f"{figure.bits_per_char:.4f}{around}"),
        ("nats per character", f"{figure.nats_per_char:.4f}"),
        ("bits per byte of UTF-8", f"{figure.bits_per_byte:.4f}"),
        ("perplexity per character", f"{figure.perplexity:.3f}"),
        ("calibration", _calibration(evaluation.calibration)),
        (
            "characters",
            f"{count(figure.chars)}, all scored, {count(figure.unknown_chars)} {NOT_THERE[evaluation.units]}",
        ),
        *(
            [("documents", f"{count(figure.ends)} document ends also scored; the bits include them")]
            * bool(figure.ends)
        ),
        ("context", evaluation.context),
        ("text", ", ".join(scored.name for scored in figure.texts)),
    ]
    of_run = [("run", f"{name}, {evaluation.which}, step {evaluation.step}")]
    of_run += [("model", f"{evaluation.kind} of {joined(evaluation.members)}")] * bool(evaluation.members)
    table([*of_run, *rows])
    print()
    _show_beside_baselines(evaluation)
    for text in evaluation.warnings:
        warn(text)


def _show_beside_baselines(evaluation: "Evaluation") -> None:
    from charlm.data.tokenizer import UNIT_NOUNS
    from charlm.evaluation.bootstrap import too_few

    figure, few, word = evaluation.figure, too_few(evaluation.figure.chars), UNIT_NOUNS[evaluation.units]
    names = OF_MIXTURE if evaluation.members else OF_KIND
    lines = [(names["model"], f"{figure.bits_per_char:.4f}", few[2:])]
    if evaluation.ngram is not None:
        said = f"the {names['ngram'].removeprefix('its ')} alone"
        lines.append((names["ngram"], f"{evaluation.ngram.bits_per_char:.4f}", said))
    for title, baseline in evaluation.baselines.items():
        if isinstance(baseline, str):
            lines.append((title, "-", baseline))
        else:
            said = "adapts to this text" if baseline.adaptive else ""
            if baseline.order is not None:
                said = f"{baseline.order} {word}s of context, {baseline.source}"
            lines.append((title, f"{baseline.bits_per_char:.4f}", said + (few if said else few[2:])))
    table(lines, header=("model or baseline", "bits/char", ""), numbers=(1,))
    if evaluation.online:
        print()
        lines = [
            (names[kind], f"{learned.bits_per_char:.4f}", LEARNS.format(word=word))
            for kind, learned in evaluation.online.items()
        ]
        table(lines[::-1], header=("online", "bits/char", ""), numbers=(1,))
