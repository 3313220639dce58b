"""Write an export into a new folder, atomically."""

import os
from collections.abc import Callable
from pathlib import Path

from charlm import files
from charlm.errors import ResourceError, UsageError
from charlm.export.decoder import PlainDecoder
from charlm.export.export_config import GGUF, HF, ONNX, ExportConfig
from charlm.export.gguf import write_gguf
from charlm.export.hf import write_hf
from charlm.export.onnx import write_onnx
from charlm.terminal import one_line

WRITERS: dict[str, Callable[[PlainDecoder, Path], None]] = {HF: write_hf, GGUF: write_gguf, ONNX: write_onnx}


def check_destination(folder: Path) -> None:
    """Raise UsageError if no new folder of that name can be made; an existing empty one is allowed."""
    shown = one_line(str(folder))
    if shown in ("-", "/dev/stdout"):
        raise UsageError(f"-o {shown}: an export is a folder of several files; name a new folder")
    if folder.suffix in (".gguf", ".onnx", ".safetensors"):
        raise UsageError(f"-o {shown}: an export is a folder of several files; leave out the {folder.suffix}")
    if os.path.lexists(folder) and not _is_empty(folder):
        raise UsageError(f"-o {shown} exists already; give another name, or remove it")
    above = folder.absolute().parent
    if not above.is_dir():
        raise UsageError(f"-o {shown} is in a folder that does not exist; create it, or name another")
    if not os.access(above, os.W_OK):
        raise UsageError(f"-o {shown} is in a folder that cannot be written; name another")
    if (above / "run.json").exists():
        raise UsageError(f"-o {shown} is in the folder of a run, which only training writes to; name another")


def export(decoder: PlainDecoder, folder: Path, config: ExportConfig) -> int:
    """Write the files of an export into a new folder. Return their size in bytes. Raises UsageError, ResourceError."""
    check_destination(folder)

    def taken() -> bool:
        check_destination(folder)
        return False

    try:
        with files.building(folder, may_stay=taken) as temporary:
            if config.to == GGUF and config.dtype is not None:
                write_gguf(decoder, temporary, config.dtype)
            else:
                assert config.to is not None
                WRITERS[config.to](decoder, temporary)
    except OSError as error:
        raise ResourceError(f"{one_line(str(folder))} cannot be written: {error.strerror or error}") from None
    return sum(path.stat().st_size for path in folder.iterdir())


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
