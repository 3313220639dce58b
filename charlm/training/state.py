"""The state of a run besides its weights, as stored in state.json, and the overview of a run for lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from charlm.checkpoint.run_folder import RunFacts, RunFolder
from charlm.checkpoint.safe_io import EARLIER, read_verified
from charlm.config import NGRAM, NO_PRIOR, PRIOR
from charlm.errors import CharlmError
from charlm.model.mixture import Mixture
from charlm.strict_json import parse_json, read_as, to_json
from charlm.terminal import one_line
from charlm.training.describe import joined
from charlm.training.events import Calibrated, HeldOutLoss, MemberFigure, OldTextLoss
from charlm.training.guards import MARGIN, Divergence, EarlyStopping
from charlm.training.plan import Forecast, Plan

STATES = {"done": "finished", "early": "stopped early", None: "unfinished"}
NOT_SHOWN = ("before_sums", "seconds")


@dataclass(frozen=True, kw_only=True)
class ParentLoss(OldTextLoss):
    """The loss on the parent's held-out text, with what is needed to score the same blocks again."""

    before_error: float | None
    before_sums: list[float]  # nats of each block, by the parent
    begun: float  # nats per character of this run at step 0
    seconds: float  # that the first scoring took


@dataclass
class RunState:
    """Counters, guards and last evaluations; all plain numbers, equal after a resume."""

    divergence: Divergence
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    step: int = 0
    updates: int = 0  # steps whose batch was not skipped
    batch_offset: int = 0  # batches skipped by rollbacks: step s trains on batch s + batch_offset
    rate_factor: float = 1.0
    returns: int = 0  # rollbacks
    skipped: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of training, over all sessions
    last_evaluation: HeldOutLoss | None = None
    finished: Literal["done", "early"] | None = None
    parent_loss: ParentLoss | None = None
    mixture: Mixture | None = None  # of the fully trained transformers
    calibrated: Calibrated | None = None  # how it was fitted
    member_start: int = 0  # the step at which the training of the current member began
    chars_before: int = 0  # symbols that earlier members have read
    threads: int = 0  # used for the last step, on each rank
    ranks: int = 1
    shard: bool = False  # whether the weights were divided over them
    kernels: str = ""  # as by `kernels_on`, for the last step; "" in runs that did not record it

    @property
    def last_step(self) -> int:
        """The last step taken, counted from 0, or the first one of the member in training."""
        return max(self.member_start, self.step - 1)

    def begin_member(self, unigram_nats: float, chars_before: int) -> None:
        """Start the training of the next member; `chars_before`: symbols read so far."""
        self.begin_again(unigram_nats, chars_before)
        self.batch_offset, self.rate_factor = 0, 1.0

    def begin_again(self, unigram_nats: float, chars_before: int) -> None:
        """Restart the training of the current member; `chars_before`: symbols read so far.

        If it has diverged, the learning rate stays reduced, and the same text is skipped.
        """
        self.divergence, self.early_stopping = Divergence(unigram_nats=unigram_nats), EarlyStopping()
        self.updates = 0
        self.chars_before = chars_before
        self.member_start = self.step
        self.last_evaluation = None


def read_state(data: dict[str, Any]) -> RunState:
    """Rebuild the state from `to_json`. Raises CheckpointError."""
    return read_as(RunState, data, "state.json")


