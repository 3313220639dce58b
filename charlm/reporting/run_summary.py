"""The facts of a run as rows of a table, for the end of training, `charlm info` and the report."""

from collections.abc import Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.config import FEWEST_HELD_OUT
from charlm.data.tokenizer import Vocabulary
from charlm.evaluation.bootstrap import plus_minus, too_few
from charlm.reporting.commands import repeat_command, why_not_repeatable
from charlm.reporting.run_page import training_note
from charlm.strict_json import to_json
from charlm.suggestions import written_time
from charlm.terminal import one_line
from charlm.training.describe import joined, member_in_training, several, text_name
from charlm.training.events import Calibrated, Finished, Remembered
from charlm.training.plan import Plan
from charlm.training.session import Session
from charlm.training.state import calibration_facts, evaluated_last, forecast, member_facts

Row = tuple[str, str]
WORTH_BITS = 0.01
"""An expected gain below this, in bits per character, is not worth more time."""


def summary_rows(run: RunFolder, session: Session, last: Finished) -> list[Row]:
    """Return what a run learned, and its last evaluation."""
    steps = f"{last.step:,} of {last.total_steps:,}"
    if not session.model_config.is_ngram and session.plan.fell_short:
        steps += (
            f"; {planned_at_first(session.plan)}, but the machine was slower than measured, perhaps "
            "because it was busy"
        )
    rows = [("run", run.name), ("steps", steps), *session.learned, ("text", text_name(session.run))]
    unit, members = session.corpus.vocabulary.unit_noun, member_facts(session.configs, session.state)
    rows += member_rows(members, calibration_facts(session.state), unit)
    rows += (
        figure_rows(session) + forecast_rows(session) + forgetting_rows(to_json(session.state.parent_loss))
    )
    if last.reason == "early":
        corpus = session.corpus
        nats_per_symbol = fmean(session.state.early_stopping.best_blocks)
        best = nats_per_symbol * len(corpus.held_out) / corpus.held_out_chars / log(2)
        rows.append(("best checkpoint", f"{best:.4f} bits/char, step {last.best_step}"))
    return rows


def planned_at_first(plan: Plan) -> str:
    """Say how many steps the first plan had."""
    return f"the first plan had {plan.first_total_steps:,} steps"


def repeat_row(run: RunFolder, session: Session) -> list[Row]:
    """Return the command that reproduces the run; no row if none does."""
    if why_not_repeatable(session.state.finished, session.state.returns, session.plan) is not None:
        return []
    command = repeat_command(run, session.run, session.model_config, session.training_config, session.plan)
    return [("reproduce this run", command)]


def figure_rows(session: Session) -> list[Row]:
    """Return the last evaluation, its baseline, what it was measured on, and the training loss."""
    figure, corpus = session.state.last_evaluation, session.corpus
    if figure is None:
        return []
    nats, error = figure.nats_per_char, figure.standard_error
    model = evaluated_last(member_facts(session.configs, session.state), session.state)
    of = f", {model}" if model else ""
    rows = [("held-out", f"{plus_minus(nats, error)} bits/char ({nats:.4f} nats), step {figure.step}{of}")]
    if figure.difference is not None:
        change = plus_minus(figure.difference, figure.difference_error, sign="+")
        baseline = (figure.baseline_nats_per_char or 0.0) / log(2)
        rows.append(("n-gram baseline", f"{baseline:.4f} bits/char on the same text; difference {change}"))
    part = "from its beginning" if session.model_config.carries_state else "spread evenly"
    measured = (
        f"{figure.chars:,} of {corpus.held_out_chars:,} characters, {several(figure.blocks, 'block')}, "
        + ("the whole held-out part" if figure.whole else part)
        + "; too few for a reliable score" * (figure.chars < FEWEST_HELD_OUT)
        + "; the error of a single block is unknown" * (error is None)
    )
    rows.append(("measured on", measured))
    if session.state.divergence.recent:
        # from nats a symbol to bits a character
        bits = len(corpus.train) / max(1, corpus.train_chars) / log(2)
        loss = fmean(session.state.divergence.recent) * bits
        member = member_in_training(session.plan, session.number + 1)
        of = (
            f"{member}; {training_note(session.model_config)}"
            if member
            else training_note(session.model_config)
        )
        rows.append(("training loss", f"{loss:.4f} bits/char; {of}"))
    return rows


def forecast_rows(session: Session) -> list[Row]:
    """Say what more time is expected to gain."""
    expected, figure = forecast(session.plan, session.state), session.state.last_evaluation
    if expected is None or figure is None:
        return []
    lower, time = expected.bits_lower(figure.nats_per_char / log(2)), written_time(round(expected.seconds))
    if lower < WORTH_BITS:
        return [
            ("more time", f"not worth it: {time} is expected to end less than {WORTH_BITS} bits/char lower")
        ]
    return [("more time", f"{time} is expected to end about {lower:.2f} bits/char lower")]


