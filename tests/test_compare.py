"""Comparisons: what may vary, what is larger than noise, and going on after being cut off."""

import json
import shutil
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import CorpusFacts, RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, DivergedError, UsageError
from charlm.evaluation.bootstrap import BLOCK, FEWEST_BLOCKS, confidence_interval, standard_error
from charlm.experiments import comparison as on_disk
from charlm.experiments.comparison import Comparison
from charlm.experiments.results import by_symbols_before, by_symbols_seen, read_nats, read_result
from charlm.experiments.runner import Began, Scored, Scoring, compare, plan_of, unintended
from charlm.experiments.statistics import verdict
from charlm.experiments.variants import Variant, parse_axis, variants, written
from charlm.inference.members import predictor_of
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.training.events import Stepped
from charlm.training.plan import read_plan
from charlm.training.sizes import SIZES, Budget, StepTime
from charlm.training.trainer import Trainer
from tests.conftest import After, Never, toy_run
from tests.test_predictor import predictor

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.0, ngram_embeddings=1)
TRAINING = TrainingConfig(
    batch_size=4, learning_rate=1e-2, eval_every=5, eval_chars=100, threads=1, patience=0
)


TIMED = StepTime(kind="no-prior", size=SIZES[0], threads=1, precision="fp32", seconds=0.1)


def make(
    root: Path, corpus: Corpus, seeds: int = 1, steps: int = 6, **axes: list[object]
) -> tuple[RunFolder, Comparison, Loaded]:
    """A comparison that nothing has been done for yet."""
    loaded = Loaded(corpus=corpus, notes=(), sources=("a toy",), label="a toy")
    found, _ = variants(axes or {"position": ["none", "rotary"]}, MODEL, TRAINING)
    folder = RunFolder.create(root, "toys")
    comparison = Comparison(
        name="toys",
        variants=tuple(found),
        seeds=tuple(range(1, seeds + 1)),
        budget=Budget(steps=steps),
        threads=1,
        text=TextConfig(),
        corpus=CorpusFacts(label="a toy", sources=("a toy",), key=corpus.key, sha256=corpus.sha256),
        command="charlm compare",
    )
    on_disk.write(folder, comparison)
    return folder, comparison, loaded


