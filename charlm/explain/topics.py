"""The topics of `charlm explain`: each is a class or function of the code, explained by its docstring or a text below."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import charlm
from charlm.errors import UsageError
from charlm.evaluation.calibration import Reliability
from charlm.evaluation.score import Score
from charlm.explain import examples
from charlm.explain.examples import Table
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling import sampling_weights
from charlm.model.attention import Attention, Mixer, SimpleAttention
from charlm.model.masks import Causal, Documents, Locality, Window
from charlm.model.mixers import Convolution, Recurrent
from charlm.model.ngram_layers import NgramEmbeddings, NgramPrior
from charlm.model.positions import Alibi, Learned, NoPosition, Relative, Rotary, Sinusoidal
from charlm.model.transformer import Block, LanguageModel
from charlm.ngram.kneser_ney import KneserNey
from charlm.suggestions import VALUES
from charlm.terminal import one_line
from charlm.training.optimizer import orthogonalize


class Equivariance:
    """Permutation equivariance: permuted inputs give the same outputs, permuted alike.

    f(P x) = P f(x) for every permutation P of the positions. Attention without a mask and without
    positions has this property: a weighted mean does not depend on the order of its terms, and the
    rest of a block acts on each position separately. That is right for sets, such as points in space.
    In text it does harm: what "dog" means in "dog bites man" it would also mean in "man bites dog". A
    causal mask breaks it, since the position decides who reads whom, and so does any position
    encoding. Zaheer et al. 2017, arXiv 1703.06114; with attention: Lee et al. 2019, arXiv 1810.00825.
    """


SOFTMAX = """Softmax with temperature: scores become probabilities, sharper or flatter ones.

p_i = exp(z_i / T) / sum over j of exp(z_j / T), for logits or log-probabilities z (a
constant added to all of them changes nothing). T = 1 gives the model's own distribution.
Below 1 the likely symbols gain: text becomes more predictable, and at 0 only the likeliest
is left. Above 1 all symbols come closer to equal: text becomes more varied, with more
errors. Top-k, top-p (Holtzman et al. 2020, arXiv 1904.09751) and min-p (Nguyen et al. 2024,
arXiv 2407.01082) then remove the unlikely tail. The formula is Boltzmann's; its name in
neural networks: Bridle 1990, Neurocomputing, NATO ASI F68:227.
"""
EMBEDDING = """An embedding: each character has a learned vector, its row of a table.

x_t = E[id_t], with E of V rows and C columns: the same as a one-hot vector times E.
Characters that are used alike get similar rows. The same table is the output head
(weight tying): the logit of character v is the product of row v and the last layer's
output, so a row is learned both from what follows its character and from what it
follows. Bengio et al. 2003, Journal of Machine Learning Research 3:1137; tied: Press
and Wolf 2017, arXiv 1608.05859.
"""
AUTOREGRESSION = """Autoregression: the probability of a text is a product over its characters.

p(c_1 ... c_n) = p(c_1) p(c_2 | c_1) ... p(c_n | c_1 ... c_(n-1)). So a model of the next
character is a model of whole texts. It scores a text by these conditionals, and writes one by
drawing from them, reading each character it drew before it draws the next. What is far back
falls out of view, by the context rule (charlm/inference/context.py). Shannon 1948, Bell System
Technical Journal 27:379; with a neural network: Bengio et al. 2003, Journal of Machine Learning
Research 3:1137.
"""
MUON = """Muon: an optimizer whose step is equally large in every direction of a matrix.

