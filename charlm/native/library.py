"""The compiled kernels: one shared library, built when the package is installed, loaded at its first use.

Each kernel is in it once per instruction set (a "clone"); the best one that the processor supports is used. CHARLM_NATIVE=0
switches the library off, CHARLM_NATIVE=v3 (or another name of CLONES) chooses a clone.
"""

import ctypes
import hashlib
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from charlm.errors import UsageError
from charlm.terminal import one_line

CLONES = ("v4bf16", "v4", "v3", "v2", "baseline")
"""Best first, as in clones.c: x86-64 levels (v4 is AVX-512), v4 with bf16 products; `baseline` elsewhere."""
VARIABLE = "CHARLM_NATIVE"
FILE = "charlm_native.so"
INSTEAD = {"n-gram rows": "NumPy", "sampling": "torch", "training": "torch"}
"""For each part of charlm that has kernels, what is used without them."""

Pointer, Size = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, kw_only=True)
class NativeStatus:
    """Whether the compiled kernels are used."""

    clone: str | None  # the instruction set in use; None: torch and NumPy compute
    reason: str | None  # why no clone, or not the best one, is used

    def __str__(self) -> str:
        if self.clone is None:
            return f"no compiled kernels ({self.reason})"
        return f"compiled kernels {self.clone}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, kw_only=True)
class KernelStatus:
    """What computes a part of charlm: compiled kernels, or their fallback."""

    purpose: str
    clone: str | None  # None: `instead` computes
    instead: str
    reason: str | None

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"compiled kernels {self.clone}{why}" if self.clone else f"{self.instead}, which is slower{why}"
        )


@dataclass(frozen=True)
class Library:
    """The loaded library and the clone in use."""

    handle: ctypes.CDLL
    clone: str

    @cached_property
    def identity(self) -> str:
        """The clone and 8 digits of the file's SHA-256; kernels of the same identity round alike."""
        return f"{self.clone} {hashlib.sha256(Path(self.handle._name).read_bytes()).hexdigest()[:8]}"

    def function(self, name: str, kind: str, *argument_types: Any) -> Any:
        """Look up a function without a return value. `kind`: exact, fast, fp32 or bf16, as CMakeLists.txt compiles it."""
        try:
            found = getattr(self.handle, f"{name}_{kind}_{self.clone}")
        except AttributeError:
            raise UsageError(f"{FILE} is older than charlm's sources; install charlm again") from None
        found.argtypes, found.restype = argument_types, None
        return found

    def has_amx(self) -> bool:
        """Whether the processor has units for bf16 products, which torch uses."""
        return bool(self.handle.has_amx())


def library() -> Library | None:
    """Return the compiled kernels; None where torch and NumPy are used. Raises UsageError for a wrong CHARLM_NATIVE."""
    return _load(_asked())[0]


def status() -> NativeStatus:
    """Return which kernels are used, and why. Raises UsageError for a wrong CHARLM_NATIVE."""
    return _load(_asked())[1]


def statuses() -> tuple[KernelStatus, ...]:
    """Return what computes each part of charlm. Raises UsageError for a wrong CHARLM_NATIVE."""
    found = status()
    return tuple(
        KernelStatus(purpose=purpose, clone=found.clone, instead=instead, reason=found.reason)
        for purpose, instead in INSTEAD.items()
    )


def check_variable() -> None:
    """Raise UsageError for a wrong CHARLM_NATIVE, without loading anything."""
    _asked()


def supported_clones() -> tuple[str, ...]:
    """Return the clones in the library that this processor can run, best first."""
    path = _path()
    handle = None if path is None else _open(path)
    return () if not isinstance(handle, ctypes.CDLL) else _supported(handle)


def _asked() -> str:
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "0", "1", *CLONES):
        raise UsageError(
            f"{VARIABLE} is {one_line(repr(asked))}; it may be 0 (off), 1 (on), or one of {', '.join(CLONES)}"
        )
    return asked


@cache
def _load(asked: str) -> tuple[Library | None, NativeStatus]:
    if asked == "0":
        return None, NativeStatus(clone=None, reason=f"switched off by {VARIABLE}=0")
    path = _path()
    if path is None:
        why = "the package was installed without a working C compiler"
        if Path(__file__).with_name("CMakeLists.txt").exists():
            why = "these are charlm's sources, and no kernels are compiled there: pip install -e . compiles them"
        return None, NativeStatus(clone=None, reason=why)
    handle = _open(path)
    if isinstance(handle, str):
        return None, NativeStatus(clone=None, reason=f"{FILE} could not be loaded: {one_line(handle)}")
    clones = _supported(handle)
    if not clones or (asked in CLONES and asked not in clones):
        missing = (
            f"this processor cannot run {asked}" if clones else "this processor is older than all of them"
        )
        return None, NativeStatus(clone=None, reason=missing)
    clone = asked if asked in CLONES else clones[0]
    reason = f"chosen by {VARIABLE}={asked}" if asked in CLONES else None
    return Library(handle, clone), NativeStatus(clone=clone, reason=reason)


def _path() -> Path | None:
    """Find the library: beside this file or, for an editable installation, where the package was installed."""
    import charlm.native

    found = (Path(folder, FILE) for folder in charlm.native.__path__)
    return next((path for path in found if path.is_file()), None)


@cache
def _open(path: Path) -> ctypes.CDLL | str:
    """Load the library, or return why it cannot be loaded."""
    import torch  # noqa: F401  the kernels use its OpenMP runtime

    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW if hasattr(os, "RTLD_NOW") else ctypes.DEFAULT_MODE)
    except OSError as error:
        return str(error)


def _supported(handle: ctypes.CDLL) -> tuple[str, ...]:
    bits = handle.supported_clones()
    return tuple(clone for i, clone in enumerate(CLONES) if bits >> i & 1)
