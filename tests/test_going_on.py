"""A run that goes on from another: what it takes over, what it leaves alone, and what it says was forgotten."""

import hashlib
import shutil
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.corpus_cache import cache_folder
from charlm.data.load import Loaded
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.evaluation.score import score_slice
from charlm.inference.members import predictor_of
from charlm.ngram.build import FOLDS, build, fold_edges
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.events import Event, Remembered
from charlm.training.finetune import Parent, choose_finetuning, inherit_model, inherit_training
from charlm.training.launch import resume_run, start_run
from charlm.training.run_corpus import corpus_of
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, toy_run
from tests.test_counts_alone import counted
from tests.test_loop import assert_same

NEW = "".join(
    f"{i} små ankor simmade en dag, {'över kullarna' * (i % 3)} och långt bort.\n" for i in range(60)
)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ngram_embeddings": {"ngram_embeddings": 3, "ngram_embedding_rows": 256},
    "counts": {"prior": True, "prior_order": 2},
    "recurrent": {"mixer": "recurrent", "n_head": None},
    "learned": {"position": "learned"},
}


def trained(root: Path, corpus: Corpus, kind: str = "plain", steps: int = 12, **more: object) -> RunFolder:
    run, session = toy_run(root, corpus, steps, "old", model={**KINDS[kind]}, **more)
    list(Trainer(session, run).run(Never()))
    run.unlock()
    return RunFolder(run.path)


def gone_on(
    run: RunFolder,
    text: str,
    steps: int = 12,
    name: str = "new",
    config: TextConfig | None = None,
    **training: Any,
) -> tuple[RunFolder, TransformerSession]:
    """A run on another text that goes on from this one, at step 0."""
    origin = Parent.load(run, None)
    corpus = prepare(text, config or TextConfig(), earlier=origin.earlier())
    origin = origin.with_counting(corpus)
    model, wanted = (
        inherit_model(origin, ModelConfig(), set()),
        inherit_training(origin, TrainingConfig(), set()),
    )
    wanted = replace(wanted, **{"eval_every": 5, "eval_chars": 100, "save_every": 1e6, **training})
    choice = choose_finetuning(origin, corpus, Budget(steps=steps), model, wanted)
    choice = replace(choice, plan=choice.plan.record(decided="size", at_step=0, steps=steps))
    folder = RunFolder.create(run.path.parent, name)
    loaded = Loaded(corpus=corpus, notes=(), sources=(), label="another toy")
    session = start_run(folder, loaded, config or TextConfig(), choice, "charlm train", origin)
    assert isinstance(session, TransformerSession)
    return folder, session


def hashes(run: RunFolder) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.path.rglob("*")
        if path.is_file()
    }


def last_remembered(events: list[Event]) -> list[Remembered]:
    return [event for event in events if isinstance(event, Remembered)]


@pytest.mark.parametrize("kind", KINDS)
def test_before_any_step_it_says_of_the_old_text_what_the_old_run_said(
    tmp_path: Path, corpus: Corpus, kind: str
) -> None:
    """No symbol is new, and the old text is counted where there are counts: not one score moves by 1e-5."""
    run = trained(tmp_path, corpus, kind)
    before = hashes(run)
    _, session = gone_on(run, TEXT)  # the same text: what is counted is the same too
    assert session.parent_text is not None and session.parent_text.parent is not None
    session.model.eval()
    ids, old = corpus.held_out, session.parent_text.parent
    chunks = range(old.rule.n_chunks(len(ids)))
    scores = [np.concatenate(list(p.score_chunks(ids, chunks))) for p in (old, session.predictor)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)
    assert (
        session.corpus.held_out == corpus.held_out
    ).all() and session.corpus.held_out_chars == corpus.held_out_chars
    assert hashes(run) == before


