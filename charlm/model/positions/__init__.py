"""How the model knows where a character stands: one contract, and one dict to find each way by."""

from collections.abc import Callable

from charlm.config import ModelConfig
from charlm.model.positions.absolute import Learned, Sinusoidal
from charlm.model.positions.position import NoPosition, Position
from charlm.model.positions.relative import Alibi, Relative, Rotary

POSITIONS: dict[str, Callable[[ModelConfig], Position]] = {
    "none": NoPosition,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "relative": Relative,
    "rotary": Rotary,
    "alibi": Alibi,
}
