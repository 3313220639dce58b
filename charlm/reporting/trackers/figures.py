"""Turn training events into named figures, in nats and bits per character, and the settings into one flat table."""

from collections.abc import Iterator
from math import isfinite, log
from time import time
from typing import Any

from charlm.config import acts
from charlm.reporting.trackers.messages import BackTo, Message, Numbers, Setting, Settings, Text
from charlm.training.events import (
    Calibrated,
    Counted,
    Evaluated,
    Event,
    Finished,
    HeldOutLoss,
    Planned,
    Remembered,
    Skipped,
    Stepped,
    WentBack,
)
from charlm.training.session import Session, TransformerSession
from charlm.training.state import member_facts


class Figures:
    """Turns each event of a session into messages for trackers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        corpus = session.corpus
        self._symbols_per_char = len(corpus.train) / corpus.train_chars
        self._chars = session.chars_read
        self._skipped = self._returns = 0
        self._known, self._member, self._planned = self.settings(), 0, False
        self._final: Evaluated | None = None

    def settings(self) -> dict[str, Setting]:
        """Return the current settings by name, with the member's number if there are several, and the facts of the text."""
        session, found = self._session, dict[str, Any]()
        members = member_facts(session.configs, session.state)
        for member in members:
            of = f"member {member['number']}/" if len(session.configs) > 1 else ""
            for part in ("model", "training"):
                found |= {
                    of + name: value for name, value in (member[part] or {}).items() if self._acts(name)
                }
        facts = session.run
        found |= {f"text/{name}": value for name, value in vars(facts.text).items()}
        found |= {"text/label": facts.corpus.label, "text/sha256": facts.corpus.sha256}
        found |= {
            "text/train_chars": facts.corpus.train_chars,
            "text/held_out_chars": facts.corpus.held_out_chars,
        }
        found |= {f"version/{name}": version for name, version in facts.versions.items()}
        found |= {"command": facts.command}
        return {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in found.items()
            if value is not None
        }

    def _acts(self, setting: str) -> bool:
        return acts(self._session.model_config.model, setting)

    def messages(self, event: Event, sample: str) -> Iterator[Message]:
        """Yield the messages for an event; `sample` is what the model wrote at an evaluation."""
        if isinstance(event, WentBack):
            self._returns += 1
            yield BackTo(step=event.to_step)
        values = {name: value for name, value in self._values(event) if isfinite(value)}
        if values:
            yield Numbers(step=event.step, time=time(), values=values)
        if isinstance(event, Evaluated) and sample:
            name = "final/sample" if event.final else "sample"
            yield Text(step=event.step, time=time(), name=name, text=sample)
        yield from self._changed_settings(event)

    def _changed_settings(self, event: Event) -> Iterator[Settings]:
        """Yield the settings when they change: another member is trained, or one with another size."""
        self._planned |= isinstance(event, Planned)
        other = isinstance(event, Stepped) and (self._planned or event.member != self._member)
        if isinstance(event, Stepped):
            self._member, self._planned = event.member, False
        if (other or isinstance(event, Finished)) and (settings := self.settings()) != self._known:
            self._known = settings
            yield Settings(settings=settings)

    def _values(self, event: Event) -> Iterator[tuple[str, float]]:
        if isinstance(event, Stepped):
            yield from self._of_step(event)
        elif isinstance(event, Evaluated):
            yield from held_out_figures("held_out", event)
            if event.final:
                self._final = event
        elif isinstance(event, Calibrated):
            yield from _of_calibration(event)
        elif isinstance(event, Counted):
            yield "train/counted_symbols", event.chars
        elif isinstance(event, Remembered):
            yield from _in_both("parent_text", event.nats_per_char)
            yield "parent_text/forgotten_bits_per_char", event.forgotten / log(2)
        elif isinstance(event, Planned):
            yield "train/planned_steps", event.total_steps
        elif isinstance(event, Skipped):
            self._skipped += 1
            yield "train/skipped_batches", self._skipped
        elif isinstance(event, WentBack):
            yield "train/rollbacks", self._returns
        elif isinstance(event, Finished) and self._final is not None:
            yield from held_out_figures("final", self._final)

    def _of_step(self, event: Stepped) -> Iterator[tuple[str, float]]:
        session = self._session
        assert isinstance(session, TransformerSession)
        yield from _in_both("train", event.loss * self._symbols_per_char)
        config, rate = session.training_config, event.learning_rate
        yield "train/learning_rate", rate
        assert config.learning_rate is not None
        if config.muon_lr is not None:
            yield "train/muon_learning_rate", rate * config.muon_lr / config.learning_rate
        if (session.model_config.ngram_embeddings or 1) > 1:
            yield (
                "train/ngram_embedding_learning_rate",
                rate * config.ngram_embedding_lr / config.learning_rate,
            )
        yield "train/grad_norm", event.grad_norm
        read, self._chars = event.chars - self._chars, event.chars
        if event.seconds > 0 and read > 0:
            yield "train/chars_per_second", read / self._symbols_per_char / event.seconds
        if len(session.plan.members) > 1:
            yield "train/member", event.member


def held_out_figures(group: str, event: HeldOutLoss) -> Iterator[tuple[str, float]]:
    """Yield the loss on held-out text with its standard error, and the baseline's on the same windows."""
    yield from _in_both(group, event.nats_per_char)
    if event.standard_error is not None:
        yield f"{group}/standard_error_nats_per_char", event.standard_error
        yield f"{group}/standard_error_bits_per_char", event.standard_error / log(2)
    if event.baseline_nats_per_char is not None:
        yield f"{group}/baseline_bits_per_char", event.baseline_nats_per_char / log(2)
    if event.difference is not None:
        yield f"{group}/difference_bits_per_char", event.difference / log(2)
    if event.difference_error is not None:
        yield f"{group}/difference_error_bits_per_char", event.difference_error / log(2)


def _in_both(group: str, nats: float) -> Iterator[tuple[str, float]]:
    yield f"{group}/nats_per_char", nats
    yield f"{group}/bits_per_char", nats / log(2)


def _of_calibration(event: Calibrated) -> Iterator[tuple[str, float]]:
    if event.temperature is not None:
        yield "calibration/temperature", event.temperature
    yield "calibration/shift", event.shift
    if len(event.members) > 1:
        seen: list[str] = []
        for member in event.members:
            seen.append(member.kind)
            of = seen.count(member.kind)
            yield f"calibration/weight_{member.kind}{f'_{of}' * (of > 1)}", member.weight
