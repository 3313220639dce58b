"""Several ranks train one model: the same curve, the same decisions, and an end that is told when one is gone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read_snapshot
from charlm.errors import RankError
from charlm.model.transformer import LanguageModel
from charlm.place import Place
from charlm.training import distributed, rank_watch, sharded_save
from charlm.training import step as training_step
from tests.conftest import TEXT, Result
from tests.ranks import Started, free_port, stopped_at, together

SMALL = [
    *("--n-layer", "2", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "8"),
    *("--threads", "1", "--eval-every", "8", "--dropout", "0", "--precision", "fp32"),
]
TRAIN = ["train", "ducks.txt", *SMALL]


@pytest.fixture(autouse=True)
def _text(elsewhere: Path) -> None:
    Path("ducks.txt").write_text(TEXT)


def curve(run: str) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of each step."""
    rows = map(json.loads, Path("checkpoints", run, "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["event"] == "Stepped"]


def evaluations(run: str) -> list[float]:
    """The held-out loss of each evaluation."""
    rows = map(json.loads, Path("checkpoints", run, "metrics.jsonl").read_text().splitlines())
    return [row["nats_per_char"] for row in rows if row["event"] == "Evaluated"]


def snapshot(run: str) -> Snapshot:
    return read_snapshot(RunFolder(Path("checkpoints", run)), "latest", training=True)


def distance(a: str, b: str) -> float:
    """The largest difference of any weight."""
    first, second = snapshot(a).all_weights, snapshot(b).all_weights
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def succeeded(results: list[Result]) -> None:
    """All ended well, and only rank 0 has said anything."""
    assert [result.code for result in results] == [0] * len(results), results
    assert results[0].out and not any(result.out or result.err for result in results[1:])


SETTINGS = (
    "--members prior,no-prior --reserved-chars 400 --ngram-embeddings 3 --grad-accum 2",
    "--plain --optimizer adamw",
)


def same_curve_and_weights(a: str, b: str) -> None:
    for (step, loss, norm), (at, other, its_norm) in zip(curve(a), curve(b), strict=True):
        assert step == at and abs(loss - other) < 1e-5 and abs(norm - its_norm) < 1e-5 * max(1, norm)
    assert distance(a, b) < 1e-4


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        *((n, settings) for n, settings in zip((2, 3), SETTINGS, strict=True)),
        *(
            pytest.param(n, settings, marks=pytest.mark.slow)
            for n, settings in zip((3, 2), SETTINGS, strict=True)
        ),
    ],
)
def test_any_number_of_ranks_has_the_same_curve_and_ends_with_the_same_weights_divided_or_whole(
    n: int, settings: str
) -> None:
    """Of a batch of 8 three ranks read 3, 3 and 2 rows, and the last has fewer rows of some weights, and of others none."""
    train = [*TRAIN, *settings.split(), "--steps", "20"]
    succeeded(together(1, *train, "--name", "alone"))
    succeeded(together(n, *train, "--name", "whole"))
    succeeded(together(n, *train, "--shard", "--name", "divided"))
    same_curve_and_weights("alone", "whole")
    same_curve_and_weights("whole", "divided")
    assert snapshot("whole").state["ranks"] == n
    evaluated = [evaluations(name) for name in ("whole", "divided")]
    assert len(evaluated[0]) > 2 and np.allclose(*evaluated, rtol=0, atol=1e-5)
    whole, divided = snapshot("whole").optimizer, snapshot("divided").optimizer
    assert whole.keys() == divided.keys()
    assert max(float((whole[name] - divided[name]).abs().max()) for name in whole) < 1e-4
    assert snapshot("divided").state["shard"] and not snapshot("whole").state["shard"]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks() -> None:
    succeeded(together(1, *TRAIN, "--steps", "18", "--name", "whole"))
    assert [r.code for r in together(2, *TRAIN, "--steps", "18", "--name", "cut", prepare=stopped_at(6))] == [
        143
    ] * 2
    first = snapshot("cut").step
    assert [r.code for r in together(1, "resume", "cut", prepare=stopped_at(6))] == [143]
    assert 6 <= first < snapshot("cut").step < 18
    results = together(2, "resume", "cut")
    succeeded(results)
    assert "trained with ranks 1, but resumes with 2" in re.sub(r"\s+", " ", results[0].err)
    assert len(curve("cut")) == 18 and distance("whole", "cut") < 1e-4


def test_a_run_goes_on_with_divided_weights_or_whole_ones() -> None:
    train = [*TRAIN, "--steps", "18", "--no-prior"]
    succeeded(together(1, *train, "--name", "whole"))
    for n, words in ((2, [*train, "--name", "cut", "--shard"]), (1, ["resume", "cut"])):
        assert [r.code for r in together(n, *words, prepare=stopped_at(6))] == [143] * n
    assert 12 <= snapshot("cut").step < 18
    results = together(2, "resume", "cut", "--shard")
    succeeded(results)
    assert "trained with --shard off, but resumes with on" in re.sub(r"\s+", " ", results[0].err)
    assert len(curve("cut")) == 18 and distance("whole", "cut") < 1e-4


