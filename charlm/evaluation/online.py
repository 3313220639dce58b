"""Scores of a text by what learns from it: each block is scored first, and then learned."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from charlm.checkpoint.snapshot import Snapshot
from charlm.context import ContextRule
from charlm.counts.online import OnlineCounts
from charlm.evaluation.dynamic import DynamicModel, log_of_ids
from charlm.evaluation.score import Figure, Scored, scored
from charlm.predictor import Scores, TransformerPredictor
from charlm.text.vocabulary import Ids

COUNTS, MODEL = "counts", "model"
BLOCK = 64
"""How many characters are scored before they are learned; a text's first block has one more, its very first."""
BLOCKS_A_REPORT = 8


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    symbols: int
    of: int


@dataclass(frozen=True)
class Learners:
    """The counts that a model begins from, where it does, and the model, with weights of its own."""

    model: DynamicModel
    counts: OnlineCounts | None

    @classmethod
    def of(cls, snapshot: Snapshot, rule: ContextRule) -> "Learners":
        """Those of a checkpoint, which stays as it is."""
        own = {name: weight.clone() for name, weight in snapshot.weights.items()}
        predictor = TransformerPredictor.of(replace(snapshot, weights=own))
        counts = None if predictor.counts is None else OnlineCounts(predictor.counts)
        return cls(DynamicModel(predictor, rule), counts)


def scoring_online(
    learners: Learners, texts: Sequence[tuple[str, str]]
) -> Generator[Progress, None, dict[str, Figure]]:
    """Score named texts, each block before it is learned; the figures of COUNTS, if any, and of MODEL.

    The counts add the block's n-grams to theirs, and the model makes a step down its gradient. What
    was learned of one text is kept for the next; context is not.
    """
    vocabulary = learners.model.vocabulary
    done_texts: dict[str, list[Scored]] = {MODEL: []} if learners.counts is None else {COUNTS: [], MODEL: []}
    encoded = [vocabulary.encode(text) for _, text in texts]
    done, of = 0, sum(map(len, encoded))
    for (name, text), ids in zip(texts, encoded, strict=True):
        found: dict[str, list[Scores]] = {kind: [np.empty(0)] for kind in done_texts}
        for i, scores in enumerate(_blocks(learners, ids)):
            for kind, logp in scores.items():
                found[kind].append(logp)
            done += len(scores[MODEL])
            if i % BLOCKS_A_REPORT == 0:
                yield Progress(done, of)
        for kind, logps in found.items():
            done_texts[kind].append(scored(vocabulary, name, text, np.concatenate(logps)))
    return {kind: Figure(of_texts) for kind, of_texts in done_texts.items()}


def _blocks(learners: Learners, ids: Ids) -> Iterator[dict[str, Scores]]:
    """What counts (if there are any) and model make of each block of a text; then both learn it."""
    model, counts = learners.model, learners.counts
    model.begin(ids)
    if counts is None:
        for part in _parts(len(ids)):
            yield {MODEL: model.score(part, None)}
            model.learn()
        return
    contexts = counts.contexts(ids)
    for part in _parts(len(ids)):
        log_rows = torch.from_numpy(np.log(counts.rows(contexts[part])))
        read = torch.from_numpy(ids[part].astype(np.int64))
        of_counts = log_of_ids(log_rows, read, model.vocabulary).numpy()
        yield {COUNTS: of_counts, MODEL: model.score(part, log_rows)}
        model.learn()
        counts.learn(contexts[part], ids[part])


def _parts(n: int) -> Iterator[slice]:
    """The blocks of a text of n symbols."""
    start = 0
    while start < n:
        end = min(n, start + BLOCK + (start == 0))
        yield slice(start, end)
        start = end
