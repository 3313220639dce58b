"""The computations that `charlm explain` shows: one function per topic, each a table of real numbers.

The docstring of a function is shown above its table.
"""

from collections.abc import Sequence
from math import exp, log2, prod, sqrt
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from charlm.config import ModelConfig
from charlm.data.tokenizer import Vocabulary
from charlm.evaluation.calibration import Reliability
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling import sampling_weights
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.attention import PositionInfo
from charlm.model.layers import NORM_EPS
from charlm.model.masks import Causal, Documents, Locality, Mask, Window, allowed_by, as_bias
from charlm.model.mixers import Convolution
from charlm.model.ngram_layers import NgramEmbeddings, NgramPrior
from charlm.model.positions import POSITIONS, Alibi, Learned, Relative, Rotary, Sinusoidal
from charlm.model.transformer import Block, LanguageModel, initialise
from charlm.ngram.build import build
from charlm.training.optimizer import orthogonalize

PERMUTATION = (2, 0, 1, 5, 3, 4)
"""A permutation that is not a reversal, which keeps every distance, so that ALiBi would not notice it."""

Row = tuple[str | int | float, ...]
Table = tuple[tuple[str, ...], list[Row]]
"""The names of the columns, and the rows."""


def perplexity() -> Table:
    """'abracadabra', each letter predicted by its frequency: as hard as 4 equally likely letters."""
    text = "abracadabra"
    p = {letter: text.count(letter) / len(text) for letter in sorted(set(text))}
    rows: list[Row] = [(letter, text.count(letter), p[letter], -log2(p[letter])) for letter in p]
    mean = sum(-log2(p[letter]) for letter in text) / len(text)
    return ("letter", "times", "p", "bits"), [
        *rows,
        ("mean", len(text), "", mean),
        ("perplexity", "", "", 2**mean),
    ]


def calibration() -> Table:
    """Ten predictions: three made with 50 % confidence, five with 80 % and two with 90 %."""
    confidence = np.repeat([0.5, 0.8, 0.9], [3, 5, 2])
    right = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
    logp = torch.from_numpy(np.log(np.stack((confidence, 1 - confidence - 1e-9), axis=1)))
    found = Reliability.of(logp, torch.from_numpy(1 - right))
    rows: list[Row] = [(n, sure, share, n / found.n * abs(share - sure)) for sure, share, n in found.bins]
    return ("predictions", "confidence", "accuracy", "part of the error"), [
        *rows,
        (found.n, found.confidence, found.accuracy, found.ece),
    ]


def softmax() -> Table:
    """The probabilities of three characters with logits 2, 1 and 0:"""
    logits = np.array([[2.0, 1.0, 0.0]])
    rows: list[Row] = []
    for temperature in (0.0, 0.5, 1.0, 2.0):
        weights = sampling_weights(logits, SamplingConfig(temperature=temperature))
        rows.append((f"{temperature:g}", *(weights / weights.sum())[0].tolist()))
    return ("temperature", "a", "b", "c"), rows


def embedding() -> Table:
    """Width 4, random rows; the logits after a last layer of h = (1, 0, -1, 0):"""
    table, h = _random(3, 4), torch.tensor([1.0, 0, -1, 0], dtype=torch.float64)
    header = ("character", *(f"E {i}" for i in range(4)), "logit E h")
    return header, [(char, *row.tolist(), float(row @ h)) for char, row in zip("abc", table, strict=True)]


def ngram_embeddings() -> Table:
    """Hash-table rows for 'the them', 1,024 per length: 'th' and 'the' use the same rows both times."""
    text = "the them"
    vocabulary = Vocabulary.build(text, 1)
    config = ModelConfig(n_embd=2, ngram_embeddings=3, ngram_embedding_rows=1024)
    layer = NgramEmbeddings(config, vocabulary.n_symbols)
    ids = torch.from_numpy(vocabulary.encode(text).astype(np.int64))[None]
    index = layer.index(ids, torch.full((1, 2), -1))[0].tolist()
    rows: list[Row] = [
        (repr(char), *("none" if row == layer.nothing else row for row in at))
        for char, at in zip(text, index, strict=True)
    ]
    return ("character", "pair's row", "triple's row"), rows


