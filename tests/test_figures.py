"""A figure is one number: probabilities sum to one, whatever was trained, and pieces and batches change nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.evaluation.score import score_text
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor
from charlm.training.trainer import Trainer
from tests.cli.kept import TOY
from tests.conftest import TEXT, Never, Result, toy_run
from tests.test_counts_alone import counted

POSITIONS = 1000
SUM = BITS = 1e-6


def trained(root: Path, corpus: Corpus, kind: str) -> Predictor:
    if kind == "counts alone":
        run, alone = counted(root, corpus, kind.replace(" ", "-"))
        list(Trainer(alone, run).run(Never()))
    else:
        model: dict[str, object] = {"prior": True, "prior_order": 3} if kind == "beside counts" else {}
        training = {"precision": "bf16"} if kind == "trained in bf16" else {}
        run, session = toy_run(root, corpus, 30, kind.replace(" ", "-"), model=model, **training)
        list(Trainer(session, run).run(Never()))
    return predictor_of(read_snapshot(RunFolder(run.path), "latest"))


KINDS = ["a model", "beside counts", "counts alone", "documents apart", "trained in bf16"]


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    root = tmp_path_factory.mktemp("figures")
    plain, apart = prepare(TEXT, TextConfig()), prepare(TEXT, TextConfig(documents="line"))
    return {kind: trained(root, apart if "documents" in kind else plain, kind) for kind in KINDS}


def sums(p: Predictor, ids: torch.Tensor) -> list[float]:
    """Of the probabilities of what comes next, before each id and after the last: read one by one."""
    state = p.start(1)
    found = []
    for t in range(ids.shape[1] + 1):
        state, logp = p.step(state, ids[:, t - 1 : t] if t else ids[:, :0])
        found.append(float(logp.double().exp().sum()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_sum_to_one_at_a_thousand_positions(
    predictors: dict[str, Predictor], kind: str
) -> None:
    """Ids that training never saw among them; an end is where a document begins, and nowhere else."""
    p = predictors[kind]
    ids = torch.randint(p.vocabulary.n_ids, (1, POSITIONS), generator=torch.Generator().manual_seed(2))
    end = p.vocabulary.end
    if end is not None:
        ids[ids == end] = 0
        ids[0, 0] = end
    assert max(abs(found - 1) for found in sums(p, ids)) < SUM


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_neither_on_the_batch_nor_on_the_pieces(
    predictors: dict[str, Predictor], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = predictors[kind]
    text = (TEXT + "Жé🦆\n" + TEXT[::-1])[:3000]
    whole = score_text(p, "", text).nats
    assert np.array_equal(score_text(p, "", text).nats, whole), "twice the same number"
    monkeypatch.setattr("charlm.inference.predictor.IDS_AT_ONCE", 64)
    assert abs(score_text(p, "", text).nats.mean() - whole.mean()) / np.log(2) < BITS
    ids = p.vocabulary.encode(text[:600])
    read_one_by_one, state = [], p.start(1)
    for t, id_ in enumerate(ids):
        read = torch.from_numpy(ids[None, max(0, t - 1) : t].astype(np.int64))
        state, logp = p.step(state, read)
        read_one_by_one.append(-float(logp[0, int(id_)]))
    assert abs(np.mean(read_one_by_one) + p.score(ids).mean()) / np.log(2) < BITS


QUESTIONS = "".join(f"Question {i} plé{'a' * (i % 3)}se?\n" + "\n" * (i % 2) for i in range(240))
DOCUMENTS = {
    "none": "",
    "line": "--documents line",
    "file": "--documents file",
    "blank-line": "--documents blank-line",
    "separator": "--documents separator --separator ?\\n",
    "drawn": "--documents line --split documents",
}
MODELS = {
    "none": "--model ngram",
    "prior": "--prior --prior-order 3 --steps 2",
    "no prior": "--no-prior --steps 2",
}
SMALL = "--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4 --precision fp32"


@pytest.mark.parametrize(
    ("documents", "units", "model"),
    [
        *(
            ("none", "chars", "prior"),
            ("none", "bytes", "none"),
            ("line", "bytes", "prior"),
            ("line", "chars", "none"),
        ),
        *(
            ("file", "chars", "no prior"),
            ("blank-line", "bytes", "no prior"),
            ("separator", "chars", "prior"),
        ),
        *(("drawn", "bytes", "prior"), ("drawn", "chars", "none")),
    ],
)
def test_training_ends_on_the_figure_that_eval_gives(
    charlm: Callable[..., Result], documents: str, units: str, model: str
) -> None:
    Path("texts").mkdir()
    for i in range(10):
        Path(f"texts/{i}.txt").write_text(QUESTIONS[i * 400 : (i + 1) * 400], "utf-8")
    shape = SMALL if "--steps" in MODELS[model] else ""
    options = f"{DOCUMENTS[documents]} {MODELS[model]} {shape} --units {units}".split()
    trained = charlm("train", "texts", *options)
    assert trained.code == 0, trained.err
    said = re.search(r"held-out +([\d.]+) ± [\d.]+ bits/char", trained.out)
    assert said and "the whole held-out part" in trained.out
    found = json.loads(charlm("eval", "--json").out)
    assert float(said[1]) == pytest.approx(found["bits_per_char"], abs=6e-5)
    if model == "none":
        counts = found["baselines"]["kneser-ney"]
        assert counts["bits_per_char"] == pytest.approx(found["bits_per_char"], abs=1e-9)
        assert not any("predict better" in warning for warning in found["warnings"])


@pytest.mark.parametrize("kind", ["line", "blank-line"])
def test_counts_alone_begin_samples_where_documents_begin(charlm: Callable[..., Result], kind: str) -> None:
    lines = QUESTIONS.replace("\n\n", "\n")
    Path("q.txt").write_text(lines if kind == "line" else lines.replace("\n", "\n\n"), "utf-8")
    assert charlm("train", "q.txt", "--model", "ngram", "--documents", kind).code == 0
    out = charlm("sample", "-n", "20", "--length", "9", "--temperature", "0.2", "--seed", "1", "--json").out
    begun = [json.loads(line)["text"] for line in out.splitlines()]
    assert [text[:8] for text in begun] == ["Question"] * 20


def test_counts_alone_in_a_comparison_of_documents_are_the_baseline(charlm: Callable[..., Result]) -> None:
    Path("q.txt").write_text(QUESTIONS, "utf-8")
    result = charlm(
        *("compare", "q.txt", "--documents", "line", "--vary", "model=ngram,transformer", "--steps", "2"),
        *("--json", *TOY),
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    (bits,) = [row["bits_per_char"] for row in found["rows"] if row["values"]["model"] == "ngram"]
    assert bits == pytest.approx(found["baselines"]["kneser-ney"]["bits_per_char"], abs=1e-9)


@pytest.mark.parametrize("given", ["--prior-order 1", "--prior-chars 300 --prior-order 0"])
def test_the_advice_for_counts_names_what_differs(charlm: Callable[..., Result], given: str) -> None:
    def advice(*options: str) -> list[str]:
        assert charlm("train", "ducks.txt", "--model", "ngram", *options).code == 0
        warnings = json.loads(charlm("eval", "--json").out)["warnings"]
        return [warning for warning in warnings if "predict better" in warning]

    (said,) = advice(*given.split())
    order = re.search(r"--prior-order (\d+)$", said)
    assert order
    more = advice("--prior-order", order[1], *given.split()[:2] * ("--prior-chars" in given))
    assert not more or "train without --prior-chars" in more[0]
