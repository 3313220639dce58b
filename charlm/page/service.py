"""Answers the requests of the served page from the runs: open, next, generate, score and inside.

Every request is a JSON object that names its run; positions count code points; bits are those of the whole predictor.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm import strict_json
from charlm.config import NGRAM
from charlm.data.tokenizer import Ids, first_surrogate
from charlm.errors import UsageError
from charlm.evaluation.surprisal import entropy_of
from charlm.inference.generate import Piece
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.inference.recent import without_recent
from charlm.inference.sampling_config import SamplingConfig
from charlm.page.inside import Inside, look_inside
from charlm.suggestions import name_meant
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.run import Run

T = TypeVar("T")
Json = dict[str, Any]
Answer = Json | Iterator[list[Json]]
"""One object, or groups of objects, each group as soon as it is ready."""
ALTERNATIVES = 5
"""Number of characters that `inside` lists of a distribution."""
SCORED_AT_ONCE = 512
"""Most characters in a piece of scores."""


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Asks for a description of a run."""

    run: str | None = None  # here and below: by default the first one


@dataclass(frozen=True, kw_only=True)
class NextRequest:
    """Asks for the `n` most likely characters after a text."""

    text: str
    n: int = 10
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Asks for `length` characters that continue a text, or those up to the first stop text."""

    text: str
    length: int = 500
    stop: tuple[str, ...] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Asks for bits and entropy of each character of a text."""

    text: str
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class InsideRequest:
    """Asks how a member predicts the character `at` this position from those before it."""

    text: str
    at: int
    member: int = 0
    run: str | None = None


class LoadedOnce:
    """A run that is loaded when it is first asked for, and kept."""

    def __init__(self, load: Callable[[], "Run"]) -> None:
        self._load, self._loading = load, threading.Lock()
        self._run: Run | None = None

    def get(self) -> "Run":
        """Return the run, ready for several threads. Raises what loading raises; the next call tries again."""
        with self._loading:
            if self._run is None:
                run = self._load()
                predictor = run.predictor
                predictor.step(
                    predictor.start(1), torch.zeros(1, 1, dtype=torch.int64)
                )  # prepares its weights
                self._run = run
            return self._run


class Service:
    """Answers requests from several threads at once."""

    def __init__(
        self, runs: Mapping[str, LoadedOnce], about: Callable[["Run"], Json], threads: int | None = None
    ) -> None:
        """`about`: what the page shows about a run. `threads`: torch threads for each request, by default as many as now."""
        self._runs, self._about = runs, about
        self._asked, self._threads = threads, torch.get_num_threads()
        self._operations: dict[str, Callable[[Json], Answer]] = {
            "open": self._open,
            "next": self._next,
            "generate": self._generate,
            "score": self._score,
            "inside": self._inside,
        }

    @property
    def operations(self) -> Sequence[str]:
        """The names that `answer` takes."""
        return tuple(self._operations)

    def answer(self, operation: str, body: Json) -> Answer:
        """Answer a request. Raises UsageError for one that cannot be answered, some of it from the iterator."""
        return self._operations[operation](body)

    def _open(self, body: Json) -> Answer:
        name = _parsed(OpenRequest, body).run or next(iter(self._runs))
        run = self._run(name)
        predictor, vocabulary = without_recent(run.predictor), run.tokenizer
        return {
            "name": name,  # the name to ask with, since a folder's name need not be valid text
            "kind": predictor.kind,
            "units": vocabulary.units,
            "blockSize": predictor.rule.block_size,
            "nSymbols": vocabulary.n_symbols,
            "members": [_described(member) for member in _members(predictor)],
            "runs": [{"name": name} for name in self._runs],
            "about": self._about(run),
        }

    def _next(self, body: Json) -> Answer:
        request = _parsed(NextRequest, body)
        if request.n < 1:
            raise UsageError("n is 0; allowed: at least 1")
        run = self._run(request.run)
        logp = self._after(without_recent(run.predictor), _prompt_ids(run, request.text))
        nats = entropy_of([logp[None]], run.tokenizer.n_symbols)
        return {"entropy": float(nats[0]) / log(2), "next": _likeliest(run, logp, request.n)}

    def _generate(self, body: Json) -> Answer:
        request = _parsed(GenerateRequest, body)
        if request.length < 1:
            raise UsageError("length is 0; allowed: at least 1")
        if "" in request.stop:
            raise UsageError("stop is empty; give the text to stop before")
        run = self._run(request.run)
        self._use_threads(run.predictor.single_threaded)
        events = run.generate(
            [run.read_prompt(request.text)],
            request.sampling,
            length=request.length,
            stops=request.stop,
            surprisal=True,
        )
        return (
            [{"text": char, "bits": nats / log(2)} for char, nats in zip(event.text, event.nats, strict=True)]
            for event in events
            if isinstance(event, Piece)
        )

    def _score(self, body: Json) -> Answer:
        request = _parsed(ScoreRequest, body)
        run = self._run(request.run)
        self._use_threads()

        def pieces() -> Iterator[list[Json]]:
            start, bits, entropy = 0, list[float](), list[float]()
            for unit in run.surprisal(request.text, by="char"):
                bits.append(unit.bits)
                entropy.append(unit.entropy_bits)
                if len(bits) == SCORED_AT_ONCE:
                    yield [{"start": start, "bits": bits, "entropy": entropy}]
                    start, bits, entropy = start + len(bits), [], []
            if bits:
                yield [{"start": start, "bits": bits, "entropy": entropy}]

        return pieces()

    def _inside(self, body: Json) -> Answer:
        request = _parsed(InsideRequest, body)
        run = self._run(request.run)
        predictor = without_recent(run.predictor)
        members, chars, vocabulary = _members(predictor), len(request.text), run.tokenizer
        if request.at > chars:
            raise UsageError(f"at is {request.at}; allowed: 0 to {chars}, the characters of the text")
        if request.member >= len(members):
            raise UsageError(
                f"member is {request.member}; allowed: 0 to {len(members) - 1}, the members of {one_line(run.name)}"
            )
        member, before = members[request.member], request.text[: request.at]
        ids = vocabulary.encode(before).astype(np.int64)
        said = self._after(member, ids)
        answer = {
            "start": 0,
            "layers": [],
            "lens": [],
            "prior": None,
            "member": _likeliest(run, said),
            "final": _likeliest(run, self._after(predictor, ids)),
        }
        if not isinstance(member, TransformerPredictor):
            return answer
        if not len(ids):  # only the prior predicts the beginning of a text
            return answer | {"prior": None if member.prior is None else _likeliest(run, said)}
        self._use_threads(member.single_threaded)
        found = look_inside(member, ids)
        return answer | {
            **_by_character(found, vocabulary.ids_per_char(before)),
            "lens": [_likeliest(run, logp) for logp in found.lens],
            "prior": None if found.log_prior is None else _likeliest(run, found.log_prior),
        }

    def _after(self, predictor: Predictor, ids: Ids) -> Tensor:
        """Return the log-probabilities (V,) of what follows ids (N,)."""
        self._use_threads(predictor.single_threaded)
        logp: Tensor = predictor.step(predictor.start(1), torch.from_numpy(ids)[None])[1][0]
        return logp

    def _run(self, name: str | None) -> "Run":
        name = next(iter(self._runs)) if name is None else name
        if name not in self._runs:
            meant = name_meant(name, list(self._runs))
            hint = f"; did you mean {one_line(meant)}?" if meant else ""
            served = ", ".join(map(one_line, self._runs))
            raise UsageError(f"there is no run named {one_line(name)} here{hint or f'; there are: {served}'}")
        return self._runs[name].get()

    def _use_threads(self, single: bool = False) -> None:
        """Make torch use as many threads in this Python thread as the corresponding command would."""
        torch.set_num_threads(1 if single and self._asked is None else self._threads)