def kneser_ney() -> Table:
    """After 'pi' in a text of Peter Piper, with 0, 1 and 2 characters of context:"""
    text = "peter piper picked a peck of pickled peppers; " * 2 + "the peck peter piper picked"
    vocabulary = Vocabulary.build(text, 1)
    ids = vocabulary.encode(text)
    model = build(ids, vocabulary.n_symbols, 2, memory=1 << 20).model
    context = model.contexts(vocabulary.encode("pi")[None])[:, -1]
    shown = vocabulary.encode("cpe ")
    rows: list[Row] = [(n, *model.rows(context, up_to=n)[0, shown].tolist()) for n in range(3)]
    return ("order", "p(c)", "p(p)", "p(e)", "p(space)"), rows


def muon() -> Table:
    """The singular values of a random gradient with one strong direction, and of the step:"""
    gradient = _random(4, 4) @ torch.diag(torch.tensor([10.0, 1, 0.5, 0.1], dtype=torch.float64))
    values = torch.linalg.svdvals(torch.stack((gradient, orthogonalize(gradient[None])[0])))
    return _table(values, "matrix", "s", names=("gradient", "Muon's step"), first=1)


def sequence() -> Table:
    """One layer, the same weights, on the first 2, 4 and 6 of the same vectors (one channel of y):"""
    layer, x = nn.GRU(3, 3, batch_first=True).double(), _random(1, 6, 3)
    for weight in layer.parameters():
        nn.init.constant_(weight, 0.3)
    rows: list[Row] = []
    with torch.no_grad():
        for n in (2, 4, 6):
            output = layer(x[:, :n])[0][0, :, 0].tolist()
            rows.append((n, *output, *[""] * (6 - n)))
    return ("length", *(f"t = {t}" for t in range(6))), rows


def causal() -> Table:
    """Equal scores, masked, after softmax: later positions get no weight."""
    return _table(_mask_weights([Causal()], 4), "t", "reads")


def autoregressive() -> Table:
    """An untrained model's probability of 'to be', in steps and in one pass:"""
    text = "to be"
    vocabulary = Vocabulary.build("to be or not to be", 1)
    config = ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4)
    predictor = TransformerPredictor(LanguageModel(config, vocabulary.n_symbols).double(), vocabulary)
    initialise(predictor.model, torch.Generator().manual_seed(1))
    ids = vocabulary.encode(text)
    at_once, state = predictor.score(ids), predictor.start(1)
    rows: list[Row] = []
    for t, id_ in enumerate(ids):
        last = torch.from_numpy(ids[None, max(0, t - 1) : t].astype(np.int64))
        state, logp = predictor.step(state, last)
        rows.append((repr(text[:t]), repr(text[t]), exp(logp[0, id_]), exp(at_once[t])))
    rows.append(("", "product", *(f"{prod(float(row[i]) for row in rows):.2e}" for i in (2, 3))))
    return ("before", "character", "one by one", "at once"), rows


def recurrent() -> Table:
    """Remainder of h_0 = 1 after t steps of zero input, with a constant gate z:"""
    gru = nn.GRU(1, 3, batch_first=True)
    for weight in gru.parameters():
        nn.init.zeros_(weight)
    with torch.no_grad():
        gru.get_parameter("bias_hh_l0")[3:6] = torch.tensor([0.5, 0.9, 0.99]).logit()  # the gate z
        left, _ = gru(torch.zeros(1, 9, 1), torch.ones(1, 1, 3))
    return _table(left[0].T, "z", "t =", names=("0.5", "0.9", "0.99"), first=1)


def convolution() -> Table:
    """A 1 at position 1, window 3, two channels: it acts on 1, 2 and 3."""
    layer = Convolution(ModelConfig(n_embd=2, window=3))
    x = torch.zeros(1, 6, 2)
    x[0, 1] = 1
    with torch.no_grad():
        layer.taps.copy_(torch.tensor([[0.25, 0.5, 1.0], [-1.0, 0.0, 1.0]]))
        nn.init.eye_(layer.out.weight)
        y = layer(x, PositionInfo(x.new_zeros(()), lambda q: q))[0]
    return _table(y, "t", "channel")