@pytest.mark.parametrize("kind", ["plain", "ngram_embeddings", "counts"])
def test_what_was_forgotten_is_what_both_models_say_of_the_same_windows(
    tmp_path: Path, corpus: Corpus, kind: str
) -> None:
    run = trained(tmp_path, corpus, kind)
    untouched = hashes(run)
    folder, session = gone_on(run, NEW)
    first, last = last_remembered(list(Trainer(session, folder).run(Never())))
    assert hashes(run) == untouched
    old, new = (predictor_of(read_snapshot(RunFolder(path), "latest")) for path in (run.path, folder.path))
    assert session.parent_text is not None
    ids, part, rule = session.parent_text.ids, session.parent_text.part, session.parent_text.rule
    assert session.corpus.vocabulary.decode(ids) == corpus.held_out_text()
    figures = [score_slice(predictor, ids, part, rule=rule) for predictor in (old, new)]
    assert figures[0] and figures[1]
    assert first.before == last.before == pytest.approx(figures[0].nats_per_char, abs=1e-6)
    assert last.nats_per_char == pytest.approx(figures[1].nats_per_char, abs=1e-6)
    assert last.forgotten == pytest.approx(last.nats_per_char - last.before, abs=1e-9)
    assert (first.step, last.step, first.final, last.final) == (0, 12, False, True)
    n_old, n_new = corpus.vocabulary.n_symbols, session.corpus.vocabulary.n_symbols
    if kind != "counts":
        assert 0 < first.forgotten <= log(n_new / n_old) + 1e-6
    kept = read_snapshot(folder, "latest").state["parent_loss"]
    assert kept["run"] == "old" and kept["forgotten"] == last.forgotten and kept["step"] == 12


def test_each_model_scores_the_old_text_by_its_own_ids(tmp_path: Path) -> None:
    """The old held-out text has bytes that training never saw, whose new ids lie beyond the old model's."""
    old = prepare(TEXT + 40 * "é", TextConfig())
    run = trained(tmp_path, old)
    _, session = gone_on(run, "".join(chr(0x4E00 + i * i % 600) for i in range(3000)))
    assert session.parent_text is not None
    first, _ = session.parent_text.score(0, session.predictor, None)
    again = predictor_of(read_snapshot(run, "latest"))
    wanted = score_slice(again, old.held_out, session.parent_text.part, rule=session.parent_text.rule)
    assert wanted and first.before == pytest.approx(wanted.nats_per_char, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "ngram_embeddings", "counts"])
def test_cut_off_and_resumed_it_ends_as_one_that_never_was(tmp_path: Path, corpus: Corpus, kind: str) -> None:
    run = trained(tmp_path, corpus, kind)
    folder, whole = gone_on(run, NEW, name="whole")
    expected = last_remembered(list(Trainer(whole, folder).run(Never())))[-1]
    folder, part = gone_on(run, NEW, name="part", save_every=0.0)
    trainer = Trainer(part, folder)
    events = trainer.run(Never())
    while trainer.step < 7:
        next(events)
    folder.unlock()
    session = resume_run(RunFolder(folder.path), pytest.fail)
    assert isinstance(session, TransformerSession) and 0 < session.state.step <= 7
    found = last_remembered(list(Trainer(session, RunFolder(folder.path)).run(Never())))[-1]
    assert_same(whole, session)
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)


def test_it_is_resumed_though_the_old_run_is_gone_but_not_without_a_text_that_it_counts(
    tmp_path: Path, corpus: Corpus
) -> None:
    run = trained(tmp_path, corpus, "counts")
    folder, session = gone_on(run, NEW)
    list(Trainer(session, folder).run(Never()))
    folder.unlock()
    shutil.rmtree(run.path)
    again = resume_run(RunFolder(folder.path), pytest.fail)
    assert isinstance(again, TransformerSession) and again.parent_text is not None
    RunFolder(folder.path).unlock()
    shutil.rmtree(cache_folder() / "corpora" / corpus.key)
    with pytest.raises(CheckpointError, match="n-gram prior of this run also counts the text of old"):
        resume_run(RunFolder(folder.path), pytest.fail)


def test_both_texts_are_counted_and_only_the_new_one_in_folds() -> None:
    random = np.random.default_rng(1)
    new, old = (random.integers(0, 5, n).astype(np.uint8) for n in (400, 700))
    both = build(new, 5, 3, memory=1 << 28, folds=fold_edges(len(new), FOLDS), beside=[old]).model
    joined = build(np.concatenate((new, old)), 5, 3, memory=1 << 28).model
    alone = [build(part, 5, 3, memory=1 << 28).model for part in (new, old)]

    def rows(model: KneserNey, fold: int | None = None) -> np.ndarray:
        contexts = model.contexts(np.concatenate((old, new))[None])[0, 10:]
        return model.rows(contexts, None if fold is None else np.full(len(contexts), fold))

    far = np.abs(rows(both) - rows(joined)).max()
    assert far < 0.05 < min(np.abs(rows(model) - rows(joined)).max() for model in alone)
    # Without a fold of the new text, all of the old one is still there.
    without = np.concatenate((new[:360], old))
    expected = build(without, 5, 3, memory=1 << 28).model
    assert np.abs(rows(both, fold=9) - rows(expected)).mean() < 0.02
    some = build(new, 5, 3, memory=1 << 28, folds=fold_edges(len(new), FOLDS), beside=[old], most=550)
    assert some.symbols in range(500, 551)