FULL = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("where", "error", "full", "words", "sentence"),
    [
        ("step", FULL, 1, [], "the memory of cpu is full on rank 1; give --grad-accum 2"),
        ("step", FULL, 0, ["--grad-accum", "4"], "rank 0; give a smaller --block-size or --n-embd"),
        ("step", MemoryError(), 0, [], "out of memory; give a larger --grad-accum"),
        pytest.param(
            *("step", FULL, 0, ["--shard"], "the memory of cpu is full on rank 0; give --grad-accum 2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("step", RuntimeError("can't allocate memory"), 1, ["--shard"], "out of memory; give a larger"),
            marks=pytest.mark.slow,
        ),
        ("scoring", FULL, 1, ["--shard"], "full on rank 1 in scoring held-out text; give a smaller"),
    ],
)
def test_memory_that_fills_on_one_rank_ends_all(
    where: str, error: Exception, full: int, words: list[str], sentence: str
) -> None:
    """Which others wait for in vain, in the middle of a step or of a pass."""

    def fill(rank: int) -> None:
        def refuse(self: LanguageModel, *given: object) -> object:
            nonlocal n
            n += torch.is_grad_enabled() == (where == "step")
            if n == 2 and rank == full:
                raise error
            return real(self, *given)  # type: ignore[arg-type]

        n, name = 0, {"step": "loss", "scoring": "hidden"}[where]
        real = getattr(LanguageModel, name)
        setattr(LanguageModel, name, refuse)

    began = perf_counter()
    results = together(2, *TRAIN, *words, "--steps", "9", "--name", "full", prepare=fill)
    assert perf_counter() - began < 60
    assert [result.code for result in results] == [6 if rank == full else 7 for rank in (0, 1)], results
    said = re.sub(r"\s+", " ", results[0].err)
    assert sentence in said and (full == 0 or f"rank 1 of 2 ({socket.gethostname()}, process" in said)
    assert "Traceback" not in results[0].err + results[1].err


@pytest.mark.slow
def test_a_rank_that_dies_ends_those_that_wait_for_its_weights() -> None:
    killed = Started(2, *TRAIN, "--steps", "5000", "--shard", "--name", "cut")
    killed.signal_at(9, "cut", rank=1, number=signal.SIGKILL)
    first, _ = killed.results()
    assert first.code == 7 and "rank 1 of 2" in first.err and "ended without a word" in first.err


def test_where_weights_cannot_be_divided_that_is_refused() -> None:
    [alone] = together(1, *TRAIN, "--steps", "2", "--shard")
    assert alone.code == 2 and "add --ranks N or --gpus N" in alone.err
    results = together(2, *TRAIN, "--steps", "2", "--shard", "--compile", "on")
    assert [result.code for result in results] == [2, 2]
    assert "--compile on has no effect with --shard" in results[0].err
    port = free_port()
    unequal = [
        Started(2, *TRAIN, "--steps", "2", *words, only=(rank,), port=port)
        for rank, words in enumerate([(), ("--shard",)])
    ]
    [first], [second] = (started.results() for started in unequal)
    assert (first.code, second.code) == (7, 7) and not Path("checkpoints").exists()
    assert "different settings of --shard: off on rank 0" in first.err


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_all_and_another_that_dies_ends_all() -> None:
    """And what was cut off ends with the weights of the run that was not, bit for bit."""
    succeeded(together(2, *TRAIN, "--steps", "60", "--name", "whole"))
    told = Started(2, *TRAIN, "--steps", "60", "--save-every", "0", "--name", "cut")
    told.signal_at(5, "cut", rank=1)
    results = told.results()
    assert [result.code for result in results] == [143, 143] and not results[1].err
    assert "stopped by SIGTERM" in results[0].err
    saved = snapshot("cut").step
    assert 5 <= saved < 60

    for rank in (1, 0):
        killed = Started(2, "resume", "cut")
        killed.signal_at(saved + 3, "cut", rank=rank, number=signal.SIGKILL)
        results = killed.results()
        assert results[rank].code == -9 and results[1 - rank].code == 7
        said = results[1 - rank].err
        assert (
            f"rank {rank} of 2" in said and "ended without a word" in said
        ) or "store of the ranks is gone" in said
        saved = snapshot("cut").step
    succeeded(together(2, "resume", "cut"))
    assert distance("whole", "cut") == 0


