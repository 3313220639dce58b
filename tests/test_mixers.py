"""Mixers: each in every model that can be, by the properties that all of them must have."""

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ATTENTION, SCORED, ModelConfig
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Vocabulary
from charlm.inference.members import predictor_of
from charlm.inference.predictor import TransformerPredictor
from charlm.model import masks
from charlm.model.attention import Attention, PositionInfo, SimpleAttention
from charlm.model.mixers import MIXERS, Convolution, Recurrent
from charlm.model.positions import POSITIONS
from charlm.settings import settings_of
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run
from tests.matrix import (
    BLOCK,
    MIXED,
    N_SYMBOLS,
    VARIED,
    every_model,
    name_of,
    random_model,
    read_by,
    typical_models,
)
from tests.test_loop import stopped_and_resumed

TYPICAL = pytest.mark.parametrize("config", typical_models(), ids=name_of)
VOCABULARY = Vocabulary.build("the cat sat on the mat; " * 3 + "z", 2)
EXACT = {"rtol": 0, "atol": 1e-10}


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_ids(*shape: int, n: int = N_SYMBOLS) -> torch.Tensor:
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(1))


def test_every_setting_of_a_model_is_in_the_matrix() -> None:
    fixed = {"n_layer", "n_embd", "n_head", "block_size", "dropout", "causal"}
    of_ngrams = {"ngram_embeddings", "ngram_embedding_rows", "ngram_embedding_dropout", "plain"}
    of_prior = {"prior", "prior_order", "prior_dropout"}
    elsewhere = fixed | {"model"} | of_ngrams | of_prior  # which have tests of their own
    assert VARIED | elsewhere == {setting.name for setting in settings_of(ModelConfig)}


def test_the_matrix_has_every_mixer_and_refuses_what_cannot_act() -> None:
    models = every_model()
    assert {mixer for config in models for mixer in config.mixers} == set(MIXERS)
    assert len(models) > 200
    for config in models:
        if not config.attends:
            assert (
                not config.locality
                and not config.n_kv_head
                and config.position in ("none", "learned", "sinusoidal")
            )


def test_causal_by_gradient_and_reach_exact() -> None:
    for config in every_model():
        acts, name = read_by(random_model(config), BLOCK), name_of(config)
        reach = config.reach or BLOCK
        for t in range(BLOCK):
            first = max(0, t + 1 - reach)
            assert (acts[t, t + 1 :] == 0).all(), f"{name}: a later character reached an earlier prediction"
            assert (acts[t, :first] == 0).all(), f"{name} reaches farther than it says"
            assert (acts[t, first : t + 1] > 0).all(), f"{name} reaches less far than it says"


@TYPICAL
def test_the_output_on_a_prefix_is_the_prefix_of_the_output(config: ModelConfig) -> None:
    model = random_model(config)
    longest = BLOCK if config.position == "learned" else 4 * BLOCK
    ids = random_ids(2, longest)
    whole = model(ids)
    for T in (*range(1, BLOCK), longest - 1):
        torch.testing.assert_close(model(ids[:, :T]), whole[:, :T], rtol=0, atol=1e-12)


@TYPICAL
def test_weights_do_not_depend_on_the_length(config: ModelConfig) -> None:
    shapes = []
    for block_size in (BLOCK, 4 * BLOCK):
        model = random_model(replace(config, block_size=block_size))
        shapes.append({name: weight.shape for name, weight in model.state_dict().items()})
    if config.position == "learned":
        for weights in shapes:
            del weights["position.table.weight"]
    assert shapes[0] == shapes[1]


