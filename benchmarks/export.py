"""How far exports are from charlm: differences of log-probabilities on held-out text, of ids on all of Unicode, and sizes.

    python -m benchmarks.export RUN [--checkpoints DIR] [--positions 1000]

The run is a plain decoder. transformers and onnxruntime are asked at so many positions, llama.cpp at PROMPTS of them, with
its usual keys and values of 16 bits. Needs the extra `dev`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from charlm.export.decoder import PlainDecoder, plain_decoder
from charlm.export.export_config import GGUF, HF, ONNX, ExportConfig
from charlm.export.gguf import TYPES
from charlm.export.write import export
from charlm.run import load
from charlm.training.run_corpus import corpus_of

PROMPTS = 40
SPACE = 0x2581
"""Which llama.cpp reads as a space, if the vocabulary does not have it."""
TEXT = "".join(
    map(
        chr,
        (
            point
            for point in range(0x110000)
            if point != SPACE and (point < 0xD800 or (point > 0xDFFF and point % 37 == 0))
        ),
    )
)
Found = tuple[Tensor, Tensor, list[int]]
"""Log-probabilities (N, symbols) of another program and of charlm, and the ids of TEXT."""


def windows(decoder: PlainDecoder, positions: int) -> Tensor:
    """Held-out ids (B, W), blocks of the model's size."""
    W, ids = decoder.shape.block_size, corpus_of(decoder.snapshot).held_out
    n = min(len(ids) // W, -(-positions // W))
    return torch.from_numpy(ids[: n * W].astype(np.int64)).view(n, W)


def by_transformers(folder: Path, ids: Tensor, ours: Tensor) -> Found:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    found = logits.log_softmax(-1)[..., : ours.shape[-1]]
    return found, ours, AutoTokenizer.from_pretrained(folder)(TEXT).input_ids


def by_onnxruntime(folder: Path, ids: Tensor, ours: Tensor) -> Found:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    session = InferenceSession(folder / "model.onnx")
    past = [size if isinstance(size, int) else 0 for size in session.get_inputs()[1].shape]
    past[1] = len(ids)
    nothing = np.zeros(past, np.float32)
    feed = {"input_ids": ids.numpy(), "past_keys": nothing, "past_values": nothing}
    logits = torch.from_numpy(session.run(None, feed)[0])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return logits.log_softmax(-1)[..., : ours.shape[-1]], ours, tokenizer.encode(TEXT).ids


def by_llama(folder: Path, ids: Tensor, ours: Tensor) -> Found:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx = str(next(folder.glob("*.gguf"))), 512
    params.warmup, params.verbosity = False, -1
    server = xllamacpp.Server(params)

    def ask(where: str, **values: Any) -> Any:
        head = {"Content-Type": "application/json"}
        with urlopen(
            Request(f"{server.listening_address}/{where}", json.dumps(values).encode(), head)
        ) as answer:
            return json.load(answer)

    (B, W), n, rows = ids.shape, ours.shape[-1], []
    last = np.linspace(0, B * (W - 1) - 1, PROMPTS).astype(
        int
    )  # a block that is full has no room for a prediction
    at = [divmod(i, W - 1) for i in last.tolist()]
    for row, t in at:
        prompt = ids[row, : t + 1].tolist()
        answer = ask(
            "completion", prompt=prompt, n_predict=1, n_probs=n + 300, temperature=1, cache_prompt=False
        )
        found = {
            each["id"]: each["logprob"] for each in answer["completion_probabilities"][0]["top_logprobs"]
        }
        rows.append([found[i] for i in range(n)])
    wanted = torch.stack([ours[place] for place in at])
    tokens = ask("tokenize", content=TEXT, add_special=True, parse_special=False)["tokens"]
    return torch.tensor(rows), wanted, tokens


PROGRAMS: dict[str, Callable[[Path, Tensor, Tensor], Found]] = {
    HF: by_transformers,
    ONNX: by_onnxruntime,
    GGUF: by_llama,
}


def rows_of(decoder: PlainDecoder, positions: int) -> Iterator[tuple[str, ...]]:
    """A row for each format: its difference, the share of ids that are equal, its size in megabytes."""
    from charlm.inference.predictor import TransformerPredictor

    v, ids = decoder.vocabulary, windows(decoder, positions)
    predictor = TransformerPredictor.of(decoder.config, decoder.snapshot.weights, v, None)
    with torch.inference_mode():
        ours = (predictor.model(ids) / decoder.temperature).log_softmax(-1)
    wanted = v.encode(TEXT).tolist()
    for to, dtype in ((HF, None), (ONNX, None), *((GGUF, dtype) for dtype in TYPES)):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / to
            size = export(decoder, folder, ExportConfig(to=to, dtype=dtype))
            found, of_charlm, tokens = PROGRAMS[to](folder, ids, ours)
        difference = (found - of_charlm).abs().max().item()
        kl = (of_charlm.exp() * (of_charlm - found)).sum(-1).mean().item()
        likeliest = (found.argmax(-1) == of_charlm.argmax(-1)).float().mean().item()
        same = "equal" if tokens == wanted else f"{len(tokens):,} instead of {len(wanted):,}"
        n = found.numel() // found.shape[-1]
        yield (
            f"{to} {dtype or ''}".strip(),
            f"{difference:.1e}",
            f"{kl:.1e}",
            f"{100 * likeliest:.1f} %",
            f"{n:,}",
            same,
            f"{size / 1e6:.2f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--positions", type=int, default=1000)
    given = parser.parse_args()
    decoder = plain_decoder(load(given.run, checkpoints=given.checkpoints))
    shape = decoder.shape
    print(
        f"{machine.line()}; {shape.n_layer} x {shape.n_embd}, {shape.n_symbols} symbols, block {shape.block_size}"
    )
    print(
        "| Export | largest difference | mean KL, nats | same likeliest | positions | ids | MB |\n|---|---|---|---|---|---|---|"
    )
    for row in rows_of(decoder, given.positions):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