def member_rows(
    members: Sequence[Mapping[str, Any]], calibration: Mapping[str, Any] | None, unit: str
) -> list[Row]:
    """Return the size, score and weight of each of several members, and their calibration; `unit`: what a symbol is."""
    rows = []
    for member in members:
        facts = [_size(member["model"])] if member["model"] is not None else []
        if member["nats_per_symbol"] is not None:
            alone = f"{_bits(member['nats_per_symbol'], unit)} alone on the reserved text"
            facts.append(f"{alone}, mean weight {member['weight']:.2f}")
        elif calibration is not None:
            facts.append("not calibrated yet")
        rows.append((f"member {member['number']}, {member['kind']}", "; ".join(facts)))
    if calibration is None:
        return rows if len(rows) > 1 else []
    learned = Calibrated(**{**calibration, "members": ()})
    where = f"{several(learned.symbols, unit)} that no model trains on"
    figure = _bits(learned.nats_pooled, unit)
    recent = [("recent n-grams", f"{said} on the same text")] if (said := _recent(learned, unit)) else []
    recent += [("dataset shift", said)] if (said := _shift(learned)) else []
    if learned.temperature is None:
        return [*rows, ("mixture", f"{figure} on {where}, where its weights were learned"), *recent]
    said = f"{learned.temperature:.3f}, learned on {where}: {figure} there"
    if len(members) == 1 and members[0]["nats_per_symbol"] is not None:
        without = _bits(members[0]["nats_per_symbol"], unit)
        return [("temperature", f"{said}, {without} without it"), *recent]
    return [*rows, ("temperature", said), *recent]


def _recent(learned: Calibrated, unit: str) -> str:
    """Say what recent n-grams gain; empty without them."""
    if learned.recent_strength is None or learned.nats_without_recent is None:
        return ""
    figures = (
        f"{_bits(learned.nats_per_symbol, unit)}, {_bits(learned.nats_without_recent, unit)} without them"
    )
    return (
        f"of the last {several(learned.recent_chars, unit)}, strength {learned.recent_strength:g}: {figures},"
    )


def _shift(learned: Calibrated) -> str:
    """Say how the temperature is changed for text that is further away; empty if it is not."""
    if learned.shift == 1:
        return ""
    how = "flatter" if learned.shift > 1 else "sharper"
    return (
        f"predictions {how} by a temperature of {learned.shift:.3f}, by n-grams on text that is further away"
    )


def _size(model: Mapping[str, Any]) -> str:
    """Describe the size of a transformer, from its settings."""
    n_layer, n_embd, block_size = map(model.get, ("n_layer", "n_embd", "block_size"))
    return f"{n_layer} layer{'s' * (n_layer != 1)} of width {n_embd}, blocks of {block_size}"


def _bits(nats: float, unit: str) -> str:
    """Format nats per symbol in bits."""
    return f"{nats / log(2):.4f} bits/{'char' if unit == 'character' else unit}"


def calibration_sentence(event: Calibrated, vocabulary: Vocabulary) -> str:
    """Say what a calibration learned, and each member's score on the text it was learned on."""
    unit = vocabulary.unit_noun
    where = f"learned on {several(event.symbols, unit)} that no model trains on"
    figure, said = _bits(event.nats_pooled, unit), _recent(event, unit)
    recent = f"; with recent n-grams {said.rstrip(',')}" if said else ""
    recent += f"; {shift}" if (shift := _shift(event)) else ""
    if event.temperature is not None:
        alone = _bits(event.members[0].nats_per_symbol, unit)
        return f"step {event.step}: temperature {event.temperature:.3f}, {where}: {figure} there, {alone} without it{recent}"
    members = [f"{m.kind} {_bits(m.nats_per_symbol, unit)} (weight {m.weight:.2f})" for m in event.members]
    return f"step {event.step}: mixture {where}: {figure} there; alone {joined(members)}{recent}"


def forgetting_rows(old_text: Mapping[str, Any] | None) -> list[Row]:
    """Say how well a fine-tuned run still predicts the old held-out text, from the run's state."""
    if old_text is None:
        return []
    now, begun = old_text["nats_per_char"] / log(2), old_text["begun"] / log(2)
    before = plus_minus(old_text["before"], old_text["before_error"])
    change = _change(old_text["forgotten"], old_text["standard_error"])
    after = (
        f"{now:.4f} after step {old_text['step']:,}: {change}" if old_text["step"] else "not scored again yet"
    )
    return [
        (
            f"held-out text of {one_line(old_text['run'])}",
            f"{before} bits/char before, {begun:.4f} when this run began, {after}; on "
            f"{old_text['chars']:,} of {old_text['of_chars']:,} characters{too_few(old_text['chars'])}",
        )
    ]


def forgetting_sentence(event: Remembered) -> str:
    """Say how well it does at one event."""
    before, after = event.before / log(2), event.nats_per_char / log(2)
    when = (
        f" now, {_change(event.forgotten, event.standard_error)}"
        if event.final
        else " at the start of this run"
    )
    return (
        f"held-out text of {one_line(event.run)}: {before:.4f} bits/char before, {after:.4f}{when}; on "
        f"{event.chars:,} of {event.of_chars:,} characters{too_few(event.chars)}"
    )


def _change(nats: float, error: float | None) -> str:
    """Format a difference in bits: forgotten if the score is now worse, else gained."""
    return f"{plus_minus(abs(nats), error)} bits/char {'forgotten' if nats >= 0 else 'gained'}"