def _parsed(kind: type[T], body: Json) -> T:
    """Parse a request from JSON. Raises UsageError if it is invalid, also for half of a surrogate pair."""
    try:
        request = strict_json.from_json(kind, body)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for value in vars(request).values():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and first_surrogate(text) is not None:
                raise UsageError("the text is not valid text: it contains half of a surrogate pair")
    return request


def _members(predictor: Predictor) -> Sequence[Predictor]:
    return getattr(predictor, "members", (predictor,))


def _described(member: Predictor) -> Json:
    """Describe a member for the page."""
    if not isinstance(member, TransformerPredictor):
        return {
            "kind": NGRAM, "nLayer": 0, "nHead": 0, "nEmbd": 0, "blockSize": member.rule.block_size,
            "mixers": [], "position": "none",
        }  # fmt: skip
    config = member.model.config
    return {
        "kind": config.kind,
        "nLayer": config.n_layer,
        "nHead": config.n_head or 1,
        "nEmbd": config.n_embd,
        "blockSize": config.block_size,
        "mixers": list(config.mixers),
        "position": config.position,
    }


def _prompt_ids(run: "Run", text: str) -> Ids:
    """Encode a prompt, which begins a document if the model tells documents apart."""
    vocabulary = run.tokenizer
    first = [] if vocabulary.end is None else [vocabulary.end]
    return np.concatenate((first, vocabulary.encode(run.read_prompt(text)))).astype(np.int64)


def _likeliest(run: "Run", logp: Tensor, n: int = ALTERNATIVES) -> list[Json]:
    """Return the most likely characters of log-probabilities (V,), named as in `Run.next`."""
    found = run.by_character(logp)
    best = sorted(found, key=found.__getitem__, reverse=True)[:n]
    return [{"text": text, "p": found[text]} for text in best]


def _by_character(found: Inside, lengths: NDArray[np.int64]) -> Json:
    """Convert attention to ids into attention to characters, given the number of ids of each character (chars,).

    A character of several ids has the sum of their weights.
    """
    char_of_id = np.repeat(np.arange(len(lengths)), lengths)[found.start :]  # (T,)
    start = int(char_of_id[0])
    layers = []
    for weights in found.attention:
        summed = np.zeros((len(weights), len(lengths) - start))
        for head, row in zip(summed, weights.numpy(), strict=True):
            np.add.at(head, char_of_id[-len(row) :] - start, row)
        layers.append({"heads": summed.tolist()})
    return {"start": start, "layers": layers}