@TYPICAL
def test_the_cache_gives_what_recomputation_gives(config: ModelConfig) -> None:
    predictor = TransformerPredictor(random_model(config, VOCABULARY.n_ids), VOCABULARY)
    predictor.model.n_symbols = VOCABULARY.n_ids  # no bytes left over
    ids, rule = random_ids(1, 2 * BLOCK + 3, n=VOCABULARY.n_ids), predictor.rule
    state = predictor.start(1)
    conditionals = []
    for t in range(1, ids.shape[1]):
        state, logp = predictor.step(state, ids[:, t - 1 : t])
        expected = torch.log_softmax(predictor.model(ids[:, rule.start(t) : t])[:, -1], dim=-1)
        torch.testing.assert_close(logp, expected, **EXACT)
        conditionals.append(float(logp[0, ids[0, t]]))
    scores = predictor.score(ids[0].numpy())[1:]
    np.testing.assert_allclose(scores, conditionals, **EXACT)  # the score is their product
    in_pieces = predictor.start(1)
    for piece in ids.split((1, BLOCK - 2, BLOCK + 2, 2), dim=1):
        in_pieces, last = predictor.step(in_pieces, piece)
    torch.testing.assert_close(last, predictor.step(predictor.start(1), ids)[1], **EXACT)


@TYPICAL
def test_nothing_passes_from_one_document_to_another(config: ModelConfig) -> None:
    docs = torch.tensor([[0, 0, 1, 1, 2]])
    acts = read_by(random_model(config), BLOCK, docs)
    same = docs[0][:, None] == docs[0][None, :]
    assert (acts[~same] == 0).all()
    assert (acts.diagonal(-1)[[0, 2]] > 0).all()


@TYPICAL
def test_a_layer_that_is_not_causal_reads_ahead(config: ModelConfig) -> None:
    acts = read_by(random_model(replace(config, causal=False)), BLOCK)
    assert (acts.diagonal(1) > 0).all()
    assert (acts.diagonal(-1) > 0).all()


RESUMED = [
    (mixer, position)
    for mixer in MIXED
    for position in (*POSITIONS, "default")
    if position not in SCORED or ModelConfig(mixer=mixer).attends
    if position in ("default", "relative") or "," not in mixer  # each with each mixer, two with each pair
]


@pytest.mark.parametrize(("mixer", "position"), RESUMED)
def test_exact_resume_and_what_is_saved_is_what_is_read(
    tmp_path: Path, corpus: Corpus, mixer: str, position: str
) -> None:
    model: dict[str, object] = {"mixer": mixer}
    model |= {} if position == "default" else {"position": position}
    model |= {"n_layer": 2, "n_head": 2 if ModelConfig(mixer=mixer).attends else None}
    model |= {"locality": True, "n_kv_head": 1} if "attention" in mixer.split(",") else {}
    model |= {"window": 3} if mixer != "recurrent" and position != "default" else {}
    session = stopped_and_resumed(tmp_path, corpus, model, steps=6)
    saved = predictor_of(read_snapshot(RunFolder(tmp_path / "part"), "latest"))
    ids = corpus.held_out[:50]
    np.testing.assert_array_equal(
        saved.score(ids), TransformerPredictor(session.model.eval(), corpus.vocabulary).score(ids)
    )


def test_attention_mixer_is_the_librarys() -> None:
    """On copied weights; without the norms of queries and keys, which the library's has not."""
    config = ModelConfig(n_embd=12, n_head=3, position="none")
    ours, theirs = (
        Attention(config).double(),
        torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True),
    )
    theirs.double()
    ours.q_norm = ours.k_norm = torch.nn.Identity()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
    x, mask = some(2, 7, 12), ~torch.ones(7, 7).tril().bool()
    bias = torch.zeros(7, 7, dtype=torch.float64).masked_fill(mask, -torch.inf)
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(x, PositionInfo(bias, lambda q: q)), expected, rtol=0, atol=1e-12)


