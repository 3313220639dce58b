"""The soak goes on beside the other slow tests, and is judged after them: it takes minutes, and little work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slow.soaking import Soak

NAME = "test_soak.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak last."""
    items.sort(key=lambda item: item.path.name == NAME)


@pytest.fixture(scope="session", autouse=True)
def soak(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, thorough: bool
) -> Iterator[Soak | None]:
    """The soak, begun with the first slow test; None where it was not asked for."""
    if (
        not any(item.path.name == NAME for item in request.session.items)
        or not Path("/proc/self/fd").is_dir()
    ):
        yield None
        return
    begun = Soak.begin(tmp_path_factory.mktemp("soak"), thorough=thorough)
    yield begun
    begun.end()
