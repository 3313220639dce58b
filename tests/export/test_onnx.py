"""What onnxruntime computes: our distribution, at every length, with a cache and without."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.export.onnx import INPUTS, write_onnx
from charlm.inference.predictor import log_softmax_with_escape
from tests.export.toys import decoder_of, logits_of, some_ids, vocabularies

for name in ("onnx", "onnxscript", "tokenizers"):
    pytest.importorskip(name, reason=f"needs {name}")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_the_graph_predicts_what_we_predict(tmp_path: Path) -> None:
    decoder = decoder_of(vocabularies()["spelled"], n_embd=48, n_head=4, n_kv_head=2, block_size=96)
    write_onnx(decoder, tmp_path)
    session, shape = onnxruntime.InferenceSession(tmp_path / "model.onnx"), decoder.shape

    def run(ids: Any, keys: Any, values: Any) -> Any:
        return session.run(None, dict(zip(INPUTS, (ids, keys, values), strict=True)))

    for B, T in ((1, 1), (1, 2), (3, 17), (2, 96)):
        nothing = np.zeros((shape.n_layer, B, shape.n_kv_head, 0, shape.head_size), np.float32)
        ids = some_ids(decoder, B, T)
        found, _, _ = run(ids.numpy(), nothing, nothing)
        wanted = logits_of(decoder, ids)
        assert np.abs(found[..., : shape.n_symbols] - wanted.numpy()).max() < 1e-4
        p = torch.log_softmax(torch.from_numpy(found), dim=-1)
        assert (p - log_softmax_with_escape(decoder.vocabulary, wanted)).abs().max() < 1e-4
        keys = values = nothing
        pieces = []
        for part in ids.split(5, dim=1):
            logits, keys, values = run(part.numpy(), keys, values)
            pieces.append(logits)
        assert keys.shape[3] == T
        assert np.abs(np.concatenate(pieces, axis=1) - found).max() < 1e-4


def test_the_documentation_s_examples_predict_what_we_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = decoder_of(vocabularies()["plain"])
    root = Path(__file__).parents[2]
    for name in ("poems-onnx", "onnx"):
        (tmp_path / name).mkdir()
        write_onnx(decoder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    wanted = logits_of(decoder, torch.from_numpy(decoder.vocabulary.encode("The")[None]))[0, -1]
    page = re.search(
        r"```python\n([^`]*poems-onnx/model[^`]*)```", (root / "docs/export.md").read_text("utf-8")
    )
    line = re.search(r'python -c "(.*onnx/model.*)"', (root / "README.md").read_text("utf-8"))
    assert page and line
    made, short = dict[str, Any](), dict[str, Any]()
    exec(page[1], made)
    assert np.abs(made["logits"][0, -1, : len(wanted)] - wanted.numpy()).max() < 1e-4
    assert made["keys"].shape[3] == 3, "nothing stands before the prompt"
    exec(line[1], short)
    assert short["p"].shape[3] == 0
    assert eval(capsys.readouterr().out) == decoder.vocabulary.decode(wanted.argmax()[None].numpy())