def cut_off(folder: RunFolder, comparison: Comparison, loaded: Loaded, after: int) -> list[object]:
    """Begin it, and stop when about so many events have come: these."""
    seen: list[object] = []
    for event in compare(folder, comparison, loaded, After(lambda: len(seen), after), pytest.fail):
        seen.append(event)  # noqa: PERF402  the stop counts them as they come
    return seen


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Of all runs of a comparison."""
    return {
        f"{path.name}.{name}": tensor
        for path in sorted(folder.path.iterdir())
        if (path / "run.json").is_file()
        for name, tensor in read_snapshot(RunFolder(path), "latest").weights.items()
    }


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("position=none,learned", "position", ["none", "learned"]),
        ("mixer=recurrent,attention+convolution", "mixer", ["recurrent", "attention,convolution"]),
        ("--n-kv-head=auto,1", "n_kv_head", [None, 1]),
        ("window=4, 8", "window", [4, 8]),
        ("locality=on,off", "locality", [True, False]),
        ("learning_rate=0.001,2e-3", "learning_rate", [0.001, 0.002]),
    ],
)
def test_what_is_varied_is_read(text: str, name: str, values: list[object]) -> None:
    assert parse_axis(text) == (name, values)
    assert parse_axis(f"{name}={','.join(written(v).replace(',', '+') for v in values)}") == (name, values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("positon=none,rotary", "did you mean position"),
        ("seed=1,2", "use --seeds instead"),
        ("causal=on,off", "cannot be varied"),
        ("schedule=0:1", "cannot be varied"),
        ("position=none", "at least two different values"),
        ("position=none,none", "at least two different values"),
        ("position=", "at least two"),
        ("position", "at least two"),
        ("position=none,spiral", "`position` is 'spiral'; allowed: none"),
        ("window=4,many", "'many' is not a value of `window`"),
        ("window=4,0", "`window` is 0; allowed"),
        ("locality=yes,no", "`locality` is 'yes'; allowed: on, off"),
        ("dropout=nan,0.1", "`dropout` is nan"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_axis(text)


def test_every_combination_that_can_act_and_a_sentence_for_the_others() -> None:
    axes = {"mixer": ["attention", "recurrent"], "window": [None, 4]}
    found, refused = variants(axes, ModelConfig(), TrainingConfig())
    assert [v.label for v in found] == [
        "mixer attention, window auto",
        "mixer attention, window 4",
        "mixer recurrent, window auto",
    ]
    assert len(refused) == 1 and "`window=4` has no effect with `mixer=recurrent`" in refused[0]
    with pytest.raises(UsageError, match="`position=alibi` has no effect with `mixer=recurrent`"):
        variants({"position": ["none", "alibi"]}, ModelConfig(mixer="recurrent"), TrainingConfig())
    assert len({v.folder for v in found}) == 3


def test_all_runs_are_in_the_order_which_is_random_and_always_the_same(
    tmp_path: Path, corpus: Corpus
) -> None:
    _, comparison, _ = make(tmp_path, corpus, 4, position=["none", "rotary", "alibi"])
    tasks = comparison.tasks()
    names = [task.run_name for task in tasks]
    assert len(set(names)) == len(names) == 12 and names == [t.run_name for t in comparison.tasks()]
    assert names != sorted(names) and [t.seed for t in tasks] != sorted(t.seed for t in tasks)


def test_a_comparison_on_disk_is_the_comparison(tmp_path: Path, corpus: Corpus) -> None:
    folder, comparison, _ = make(tmp_path, corpus, 2, mixer=["attention", "simple-attention"])
    assert on_disk.read(folder) == comparison
    timed = replace(comparison, budget=Budget(seconds=30.0, timed=(TIMED,)))
    on_disk.write(folder, timed)
    assert on_disk.read(folder) == timed


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format=2),
        lambda d: d.pop("seeds"),
        lambda d: d.update(seeds=[]),
        lambda d: d.update(seeds=["1"]),
        lambda d: d["variants"][0]["model"].update(n_layer=-1),
        lambda d: d["variants"][0].update(values={"evil": 1}),
        lambda d: d.update(variants=[]),
        lambda d: d["corpus"].update(key="../../etc"),
        lambda d: d.update(budget=3),
        lambda d: d["budget"].update(steps=0),
        lambda d: d["budget"].update(steps=None, seconds=10**400),
        lambda d: d.update(threads=0),
        lambda d: d.update(seeds=[1, 1]),
        lambda d: d["variants"].append(d["variants"][0]),
        lambda d: d["variants"][0].update(values={"position": "../../../victim"}),
        lambda d: d["variants"][0].update(values={"position": "alibi"}),
        lambda d: d["corpus"].update(key="1234567_8"),
        lambda d: d.update(text={"val": "x"}),
    ],
)
def test_a_damaged_comparison_is_one_clear_error(tmp_path: Path, corpus: Corpus, damage) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = make(tmp_path, corpus)
    data = json.loads((folder.path / on_disk.NAME).read_text())
    damage(data)
    (folder.path / on_disk.NAME).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"comparison\.json of toys is damaged"):
        on_disk.read(folder)


@pytest.mark.parametrize("cut", [0, 3, 8])
def test_a_comparison_cut_off_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, corpus: Corpus, cut: int
) -> None:
    whole, comparison, loaded = make(tmp_path / "whole", corpus, 2)
    list(compare(whole, comparison, loaded, Never(), pytest.fail))
    part, comparison, loaded = make(tmp_path / "part", corpus, 2)
    seen = cut_off(part, comparison, loaded, cut)
    assert len([e for e in seen if isinstance(e, Scored)]) < 4
    events = list(compare(part, comparison, loaded, Never(), pytest.fail))
    assert 0 < len([e for e in events if isinstance(e, Scored)]) <= 4
    ours, theirs = weights(part), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert verdict(part, comparison).rows[0].bits == verdict(whole, comparison).rows[0].bits
    assert not list(compare(part, comparison, loaded, Never(), pytest.fail)), "nothing is left to do"


def test_a_timed_run_that_was_cut_off_goes_on_under_its_plan(tmp_path: Path, corpus: Corpus) -> None:
    """No second warmup, no time added: it makes the steps that its plan had."""
    folder, comparison, loaded = make(tmp_path, corpus)
    comparison = replace(comparison, budget=Budget(seconds=2.0, timed=(TIMED,)))
    on_disk.write(folder, comparison)
    run = RunFolder(folder.path / comparison.tasks()[0].run_name)

    def planned() -> bool:
        return (run.path / "plan.json").is_file() and len(read_plan(run).decisions) > 2

    list(compare(folder, comparison, loaded, After(planned, True), pytest.fail))
    plan = read_plan(run)
    assert len(plan.decisions) > 2 and run.steps()[-1] < plan.total_steps
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    assert read_plan(run) == plan and read_result(run).step == plan.total_steps


def test_a_timed_run_cut_off_before_its_speed_was_known_is_begun_again(
    tmp_path: Path, corpus: Corpus
) -> None:
    folder, comparison, loaded = make(tmp_path, corpus)
    comparison = replace(comparison, budget=Budget(seconds=1.0, timed=(TIMED,)))
    on_disk.write(folder, comparison)
    cut_off(folder, comparison, loaded, 3)
    run = RunFolder(folder.path / comparison.tasks()[0].run_name)
    assert len(read_plan(run).decisions) == 1
    events = list(compare(folder, comparison, loaded, Never(), pytest.fail))
    stepped = [e.step for e in events if isinstance(e, Stepped)]
    assert stepped[0] == 1 and len(read_plan(run).decisions) > 1


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("result.json", lambda data: b"{"),
        ("result.json", lambda data: data.replace(b'"chars"', b'"chairs"')),
        ("result.json", lambda data: data.replace(b'"reach": 16', b'"reach": 1' + b"0" * 400)),
        ("result.json", lambda data: data.replace(b'"which": "latest"', b'"which": 3')),
        ("nats.safetensors", lambda data: data[:-8]),
        ("nats.safetensors", lambda data: data[:-1] + b"\xff\xff"),
    ],
)
def test_a_damaged_score_is_made_again(tmp_path: Path, corpus: Corpus, file: str, damage) -> None:  # type: ignore[no-untyped-def]
    folder, comparison, loaded = make(tmp_path, corpus)
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    before = verdict(folder, comparison).rows[0].bits
    path = folder.path / comparison.tasks()[0].run_name / file
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    assert any(row.bits is None for row in verdict(folder, comparison).rows)
    events = list(compare(folder, comparison, loaded, Never(), pytest.fail))
    assert [type(e) for e in events] == [Began, Scoring, Scored], "it is scored again, not trained again"
    assert verdict(folder, comparison).rows[0].bits == before


def test_a_run_whose_checkpoints_are_all_damaged_is_begun_again(tmp_path: Path, corpus: Corpus) -> None:
    folder, comparison, loaded = make(tmp_path, corpus)
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    run = RunFolder(folder.path / comparison.tasks()[0].run_name)
    for step in run.steps():
        (run.folder(step) / "model.safetensors").write_bytes(b"")
    (run.path / "result.json").unlink()
    said: list[str] = []
    list(compare(folder, comparison, loaded, Never(), said.append))
    assert "starts again" in said[-1]
    assert read_result(run).step == 6


def test_all_variants_of_a_seed_read_the_same_text_in_the_same_order(tmp_path: Path, corpus: Corpus) -> None:
    folder, comparison, loaded = make(tmp_path, corpus, 2)
    starts = {
        (event.task.seed, event.task.variant.label): event.session.batch_sampler.starts(3).tolist()
        for event in compare(folder, comparison, loaded, Never(), pytest.fail)
        if isinstance(event, Began)
    }
    assert starts[1, "none"] == starts[1, "rotary"] != starts[2, "none"] == starts[2, "rotary"]


def test_what_the_plan_changes_besides_is_said(tmp_path: Path, corpus: Corpus) -> None:
    free = ModelConfig(n_layer=1, block_size=16, dropout=0.0)
    found, _ = variants({"n_head": [3, 5]}, free, TRAINING)
    _, comparison, _ = make(tmp_path, corpus)
    comparison = replace(comparison, variants=tuple(found))
    choices = [plan_of(comparison, task, len(corpus.train)) for task in comparison.tasks()]
    assert unintended(comparison, choices) == [
        "n_embd: 66, 70; set --n-embd to give all variants the same value"
    ]


def test_a_run_without_its_first_save_or_its_score_is_made_up(tmp_path: Path, corpus: Corpus) -> None:
    folder, comparison, loaded = make(tmp_path, corpus)
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    first, second = (RunFolder(folder.path / task.run_name) for task in comparison.tasks())
    before = weights(folder), read_nats(second, read_result(second))
    for step in first.steps():
        shutil.rmtree(first.folder(step))
    (first.path / "result.json").unlink()
    (second.path / "result.json").unlink()
    events = list(compare(folder, comparison, loaded, Never(), pytest.fail))
    assert [type(e) for e in events if isinstance(e, Began | Scored)] == [Began, Scored] * 2
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in weights(folder).items())
    np.testing.assert_array_equal(read_nats(second, read_result(second)), before[1])


def test_each_run_has_the_figure_that_an_evaluation_gives_it(tmp_path: Path, corpus: Corpus) -> None:
    folder, comparison, loaded = make(tmp_path, corpus)
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    found = verdict(folder, comparison)
    assert [row.bits for row in found.rows] == sorted(row.bits or 0 for row in found.rows)
    for row in found.rows:
        run = RunFolder(folder.path / row.results[0][0].run_name)
        scores = predictor_of(read_snapshot(run, "latest")).score(corpus.held_out)
        assert row.bits == pytest.approx(-float(scores.mean()) / log(2), abs=1e-9)
        assert row.results[0][1].chars_read == 6 * 4 * 16
    difference = found.rows[1].difference
    assert difference == pytest.approx((found.rows[1].bits or 0) - (found.rows[0].bits or 0))


def test_a_variant_that_diverges_has_a_row_that_says_so(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer.run

    def sometimes(self: Trainer, stop: object) -> object:
        if self.session.model_config.position == "none":
            raise DivergedError("training went wrong")
        return run(self, stop)  # type: ignore[arg-type]

    folder, comparison, loaded = make(tmp_path, corpus)
    monkeypatch.setattr(Trainer, "run", sometimes)
    list(compare(folder, comparison, loaded, Never(), pytest.fail))
    rows = verdict(folder, comparison).rows
    assert [row.variant.label for row in rows] == ["rotary", "none"]
    assert rows[1].bits is None and rows[1].problem == "training went wrong"


def verdict_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus, nats: np.ndarray):  # type: ignore[no-untyped-def]
    """What is said of made-up scores (variants, seeds, characters)."""
    from charlm.experiments import statistics as module
    from charlm.experiments.results import Result

    folder, comparison, _ = make(tmp_path, corpus, nats.shape[1])
    order = [v.label for v in comparison.variants]

    def place(run: RunFolder) -> tuple[int, int]:
        position, seed = run.path.name.removeprefix("position-").split(".seed-")
        return order.index(position), int(seed) - 1

    monkeypatch.setattr(module, "read_nats", lambda run, result: nats[place(run)])
    monkeypatch.setattr(
        module,
        "find_result",
        lambda run, of: Result(
            chars=nats.shape[2], nats_per_char=float(nats[place(run)].mean()), seconds=1.0
        ),
    )
    return verdict(folder, comparison)


@pytest.mark.parametrize(
    ("gap", "seed_noise", "seeds", "larger"),
    [(0.1, 0.001, 3, True), (0.001, 0.01, 3, False), (0.05, 0.05, 3, False), (0.5, 0.0, 2, None)],
)
def test_only_what_is_larger_than_noise_is_called_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    corpus: Corpus,
    gap: float,
    seed_noise: float,
    seeds: int,
    larger: bool | None,
) -> None:
    random = np.random.default_rng(0)
    text = random.exponential(1.5, BLOCK * FEWEST_BLOCKS)  # the same for all, and so no noise of a difference
    off = seed_noise * random.standard_normal((2, seeds, 1)) + np.array([0.0, gap])[:, None, None]
    own = 0.1 * random.standard_normal((2, seeds, len(text)))
    found = verdict_of(tmp_path, monkeypatch, corpus, text + off + own)
    assert found.rows[1].larger_than_noise is larger
    said = " ".join(found.says)
    assert ("Larger than noise: none beats rotary" in said) == (larger is True)
    assert ("Seed noise is unknown" in said) == (seeds < 3)
    low, high = found.rows[1].difference_interval
    assert low < found.rows[1].difference < high


def test_a_short_text_has_no_intervals_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus
) -> None:
    found = verdict_of(tmp_path, monkeypatch, corpus, np.ones((2, 3, 500)) * [[[1.0]], [[2.0]]])
    assert found.rows[0].interval is None and found.rows[1].larger_than_noise is None
    assert "No intervals" in " ".join(found.says)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Seeds differ, blocks differ: of 95 % intervals about 95 in 100 hold the true mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        seeds = 0.05 * random.standard_normal((4, 1))
        blocks = np.repeat(0.3 * random.standard_normal(FEWEST_BLOCKS), BLOCK)
        interval = confidence_interval(1.0 + seeds + blocks)
        assert interval is not None
        held += interval[0] <= 1.0 <= interval[1]
    assert 180 <= held <= 200


def test_seed_noise_widens_an_interval_from_three_seeds_on() -> None:
    text = np.random.default_rng(2).exponential(1.0, BLOCK * FEWEST_BLOCKS)
    seeds = np.array([[0.0], [0.2], [-0.2]])
    widths = [np.diff(confidence_interval(text + seeds[:n]))[0] for n in (1, 2, 3)]  # type: ignore[arg-type]
    assert widths[0] == pytest.approx(widths[1]) and widths[2] > 2 * widths[0]


def test_bits_by_what_may_be_seen_are_those_of_that_context() -> None:
    p = predictor(8)
    ids = torch.randint(p.vocabulary.n_symbols, (40,), generator=torch.Generator().manual_seed(4)).numpy()
    curve = {x: bits for x, bits, _ in by_symbols_seen(p, ids, 8)}
    assert list(curve) == [1, 2, 4, 8]
    for seen, bits in curve.items():
        with torch.no_grad():
            slices = [torch.from_numpy(ids[None, t - int(seen) : t]) for t in range(8, 40)]
            logp = [p._log_probs(p.model.hidden(part))[0, -1] for part in slices]
        expected = [float(row[ids[t]]) for t, row in enumerate(logp, 8)]
        assert bits == pytest.approx(-np.mean(expected) / log(2), abs=1e-9)
    assert by_symbols_seen(p, ids[:5], 8) == []


def test_bits_by_what_stands_before_are_read_in_one_go() -> None:
    p = predictor(8)
    ids = torch.randint(p.vocabulary.n_symbols, (481,), generator=torch.Generator().manual_seed(4)).numpy()
    curve = {x: bits for x, bits, _ in by_symbols_before(p, ids, 16)}
    assert list(curve) == [1, 2, 4, 8, 16]
    rows = [
        p._log_probs(p.model.hidden(torch.from_numpy(ids[None, s : s + 16])))[0]
        .gather(1, torch.from_numpy(ids[s + 1 : s + 17])[:, None])[:, 0]
        .detach()
        .numpy()
        for s in range(0, 480, 16)
    ]
    bits = -np.stack(rows) / log(2)
    assert curve[1] == pytest.approx(bits[:, 0].mean()) and curve[16] == pytest.approx(bits[:, 8:].mean())
    errors = [error for *_, error in by_symbols_before(p, ids, 16)]
    assert errors[0] == pytest.approx(standard_error(bits[:, 0])) and None not in errors
    assert by_symbols_before(p, ids[:3], 16) == []
    assert [x for x, *_ in by_symbols_before(p, ids[:81], 16)] == [16], "5 to 20 characters are chance"


def test_what_may_be_seen_binds_the_counts_of_a_model_too(tmp_path: Path, corpus: Corpus) -> None:
    """From one character that can be seen, a model that starts from counts is no better than those of one."""
    model = {"prior": True, "prior_order": 5}
    _, session = toy_run(tmp_path, corpus, 1, model=model)
    ids = corpus.held_out
    assert session.prior is not None
    beside, alone = session.predictor, NgramPredictor(session.prior.model, corpus.vocabulary)
    beside.model.eval()
    for found in (by_symbols_seen, by_symbols_before):
        of_model = {x: bits for x, bits, _ in found(beside, ids, 16)}
        of_counts = {x: bits for x, bits, _ in found(alone, ids, 16)}
        assert of_model == pytest.approx(of_counts, abs=1e-4), "untrained, it says what its counts say"
        few = min(of_counts)
        assert of_counts[few] > of_counts[16] + 0.2
    at = np.unique(np.linspace(16, len(ids) - 1, 1500).astype(int))
    contexts = alone.model.contexts(ids[None])[0][at - 1]
    by_one = alone.model.rows(contexts, up_to=1)[np.arange(len(at)), ids[at]]
    assert {x: bits for x, bits, _ in by_symbols_seen(alone, ids, 16)}[1] == pytest.approx(
        -np.log2(by_one).mean(), rel=1e-4
    )


def test_a_variant_has_a_name_that_a_folder_can_have() -> None:
    variant = Variant({"mixer": "attention,convolution", "learning_rate": 0.001}, MODEL, TRAINING)
    assert variant.label == "mixer attention,convolution, learning_rate 0.001"
    assert variant.folder == "mixer-attention+convolution_learning_rate-0.001"