def impatient(rank: int) -> None:
    rank_watch.BEAT_SECONDS, rank_watch.SILENT_SECONDS, rank_watch.GRACE_SECONDS = 0.2, 4.0, 0.2


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_others() -> None:
    """As when its machine or the network is gone: no connection is closed, and only signs of life are missing."""

    started = Started(2, *TRAIN, "--steps", "5000", "--name", "still", prepare=impatient)
    started.signal_at(4, "still", rank=1, number=signal.SIGSTOP)
    [first] = started.results(only=(0,))
    assert first.code == 7 and "rank 1 of 2" in first.err and "no sign of life for 4 s" in first.err
    started.kill(1, signal.SIGKILL)
    started.results(only=(1,))


@pytest.mark.parametrize("shard", [(), ("--shard",)])
def test_a_batch_that_is_not_finite_on_one_rank_is_skipped_by_all_and_a_full_disk_is_told_once(
    shard: tuple[str, ...],
) -> None:
    def broken(rank: int) -> None:
        real, n = training_step.batch_loss, 0

        def loss(*given: object) -> object:
            nonlocal n
            n += 1
            return real(*given) * (float("nan") if n == 3 and rank == 1 else 1)  # type: ignore[arg-type]

        def refuse(self: RunFolder, step: int, *given: object, **others: object) -> Path:
            if 5 < step < 9:
                raise OSError(28, "No space left on device")
            return save(self, step, *given, **others)  # type: ignore[arg-type]

        def refuse_rows(path: Path, *given: object) -> object:
            if rank == 1 and re.search("step-0000000[678]", str(path)):
                raise OSError(28, "No space left on device")
            return write(path, *given)  # type: ignore[arg-type]

        save, write = RunFolder.save, sharded_save.write_tensors
        training_step.batch_loss, RunFolder.save = loss, refuse  # type: ignore[assignment,method-assign]
        sharded_save.write_tensors = refuse_rows  # type: ignore[assignment]

    train = [*TRAIN, *shard, "--steps", "12", "--save-every", "0", "--name", "both"]
    results = together(2, *train, prepare=broken)
    succeeded(results)
    assert snapshot("both").state["skipped"] == [3]
    assert results[0].err.count("could not be saved (No space left on device)") == 1


def test_a_rank_that_dies_while_they_meet_ends_the_others() -> None:
    def dies(rank: int) -> None:
        impatient(rank)
        if rank:
            distributed._join = lambda *given: os.kill(os.getpid(), signal.SIGKILL)

    first, _ = together(2, *TRAIN, "--steps", "2", prepare=dies)
    assert first.code == 7 and "rank 1 of 2" in first.err and "no sign of life" in first.err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_a_rank_that_waits_for_another(rank: int) -> None:
    alone = Started(2, *TRAIN, "--steps", "2", only=(rank,))
    sleep(2)
    alone.kill(rank, signal.SIGTERM)
    began = perf_counter()
    [ended] = alone.results()
    assert perf_counter() - began < 10 and ended.code == 143 and "stopped by SIGTERM" in ended.err


@pytest.mark.parametrize("unequal", ["text", "version", "settings"])
def test_unequal_texts_versions_and_settings_are_told_once(unequal: str) -> None:
    def otherwise(rank: int) -> None:
        if rank and unequal == "text":
            Path("other").mkdir()
            Path("other", "ducks.txt").write_text(TEXT + "a line more\n")
            os.chdir("other")
        if rank and unequal == "version":
            import charlm

            charlm.__version__ = "9.9"
        if rank and unequal == "settings":
            os.environ["CHARLM_SEED"] = "7"

    sentence = {
        "text": "the ranks have different texts",
        "version": "9.9 on rank 1",
        "settings": "the ranks have different settings of --seed: 1 on rank 0",
    }
    results = together(2, *TRAIN, "--steps", "2", "--name", "two", prepare=otherwise)
    assert [result.code for result in results] == [7, 7]
    assert sentence[unequal] in results[0].err
    assert results[0].err.count("error:") == 1 and "error:" not in results[1].err
    assert not Path("checkpoints", "two").exists()


