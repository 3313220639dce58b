"""What a student of a teacher learns at each place: a distribution, in which the teacher remembers no place by heart."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

import charlm
from charlm.checkpoint.run_folder import RunFolder
from charlm.config import TrainingConfig
from charlm.training.run_corpus import corpus_of
from charlm.training.teacher import SoftTargets, Teacher

NOISE = "".join(Random(1).choices("abcdefgh", k=8000))


KINDS = [{"model": "ngram", "prior_order": 6}, {"steps": 1, "prior": True}]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_counts_are_made_without_the_place_that_is_asked_about(
    tmp_path: Path, kind: dict[str, object], precision: str
) -> None:
    run = charlm.train(texts=[NOISE], checkpoints=tmp_path, run="big", **kind)  # type: ignore[arg-type]
    teacher = Teacher.load(RunFolder(run.path), None)
    corpus = corpus_of(teacher.snapshot)
    training = TrainingConfig(teacher_weight=1.0, teacher_chars=len(corpus.train), precision=precision)
    targets = SoftTargets(teacher, corpus, training, lambda done, of: None)
    starts = np.arange(0, 7000, 100)
    ids = corpus.train[starts[:, None] + np.arange(101)].astype(np.int64)
    soft = targets.batch(ids, starts)
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
    p = np.take_along_axis(soft, ids[:, 1:, None], -1)
    assert -np.log(p).mean() > np.log(8) - 0.02, "of noise nobody knows more than that"
    assert -run.predictor.score(corpus.train[:7000]).mean() < np.log(8) - 0.1, (
        "which counts do, of what they saw"
    )


def test_where_the_teacher_is_not_asked_the_symbol_is_learned(tmp_path: Path) -> None:
    run = charlm.train(texts=[NOISE], checkpoints=tmp_path, run="big", steps=1, plain=True)
    teacher = Teacher.load(RunFolder(run.path), None)
    corpus = corpus_of(teacher.snapshot)
    training = TrainingConfig(teacher_weight=0.5, teacher_chars=320, reserved_chars=800, precision="bf16")
    told: list[tuple[int, int]] = []
    targets = SoftTargets(teacher, corpus, training, lambda done, of: told.append((done, of)))
    n = len(corpus.train) - 800
    ids = corpus.train[None, : n + 1].astype(np.int64)
    soft = targets.batch(ids, np.array([0]))[0]
    p = np.take_along_axis(soft, ids[0, 1:, None], -1)[:, 0]
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
    assert (p >= 0.5).all() and abs(int((p < 1).sum()) - 320) <= 32
    assert told[-1] == (320, 320)
