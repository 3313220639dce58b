"""Every model that can be: the one place from which tests take their combinations.

A mixer or position added to the package is in here by itself; a setting that is not fails a test.
"""

from itertools import combinations, product

import torch

from charlm.config import ModelConfig
from charlm.model.mixers import MIXERS
from charlm.model.positions import POSITIONS
from charlm.model.transformer import LanguageModel, initialise

BLOCK = 5
N_SYMBOLS = 7
VARIED = {"mixer", "position", "window", "locality", "n_kv_head"}
MIXED = [*MIXERS, *(",".join(pair) for pair in combinations(MIXERS, 2))]


def every_model() -> list[ModelConfig]:
    """Each combination of settings that is not refused, two layers of width 8."""
    found = []
    for mixer, position, window, locality, n_kv_head in product(
        MIXED, POSITIONS, (None, 2), (False, True), (None, 1)
    ):
        try:
            config = ModelConfig(
                n_layer=2,
                n_embd=8,
                n_head=2 if ModelConfig(mixer=mixer).attends else None,
                block_size=BLOCK,
                dropout=0.0,
                mixer=mixer,
                position=position,
                window=window,
                locality=locality,
                n_kv_head=n_kv_head,
            )
        except ValueError:
            continue
        found.append(config)
    return found


def typical_models() -> list[ModelConfig]:
    """A quarter of them: each mixer with each position, each further setting alone and all of them together."""

    def is_typical(config: ModelConfig) -> bool:
        extras = (config.window is not None) + config.locality + (config.n_kv_head is not None)
        if len(config.mixers) > 1:
            return extras == 3 or (extras == 0 and config.position in ("none", "rotary"))
        return extras in (0, 3) or (extras == 1 and config.position in ("none", "rotary", "alibi"))

    return [config for config in every_model() if is_typical(config)]


def name_of(config: ModelConfig) -> str:
    """What a test of it is called."""
    window = f"-window{config.window}" if config.window else ""
    kv = f"-kv{config.n_kv_head}" if config.n_kv_head else ""
    return f"{config.mixer}-{config.position}{window}{'-locality' * config.locality}{kv}"


def random_model(config: ModelConfig, n_symbols: int = N_SYMBOLS) -> LanguageModel:
    """A model in float64 whose every weight acts: as it starts, blocks would add nothing."""
    model = LanguageModel(config, n_symbols)
    generator = torch.Generator().manual_seed(3)
    initialise(model, generator)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.double().eval()


def read_by(
    model: LanguageModel, T: int, docs: torch.Tensor | None = None, *, ids: torch.Tensor | None = None
) -> torch.Tensor:
    """How much each input acts on each output, by gradient: (T outputs, T inputs)."""
    ids = torch.arange(T)[None] % model.n_symbols if ids is None else ids
    x = model.embedding.weight.detach()[ids].requires_grad_()
    model.embed = lambda *_: x  # type: ignore[method-assign]
    hidden = model.hidden(ids, docs=docs)[0]
    weights = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outputs = hidden @ weights
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0][0].abs().sum(dim=-1) for y in outputs]
    del model.embed
    return torch.stack(rows)
