"""What transformers makes of an exported folder: the same ids, logits and text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from charlm.export.decoder import PlainDecoder
from charlm.export.hf import write_hf
from tests.export.toys import ODD, decoder_of, greedy, logits_of, some_ids, texts, vocabularies

transformers = pytest.importorskip("transformers", reason="needs transformers")


def exported(decoder: PlainDecoder, folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of an export, as others load them: without code of ours."""
    write_hf(decoder, folder)
    named = {"local_files_only": True, "trust_remote_code": False}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **named)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, **named)


@pytest.mark.parametrize(
    ("n_embd", "n_head", "n_kv_head"), [(64, 2, 2), (80, 5, 1), (320, 10, 2), (768, 12, 4)]
)
def test_its_logits_are_ours_at_a_thousand_positions(
    tmp_path: Path, n_embd: int, n_head: int, n_kv_head: int
) -> None:
    decoder = decoder_of(
        vocabularies()["odd"], n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head, block_size=1000
    )
    model, _ = exported(decoder, tmp_path)
    ids, n = some_ids(decoder, 1, 1000), decoder.shape.n_symbols
    with torch.inference_mode():
        found = model(ids).logits
    assert model.dtype == torch.float32
    assert (found[..., :n] - logits_of(decoder, ids)).abs().max() < 1e-4
    assert found.softmax(-1)[..., n:].max() == 0, "bytes that training never saw are never predicted"


def test_queries_so_small_that_the_epsilon_of_their_norm_matters(tmp_path: Path) -> None:
    decoder = decoder_of(vocabularies()["plain"], query_size=1e-3)
    model, _ = exported(decoder, tmp_path)
    ids, n = some_ids(decoder, 1, 64), decoder.shape.n_symbols
    with torch.inference_mode():
        assert (model(ids).logits[..., :n] - logits_of(decoder, ids)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", vocabularies())
def test_its_ids_are_ours_and_give_the_text_again(tmp_path: Path, kind: str) -> None:
    decoder = decoder_of(vocabularies()[kind], n_layer=1)
    _, tokenizer = exported(decoder, tmp_path)
    for text in (*texts(), ODD):
        ids = tokenizer(text).input_ids
        assert ids == decoder.vocabulary.encode(text).tolist()
        assert tokenizer.decode(ids) == text
    end = decoder.vocabulary.end
    assert len(tokenizer) == decoder.vocabulary.n_ids
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (end, end, end)
    if end is not None:
        assert tokenizer.decode([end], skip_special_tokens=True) == ""


def test_it_writes_what_we_write(tmp_path: Path) -> None:
    decoder = decoder_of(vocabularies()["plain"], block_size=320)
    model, tokenizer = exported(decoder, tmp_path)
    ids = tokenizer("The duck", return_tensors="pt").input_ids
    found = tokenizer.decode(model.generate(ids, do_sample=False, max_length=308)[0])
    assert found == "The duck" + greedy(decoder, "The duck", 300)
    assert len(found) == 308


def test_by_itself_it_samples_as_we_do_and_stops_where_the_context_ends(tmp_path: Path) -> None:
    decoder = decoder_of(vocabularies()["plain"])
    model, tokenizer = exported(decoder, tmp_path)
    assert model.generation_config.temperature == 0.8 and model.generation_config.top_k == 0
    assert len(tokenizer.decode(model.generate(tokenizer("The", return_tensors="pt").input_ids)[0])) == 64


def test_the_folder_names_no_place_of_this_computer(tmp_path: Path) -> None:
    write_hf(decoder_of(vocabularies()["documents"], documents="line"), tmp_path)
    for path in tmp_path.iterdir():
        assert b"/home/me" not in path.read_bytes(), path
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "toy.txt" in card and "It was never evaluated" in card and "license:" not in card
