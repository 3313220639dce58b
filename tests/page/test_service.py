"""The served page's answers, computed by charlm, are those that the page computes by itself, for every kind of run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot
from charlm.page.pack import pack
from charlm.page.service import LoadedOnce, Service
from charlm.run import Run
from charlm.training.request import Messages
from tests.page.conftest import Page
from tests.page.test_engine import ALIKE, CLOSE, TOYS, thinned
from tests.page.toys import SCORED, snapshot_of


class ToyRun(Run):
    """A run that lies in no folder."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.which = snapshot, "latest"
        self._folder, self._wanted, self._messages = (
            RunFolder(Path(snapshot.run.name)),
            torch.device("cpu"),
            Messages(),
        )


@pytest.mark.parametrize("name", thinned(ALIKE))
def test_the_server_answers_what_the_page_answers(page: Page, name: str) -> None:
    packed = pack(snapshot_of(TOYS[name]))
    info = page.open(packed.data)
    run = ToyRun(packed.snapshot)
    service = Service({run.name: LoadedOnce(lambda: run)}, lambda run: {})

    def answer(operation: str, **body: Any) -> Any:
        return service.answer(operation, body)

    assert answer("open") == info
    for text in ("", "The old", SCORED[:200], SCORED):
        ours, theirs = answer("next", text=text, n=5), page("engine.next(given, {n: 5})", text)
        assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=CLOSE)
        alike(ours["next"], theirs["next"])
    bits, entropy = page.score(SCORED)
    pieces = [piece for group in answer("score", text=SCORED) for piece in group]
    for key, theirs in {"bits": bits, "entropy": entropy}.items():
        ours = [number for piece in pieces for number in piece[key]]
        np.testing.assert_allclose(ours, theirs, atol=5 * CLOSE)
    for at in (0, 1, 15, 150, len(SCORED)):
        for member in range(len(info["members"])):
            ours = answer("inside", text=SCORED, at=at, member=member)
            theirs = page("engine.inside(...given)", [SCORED, at, {"member": member}])
            assert ours["start"] == theirs["start"] and len(ours["layers"]) == len(theirs["layers"])
            for own, other in zip(ours["layers"], theirs["layers"], strict=True):
                assert len(own["heads"]) == len(other["heads"])
                np.testing.assert_allclose(own["heads"], other["heads"], atol=CLOSE)
            for own, other in zip(ours["lens"], theirs["lens"], strict=True):
                alike(own, other)
            for part in ("prior", "member", "final"):
                assert (ours[part] is None) == (theirs[part] is None)
                alike(ours[part] or [], theirs[part] or [])


def alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Two rankings with the same probabilities; what is as likely may change places."""
    np.testing.assert_allclose([each["p"] for each in ours], [each["p"] for each in theirs], atol=CLOSE)
