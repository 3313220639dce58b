"""Counts in a run: saved once, vouched for by every checkpoint, refused when they are not what they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import NGRAM_FILE
from charlm.checkpoint.snapshot import Snapshot, read_snapshot
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError
from charlm.ngram.build import build
from tests.conftest import toy_run

pytestmark = pytest.mark.native


def with_counts(root: Path, corpus: Corpus) -> tuple[RunFolder, Snapshot]:
    run, session = toy_run(root, corpus, model={"prior": True, "prior_order": 3})
    counts = build(corpus.train, corpus.vocabulary.n_symbols, 3, memory=1 << 30).model.to_bytes()
    snapshot = replace(session.snapshot(), ngram=counts)
    run.write_run_files(snapshot.run_files())
    run.save(0, snapshot.files(), snapshot.run_files(), best=False)
    return run, snapshot


def test_counts_come_back_as_they_were(tmp_path: Path, corpus: Corpus) -> None:
    run, snapshot = with_counts(tmp_path, corpus)
    again = read_snapshot(run, "latest")
    assert again.ngram == snapshot.ngram
    expected, found = snapshot.kneser_ney(), again.kneser_ney()
    assert expected is not None and found is not None
    contexts = expected.contexts(np.asarray(corpus.held_out[None, :50]))[0]
    np.testing.assert_array_equal(found.rows(contexts), expected.rows(contexts))


def test_a_run_without_counts_has_none(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus)
    snapshot = session.snapshot()
    run.save(0, snapshot.files(), snapshot.run_files(), best=False)
    (run.path / NGRAM_FILE).write_bytes(b"what no checkpoint lists is not read")
    assert read_snapshot(run, "latest").ngram is None and read_snapshot(run, "latest").kneser_ney() is None


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "a link"])
def test_counts_that_are_not_what_was_saved_are_refused(how: str, tmp_path: Path, corpus: Corpus) -> None:
    run, _ = with_counts(tmp_path, corpus)
    path = run.path / NGRAM_FILE
    data = bytearray(path.read_bytes())
    path.unlink()
    if how == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "a link":
        (run.path / "elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    with pytest.raises(CheckpointError, match=r"ngram\.safetensors"):
        read_snapshot(run, "latest")
