"""Runs of every kind whose weights all act, and what Python says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.checkpoint.snapshot import TABLE, Member, Snapshot, expected_weights
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.evaluation.surprisal import Surprisal
from charlm.evaluation.surprisal_config import SurprisalConfig
from charlm.inference.predictor import Predictor
from charlm.inference.recent import without_recent
from charlm.model.mixture import Mixture
from charlm.model.recent_ngrams import RecentNgrams
from charlm.ngram.build import build
from charlm.run import _symbols as names_of
from tests.cli.models import prose

TRAINED = prose(6000)
SCORED = prose(980, seed=9)[:980] + 'Zürich, "¿café?" 東京 😀 \u202e<b>&amp;</b>\n'
"""A thousand characters, some of which no training text has."""
ORDER = 4
STORED = 0.4
"""The share of the rows of n-gram embeddings that are not zero."""


@dataclass
class Toy:
    """A kind of run: the settings of its transformers (none: an n-gram model), of its text, and how they are mixed."""

    members: Sequence[dict[str, Any]] = ({},)
    text: dict[str, Any] = field(default_factory=dict)
    mixture: Mixture | None = None
    extended: bool = False  # its vocabulary was extended for fine-tuning: the ids are in another order


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """Two layers of width 16 that read 16 symbols, but for these settings."""
    attends = ModelConfig(mixer=settings.get("mixer", "attention")).attends
    shape = {"n_layer": 2, "n_embd": 16, "block_size": 16, "dropout": 0.0, "n_head": 2 if attends else None}
    config = ModelConfig(**{**shape, **settings})
    return ModelConfig(**{**config.to_json(), "prior_order": ORDER if config.prior else None}).completed()


def random_weights(config: ModelConfig, n_symbols: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights of which none is zero, but for most rows of n-gram embeddings."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: 0.4 * torch.randn(weight.shape, generator=generator)
        for name, weight in expected_weights(config, n_symbols).items()
    }
    if TABLE in weights:
        stored = torch.rand(len(weights[TABLE]), 1, generator=generator) < STORED
        stored[-1] = False
        weights[TABLE] *= stored
    return weights


def snapshot_of(toy: Toy) -> Snapshot:
    """A run of that kind."""
    text = TextConfig(**toy.text)
    corpus = prepare(TRAINED, text)
    vocabulary = corpus.vocabulary
    if toy.extended:
        vocabulary = Vocabulary.build(TRAINED.replace("e", "").replace("a", "")).extended(vocabulary)
        assert vocabulary.ids
    configs = [model_config(settings) for settings in toy.members]
    counted = build(
        vocabulary.encode(TRAINED) if toy.extended else corpus.train,
        vocabulary.n_symbols,
        ORDER,
        memory=1 << 30,
        end=vocabulary.end,
    ).model
    weights = [random_weights(config, vocabulary.n_symbols, seed) for seed, config in enumerate(configs)]
    training = TrainingConfig().completed()
    earlier = [
        Member(model_config=config, training_config=training, weights=own)
        for config, own in zip(configs, weights, strict=True)
    ]
    last = (
        earlier.pop()
        if earlier
        else Member(
            model_config=ModelConfig(model="ngram", prior_order=ORDER).completed(),
            training_config=training,
            weights={},
        )
    )
    return Snapshot(
        step=1,
        earlier=tuple(earlier),
        mixture=toy.mixture,
        **vars(last),
        vocabulary=vocabulary,
        state={},
        run=_facts(text),
        ngram=counted.to_bytes(),
    )


def _facts(text: TextConfig) -> RunFacts:
    corpus = CorpusFacts(
        label="a toy",
        sources=(),
        key="0",
        sha256="0",
        chars=len(TRAINED),
        train_chars=len(TRAINED),
        held_out_chars=0,
    )
    return RunFacts(name="toy <run>", command="charlm train", created="today", corpus=corpus, text=text)


def mixture(n_transformers: int, *, ngram: bool, recent: bool, seed: int = 5) -> Mixture:
    """A mixture whose weights all act; recent n-grams of the last 200 symbols."""
    M = n_transformers + ngram
    rng = np.random.default_rng(seed)
    return Mixture(
        n_transformers=n_transformers,
        ngram=ngram,
        bias=tuple(rng.uniform(0.2, 0.6, M).tolist()) if M > 1 else (1 / 1.3,),
        weights=tuple(map(tuple, rng.normal(0, 0.1, (M, 2 * M if M > 1 else 0)).tolist())),
        recent=RecentNgrams(chars=200, strength=6.0, shortest=2, temperature=1.2) if recent else None,
    )


def surprisal(predictor: Predictor, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each character, and the entropy before it, as `charlm surprisal --by char` has them."""
    scorer = Surprisal(predictor, SurprisalConfig(by="char"))
    units = list(scorer.of_file("a text", [text]))
    assert "".join(unit.text or unit.before + unit.after for unit in units) == text or len(units) == len(text)
    return np.array([unit.bits for unit in units]), np.array([unit.entropy_bits for unit in units])


def probabilities(predictor: Predictor, text: str) -> dict[str, float]:
    """What comes after a text, by its name, as `Run.next` has it; without recent n-grams."""
    predictor, vocabulary = without_recent(predictor), predictor.vocabulary
    first = [] if vocabulary.end is None else [vocabulary.end]
    ids = np.concatenate((first, vocabulary.encode(text))).astype(np.int64)
    _, logp = predictor.step(predictor.start(1), torch.from_numpy(ids)[None])
    found: dict[str, float] = {}
    for name, p in zip(names_of(vocabulary), logp[0].double().exp().tolist(), strict=True):
        found[name] = found.get(name, 0.0) + p
    return found