def simple_attention() -> Table:
    """Four vectors, unmasked; 0 and 2 are equal and get equal weights:"""
    x = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1.0, 1, 0], [-1, 0, 1]])
    weights = torch.softmax(x @ x.T / sqrt(3), dim=-1)
    return _table(weights, "t", "reads")


def equivariance() -> Table:
    """The largest |f(P x) - P f(x)| of a model with random weights, six positions permuted:"""
    kinds = [("none", "none"), ("causal", "none")]
    kinds += [("none", position) for position in POSITIONS if position != "none"]
    n = len(PERMUTATION)
    ids, order = torch.arange(n), torch.tensor(PERMUTATION)
    rows: list[Row] = []
    for mask, position in kinds:
        config = ModelConfig(
            n_layer=1, n_head=2, n_embd=8, block_size=n, position=position, causal=mask == "causal"
        )
        model = LanguageModel(config, n).double().eval()
        weights = _random(sum(weight.numel() for weight in model.parameters()))
        vector_to_parameters(weights / 2, model.parameters())
        with torch.no_grad():
            straight, permuted = (model(x[None])[0] for x in (ids, ids[order]))  # (T, V) each
        difference = float((permuted - straight[order]).abs().max())
        rows.append((mask, position, f"{difference:.0e}" if difference < 1e-6 else f"{difference:.3f}"))
    return ("mask", "positions", "difference"), rows


def attention() -> Table:
    """Attention weights of an untrained causal head over five positions:"""
    x, maps = _random(5, 4), _random(2, 4, 4)
    q, k = (F.rms_norm(x @ to, (4,), eps=NORM_EPS) for to in maps)
    scores = q @ k.T / sqrt(4)
    weights = torch.softmax(scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf), dim=-1)
    return _table(weights, "t", "reads")


def window() -> Table:
    """Influence of each position through two layers of window 2:"""
    one = _mask_weights([Causal(), Window(2)], 5)
    return _table(one @ one, "t", "of")


def locality() -> Table:
    """Attention weights of the last of six positions, for equal scores, before and after a head steepens:"""
    prior = Locality(ModelConfig(n_embd=4, n_head=2))
    nn.init.zeros_(prior.bias_scale)
    pos = torch.arange(6)
    with torch.no_grad():
        before = torch.softmax(prior.bias(pos, pos)[0, -1], dim=-1)
        prior.bias_scale.add_(2)
        after = torch.softmax(prior.bias(pos, pos)[0, -1], dim=-1)
    return _table(torch.stack((before, after)), "a", "reads", names=("0", "2"))


def documents() -> Table:
    """Positions 0, 1 are one document, 2 to 4 another; equal scores:"""
    weights = _mask_weights([Causal(), Documents()], 5, torch.tensor([[0, 0, 1, 1, 1]]))[0, 0]
    return _table(weights, "t", "reads")


def learned() -> Table:
    """The same character, all ones, at three positions (untrained table):"""
    layer = Learned(ModelConfig(n_embd=6, block_size=3))
    with torch.no_grad():
        layer.table.weight.copy_(0.1 * _random(3, 6))
        rows = layer.embed(torch.ones(1, 3, 6), torch.arange(3))[0]
    return _table(rows, "t", "x")


def sinusoidal() -> Table:
    """PE of five positions, width 6: the first pair turns fastest."""
    rows = Sinusoidal(ModelConfig(n_embd=6)).encoding(torch.arange(5))
    return _table(rows, "t", "value")


def relative() -> Table:
    """Short distances have a bucket each; long ones share:"""
    distances = torch.tensor([0, 1, 15, 16, 19, 20, 31, 64, 127, 1000])
    buckets = Relative(ModelConfig(n_embd=2, n_head=1)).bucket(distances)
    return ("distance", "bucket"), list(zip(distances.tolist(), buckets.tolist(), strict=True))


