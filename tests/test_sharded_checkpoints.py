"""Checkpoints of divided weights: a file of each rank, which any number of ranks reads, and no rank needs whole."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charlm import files
from charlm.checkpoint import safe_io, snapshot
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import CHECKPOINT_FILES, MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILE, part_names
from charlm.checkpoint.snapshot import read_snapshot
from charlm.checkpoint.tensor_files import rows_of, write_tensors
from charlm.cli import resume
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError
from charlm.model.transformer import LanguageModel
from charlm.training import checkpointer, sharded_save
from charlm.training.session import TransformerSession
from charlm.training.sharded_weights import ShardedWeights
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, Result, toy_run
from tests.hostile import joined
from tests.ranks import together
from tests.test_ranks import TRAIN, distance, succeeded

FACTS = CHECKPOINT_FILES[2:]


@pytest.fixture(autouse=True)
def _text(elsewhere: Path) -> None:
    Path("ducks.txt").write_text(TEXT)


def run_of(name: str) -> RunFolder:
    return RunFolder(Path("checkpoints", name))


def divide(run: RunFolder, step: int, n: int, more: dict[str, torch.Tensor] | None = None) -> None:
    """Put the checkpoint of a step into n parts, as so many ranks would have written it."""
    found, folder = read_snapshot(run, str(step), training=True), run.folder(step)
    for file, tensors in ((WEIGHTS_FILE, found.all_weights), (OPTIMIZER_FILE, found.optimizer)):
        for part, path in enumerate(part_names(file, n)):
            rows = rows_of(tensors, part, n)
            write_tensors(folder / path, rows, rows.__getitem__)
        (folder / file).unlink()
    vouch(run, step)


def vouch(run: RunFolder, step: int) -> None:
    """Make the manifest fit what lies there now."""
    folder = run.folder(step)
    parts = {
        path.name: safe_io.FileEntry.of(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))
    }
    facts = {name: (folder / name).read_bytes() for name in FACTS}
    shared = {
        name: (run.path / name).read_bytes()
        for name in (*safe_io.RUN_FILES, safe_io.NGRAM_FILE)
        if (run.path / name).exists()
    }
    (folder / MANIFEST).write_bytes(safe_io.make_manifest(facts, shared, parts))


def joined_again(run: RunFolder) -> None:
    """Write the latest checkpoint as one process would."""
    found = read_snapshot(run, "latest", training=True)
    run.save(found.step, found.files(), found.run_files(), best=True)


def test_the_parts_together_are_the_gathered_state_and_are_read_by_any_number_of_ranks() -> None:
    """From three ranks on, some have no rows of the smallest weights; a resume never has whole weights."""

    def checked(rank: int) -> None:
        def gathered(session: TransformerSession, *given: object, **named: object) -> dict[str, str]:
            ranks, shapes, own = session.ranks, session.snapshot(), sharded_save.own_rows(session)
            whole = {**shapes.all_weights, **shapes.optimizer}
            found = {
                n: ranks.gather_to(0, rows, len(whole[n])) for of in own.values() for n, rows in of.items()
            }
            if rank == 0:
                Path("gathered").write_bytes(safe_io.dump_tensors(found))  # type: ignore[arg-type]
            return real(session, *given, **named)  # type: ignore[arg-type]

        def refuse(*given: object) -> None:
            raise AssertionError("whole weights")

        real = checkpointer.save_rows
        checkpointer.save_rows = gathered
        snapshot.load_tensors = snapshot.dump_tensors = refuse  # type: ignore[assignment]

    for n, words in (
        (
            3,
            [
                *TRAIN,
                "--steps",
                "9",
                "--shard",
                "--name",
                "cut",
                "--members",
                "prior,no-prior",
                "--reserved-chars",
                "400",
                "--ngram-embeddings",
                "3",
            ],
        ),
        (2, ["resume", "cut", "--shard", "--steps", "3"]),
    ):
        succeeded(together(n, *words, prepare=checked))
        run = run_of("cut")
        folder = run.folder(run.resolve("latest"))
        names = {*part_names(WEIGHTS_FILE, n), *part_names(OPTIMIZER_FILE, n), *FACTS, MANIFEST}
        assert {path.name for path in folder.iterdir()} == names
        found = read_snapshot(run, "latest", training=True)
        read = {**found.all_weights, **found.optimizer}
        gathered = safe_io.load_tensors(Path("gathered").read_bytes(), read, "gathered")
        assert read.keys() == gathered.keys() and all(
            torch.equal(read[name], gathered[name]) for name in read
        )
    assert found.state["ranks"] == 2 and found.earlier


def test_no_rank_ever_has_a_whole_model() -> None:
    """From trial steps and the first weights over evaluations to the report, and at a resume."""

    def checked(rank: int) -> None:
        def on_meta(self: LanguageModel, *given: object) -> None:
            real(self, *given)  # type: ignore[arg-type]
            assert all(weight.is_meta for weight in self.parameters()), "a whole model"

        def refuse(*given: object) -> None:
            raise AssertionError("whole weights")

        real = LanguageModel.__init__
        LanguageModel.__init__ = on_meta  # type: ignore[method-assign]
        ShardedWeights.gathered = refuse  # type: ignore[assignment,method-assign]
        snapshot.load_tensors = snapshot.dump_tensors = refuse  # type: ignore[assignment]
        resume.budget_seconds = lambda time: 1.0  # type: ignore[assignment]

    timed = together(2, *TRAIN, "--time", "9s", "--shard", "--dry-run", prepare=checked)
    assert [result.code for result in timed] == [0, 0], timed
    train = [*TRAIN, "--steps", "9", "--shard", "--members", "prior", "--reserved-chars", "400"]
    succeeded(together(2, *train, "--name", "cut", prepare=checked))
    succeeded(together(2, "resume", "cut", "--shard", "--steps", "3", prepare=checked))
    found = read_snapshot(run_of("cut"), "latest")
    assert found.step == 12 and found.mixture is not None
    assert not Path("checkpoints/cut/samples.jsonl").read_text()
    succeeded(together(2, "resume", "cut", "--shard", "--time", "1s", prepare=checked))
    assert read_snapshot(run_of("cut"), "latest").step > 12


def results_of(charlm: Callable[..., Result], run: str) -> list[str]:
    """What the commands that read a run say of it."""
    said = []
    for words in (
        ("sample", "--run", run, "--length", "40", "--seed", "3"),
        ("eval", "--run", run, "--json"),
        ("export", run, "--to", "hf", "--out", f"exported-{run}"),
        ("train", "ducks.txt", "--from", run, "--steps", "2", "--batch-size", "4", "--name", f"tuned-{run}"),
        ("train", "ducks.txt", "--teacher", run, "--steps", "2", "--plain", "--batch-size", "4", "--n-embd", "16",
         "--n-layer", "1", "--n-head", "2", "--block-size", "16", "--name", f"taught-{run}"),
        ("doctor", run),
        ("resume", run, "--steps", "2"),
    ):  # fmt: skip
        result = charlm(*words)
        assert result.code == 0, (words, result.err)
        said.append(result.out.replace(run, "RUN"))
    return said[:2]


def test_every_reader_finds_in_three_parts_what_it_finds_in_one_file(charlm: Callable[..., Result]) -> None:
    assert charlm(*TRAIN, "--steps", "4", "--plain", "--name", "whole").code == 0
    shutil.copytree("checkpoints/whole", "checkpoints/parts")
    divide(run_of("parts"), 4, 3)
    info = json.loads(charlm("info", "parts", "--json").out)
    assert re.fullmatch("[0-9a-f]{64}", info["weights_sha256"])
    assert results_of(charlm, "whole") == results_of(charlm, "parts")
    weights = [Path(f"exported-{name}", "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1] and distance("tuned-whole", "tuned-parts") == 0
    assert distance("taught-whole", "taught-parts") == 0 and distance("whole", "parts") == 0


@pytest.mark.parametrize("mortal", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_in_a_save_leaves_the_last_checkpoint(mortal: int) -> None:
    """Between its two files. What is resumed ends with the weights of a run that was not killed, bit for bit."""

    def dies(rank: int) -> None:
        real = sharded_save.write_tensors

        def write(path: Path, *given: object) -> object:
            if rank == mortal and "step-00000003" in str(path) and path.name.startswith("train_state"):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, *given)  # type: ignore[arg-type]

        sharded_save.write_tensors = write  # type: ignore[assignment]

    train = [*TRAIN, "--plain", "--steps", "4", "--shard", "--save-every", "0"]
    succeeded(together(2, *train, "--name", "whole"))
    killed = together(2, *train, "--name", "cut", prepare=dies)
    assert killed[mortal].code == -9 and killed[1 - mortal].code == 7
    run = run_of("cut")
    assert run.resolve("latest") == 2 and read_snapshot(run, "latest", training=True).step == 2
    succeeded(together(2, "resume", "cut", "--shard"))
    assert distance("cut", "whole") == 0 and not list(run.path.glob(files.TEMPORARY + "*"))


def test_a_rank_that_does_not_see_the_disk_sends_its_rows() -> None:
    def far(rank: int) -> None:
        if rank:
            Path("far").mkdir()
            shutil.copy("ducks.txt", "far")
            os.chdir("far")

    train = [*TRAIN, "--plain", "--steps", "2", "--shard"]
    succeeded(together(2, *train, "--name", "near"))
    succeeded(together(2, *train, "--name", "cut", prepare=far))
    shutil.rmtree("far")
    assert distance("near", "cut") == 0 and len(list(run_of("cut").folder(2).glob("*.safetensors"))) == 4
    succeeded(together(2, "resume", "cut", "--shard", "--steps", "1", prepare=far))
    assert read_snapshot(run_of("cut"), "latest").step == 3 and not Path("far", "checkpoints").exists()


@pytest.fixture
def divided(tmp_path: Path) -> RunFolder:
    """A run whose latest checkpoint is in two parts."""
    folder, session = toy_run(tmp_path / "runs", prepare(TEXT, TextConfig()), 2)
    list(Trainer(session, folder).run(Never()))
    folder.unlock()
    divide(folder, 2, 2)
    assert read_snapshot(folder, "latest", training=True).step == 2
    return folder


def part(folder: Path, file: str, number: int) -> Path:
    return folder / part_names(file, 2)[number]


def other_rows(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors in the first part of the weights."""
    import safetensors.torch

    tensors = safetensors.torch.load_file(part(folder, WEIGHTS_FILE, 0))
    change(tensors)
    part(folder, WEIGHTS_FILE, 0).write_bytes(safe_io.dump_tensors(tensors))