def test_grouped_queries_in_the_attention_mixer_are_full_heads_with_repeated_keys_and_values() -> None:
    """Ainslie et al. 2023: the same as attention whose keys and values are copied within a group."""
    grouped = Attention(ModelConfig(n_embd=12, n_head=6, n_kv_head=2)).double()
    full = Attention(ModelConfig(n_embd=12, n_head=6)).double()
    q, k, v = grouped.qkv.weight.detach().split(grouped.qkv.sizes)
    repeated = [part.view(2, 1, 2, 12).expand(2, 3, 2, 12).reshape(12, 12) for part in (k, v)]
    full.load_state_dict({**grouped.state_dict(), "qkv.weight": torch.cat((q, *repeated))})
    x, places = some(2, 5, 12), PositionInfo(torch.zeros(5, 5).double(), lambda q: q)
    torch.testing.assert_close(grouped(x, places), full(x, places), rtol=0, atol=1e-12)
    assert grouped.qkv.weight.numel() == 12 * (12 + 2 * 4)


def test_simple_attention_mixer_is_the_formula_by_hand_and_has_no_parameters() -> None:
    mixer = SimpleAttention(ModelConfig(n_embd=4, n_head=2))
    assert not list(mixer.parameters())
    x = some(1, 3, 4)
    expected = torch.empty(1, 3, 4, dtype=torch.float64)
    for head in (slice(0, 2), slice(2, 4)):
        for t in range(3):
            weights = [float((x[0, t, head] * x[0, s, head]).sum()) / 2**0.5 for s in range(t + 1)]
            total = sum(np.exp(w) for w in weights)
            expected[0, t, head] = sum(np.exp(w) / total * x[0, s, head] for s, w in enumerate(weights))
    places = torch.arange(3)
    bias = masks.as_bias(masks.Causal()(places, places, None), x)
    torch.testing.assert_close(mixer(x, PositionInfo(bias, lambda q: q)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixer", ATTENTION)
def test_mixer_equivariance_and_what_ends_it(mixer: str) -> None:
    """Unmasked and without positions, permuting the input permutes the output; else it does not."""
    x, order = random_ids(1, BLOCK), torch.tensor([3, 1, 4, 0, 2])

    def difference(**settings: object) -> float:
        config = ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=BLOCK, mixer=mixer, **settings)  # type: ignore[arg-type]
        model = random_model(config)
        return float((model(x[:, order]) - model(x)[:, order]).detach().abs().max())

    assert difference(position="none", causal=False) < 1e-12
    assert difference(position="none", causal=True) > 1e-3
    for position in ("learned", "sinusoidal", "relative", "rotary", "alibi"):
        assert difference(position=position, causal=False) > 1e-3, position


@pytest.mark.parametrize("window", [1, 2, 5])
def test_convolution_mixer_is_the_librarys(window: int) -> None:
    mixer = Convolution(ModelConfig(n_embd=6, window=window)).double()
    torch.nn.init.normal_(mixer.taps)
    x = some(2, 9, 6)
    padded = F.pad(x.transpose(1, 2), (window - 1, 0))
    expected = mixer.out(F.conv1d(padded, mixer.taps[:, None], groups=6).transpose(1, 2))
    torch.testing.assert_close(
        mixer(x, PositionInfo(torch.zeros(()), lambda q: q)), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("window", "n_layer"), [(2, 1), (4, 1), (4, 3), (1, 3)])
@pytest.mark.parametrize("mixer", ["convolution", "attention"])
def test_mixer_reach_of_layers(mixer: str, window: int, n_layer: int) -> None:
    """One layer reaches exactly N, L layers L (N - 1) + 1; what the block cuts off, it cuts."""
    heads = {"n_head": 2} if mixer == "attention" else {}
    config = ModelConfig(mixer=mixer, n_embd=8, n_layer=n_layer, window=window, block_size=20, **heads)  # type: ignore[arg-type]
    assert config.reach == n_layer * (window - 1) + 1
    acts = read_by(random_model(config), 20)
    assert [int((row > 0).sum()) for row in acts] == [min(t + 1, config.reach) for t in range(20)]
    assert replace(config, block_size=window).reach == min(window, config.reach)


def test_recurrent_mixer_reaches_without_limit() -> None:
    config = ModelConfig(mixer="recurrent", n_layer=1, n_embd=8, block_size=BLOCK, dropout=0.0)
    assert config.reach is None and config.carries_state
    predictor = TransformerPredictor(random_model(config, VOCABULARY.n_symbols), VOCABULARY)
    ids = random_ids(50 * BLOCK, n=VOCABULARY.n_symbols).numpy()
    other = ids.copy()
    other[0] = (ids[0] + 1) % VOCABULARY.n_symbols
    later = slice(4 * BLOCK, 6 * BLOCK)
    assert (predictor.score(ids)[later] != predictor.score(other)[later]).all(), "the first no longer acts"
    np.testing.assert_array_equal(
        np.concatenate(list(predictor.score_chunks(ids, [2, 7]))),
        predictor.score(ids)[np.r_[2 * BLOCK + 1 : 3 * BLOCK + 1, 7 * BLOCK + 1 : 8 * BLOCK + 1]],
    )


def test_recurrent_mixer_keeps_documents_apart_as_if_each_stood_alone() -> None:
    mixer = Recurrent(ModelConfig(n_embd=4)).double()
    torch.nn.init.normal_(mixer.out.weight)
    x, docs = some(2, 6, 4), torch.tensor([[0, 0, 0, 1, 1, 2], [5, 7, 7, 7, 7, 7]])
    together = mixer(x, PositionInfo(torch.zeros(()), lambda q: q, docs))
    nowhere = PositionInfo(torch.zeros(()), lambda q: q)
    alone = [mixer(part[None], nowhere)[0] for part in (x[0, :3], x[0, 3:5], x[0, 5:], x[1, :1], x[1, 1:])]
    torch.testing.assert_close(together.flatten(0, 1), torch.cat(alone), rtol=0, atol=1e-12)


def test_no_mixer_asks_which_position_it_is_given_and_none_copies_attention() -> None:
    softmaxes = []
    for name in ("attention", "mixers"):
        path = Path(inspect.getfile(Attention)).with_name(f"{name}.py")
        tree = ast.parse(path.read_text("utf-8"))
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        read_of = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not any("positions" in (module or "") for module in imported), path
        assert "position" not in read_of, path
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            inner = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
            softmaxes += [function.name] if "softmax" in inner else []
    assert softmaxes == ["attend_plain"]


def test_a_checkpoint_from_before_there_was_a_choice_of_mixer_is_read() -> None:
    """A field added later defaults to the old behaviour."""
    old = ModelConfig.from_json({"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.0})
    assert old.completed() == ModelConfig(
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        dropout=0.0,
        mixer="attention",
        position="rotary",
        ngram_embeddings=1,
        prior=False,
    )
    assert list(random_model(old).state_dict()) == list(
        random_model(replace(old, position="rotary")).state_dict()
    )


def test_the_mixer_of_each_layer_takes_its_turn() -> None:
    config = ModelConfig(
        mixer="attention,convolution", n_layer=5, n_head=2, n_embd=8, block_size=BLOCK, position="none"
    )
    kinds = [type(block.mixer) for block in random_model(config).blocks]
    assert kinds == [Attention, Convolution, Attention, Convolution, Attention]


def test_mixers_learn(tmp_path: Path, corpus: Corpus) -> None:
    """Each mixer alone learns the toy text well below what counting characters gives."""
    for mixer in MIXERS:
        heads = {"n_head": 2 if ModelConfig(mixer=mixer).attends else None}
        run, session = toy_run(tmp_path, corpus, 60, mixer, model={"mixer": mixer, **heads})
        list(Trainer(session, run).run(Never()))
        figure = session.state.last_evaluation
        assert figure and figure.nats_per_char < session.state.divergence.unigram_nats - 0.5, mixer
