"""What llama.cpp makes of an exported file: the same ids, probabilities and text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch

from charlm.export.decoder import PlainDecoder
from charlm.export.gguf import write_gguf
from tests.export.toys import ODD, decoder_of, greedy, logits_of, texts, vocabularies

pytest.importorskip("gguf", reason="needs gguf")
xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp")

PROMPT = "The little old duck went"


class Llama:
    """llama.cpp with a model, behind its own server on loopback."""

    def __init__(self, path: Path, *, exact: bool = False) -> None:
        """`exact`: keys and values are kept in 32 bits; usual are 16."""
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.cpuparams.n_threads = str(path), 512, 1
        params.warmup, params.verbosity = False, -1
        if exact:
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self._server = xllamacpp.Server(params)

    def __call__(self, where: str, **values: Any) -> Any:
        request = Request(
            f"{self._server.listening_address}/{where}",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as answer:
            return json.load(answer)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with what llama.cpp adds of itself."""
        found: list[int] = self("tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        return found

    def log_probs(self, ids: list[int], n: int) -> torch.Tensor:
        """Log-probabilities (n,) of the first ids after these."""
        answer = self(
            "completion", prompt=ids, n_predict=1, n_probs=2 * n + 600, temperature=1, cache_prompt=False
        )
        found = {row["id"]: row["logprob"] for row in answer["completion_probabilities"][0]["top_logprobs"]}
        return torch.tensor([found[i] for i in range(n)])


def loaded(decoder: PlainDecoder, folder: Path, dtype: str = "f16") -> Llama:
    """An export, loaded."""
    write_gguf(decoder, folder, dtype)
    return Llama(folder / "toy.gguf", exact=dtype == "f32")


def prompts(decoder: PlainDecoder) -> Iterator[list[int]]:
    for text in (PROMPT, PROMPT + " é東 \x00 over", "e" * 60):
        yield decoder.vocabulary.encode(text).tolist()


@pytest.mark.parametrize("kind", vocabularies())
def test_its_ids_are_ours_and_give_the_text_again(tmp_path: Path, kind: str) -> None:
    decoder = decoder_of(vocabularies()[kind], n_layer=1)
    llama = loaded(decoder, tmp_path)
    for text in (*texts(), *[ODD] * ("▁" in decoder.vocabulary.chars)):
        ids = decoder.vocabulary.encode(text).tolist()
        assert llama.ids(text) == ids
        assert llama("detokenize", tokens=ids)["content"] == text


@pytest.mark.parametrize(("dtype", "most"), [("f32", 1e-4), ("f16", 1e-2), ("q8_0", 0.2)])
def test_its_probabilities_are_ours(tmp_path: Path, dtype: str, most: float) -> None:
    decoder = decoder_of(vocabularies()["odd"], n_embd=96, n_head=6, n_kv_head=3, block_size=128)
    llama = loaded(decoder, tmp_path, dtype)
    for ids in prompts(decoder):
        wanted = logits_of(decoder, torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert (llama.log_probs(ids, len(wanted)) - wanted).abs().max() < most


def test_it_writes_what_we_write(tmp_path: Path) -> None:
    decoder = decoder_of(vocabularies()["plain"], block_size=320)
    answer = loaded(decoder, tmp_path, "f32")("completion", prompt=PROMPT, n_predict=100, temperature=0)
    assert answer["content"] == greedy(decoder, PROMPT, 100)


def test_the_modelfile_names_the_file_and_asks_for_no_penalty(tmp_path: Path) -> None:
    write_gguf(decoder_of(vocabularies()["plain"]), tmp_path)
    lines = (tmp_path / "Modelfile").read_text("utf-8").splitlines()
    assert lines[0] == "FROM ./toy.gguf" and (tmp_path / "toy.gguf").is_file()
    assert {"PARAMETER num_ctx 64", "PARAMETER repeat_penalty 1", "PARAMETER temperature 0.8"} <= set(lines)