def overview(run: RunFolder) -> dict[str, Any]:
    """Return name, text, step, last evaluation and state of a run, for lists and `--json`; `problem`: why it is damaged."""
    row: dict[str, Any] = {"schema": 1, "run": run.name, "path": str(run.path), "problem": None}
    try:
        step = run.resolve("latest")
        data = read_verified(run.folder(step), ("run.json", "state.json", "config.json"))
        facts, state, config = (
            parse_json(data[name], name) for name in ("run.json", "state.json", "config.json")
        )
        return row | _overview(step, read_as(RunFacts, facts, "run.json"), read_state(state), config)
    except (CharlmError, OSError) as error:
        return row | {"problem": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return row | {"problem": f"config.json is damaged: {one_line(repr(error))}"}


def member_facts(configs: Sequence[Mapping[str, Any]], state: RunState) -> list[dict[str, Any]]:
    """Return kind, settings and figures of each member of a run, the n-gram model last.

    `configs`: `model` and `training` of each transformer. A member that is not calibrated yet has no figures.
    """
    figures = () if state.calibrated is None else state.calibrated.members
    calibrated = 0 if state.mixture is None else state.mixture.n_transformers
    found: list[dict[str, Any]] = []
    for i, config in enumerate(configs):
        model, training = dict(config["model"]), dict(config["training"])
        kind = NGRAM if model.get("model") == NGRAM else PRIOR if model.get("prior") else NO_PRIOR
        figure = figures[i] if i < min(calibrated, len(figures)) else None
        found.append({"number": i + 1, "kind": kind, "model": model, "training": training} | _figures(figure))
    if state.mixture is not None and state.mixture.ngram:
        number = len(configs) + 1
        found.append(
            {"number": number, "kind": NGRAM, "model": None, "training": None}
            | _figures(figures[-1] if figures else None)
        )
    return found


def evaluated_last(members: Sequence[Mapping[str, Any]], state: RunState) -> str | None:
    """Return what the last evaluation scored, the mixture or the member in training; None for a run of a single model."""
    last, calibrated = state.last_evaluation, state.calibrated
    if last is None or len(members) < 2:
        return None
    if calibrated is not None and len(calibrated.members) > 1 and calibrated.step == last.step:
        return f"mixture of {joined([member.kind for member in calibrated.members])}"
    trained = [member["kind"] for member in members if member["model"] is not None]
    return f"{trained[-1]} alone"


def _figures(figure: MemberFigure | None) -> dict[str, float | None]:
    return {
        "nats_per_symbol": None if figure is None else figure.nats_per_symbol,
        "weight": None if figure is None else figure.weight,
    }


def calibration_facts(state: RunState) -> dict[str, Any] | None:
    """Return the last calibration without its members; None before the first."""
    if state.calibrated is None:
        return None
    return {name: value for name, value in vars(state.calibrated).items() if name != "members"}


def _overview(step: int, facts: RunFacts, state: RunState, config: dict[str, Any]) -> dict[str, Any]:
    loss, parent = state.last_evaluation, facts.parent
    members = member_facts([*config.get(EARLIER, []), config], state)
    corpus = to_json(facts.corpus)
    return {
        "text": facts.corpus.label,
        "created": facts.created,
        "step": step,
        "nats_per_char": loss and loss.nats_per_char,
        "standard_error": loss and loss.standard_error,
        "evaluated_chars": loss and loss.chars,
        "evaluated_model": evaluated_last(members, state),
        "baseline_nats_per_char": loss and loss.baseline_nats_per_char,
        "difference_from_baseline": loss and loss.difference,
        "difference_error": loss and loss.difference_error,
        "best_step": state.early_stopping.best_step,
        "seconds": state.seconds,
        "finished": state.finished,
        "returns": state.returns,
        "state": STATES[state.finished],
        "corpus": {name: corpus[name] for name in corpus if name not in ("earlier", "inherited_split")},
        "versions": facts.versions,
        "command": facts.command,
        "text_settings": facts.text.to_json(),
        "model": dict(config["model"]),
        "training": dict(config["training"]),
        "members": members,
        "calibration": calibration_facts(state),
        "from": parent and {name: getattr(parent, name) for name in ("run", "step", "weights_sha256")},
        "teacher": to_json(facts.teacher),
        "old_text": state.parent_loss
        and {
            f.name: getattr(state.parent_loss, f.name) for f in fields(ParentLoss) if f.name not in NOT_SHOWN
        },
    }


def forecast(plan: Plan, state: RunState) -> Forecast | None:
    """Return the forecast of a longer run, for a run that had a time budget and used it.

    None if it is hardly better than the frequencies of single symbols: the law holds for text that can be predicted.
    """
    figure = state.last_evaluation
    if state.finished != "done" or figure is None:
        return None
    return plan.forecast if figure.nats_per_char < state.divergence.unigram_nats - MARGIN else None


def saved_state(run: RunFolder, step: int) -> RunState:
    """The state in the checkpoint of a step, verified. Raises CheckpointError."""
    data = read_verified(run.folder(step), ("state.json",))
    return read_state(parse_json(data["state.json"], "state.json"))


def read_facts(run: RunFolder, step: int) -> RunFacts:
    """Read run.json, verified against the checkpoint of a step. Raises CheckpointError."""
    data = read_verified(run.folder(step), ("run.json",))
    return read_as(RunFacts, parse_json(data["run.json"], "run.json"), "run.json")
