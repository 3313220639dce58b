"""Where what does not fit into memory waits for the second pass, and what is said where it has no room."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time

from charlm.errors import ResourceError
from charlm.files import make_folder
from charlm.terminal import one_line
from charlm.text import cache


def scratch_folder() -> Path:
    """The folder of the cache, or that for temporary files where it cannot be written."""
    try:
        make_folder(cache.corpora())
    except OSError:
        return Path(tempfile.gettempdir())
    cache.remove_stale(time())
    return cache.corpora()


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turns the end of a disk's room into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise ResourceError(
            f"no room for the text in {one_line(str(folder))} ({error.strerror}); make room there, or set "
            "CHARLM_CACHE to a folder that has it"
        ) from None
