"""Mutations of a good run's files, each a pure function of its number, and using what came of them."""

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from charlm.checkpoint import safe_io
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import NGRAM_FILE
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError
from charlm.inference.members import predictor_of
from charlm.training.launch import resume_run, start_run
from charlm.training.plan import read_plan
from charlm.training.planner import Choice, choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget
from charlm.training.state import overview
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, toy_choice

FILES = (*safe_io.CHECKPOINT_FILES, *safe_io.RUN_FILES, NGRAM_FILE, "plan.json", "latest", safe_io.MANIFEST)
VOUCHED = (*safe_io.CHECKPOINT_FILES, *safe_io.RUN_FILES, NGRAM_FILE)
READ = torch.arange(54).reshape(2, 27) % 9
"""Ids of two texts, more than a block, that are read in pieces."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 65536, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308, "", "x", "1",
    "\x1b[2J", "../..", "/etc/passwd", "\ud800", "a" * 5000, [], [[]], [0], [-1], [None], {}, {"a": 1}, [1] * 300,
    "0:0,5:1", "step-00000001", "muon", "adamw", "recurrent", "attention,convolution", "cuda", "bf16",
)  # fmt: skip


@dataclass
class Hostile:
    """A run that is whole, and the bytes of its files."""

    run: RunFolder
    step: int
    good: dict[str, bytes]

    @classmethod
    def made(cls, root: Path, *, alone: bool = False) -> "Hostile":
        """A toy with everything that a run can have: counts, n-grams, Muon, an evaluation.

        Or, `alone`, counts as the model, of documents kept apart.
        """
        root.mkdir(exist_ok=True)
        (root / "ducks.txt").write_text(TEXT)
        text = TextConfig(documents="line") if alone else TextConfig()
        loaded = load([str(root / "ducks.txt")], text)
        run = RunFolder.create(root / "runs", "toy")
        session = start_run(run, loaded, text, _choice(loaded.corpus, alone=alone), "charlm train")
        list(Trainer(session, run).run(Never()))
        run.unlock()
        hostile = cls(run, session.state.step, {})
        hostile.good = {name: hostile.path(name).read_bytes() for name in FILES}
        for step in run.steps()[:-1]:
            for path in run.folder(step).iterdir():
                path.unlink()
            run.folder(step).rmdir()  # so that nothing else can be gone back to
        return hostile

    def path(self, name: str) -> Path:
        """Where a file of the run lies."""
        return (
            self.run.folder(self.step)
            if name in (*safe_io.CHECKPOINT_FILES, safe_io.MANIFEST)
            else self.run.path
        ) / name

    def vouch_again(self) -> None:
        """Make the manifest fit what lies there now, so that what stands behind the hash is tried."""
        there = {name: self.path(name).read_bytes() for name in VOUCHED if self.path(name).is_file()}
        own = {name: there[name] for name in safe_io.CHECKPOINT_FILES if name in there}
        shared = {name: data for name, data in there.items() if name not in own}
        self.path(safe_io.MANIFEST).write_bytes(safe_io.make_manifest(own, shared))

    def restore(self) -> None:
        """All as it was."""
        for name, data in self.good.items():
            path = self.path(name)
            if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                elif path.is_symlink() or path.exists():
                    path.unlink()
                path.write_bytes(data)

    def use(self, *, further: bool = True) -> str:
        """Read everything as the commands do: `refused` or `read`; whatever else comes out is a bug."""
        run = RunFolder(self.run.path)
        overview(run)
        try:
            snapshot = read_snapshot(run, "latest", training=True)
            snapshot.kneser_ney()
            read_plan(run)
            predictor = predictor_of(snapshot)
            if further:
                if predictor.rule.block_size < 4096:
                    state = predictor.start(2)
                    for piece in READ.split([4, 1, 1, 1, 20], dim=1):
                        state, _ = predictor.step(state, piece)
                session = resume_run(run, lambda _: None, threads=1)
                if isinstance(session, TransformerSession):
                    session.learning_rates()
        except CheckpointError as error:
            assert str(error) and "\x1b" not in str(error)
            return "refused"
        finally:
            run.unlock()
        return "read"

    def attempt(self, number: int) -> dict[str, Any]:
        """Mutation `number`: what was done, and what came of it."""
        rng = random.Random(number)
        name = FILES[number % len(FILES)]
        behind = (number // len(FILES)) % 7 < 5 and name in VOUCHED  # which are seven tenths: half of all
        kind = self._mutate(name, rng)
        changed = not self.path(name).is_file() or self.path(name).read_bytes() != self.good[name]
        try:
            if behind:
                self.vouch_again()
            outcome = self.use(further=behind or name in ("plan.json", "latest", safe_io.MANIFEST))
        finally:
            self.restore()
        return {
            "number": number, "file": name, "kind": kind, "behind": behind, "changed": changed,
            "outcome": outcome,
        }  # fmt: skip

    def _mutate(self, name: str, rng: random.Random) -> str:
        path, good = self.path(name), self.good[name]
        kinds = dict(BYTES)
        if name.endswith(".json"):
            kinds = {**kinds, **{k: _text(f) for k, f in JSON.items()}}
        if name.endswith(".safetensors") and _parts(good)[0]:
            kinds = {**kinds, **TENSORS}
        own = [kind for kind in kinds if kind not in BYTES]
        if rng.random() < 0.02:
            return _other_kind(path, rng)
        kind = rng.choice(own) if own and rng.random() < 0.75 else rng.choice(list(kinds))
        path.write_bytes(kinds[kind](good, rng))
        return kind


def _choice(corpus: Corpus, *, alone: bool) -> Choice:
    if not alone:
        model = {"prior": True, "prior_order": 2, "ngram_embeddings": 2, "ngram_embedding_rows": 64}
        return toy_choice(corpus, 4, model=model, optimizer="muon", eval_every=2, save_every=1e6)
    config = ModelConfig(model="ngram", prior_order=2)
    choice = choose(Budget(), len(corpus.train), config, TrainingConfig())
    return replace(choice, plan=choice.plan.record(decided="size", at_step=0))


def _other_kind(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    path.unlink()
    kind = rng.choice(["gone", "a link", "a pipe", "a folder", "a link to nowhere", "a device"])
    if kind == "a link":
        other = path.with_name("elsewhere")
        other.write_bytes(data)
        path.symlink_to(other)
    elif kind == "a link to nowhere":
        path.symlink_to(path)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    return kind


# --- bytes ------------------------------------------------------------------------------------

Change = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _longer(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 100))


def _zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 200))
    return data[:start] + bytes(end - start) + data[end:]


def _moved(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[b:] + data[a:b] + data[:a]


def _noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 7, 8, 9, 100, len(data)]))


BYTES: dict[str, Change] = {
    "a bit": _flip, "cut": _cut, "longer": _longer, "zeroed": _zeroed, "moved": _moved, "noise": _noise,
}  # fmt: skip

# --- JSON -------------------------------------------------------------------------------------


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found = [(*place, key) for key in keys]
    return found + [inner for key in keys for inner in _places(value[key], (*place, key))]


def _within(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _other_value(value: Any, rng: random.Random) -> None:
    *above, last = rng.choice(_places(value))
    _within(value, tuple(above))[last] = rng.choice(VALUES)


def _a_little_other(value: Any, rng: random.Random) -> None:
    *above, last = rng.choice(_places(value))
    holder = _within(value, tuple(above))
    old = holder[last]
    if isinstance(old, bool) or old is None:
        holder[last] = not old
    elif isinstance(old, int | float):
        holder[last] = rng.choice([old + 1, old - 1, -old, old * 2, old / 2, float(old), str(old)])
    elif isinstance(old, str):
        holder[last] = rng.choice([old + "x", old[:-1], old[::-1], old.upper(), [old]])
    elif isinstance(old, list):
        rng.shuffle(old)
        holder[last] = rng.choice([old, old[:-1], old + old, dict.fromkeys(map(str, old))])
    else:
        holder[last] = rng.choice([list(old), {}, None])


def _without(value: Any, rng: random.Random) -> None:
    *above, last = rng.choice(_places(value))
    del _within(value, tuple(above))[last]


def _more(value: Any, rng: random.Random) -> None:
    *above, last = rng.choice(_places(value))
    holder = _within(value, tuple(above))
    if isinstance(holder, dict):
        holder[rng.choice(["evil", "", "\x1b[2J", "\ud800", "__class__"])] = rng.choice(VALUES)
    else:
        holder.insert(last, rng.choice(VALUES))


def _swapped(value: Any, rng: random.Random) -> None:
    places = _places(value)
    (*a_above, a), (*b_above, b) = rng.choice(places), rng.choice(places)
    if tuple(b_above)[: len(a_above) + 1] == (*a_above, a) or tuple(a_above)[: len(b_above) + 1] == (
        *b_above,
        b,
    ):
        return  # one within the other
    first, second = _within(value, tuple(a_above)), _within(value, tuple(b_above))
    first[a], second[b] = second[b], first[a]


JSON: dict[str, Callable[[Any, random.Random], None]] = {
    "another value": _other_value, "a little other": _a_little_other, "without": _without, "more": _more,
    "swapped": _swapped,
}  # fmt: skip
_NOISES = ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 5000, '{"a":1,"a":2}', "0x10", "\x00")


def _text(change: Callable[[Any, random.Random], None]) -> Change:
    """A change of values as one of bytes; now and then something that is no JSON stands for a value."""

    def changed(data: bytes, rng: random.Random) -> bytes:
        value = json.loads(data)
        change(value, rng)
        if rng.random() < 0.1:
            *above, last = rng.choice(_places(value) or [("x",)])
            with_mark = _within(value, tuple(above))
            with_mark[last] = "here"
            return json.dumps(value).replace('"here"', rng.choice(_NOISES), 1).encode()
        return json.dumps(value).encode()

    return changed


# --- tensors ----------------------------------------------------------------------------------


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: bytes, payload: bytes, length: int | None = None) -> bytes:
    """A file of tensors, whatever its header says."""
    return struct.pack("<Q", len(header) if length is None else length) + header + payload


def _header_text(data: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    return joined(rng.choice(list(BYTES.values()))(data[8 : 8 + length], rng), data[8 + length :])


def _header_values(data: bytes, rng: random.Random) -> bytes:
    header, payload = _parts(data)
    rng.choice(list(JSON.values()))(header, rng)
    return joined(json.dumps(header).encode(), payload)


def _header_length(data: bytes, rng: random.Random) -> bytes:
    header, payload = _parts(data)
    length = rng.choice([0, 1, 2, 2**20, 2**20 + 1, 2**31, 2**62, 2**63, 2**64 - 1, len(data)])
    return joined(json.dumps(header).encode(), payload, length)


def twice(data: bytes, rng: random.Random) -> bytes:
    header, payload = _parts(data)
    name = rng.choice(list(header))
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    return joined(text.encode(), payload)


def _renamed(data: bytes, rng: random.Random) -> bytes:
    header, payload = _parts(data)
    name = rng.choice(list(header))
    header[rng.choice(["", "x", name + "\x00", name.upper(), "\x1b[2J", "__metadata__"])] = header.pop(name)
    return joined(json.dumps(header).encode(), payload)


def _numbers(data: bytes, rng: random.Random) -> bytes:
    """Other numbers in place of some: not finite, or whatever four bytes are."""
    header, payload = _parts(data)
    if len(payload) < 8:
        return data
    at = 4 * rng.randrange(len(payload) // 4)
    value = rng.choice(
        [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", rng.randbytes(4), bytes(4)]
    )
    return joined(json.dumps(header).encode(), payload[:at] + value + payload[at + 4 :])


def _offsets(data: bytes, rng: random.Random) -> bytes:
    header, payload = _parts(data)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    entry["data_offsets"] = rng.choice(
        [
            [end, start],
            [start, end + 4],
            [start - 4, end],
            [0, 2**60],
            [start, start],
            [0, 0],
            [-1, end],
            [start],
        ]
    )
    return joined(json.dumps(header).encode(), payload)


TENSORS: dict[str, Change] = {
    "header's bytes": _header_text, "header's values": _header_values, "header's length": _header_length,
    "a tensor twice": twice, "a tensor renamed": _renamed, "other numbers": _numbers, "other places": _offsets,
}  # fmt: skip
