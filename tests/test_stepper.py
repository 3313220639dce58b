"""The NumPy path and the model: the same logits, for every attention model that can be."""

from dataclasses import replace

import pytest
import torch

from charlm.config import ModelConfig
from charlm.model.language_model import LanguageModel
from charlm.model.folded import LONGEST, Folded
from charlm.predictor import TransformerPredictor
from tests.matrix import every_model, name_of
from tests.test_predictor import VOCABULARY

ATTENTION = [config for config in every_model() if config.mixer == "attention"]
NGRAMS = [ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=5, dropout=0.0, ngrams=3, ngram_rows=64)]


def single(config: ModelConfig) -> LanguageModel:
    """A random model in fp32."""
    model = LanguageModel(config, VOCABULARY.n_symbols)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(i))
    if model.ngrams is not None:
        with torch.no_grad():
            model.ngrams.table[model.ngrams.nothing] = 0  # as training leaves it
    return model.eval()


@pytest.mark.parametrize("config", [*ATTENTION, *NGRAMS], ids=name_of)
def test_it_says_what_the_model_says(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = TransformerPredictor(single(config), VOCABULARY)
    ids = torch.randint(VOCABULARY.n_ids, (3, 14), generator=torch.Generator().manual_seed(5))

    def read() -> torch.Tensor:
        state, logps = predictor.start(3), []
        for piece in ids.split((2, *[1] * 12), dim=1):
            state, logp = predictor.step(state, piece)
            logps.append(logp)
        return torch.stack(logps)

    assert Folded.fits(predictor.model)
    fast = read()
    monkeypatch.setattr(Folded, "fits", lambda model: False)
    predictor = TransformerPredictor(predictor.model, VOCABULARY)
    torch.testing.assert_close(fast, read(), rtol=0, atol=2e-5)


def test_it_stands_for_attention_in_single_precision_only() -> None:
    assert not Folded.fits(single(NGRAMS[0]).bfloat16())
    mixed = ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=5, mixer="attention,convolution")
    assert not Folded.fits(single(mixed))
    assert not Folded.fits(single(replace(NGRAMS[0], block_size=LONGEST + 1)))
