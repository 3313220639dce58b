"""What the page shows of the inside of a transformer, recomputed in Python."""

from typing import cast

import numpy as np
import pytest
import torch

from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.inference.recent import without_recent
from charlm.model.attention import Attention, Mixer, split_heads
from charlm.model.transformer import Block
from charlm.page.pack import PackedModel, pack
from tests.page.conftest import Page
from tests.page.test_engine import CLOSE, NGRAMS, PRIOR, TOYS
from tests.page.toys import SCORED, Toy, mixture, probabilities, snapshot_of

AT = 150


def transformer(packed: PackedModel, member: int = 0) -> TransformerPredictor:
    """A member of it by torch."""
    found: Predictor = without_recent(predictor_of(packed.snapshot, native=False))
    return cast("TransformerPredictor", getattr(found, "members", (found,))[member])


def weights_of(predictor: TransformerPredictor, ids: list[int]) -> list[np.ndarray]:
    """The attention weights (H, T) of the last of `ids`, which fill a window, in each block: by the formula."""
    model, found = predictor.model, list[np.ndarray]()
    pos = torch.arange(len(ids))

    def look(mixer: Mixer, args: tuple[torch.Tensor, object, object]) -> None:
        assert isinstance(mixer, Attention)
        x, info = args[0], model.position_info(pos, None, args[0])
        q, k, _ = (split_heads(part, mixer.head_size) for part in mixer.qkv.split(x))
        q, k = info.rotate(mixer.q_norm(q)), info.rotate(mixer.k_norm(k))
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q[0, :, -1:] @ k[0].transpose(-2, -1) / mixer.head_size**0.5 + info.bias[..., -1:, :]
        found.append(torch.softmax(scores, dim=-1).view(q.shape[1], -1).numpy())

    hooks = [cast("Block", block).mixer.register_forward_pre_hook(look) for block in model.blocks]
    with torch.inference_mode():
        model.hidden(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["attention-rotary", "attention-relative", "window-locality", "block-7"])
def test_attention_is_what_the_formula_says(page: Page, name: str) -> None:
    """Heads over the characters of the window, their weights sum to one."""
    packed = pack(snapshot_of(TOYS[name]))
    page.open(packed.data)
    predictor = transformer(packed)
    found = page("engine.inside(given[0], given[1])", [SCORED, AT])
    start = predictor.rule.start(AT)
    assert found["start"] == start and found["prior"] is None
    expected = weights_of(predictor, predictor.vocabulary.encode(SCORED[start:AT]).tolist())
    assert len(found["layers"]) == len(expected) == 2
    for layer, heads in zip(found["layers"], expected, strict=True):
        np.testing.assert_allclose(layer["heads"], heads, atol=1e-4)
        np.testing.assert_allclose(np.sum(layer["heads"], axis=1), 1)


@pytest.mark.parametrize(
    "name", ["attention-learned-prior", "mixture", "temperature", "recurrent", "documents"]
)
def test_the_lens_ends_at_what_the_member_predicts(page: Page, name: str) -> None:
    packed = pack(snapshot_of(TOYS[name]))
    info = page.open(packed.data)
    for member, says in enumerate(info["members"]):
        found = page("engine.inside(given[0], given[1], {member: given[2]})", [SCORED, AT, member])
        assert len(found["lens"]) == (says["nLayer"] + 1 if says["nLayer"] else 0)
        for layer in found["layers"]:
            assert ("attention" in says["mixers"]) == bool(layer["heads"])
        if found["lens"]:
            np.testing.assert_allclose(
                [each["p"] for each in found["lens"][-1]], [each["p"] for each in found["member"]], atol=1e-6
            )
        assert (found["prior"] is not None) == (says["kind"] == "prior")
    whole = without_recent(packed.predictor)
    if (
        whole.vocabulary.end is None
    ):  # else a prompt begins a document, and `inside` reads the text as it stands
        expected = probabilities(whole, SCORED[:AT])
        for each in found["final"]:
            assert each["p"] == pytest.approx(expected[each["text"]], abs=CLOSE)


def test_characters_of_several_bytes_have_the_attention_of_all_their_bytes(page: Page) -> None:
    packed = pack(snapshot_of(TOYS["bytes-no-prior"]))
    page.open(packed.data)
    text = "Zürich € 😀 naïve"
    found = page("engine.inside(given, 16)", text)
    predictor = transformer(packed)
    ids = predictor.vocabulary.encode(text)
    window = predictor.rule.start(len(ids))
    chars = np.repeat(np.arange(len(text)), predictor.vocabulary.ids_per_char(text))
    assert found["start"] == chars[window] and len(ids) > len(text) == 16
    for layer, heads in zip(found["layers"], weights_of(predictor, ids[window:].tolist()), strict=True):
        for of_page, of_bytes in zip(layer["heads"], heads, strict=True):
            expected = np.bincount(chars[window:] - found["start"], of_bytes)
            np.testing.assert_allclose(of_page, expected, atol=1e-4)


def test_before_the_first_character_nothing_is_read(page: Page) -> None:
    toy = Toy(members=(PRIOR, NGRAMS), mixture=mixture(2, ngram=True, recent=False))
    page.open(pack(snapshot_of(toy)).data)
    for member in range(3):
        found = page("engine.inside('abc', 0, {member: given})", member)
        assert found["layers"] == found["lens"] == [] and found["start"] == 0
        assert len(found["member"]) == len(found["final"]) == 5