W -= rate * O(M), where M is the momentum, an average of recent gradients of the matrix W,
and O(M) = U V' for M = U S V', its singular value decomposition: all singular values
become about 1. A gradient is dominated by a few directions; rare but useful ones get as
much of the step. U V' is approximated by five Newton-Schulz iterations, x = a x + (b x x' +
c (x x')^2) x, which need matrix products only. It trains the matrices of the blocks; gains,
embeddings and the head use AdamW. Jordan et al. 2024, kellerjordan.github.io/posts/muon; at
scale: Liu et al. 2025, arXiv 2502.16982.
"""
PLAIN = "--plain "
"""The option that leaves out n-gram prior and embeddings, which predict most of the text and hide architecture differences."""


@dataclass(frozen=True)
class Topic:
    """The subject of a topic, its example, and how to see its effect: a comparison, or something to try."""

    subject: Any  # the class or function whose docstring is the text
    example: Callable[[], Table]
    vary: str | None = None  # of `charlm compare --vary`
    instead: str = ""  # what to try where there is nothing to vary
    text: str = ""  # in place of the subject's docstring
    plain: bool = True  # compare without n-gram prior and embeddings
    digits: int = 2  # of the example's numbers


@dataclass(frozen=True)
class Example:
    """A computed example: a sentence that says what is computed, and the numbers."""

    says: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Explanation:
    """Everything that is shown about a topic."""

    topic: str
    text: str
    example: Example
    place: str
    command: str | None
    instead: str | None


TOPICS = {
    "perplexity": Topic(
        Score, examples.perplexity, instead="charlm eval: bits per character, and perplexity", digits=3
    ),
    "calibration": Topic(
        Reliability,
        examples.calibration,
        instead="charlm eval: the calibration error; report.html draws the bins",
        digits=4,
    ),
    "softmax": Topic(
        sampling_weights,
        examples.softmax,
        instead="charlm sample --temperature 0.5; the same with 1.5",
        text=SOFTMAX,
        digits=3,
    ),
    "embedding": Topic(LanguageModel.embed, examples.embedding, "n_embd=32,128", text=EMBEDDING, plain=False),
    "sequence": Topic(
        Mixer, examples.sequence, "mixer=attention,simple-attention,convolution,recurrent", digits=3
    ),
    "causal": Topic(
        Causal,
        examples.causal,
        instead="charlm train corpus.txt --no-causal gives an error: the model would read the answer",
    ),
    "autoregressive": Topic(
        TransformerPredictor,
        examples.autoregressive,
        instead="charlm surprisal FILE --by char gives each factor in bits; charlm sample draws from them",
        text=AUTOREGRESSION,
        digits=4,
    ),
    "recurrent": Topic(Recurrent, examples.recurrent, "mixer=attention,recurrent"),
    "convolution": Topic(
        Convolution, examples.convolution, "mixer=attention,convolution,attention+convolution"
    ),
    "simple-attention": Topic(SimpleAttention, examples.simple_attention, "mixer=attention,simple-attention"),
    "equivariance": Topic(Equivariance, examples.equivariance, "position=none,rotary"),
    "attention": Topic(Attention, examples.attention, "mixer=simple-attention,attention"),
    "window": Topic(Window, examples.window, "window=auto,16"),
    "locality": Topic(Locality, examples.locality, "locality=off,on"),
    "documents": Topic(
        Documents,
        examples.documents,
        instead="charlm train corpus.txt --documents line; eval gives the bits of their ends too",
    ),
    "learned": Topic(Learned, examples.learned, "position=none,learned"),
    "sinusoidal": Topic(Sinusoidal, examples.sinusoidal, "position=learned,sinusoidal"),
    "relative": Topic(Relative, examples.relative, "position=none,relative"),
    "rotary": Topic(Rotary, examples.rotary, "position=none,rotary", digits=4),
    "alibi": Topic(Alibi, examples.alibi, "position=none,alibi"),
    "none": Topic(NoPosition, examples.no_position, "position=none,learned,sinusoidal,relative,rotary,alibi"),
    "block": Topic(Block, examples.block, "n_layer=1,4"),
    "kneser-ney": Topic(KneserNey, examples.kneser_ney, "model=ngram,transformer", plain=False, digits=3),
    "ngram-prior": Topic(NgramPrior, examples.ngram_prior, "prior=on,off", plain=False),
    "ngram-embeddings": Topic(
        NgramEmbeddings, examples.ngram_embeddings, "ngram_embeddings=1,2,4", plain=False
    ),
    "muon": Topic(orthogonalize, examples.muon, "optimizer=muon,adamw", text=MUON, plain=False),
}
"""The topics, in the order in which they build on one another."""


def first_line(topic: str) -> str:
    """Return a topic's first sentence. Raises UsageError if there is no such topic."""
    return _text(_find(topic)).partition("\n")[0]


def explain(topic: str) -> Explanation:
    """Return a topic's text, its example, computed now, and what to try. Raises UsageError for an unknown topic."""
    found = _find(topic)
    command = None
    if found.vary is not None:
        command = f"charlm compare corpus.txt {PLAIN * found.plain}--vary {found.vary}"
    says = " ".join((inspect.getdoc(found.example) or "").split())
    header, rows = found.example()
    cells = [[f"{v:.{found.digits}f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    example = Example(says, header, tuple(map(tuple, cells)))
    return Explanation(topic, _text(found), example, _place(found), command, found.instead or None)


def _find(topic: str) -> Topic:
    if topic not in TOPICS:
        aliases = (VALUES.get((name, topic.lower())) for name in ("position", "mixer", "optimizer"))
        close = [name for name in aliases if name in TOPICS] or get_close_matches(topic.lower(), TOPICS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"there is no topic {one_line(topic)!r}; {hint}available topics: {', '.join(TOPICS)}"
        )
    return TOPICS[topic]


def _text(topic: Topic) -> str:
    return inspect.cleandoc(topic.text or topic.subject.__doc__ or "")


def _place(topic: Topic) -> str:
    """Return the file, relative to the folder that holds the package, and the line of the class or function."""
    package = Path(charlm.__file__).parent
    subject = inspect.unwrap(topic.subject)
    file = Path(inspect.getfile(subject)).relative_to(package.parent)
    return f"{file.as_posix()}, line {inspect.getsourcelines(subject)[1]}"