def test_a_text_that_stands_in_the_new_one_is_not_counted_twice(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    old_text, new_text = ("".join(random.choice(list("abcdef gh\n"), n)) for n in (3_000, 2_000))
    run = trained(tmp_path, prepare(old_text, TextConfig()), "counts")
    for text, counted_too in {
        old_text: False,
        old_text + new_text: False,
        new_text + old_text: False,
        new_text: True,
        new_text + old_text[:90]: True,
    }.items():
        origin = Parent.load(run, None)
        new = prepare(text, TextConfig(), earlier=origin.earlier())
        assert origin.with_counting(new).counted == counted_too


def test_the_text_of_the_direct_parent_is_counted(tmp_path: Path, corpus: Corpus) -> None:
    run = trained(tmp_path, corpus, "counts")
    second, session = gone_on(run, NEW, name="second")
    list(Trainer(session, second).run(Never()))
    second.unlock()
    third, session = gone_on(RunFolder(second.path), "en helt annan text. " * 40, name="third")
    texts = (session.corpus, corpus_of(read_snapshot(second, "latest")))
    assert session.built is not None and session.built.of_symbols == sum(len(text.train) for text in texts)
    list(Trainer(session, third).run(Never()))
    third.unlock()
    again = resume_run(RunFolder(third.path), pytest.fail)
    assert isinstance(again, TransformerSession) and again.ngram == session.ngram


def test_an_early_end_is_judged_by_the_weights_that_will_be_used(tmp_path: Path, corpus: Corpus) -> None:
    run = trained(tmp_path, corpus)
    folder, session = gone_on(run, NEW[:400], 200, patience=1, learning_rate=0.1, eval_every=5)
    *_, last = last_remembered(list(Trainer(session, folder).run(Never())))
    assert session.state.finished == "early" and session.parent_text is not None
    best = session.state.last_evaluation  # of the weights that were best, which it went back to
    assert best is not None and last.step == best.step == session.state.step


@pytest.mark.parametrize(("kind", "can_act"), [("plain", True), ("learned", False)])
def test_another_block_is_taken_where_no_weight_depends_on_it(
    tmp_path: Path, corpus: Corpus, kind: str, can_act: bool
) -> None:
    origin = Parent.load(trained(tmp_path, corpus, kind), None)
    new = prepare(NEW, TextConfig(), earlier=origin.earlier())
    model = inherit_model(origin, ModelConfig(block_size=8), {"block_size"})
    if can_act:
        assert choose_finetuning(origin, new, Budget(steps=5), model, TrainingConfig()).model.block_size == 8
    else:
        with pytest.raises(UsageError, match="`block_size=8` differs from 16 in old"):
            choose_finetuning(origin, new, Budget(steps=5), model, TrainingConfig())


def test_counts_alone_have_nothing_to_go_on_from(tmp_path: Path, corpus: Corpus) -> None:
    run, session = counted(tmp_path, corpus)
    list(Trainer(session, run).run(Never()))
    with pytest.raises(UsageError, match=r"counts is an n-gram model"):
        Parent.load(run, None)


def test_old_rows_are_those_of_before_and_new_ones_their_mean(tmp_path: Path, corpus: Corpus) -> None:
    run = trained(tmp_path, corpus)
    _, session = gone_on(run, NEW)
    old, new = (
        read_snapshot(run, "latest").weights["embedding.weight"],
        session.model.embedding.weight.detach(),
    )
    assert torch.equal(new[: len(old)], old) and len(new) > len(old)
    torch.testing.assert_close(new[len(old) :], old.mean(dim=0).expand(len(new) - len(old), -1))
