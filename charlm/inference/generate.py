"""Text generation as an iterator of pieces: many samples side by side, each character as soon as it is certain.

The noise of symbol t of sample i of a prompt depends on (its seed, i, t) only, so a sample does not depend on what else
is sampled at the same time. If the model knows document ends, the next document of a sample starts with nothing before it.

Shapes: P prompts, n samples of each, G samples of a group, T positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import log, log1p
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.data.tokenizer import Decoder, Vocabulary
from charlm.inference.accelerator import Batches
from charlm.inference.constrained import ENDED, Constraint, SymbolMatcher
from charlm.inference.predictor import ESCAPE, Predictor
from charlm.inference.recent import without_recent
from charlm.inference.sampling import StopFilter, sample_next
from charlm.inference.sampling_config import SamplingConfig
from charlm.inference.text_state import IdRows
from charlm.native.decoder import Floats
from charlm.rng import uniform

SampleNumbers = NDArray[np.int64]  # which of the samples of all prompts
ROWS_AT_ONCE, ROWS_AT_ONCE_ON_GPU = 64, 512
"""Samples of several prompts that are generated together: more would be no faster, and take more memory."""
N_SEEDS = 1 << 63
NOISE_AT_ONCE = 256
MOST_WAITING = 64
SECONDS_BETWEEN = 0.04
"""Text is passed on once MOST_WAITING ids are waiting or SECONDS_BETWEEN have passed, whichever is sooner."""


@dataclass(frozen=True)
class Piece:
    """More text of a sample."""

    sample: int
    text: str
    prompt: int = 0  # the number of the prompt that it continues
    nats: tuple[float, ...] = ()  # the surprisal of each character, if requested


@dataclass(frozen=True)
class Ended:
    """A sample is complete."""

    sample: int
    reason: str  # "length", "stop", "document" or "match"
    chars: int
    prompt: int = 0


def generate(
    predictor: Predictor,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    n: int = 1,
    length: int,
    stops: Sequence[str] = (),
    one_document: bool = False,
    document_separator: str = "",
    regex: str | None = None,
    surprisal: bool = False,
) -> Iterator[Piece | Ended]:
    """Continue each prompt in `n` samples of `length` characters each, or up to the first stop text.

    The stop text is not part of the sample. If the model knows document ends, the prompt starts a document. With
    `one_document` a sample stops at the document's end; otherwise `document_separator` stands before the next one. With
    `regex` each sample matches that pattern as a whole and ends where its match does. Prompt number j is continued with
    the seed of `seed_of`. `surprisal`: pieces come with that of each character, under the model at temperature 1 and
    without a pattern. Raises ValueError, at the call, for a top_k above the vocabulary size, and for `one_document`
    if the model knows no document ends; UsageError for a pattern that cannot be met.
    """
    vocabulary = predictor.vocabulary
    _check_effect(vocabulary, config, one_document=one_document)
    assert regex is None or not (stops or one_document), "the pattern alone says where a sample ends"
    config = config.seeded()
    matcher = None if regex is None else SymbolMatcher(regex, vocabulary)
    end = (ENDED, "match") if matcher else (vocabulary.end, "document") if one_document else (None, "")
    start = [] if vocabulary.end is None else [vocabulary.end]
    if matcher is not None:
        matcher.check_length(length)

    def pieces(numbers: Sequence[int]) -> Iterator[Piece | Ended]:
        ids = [np.concatenate((start, vocabulary.encode(prompts[j]))).astype(np.int64) for j in numbers]
        samples = [
            _Sample(i, Decoder(vocabulary, document_separator), stops, length, *end, prompt=j)
            for j in numbers
            for i in range(n)
        ]
        constraint = None if matcher is None else Constraint(matcher, len(samples), length)
        drawn = draw(
            predictor,
            ids,
            config,
            n,
            one_document=one_document,
            constraint=constraint,
            first=numbers[0],
            surprisal=surprisal,
        )
        begun = next(drawn)  # takes most of the memory: a cache has room for a whole block
        return _pieces(samples, chain([begun], drawn))

    batches = Batches("prompts", f"{n:,} samples at once", "write fewer at once, or give --device cpu")
    device = predictor.device
    at_once = max(1, (ROWS_AT_ONCE if device.type == "cpu" else ROWS_AT_ONCE_ON_GPU) // n)
    return batches.of(range(len(prompts)), at_once, pieces, device, predictor.say)


def _check_effect(vocabulary: Vocabulary, config: SamplingConfig, *, one_document: bool) -> None:
    """Raise ValueError for settings that cannot act on a model with this vocabulary."""
    if one_document and vocabulary.end is None:
        raise ValueError(
            "one_document has no effect: this model was trained without documents; train one with --documents"
        )
    if config.top_k is not None and config.top_k > vocabulary.n_symbols:
        raise ValueError(
            f"top_k is {config.top_k}; allowed: 1 to {vocabulary.n_symbols}, the symbols of this model"
        )


def _pieces(samples: list["_Sample"], drawn: Iterator["Drawn"]) -> Iterator[Piece | Ended]:
    """Yield the text of all samples from their next ids, until the last one ends."""
    waiting: list[Drawn] = []
    enough, due = 1, 0.0  # the first character is shown at once
    for step in drawn:
        waiting.append(step)
        if len(waiting) < enough and perf_counter() < due:
            continue
        rows = np.stack([ids for ids, _ in waiting], axis=1).tolist()
        nats = [costs for _, costs in waiting if costs is not None]
        costs_of = np.stack(nats, axis=1).tolist() if nats else [None] * len(samples)
        for sample, row, costs in zip(samples, rows, costs_of, strict=True):
            if sample.reason is None:
                yield from sample.write(row, costs)
        left = [sample.left for sample in samples if sample.reason is None]
        if not left:
            return
        waiting, due = [], perf_counter() + SECONDS_BETWEEN
        enough = min(MOST_WAITING, max(left))


def seed_of(seed: int, prompt: int) -> int:
    """Return the seed of prompt number `prompt`: given to that prompt alone, it generates the same text."""
    return (seed + prompt) % N_SEEDS


class Drawn(NamedTuple):
    """The next id of each of G samples."""

    ids: IdRows  # (G,)
    nats: NDArray[np.float64] | None = None  # (G,): their surprisal; None if not requested


def draw(
    predictor: Predictor,
    prompts: Sequence[IdRows],
    config: SamplingConfig,
    n: int,
    *,
    one_document: bool = False,
    constraint: Constraint | None = None,
    first: int = 0,
    surprisal: bool = False,
) -> Iterator[Drawn]:
    """Draw n endless continuations of each of P prompts (T,), and yield the next id of each, (P n,), again and again.

    Recent n-grams are not used: on its own text they would make the model repeat itself, at low temperatures endlessly.
    The seed is random unless `config` has one. With `one_document`, a sample yields
    only the end symbol once its document has ended; otherwise its next document begins, in a group of its own.
    With a `constraint`, a sample yields only ENDED once it has ended. `first`: the number of the first prompt.
    """
    predictor = without_recent(predictor)
    seed = config.seeded().seed
    assert seed is not None
    end = predictor.vocabulary.end if constraint is None else ENDED
    groups = _groups(predictor, prompts, n)
    seeds = [seed_of(seed, first + j) for j in range(len(prompts))]
    for noise in _noise(seeds, n):
        ids = np.full(len(prompts) * n, ENDED if end is None else end)
        nats = np.zeros(len(ids)) if surprisal else None
        for group in groups:
            ids[group.samples] = group.choose(noise[group.samples], config, constraint)
            if nats is not None:
                nats[group.samples] = group.surprisal(ids[group.samples])
        yield Drawn(ids, nats)
        ended = [] if end is None else [group.remove_ended(ids, end) for group in groups]
        groups = [group for group in groups if len(group.samples)]
        for group in groups:
            group.read(ids[group.samples])
        if not one_document and constraint is None:
            groups += [_Group(predictor, np.array([[end]]), np.array([i])) for gone in ended for i in gone]


def _groups(predictor: Predictor, prompts: Sequence[IdRows], n: int) -> list["_Group"]:
    """Group the prompts by length: a batch has one length, since padding would be read."""
    by_length: dict[int, list[int]] = {}
    for j, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(j)
    return [
        _Group(
            predictor,
            np.stack([prompts[j] for j in alike]),
            np.concatenate([j * n + np.arange(n) for j in alike]),
        )
        for alike in by_length.values()
    ]


class _Group:
    """Samples whose documents began together, so that one batch steps through all of them."""

    def __init__(self, predictor: Predictor, prompts: IdRows, samples: SampleNumbers) -> None:
        """`prompts` (P, T): each is shared by n / P consecutive samples."""
        self.samples = samples  # (G,): numbers of the samples that are still in this document
        self._predictor, n = predictor, len(samples)
        self._rows = np.arange(n)  # (G,): their rows in the batch
        self._last = np.zeros(n, dtype=np.int64)  # (n,): what each row reads; an old id where the sample left
        P, T = prompts.shape
        rows = (
            torch.from_numpy(prompts)[:, None].expand(P, n // P, T).reshape(n, T)
        )  # a single prompt is not copied
        self._state, logp = predictor.step(predictor.start(n), rows)
        self._logits = logp.cpu().numpy()

    def choose(
        self, noise: NDArray[np.float64], config: SamplingConfig, constraint: Constraint | None
    ) -> IdRows:
        """Choose the next id of each sample, (G,). Bytes that training never saw are never chosen."""
        logits = self._next_logits()
        if constraint is None:
            return sample_next(logits, noise, config)
        ids = sample_next(constraint.mask(self.samples, logits), noise, config)
        return constraint.read(self.samples, ids)

    def surprisal(self, ids: IdRows) -> NDArray[np.float64]:
        """Return the surprisal of the chosen ids, (G,), in nats, as the predictor scores them; 0 for ENDED."""
        vocabulary, nats = self._predictor.vocabulary, np.zeros(len(ids))
        escape = log1p(-ESCAPE) if vocabulary.n_ids > vocabulary.n_symbols else 0.0
        for i, row in enumerate(self._next_logits()):
            if ids[i] != ENDED:
                lower = row - row[ids[i]]
                most = float(lower.max())
                nats[i] = most + log(np.exp(lower - most).sum()) - escape
        return nats

    def _next_logits(self) -> Floats:
        """Return logits (G, symbols) of the next id of each sample."""
        logits = self._logits if len(self._rows) == len(self._last) else self._logits[self._rows]
        return logits[:, : self._predictor.vocabulary.n_symbols]

    def remove_ended(self, ids: IdRows, end: int) -> SampleNumbers:
        """Remove the samples whose document has ended, and return their numbers."""
        stays = ids[self.samples] != end
        ended: SampleNumbers = self.samples[~stays]
        self.samples, self._rows = self.samples[stays], self._rows[stays]
        return ended

    def read(self, ids: IdRows) -> None:
        """Read the chosen id of each sample, (G,)."""
        self._last[self._rows] = ids
        self._state, self._logits = self._predictor.next_logits(self._state, self._last)


class _Sample:
    """One sample: takes ids, and yields text as soon as no stop text can remove it."""

    def __init__(
        self,
        number: int,
        decoder: Decoder,
        stops: Sequence[str],
        length: int,
        end: int | None,
        why: str = "document",
        *,
        prompt: int = 0,
    ) -> None:
        """`end`: the id that ends it, for the reason `why`."""
        self.left = length  # characters still to write
        self.reason: str | None = None  # why it ended, once it has
        self._number, self._prompt, self._decoder = number, prompt, decoder
        self._end, self._why = end, why
        self._filter = StopFilter(stops)
        self._chars = 0
        self._costs = _CharacterCosts(decoder)

    def write(self, ids: list[int], nats: Sequence[float] | None = None) -> Iterator[Piece | Ended]:
        """Take more ids, and their surprisal if requested; ids after the end of the sample are dropped."""
        ended = self._end is not None and self._end in ids
        if self._end is not None and ended:
            ids = ids[: ids.index(self._end)]
        text = self._decoder.feed(ids) if nats is None else self._costs.feed(ids, nats)
        text = (text + self._decoder.flush() if ended else text)[: self.left]
        self.left -= len(text)
        if self.left == 0:  # checked before `ended`: timing decides whether one call sees both
            self.reason = "length"
        elif ended:
            self.reason = self._why
        text = self._filter.feed(text)
        if self._filter.found:
            self.reason = "stop"
        elif self.reason is not None:
            text += self._filter.flush()
        self._chars += len(text)
        if text:
            yield Piece(self._number, text, self._prompt, () if nats is None else self._costs.take(len(text)))
        if self.reason is not None:
            yield Ended(self._number, self.reason, self._chars, self._prompt)


class _CharacterCosts:
    """Feeds a decoder, and keeps the surprisal of each character until its text is passed on."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._begun = 0.0  # the surprisal of an incomplete character so far
        self._nats: list[float] = []

    def feed(self, ids: Sequence[int], nats: Sequence[float]) -> str:
        """Return the text that these ids complete; `nats` is their surprisal."""
        text = ""
        for i, cost in zip(ids, nats, strict=False):
            found, self._begun = self._decoder.feed([i]), self._begun + cost
            if found:
                self._nats += [self._begun, *[0.0] * (len(found) - 1)]
                self._begun = 0.0
            text += found
        return text

    def take(self, n: int) -> tuple[float, ...]:
        """Return the surprisal of the next n characters that are passed on; 0 for characters without a symbol."""
        taken, self._nats = self._nats[:n], self._nats[n:]
        return (*taken, *[0.0] * (n - len(taken)))


def _noise(seeds: Sequence[int], n: int) -> Iterator[NDArray[np.float64]]:
    """Yield, symbol after symbol, a uniform number in [0, 1) for each of n samples of each of P seeds: (P n,)."""
    of_rows, samples = np.repeat(np.array(seeds), n), np.tile(np.arange(n), len(seeds))
    for first in count(0, NOISE_AT_ONCE):
        yield from uniform(of_rows, samples, np.arange(first, first + NOISE_AT_ONCE)[:, None])


def sample_text(
    predictor: Predictor, prompt: str, config: SamplingConfig, length: int, document_separator: str = ""
) -> str:
    """Return one sample as a string."""
    pieces = generate(predictor, [prompt], config, length=length, document_separator=document_separator)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece))


def default_prompt(predictor: Predictor) -> str:
    """Return the prompt if none is given: the start of a document, or a newline if training saw one."""
    vocabulary = predictor.vocabulary
    return "\n" if vocabulary.end is None and vocabulary.has_own_id("\n") else ""
