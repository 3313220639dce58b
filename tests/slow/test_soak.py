"""A run that saves again and again takes no more memory, descriptors or names than at its beginning."""

import pytest

from charlm import files
from tests.slow.soaking import Soak, saves

pytestmark = pytest.mark.slow

GROWTH = 8 << 20


def test_saving_every_two_seconds_nothing_grows(soak: Soak | None) -> None:
    if soak is None:
        pytest.skip("counts what a process holds by /proc")
    code, found = soak.finish()
    assert code == 143, (soak.folder / "err").read_text()
    quarter = len(found) // 4
    early, late = found[quarter : 2 * quarter], found[-quarter:]
    memory, descriptors, temporaries, checkpoints = zip(*found[quarter:], strict=True)
    saved = saves(soak.run)
    print(
        f"{saved} saves, {min(memory) / 1e6:.1f} to {max(memory) / 1e6:.1f} MB, {set(descriptors)} descriptors"
    )
    assert max(row[0] for row in late) <= max(row[0] for row in early) + GROWTH
    assert min(row[1] for row in late) <= min(row[1] for row in early), "between saves as before"
    assert max(descriptors) <= min(descriptors) + 3, "in a save a file and a folder"
    assert max(temporaries) <= 2 and max(checkpoints) <= 5
    assert not list(soak.run.glob(files.TEMPORARY + "*"))
    assert saved >= soak.seconds / 4