def swapped(folder: Path) -> None:
    first, second = (part(folder, WEIGHTS_FILE, number) for number in (0, 1))
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)


def third_part(folder: Path) -> None:
    for file in (WEIGHTS_FILE, OPTIMIZER_FILE):
        names = part_names(file, 3)
        for number in (0, 1):
            part(folder, file, number).rename(folder / names[number])
        (folder / names[2]).write_bytes(safe_io.dump_tensors({}))


VOUCHED: dict[str, Callable[[Path], object]] = {
    "a part of the weights is missing": lambda f: part(f, WEIGHTS_FILE, 1).unlink(),
    "a part of the state is missing": lambda f: part(f, OPTIMIZER_FILE, 0).unlink(),
    "a row too few": lambda f: other_rows(f, lambda t: t.update({"embedding.weight": t["embedding.weight"][1:]})),
    "another width": lambda f: other_rows(f, lambda t: t.update({"embedding.weight": t["embedding.weight"][:, 1:]})),
    "another type": lambda f: other_rows(f, lambda t: t.update({"norm.weight": t["norm.weight"].double()})),
    "not finite": lambda f: other_rows(f, lambda t: t["norm.weight"].fill_(float("nan"))),
    "a name more": lambda f: other_rows(f, lambda t: t.update({"../evil": torch.ones(3)})),
    "a name less": lambda f: other_rows(f, lambda t: t.pop("norm.weight")),
    "whole tensors beside rows": lambda f: other_rows(
        f, lambda t: t.update({"norm.weight": torch.cat([t["norm.weight"]] * 2)})
    ),
    "a third part without anything": third_part,
    "a part that is whole, beside the others": lambda f: (f / WEIGHTS_FILE).write_bytes(b""),
    "no header": lambda f: part(f, WEIGHTS_FILE, 0).write_bytes(b"\0" * 4),
    "nothing": lambda f: part(f, WEIGHTS_FILE, 0).write_bytes(b""),
    "a header as long as the world": lambda f: part(f, WEIGHTS_FILE, 0).write_bytes(joined(b"{}", b"", 2**62)),
    "other places": lambda f: part(f, WEIGHTS_FILE, 0).write_bytes(
        part(f, WEIGHTS_FILE, 0).read_bytes().replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", VOUCHED)
@pytest.mark.parametrize("later", [False, True])
def test_hostile_parts_are_one_sentence(divided: RunFolder, how: str, later: bool) -> None:
    VOUCHED[how](divided.folder(2))
    vouch(divided, 2)
    with pytest.raises(CheckpointError) as refused:
        read_snapshot(divided, "latest", training=True, later=later)
    assert "\n" not in str(refused.value)


MANIFESTS: dict[str, Callable[[dict], object]] = {
    "a path that leads out": lambda m: m["files"].update({"../../model.safetensors": m["files"]["config.json"]}),
    "a part named twice otherwise": lambda m: m["files"].update({"model-1-of-2.safetensors": m["files"]["config.json"]}),
    "a part less": lambda m: m["files"].pop(part_names(WEIGHTS_FILE, 2)[0]),
    "only the facts": lambda m: m.update(files={name: m["files"][name] for name in FACTS}),
    "nothing": lambda m: m.update(files={}),
    "the format of one file": lambda m: m.update(format=2),
    "a later format": lambda m: m.update(format=4),
    "ten thousand parts": lambda m: m["files"].update({f"x{i}": m["files"]["config.json"] for i in range(10_000)}),
    "another hash": lambda m: m["files"][part_names(OPTIMIZER_FILE, 2)[1]].update(sha256="0" * 64),
    "another size": lambda m: m["files"][part_names(WEIGHTS_FILE, 2)[1]].update(size=2**60),
}  # fmt: skip


@pytest.mark.parametrize("how", MANIFESTS)
def test_a_hostile_manifest_is_one_sentence(divided: RunFolder, how: str) -> None:
    path = divided.folder(2) / MANIFEST
    manifest = json.loads(path.read_text())
    MANIFESTS[how](manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"^[^\n]{1,300}$"):
        read_snapshot(divided, "latest", training=True)


def test_links_and_changed_bits_in_parts_are_refused(divided: RunFolder) -> None:
    path = part(divided.folder(2), OPTIMIZER_FILE, 1)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 4]))
    with pytest.raises(CheckpointError, match="its hash differs"):
        read_snapshot(divided, "latest", training=True)
    assert read_snapshot(divided, "latest").step == 2, "inference needs the weights alone"
    path.write_bytes(good)
    swapped(divided.folder(2))
    with pytest.raises(CheckpointError, match="its hash differs"):
        read_snapshot(divided, "latest")
    swapped(divided.folder(2))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="regular"):
        read_snapshot(divided, "latest", training=True)
