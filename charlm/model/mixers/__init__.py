"""How a position reads the others: one contract, and one dict to find each mixer by."""

from collections.abc import Callable

from charlm.config import ModelConfig
from charlm.model.mixers.attention import Attention, SimpleAttention
from charlm.model.mixers.convolution import Convolution
from charlm.model.mixers.mixer import Mixer
from charlm.model.mixers.recurrent import Recurrent

MIXERS: dict[str, Callable[[ModelConfig], Mixer]] = {
    "attention": Attention,
    "simple-attention": SimpleAttention,
    "convolution": Convolution,
    "recurrent": Recurrent,
}
