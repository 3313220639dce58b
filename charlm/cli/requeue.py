"""`charlm train --run X --resume-if-exists`: the same command again and again, as a queue of jobs gives it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.console import note_files, say, text_of, warn
from charlm.cli.loading import load_text
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.errors import CheckpointError, UsageError
from charlm.settings import settings_of
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.checkpoint.snapshot import Snapshot

KINDS = (ModelConfig, TrainingConfig, TextConfig)
NOT_COMPARED = ("threads",)
"""Settings that may differ from one job to the next."""


def asked_for(
    settings: Mapping[str, Any],
    budget: float | None,
    steps: int | None,
    origin: str | None,
    checkpoint: str | None,
) -> dict[str, Any]:
    """What a command asks of a run, as run.json keeps it: every setting that is not the default."""
    defaults = {setting.name: setting.default for kind in KINDS for setting in settings_of(kind)}
    asked = {name: value for name, value in settings.items() if value != defaults[name]}
    asked |= {"time": budget, "steps": steps, "from": origin, "checkpoint": checkpoint}
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return {name: value for name, value in plain.items() if value is not None}


def find_begun(root: Path, name: str | None) -> "RunFolder | None":
    """The run of that name, if it has a checkpoint to resume; None if it is to be begun. Raises UsageError."""
    from charlm.checkpoint.run_folder import RunFolder, check_name

    if name is None:
        raise UsageError(
            "--resume-if-exists needs --run NAME: without it every call would train a run of its own"
        )
    check_name(name)
    run = RunFolder(root / name)
    if (run.path / "comparison.json").exists():
        raise UsageError(f"{run.name} is a comparison; charlm resume {run.name} goes on with it")
    return run if (run.path / "run.json").is_file() and run.steps() else None


def check_same(run: "RunFolder", names: Sequence[str], asked: Mapping[str, Any]) -> "Snapshot":
    """The run's newest checkpoint. Raises UsageError and CheckpointError where the command asks for another run."""
    from charlm.checkpoint.snapshot import read_newest

    run.lock()  # refused while another process trains it
    try:
        snapshot = read_newest(run, warn)
    finally:
        run.unlock()
    different = _different(snapshot, asked)
    if different:
        raise UsageError(
            f"the run {run.name} was begun with other settings: {'; '.join(different)}. Give the same command, "
            "or another name with --run"
        )
    _check_text(snapshot, run, names)
    return snapshot


def _different(snapshot: "Snapshot", asked: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, with what it was and what it is now."""
    before = snapshot.run.get("asked")
    if not isinstance(before, Mapping):  # of an older version: compared with what was chosen in the end
        configs = (snapshot.model_config.to_json(), snapshot.training_config.to_json(), snapshot.run["text"])
        chosen = {name: value for config in configs for name, value in config.items()}
        before = {name: chosen.get(name, asked[name]) for name in asked}
    names = [name for name in {**before, **asked} if name not in NOT_COMPARED]
    return [
        f"{one_line(name)} was {_said(before.get(name))} and is {_said(asked.get(name))}"
        for name in names
        if before.get(name) != asked.get(name)
    ]


def _said(value: Any) -> str:
    return "not given" if value is None else one_line(str(value))


def _check_text(snapshot: "Snapshot", run: "RunFolder", names: Sequence[str]) -> None:
    """CheckpointError unless the files that are named hold the text that the run was trained on."""
    from charlm.training.run_text import earlier_of

    text = TextConfig.from_json(snapshot.run["text"])
    loaded = load_text(names, text, earlier=earlier_of(snapshot.run))
    note_files(loaded.notes)
    if loaded.corpus.key != str(snapshot.run["corpus"]["key"]):
        raise CheckpointError(
            f"the run {run.name} was trained on another text: {text_of(snapshot.run)}, and this is "
            f"{one_line(loaded.label)}, SHA-256 {loaded.corpus.sha256[:16]}. Put that text back, or give "
            "another name with --run"
        )


def carry_on(
    run: "RunFolder",
    snapshot: "Snapshot",
    started: float,
    budget: float | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """Train the run to the end of its plan; say so where it is there already."""
    from charlm.cli.resume import close, count_on, lacks_report, train_on
    from charlm.reporting.run_page import report_seconds
    from charlm.training.deadline import Pace
    from charlm.training.ngram_trainer import CountsSession
    from charlm.training.start import go_on

    if snapshot.state.get("finished") is not None and not lacks_report(run):
        say(f"the run {run.name} is finished, after {snapshot.step} steps; there is nothing left to do")
        if as_json:
            from charlm.cli.follow import print_result

            print_result(run, "done" if snapshot.state["finished"] == "done" else "early", 0)
        return
    session = go_on(run, warn, threads)
    if isinstance(session, CountsSession):
        count_on(run, session, as_json=as_json)
    elif session.state.finished is not None:
        close(run, session, as_json=as_json)
    else:
        pace = None
        if session.state.step == 0 and budget is not None:  # no step depends on the first guess yet
            afterwards = report_seconds(session.corpus, budget, session.plan.total_steps)
            pace = Pace(budget=budget, deadline=started + budget, afterwards=afterwards)
        train_on(run, session, pace, budget if pace else None, as_json=as_json)
