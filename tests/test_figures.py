"""A figure is one number: probabilities sum to one, whatever was trained, and pieces and batches change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read
from charlm.config import TextConfig
from charlm.evaluation.score import score_text
from charlm.predictor import Predictor
from charlm.predictor_of import predictor_of
from charlm.text.corpus import Corpus
from charlm.text.preparation import prepare
from charlm.training.kinds import trainer_of
from tests.conftest import TEXT, Never, toy_run
from tests.test_counts_alone import counted

POSITIONS = 1000
SUM = BITS = 1e-6


def trained(root: Path, corpus: Corpus, kind: str) -> Predictor:
    if kind == "counts alone":
        run, alone = counted(root, corpus, kind.replace(" ", "-"))
        list(trainer_of(alone, run).run(Never()))
    else:
        model: dict[str, object] = {"counts": True, "counts_order": 3} if kind == "beside counts" else {}
        training = {"precision": "bf16"} if kind == "trained in bf16" else {}
        run, session = toy_run(root, corpus, 30, kind.replace(" ", "-"), model=model, **training)
        list(trainer_of(session, run).run(Never()))
    return predictor_of(read(RunFolder(run.path), "latest"))


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
    monkeypatch.setattr("charlm.predictor.IDS_AT_ONCE", 64)
    assert abs(score_text(p, "", text).nats.mean() - whole.mean()) / np.log(2) < BITS
    ids = p.vocabulary.encode(text[:600])
    read_one_by_one, state = [], p.start(1)
    for t, id_ in enumerate(ids):
        read = torch.from_numpy(ids[None, max(0, t - 1) : t].astype(np.int64))
        state, logp = p.step(state, read)
        read_one_by_one.append(-float(logp[0, int(id_)]))
    assert abs(np.mean(read_one_by_one) + p.score(ids).mean()) / np.log(2) < BITS
