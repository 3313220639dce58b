"""Read and write a checkpoint's tensors one at a time, in one file or in a file per rank that holds its rows.

Part p of W has the rows of each tensor that `torch.chunk` gives to rank p: all names are in every part, some perhaps
without rows.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from charlm import files
from charlm.checkpoint.safe_io import DTYPES, MAX_HEADER, FileEntry, Manifest, check_header, reading
from charlm.errors import CheckpointError
from charlm.strict_json import dump_json
from charlm.terminal import one_line


def row_range(n_rows: int, part: int, n_parts: int) -> slice:
    """Return which of `n_rows` rows a part has."""
    most = -(-n_rows // n_parts)
    return slice(min(n_rows, part * most), min(n_rows, (part + 1) * most))


def rows_of(tensors: Mapping[str, Tensor], part: int, n_parts: int) -> dict[str, Tensor]:
    """Return a part's rows (r, ...) of whole tensors (R, ...)."""
    return {name: tensor[row_range(len(tensor), part, n_parts)] for name, tensor in tensors.items()}


class TensorFiles(Mapping[str, Tensor]):
    """Verified tensors of a checkpoint, each read from its parts when it is asked for."""

    def __init__(self, folder: Path, manifest: Manifest, name: str, expected: Mapping[str, Tensor]) -> None:
        """`name`: model.safetensors or train_state.safetensors. `expected`: on the meta device, all or some of its tensors."""
        self._paths = [folder / file for file in manifest.files_of(name)]
        self._expected = expected
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Read the tensor (R, ...) of that name. Raises CheckpointError, KeyError."""
        whole = self._expected[name]
        parts = [self._of(path).get_tensor(name) for path in self._paths]
        found: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        assert found.shape == whole.shape, "it was checked"
        return found

    def only(self, expected: Mapping[str, Tensor]) -> "TensorFiles":
        """Return a view of some of the tensors."""
        some = copy(self)
        some._expected = expected
        return some

    def _of(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = _opened(path)
        return self._open[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expected)

    def __len__(self) -> int:
        return len(self._expected)


def check_tensors(folder: Path, manifest: Manifest, name: str, expected: Mapping[str, Tensor]) -> None:
    """Check the files of these tensors against the manifest and `expected`, one tensor in memory at a time.

    Raises CheckpointError where a file is missing, unusual or changed, where names, shapes or types differ, and for values
    that are not finite.
    """
    n = manifest.n_parts
    for part, file in enumerate(manifest.files_of(name)):
        path, own = folder / file, rows_of(expected, part, n)
        with reading(str(path)), open(path, "rb", opener=files.open_regular) as opened:
            size = os.fstat(opened.fileno()).st_size
            sha256 = (
                "" if size != manifest.files[file].size else hashlib.file_digest(opened, "sha256").hexdigest()
            )
            opened.seek(0)
            head = opened.read(8)
            head += opened.read(min(MAX_HEADER, *struct.unpack("<Q", head)) if len(head) == 8 else 0)
        if sha256 != manifest.files[file].sha256:
            raise CheckpointError(f"{one_line(str(path))} is damaged: its hash differs from the manifest's")
        check_header(head, size, own, file)
        tensors = _opened(path)
        for key in own:
            if not bool(torch.isfinite(tensors.get_tensor(key)).all()):
                raise CheckpointError(f"{file} is damaged: {key} holds values that are not finite")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # noqa: BLE001  safetensors exports none of its exceptions
        raise CheckpointError(f"{one_line(str(path))} is damaged: {one_line(str(error))}") from None


def write_tensors(path: Path, like: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> FileEntry:
    """Write safetensors shaped as `like`, reading each tensor when its turn comes, and wait for the disk. Raises OSError."""
    header, end = {}, 0
    for name, tensor in like.items():
        place = {"shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        header[name] = {"dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")], **place}
        end += tensor.nbytes
    text = dump_json(header, compact=True)
    text += b" " * (-len(text) % 8)
    sha256 = hashlib.sha256()
    with files.writing(path) as file:
        for data in chain((struct.pack("<Q", len(text)) + text,), (_bytes(read(name)) for name in like)):
            file.write(data)
            sha256.update(data)
        size = file.tell()
    return FileEntry(size=size, sha256=sha256.hexdigest())


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