def test_ranks_that_do_not_come_and_a_taken_port_are_told() -> None:
    def hurried(rank: int) -> None:
        distributed.MEETING_SECONDS, distributed.ANSWER_SECONDS = 0.5, 1.0

    [alone] = Started(2, *TRAIN, "--steps", "2", only=(0,), prepare=hurried).results()
    assert alone.code == 7 and "of 2 ranks 1 did not come within 0.5 s: 1" in alone.err
    [lost] = Started(2, *TRAIN, "--steps", "2", only=(1,), prepare=hurried).results()
    assert lost.code == 7 and "rank 0 is not reached at" in lost.err
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused, unanswered = Started(2, *TRAIN, "--steps", "2", prepare=hurried, port=port).results()
    assert refused.code == 7 and f"{port}: the port is taken" in refused.err
    assert unanswered.code == 7 and f"rank 0 does not answer at 127.0.0.1:{port}" in unanswered.err


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'; it must be a whole number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536; it must be from 1 to 65535"),
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE 2; ranks are counted from 0"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_RANK is 1 and LOCAL_WORLD_SIZE 0; ranks are counted from 0"),
    ],
)
def test_variables_that_are_no_place_are_told(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in {**usual, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=sentence):
        Place.of_environment()


def test_what_ranks_cannot_do_is_refused() -> None:
    results = together(2, "train", "ducks.txt", "--steps", "2", "--plain", "--batch-size", "1", "--name", "x")
    assert [result.code for result in results] == [2, 2]
    assert "a batch of 1 has no window for each of 2 ranks" in results[0].err and not results[1].err
    counted = together(2, "train", "ducks.txt", "--model", "ngram")
    assert [result.code for result in counted] == [2, 2] and "counted by one process" in counted[0].err
    results = together(2, *TRAIN, "--steps", "2", "--ranks", "3")
    assert [result.code for result in results] == [2, 2] and "--ranks is 3, but 2 ranks" in results[0].err


@pytest.mark.slow
def test_fine_tuning_teachers_and_mixers_that_carry_a_state_train_on_ranks_too() -> None:
    Path("new.txt").write_text(TEXT.replace("ducks", "geese") * 2)
    succeeded(together(2, *TRAIN, "--steps", "4", "--name", "old"))
    for n, name, shard in ((1, "1", []), (2, "2", []), (2, "divided", ["--shard"])):
        tuned = ["train", "new.txt", "--from", "old", "--steps", "4", "--batch-size", "4", "--threads", "1"]
        tuned += ["--precision", "fp32"]
        succeeded(together(n, *tuned, *shard, "--dropout", "0", "--name", f"tuned-{name}"))
        taught = [*TRAIN, "--teacher", "old", "--plain", "--steps", "4"]
        succeeded(together(n, *taught, *shard, "--name", f"taught-{name}"))
        carried = [
            "--mixer",
            "recurrent",
            "--no-prior",
            "--n-layer",
            "1",
            "--n-embd",
            "16",
            "--block-size",
            "16",
        ]
        carried += [
            "--batch-size",
            "8",
            "--eval-every",
            "4",
            "--dropout",
            "0",
            "--steps",
            "9",
            "--threads",
            "1",
            "--precision",
            "fp32",
        ]
        succeeded(together(n, "train", "ducks.txt", *carried, *shard, "--name", f"carried-{name}"))
    for kind in ("tuned", "taught", "carried"):
        for name in ("2", "divided"):
            assert distance(f"{kind}-1", f"{kind}-{name}") < 1e-4, (kind, name)


@pytest.mark.slow
def test_a_restart_by_torchrun_resumes_its_run() -> None:
    killed = Started(2, *TRAIN, "--steps", "40", "--save-every", "0", "--name", "again")
    killed.signal_at(9, "again", rank=1, number=signal.SIGKILL)
    killed.results()
    at = snapshot("again").step
    results = Started(
        2, *TRAIN, "--steps", "40", "--save-every", "0", "--name", "again", restarts=1
    ).results()
    assert [result.code for result in results] == [0, 0]
    assert 0 < at < 40 and f"training from step {at} to 40" in results[0].err


def documented() -> list[str]:
    """The lines of the documentation that begin ranks on one machine without GPUs."""
    page = (Path(__file__).parent.parent / "docs" / "ranks.md").read_text("utf-8")
    lines = re.findall(r"^(?:torchrun --nproc-per-node \d+|charlm) .*$", page, re.M)
    return [line for line in lines if "--gpus" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("line", documented())
def test_every_documented_line_runs_as_it_stands(line: str) -> None:
    """But for two processes, two steps and a small model; by torchrun itself, whose parser reads our options too."""
    Path("corpus").mkdir()
    for name in ("corpus/ducks.txt", "corpus.txt"):
        Path(name).write_text(TEXT)
    line = re.sub(r"(--nproc-per-node|--ranks) \d+", r"\1 2", line)
    line = re.sub(r"--time \w+", "--steps 2", line)
    words = line.split()
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", f"--master-port={free_port()}", *words[1:]]
    else:
        words = [sys.executable, "-m", *words]
    if "resume" in words:
        name = words[words.index("resume") + 1]
        succeeded(together(1, "train", "corpus", "--steps", "2", "--name", name, *SMALL))
    else:
        words += SMALL
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    [run] = [path.name for path in Path("checkpoints").iterdir()]
    assert snapshot(run).state["ranks"] == 2 and done.stdout.count(f"checkpoints/{run}/report.html") == 1