def rotary() -> Table:
    """One query and one key at different positions: equal distance, equal product."""
    q, k = _random(2, 1, 1, 1, 8)
    layer = Rotary(ModelConfig(n_embd=8, n_head=1))
    rotated = [layer.rotation(torch.arange(20), q)(x.expand(1, 1, 20, 8))[0, 0] for x in (q, k)]
    products = rotated[0] @ rotated[1].T
    pairs = ((5, 5), (5, 3), (15, 13), (5, 0), (19, 14))
    return ("query at", "key at", "distance", "product"), [
        (i, j, i - j, float(products[i, j])) for i, j in pairs
    ]


def alibi() -> Table:
    """Attention weights of the last of six positions, for equal scores, in each of four heads:"""
    pos = torch.arange(6)
    bias = Alibi(ModelConfig(n_embd=8, n_head=4)).bias(pos, pos, torch.zeros(()))
    weights = torch.softmax(bias[:, -1], dim=-1)
    return _table(weights, "head", "reads", names=[str(h) for h in range(1, 5)])


def no_position() -> Table:
    """Equal weights over a value that is 1 at the first character only: each position differs."""
    first = (torch.arange(6) == 0).double()  # 1 for the first character of the text, 0 for the others
    weights = _mask_weights([Causal()], 6).double()
    return _table((weights @ first)[None], "", "t =", names=("average",))


def block() -> Table:
    """The norms of the input vectors, and of the updates from both halves:"""
    model = LanguageModel(ModelConfig(n_layer=1, n_embd=8, n_head=2, block_size=3), 1).double()
    initialise(model, torch.Generator().manual_seed(3))
    layer, x = cast("Block", model.blocks[0]), _random(1, 3, 8)
    mask = as_bias(Causal()(torch.arange(3), torch.arange(3), None), x)
    rows: list[Row] = []
    for name in ("untrained", "random"):
        if name == "random":
            for parameter in layer.parameters():
                parameter.data.copy_(_random(*parameter.shape) / 3)
        with torch.no_grad():
            mixed = layer.mixer(layer.mixer_norm(x), PositionInfo(mask, lambda q: q))
            transformed = layer.mlp(layer.mlp_norm(x + mixed))
        sizes = [part[0].norm(dim=-1) for part in (x, mixed, transformed)]
        rows += [(name, t, *(float(size[t]) for size in sizes)) for t in range(3)]
    return ("block", "t", "input", "mixer adds", "SwiGLU adds"), rows


def ngram_prior() -> Table:
    """The prior gives 0.70, 0.20 and 0.10 to three characters; the model's probabilities:"""
    prior = NgramPrior(1, 3).double()
    log_prior = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    rows: list[Row] = []
    for name, logits, gate in (
        ("untrained", (0.0, 0.0, 0.0), 0.0),
        ("prior doubted, g = 0.5", (0.0, 0.0, 0.0), -0.5),
        ("prior ignored, g = 0", (0.0, 0.0, 0.0), -1.0),
        ("E h = 2 for 'c'", (0.0, 0.0, 2.0), 0.0),
    ):
        with torch.no_grad():
            prior.gate.fill_(gate)
            mixed = prior(torch.tensor([logits]), torch.ones(1, 1).double(), log_prior).softmax(dim=-1)[0]
        rows.append((name, *mixed.tolist()))
    return ("transformer", "a", "b", "c"), rows


def _random(*shape: int) -> Tensor:
    """Normal random numbers in float64, the same each time."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def _mask_weights(masks: Sequence[Mask], n: int, docs: Tensor | None = None) -> Tensor:
    """The softmax of equal scores among `n` positions: (n, n)."""
    pos = torch.arange(n)
    return torch.softmax(as_bias(allowed_by(masks, pos, pos, docs), torch.zeros(())), dim=-1)


def _table(numbers: Tensor, row: str, column: str, names: Sequence[str] = (), first: int = 0) -> Table:
    """A matrix (R, C) as a table; columns are numbered from `first`, rows too unless they have `names`."""
    header = (row, *(f"{column} {first + i}" for i in range(numbers.shape[1])))
    pairs = zip(names or range(numbers.shape[0]), numbers.tolist(), strict=True)
    return header, [(name, *values) for name, values in pairs]
