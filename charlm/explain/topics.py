"""What there is to learn: each topic is a class, explained by its own docstring and example."""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import charlm
from charlm.errors import UsageError
from charlm.explain.examples import Equivariance
from charlm.inference.predictor import TransformerPredictor
from charlm.model.attention import Attention, Mixer, SimpleAttention
from charlm.model.example import Example
from charlm.model.masks import Causal, Documents, Locality, Window
from charlm.model.mixers import Convolution, Recurrent
from charlm.model.ngram_prior import Prior
from charlm.model.positions import Alibi, Learned, NoPosition, Relative, Rotary, Sinusoidal
from charlm.model.transformer import Block
from charlm.suggestions import VALUES
from charlm.terminal import one_line


class Explained(Protocol):
    """A class that shows what it does; its docstring says the idea, the formula and the source."""

    @staticmethod
    def example() -> Example:
        """A tiny computation with real numbers."""


@dataclass(frozen=True)
class Topic:
    """The class that is the topic, and what `charlm compare` varies to see what the idea buys."""

    cls: type[Explained]
    vary: str | None
    instead: str = ""  # where nothing can be varied: what shows it


@dataclass(frozen=True)
class Explanation:
    """All that is said of a topic."""

    topic: str
    text: str
    example: Example
    place: str
    command: str | None
    instead: str


TOPICS = {
    "sequence": Topic(Mixer, "mixer=attention,simple-attention,convolution,recurrent"),
    "causal": Topic(Causal, None, "charlm train corpus.txt --no-causal is refused: it would read the answer"),
    "autoregressive": Topic(
        TransformerPredictor,
        None,
        "charlm eval --per-char FILE gives each factor in bits; charlm sample draws by them",
    ),
    "recurrent": Topic(Recurrent, "mixer=attention,recurrent"),
    "convolution": Topic(Convolution, "mixer=attention,convolution,attention+convolution"),
    "simple-attention": Topic(SimpleAttention, "mixer=attention,simple-attention"),
    "equivariance": Topic(Equivariance, "position=none,rotary"),
    "attention": Topic(Attention, "mixer=simple-attention,attention"),
    "window": Topic(Window, "window=auto,16"),
    "locality": Topic(Locality, "locality=off,on"),
    "documents": Topic(
        Documents, None, "charlm train corpus.txt --documents line; eval says the bits of their ends too"
    ),
    "learned": Topic(Learned, "position=none,learned"),
    "sinusoidal": Topic(Sinusoidal, "position=learned,sinusoidal"),
    "relative": Topic(Relative, "position=none,relative"),
    "rotary": Topic(Rotary, "position=none,rotary"),
    "alibi": Topic(Alibi, "position=none,alibi"),
    "none": Topic(NoPosition, "position=none,learned,sinusoidal,relative,rotary,alibi"),
    "block": Topic(Block, "n_layer=1,4"),
    "counts": Topic(Prior, "prior=on,off"),
}
"""In the order in which they build on one another."""


def first_line(topic: str) -> str:
    """What a topic is, in a sentence; UsageError if there is no such topic."""
    return _text(_find(topic)).partition("\n")[0]


def explain(topic: str) -> Explanation:
    """The docstring of a topic's class, its example run now, and where to go on; UsageError if there is none."""
    found = _find(topic)
    command = None if found.vary is None else f"charlm compare corpus.txt --vary {found.vary}"
    return Explanation(topic, _text(found), found.cls.example(), _place(found), command, found.instead)


def _find(topic: str) -> Topic:
    if topic not in TOPICS:
        known = (VALUES[name].get(topic.lower()) for name in ("position", "mixer", "optimizer"))
        close = [name for name in known if name in TOPICS] or get_close_matches(topic.lower(), TOPICS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"there is no topic {one_line(topic)!r}; {hint}there are: {', '.join(TOPICS)}")
    return TOPICS[topic]


def _text(topic: Topic) -> str:
    return inspect.cleandoc(topic.cls.__doc__ or "")


def _place(topic: Topic) -> str:
    """The file, from the folder that holds the package, and the line of the class."""
    package = Path(charlm.__file__).parent
    file = Path(inspect.getfile(topic.cls)).relative_to(package.parent)
    return f"{file.as_posix()}, line {inspect.getsourcelines(topic.cls)[1]}"
