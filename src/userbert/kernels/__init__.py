"""Kernels in C for CPUs with AVX-512; whoever calls them has a way without.

In: arrays by their addresses. `setup.py` builds the library if there is a compiler, once with the
processor's own products of bf16 numbers and once without; `available` says whether one is there
that this processor can run. The C files say what each function does.
Nothing here needs torch, but its OpenMP threads are used, so it must be loaded before a call.
"""

import ctypes
import hashlib
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.progress import warn

BUILDS = ("_bf16", "_avx512")
"""The library's two builds, the faster first."""
_PROCESS = os.getpid()
_MOST_IDLE = 2
"""Blocks that are kept for the next call."""


def available() -> bool:
    """Whether the kernels were built and can run here."""
    return library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The library of all kernels, if it was built and can run here."""
    return next((found for build in BUILDS if (found := load(build)) is not None), None)


def load(build: str) -> ctypes.CDLL | None:
    """One of the library's `BUILDS`, if it is there and can run here."""
    spec = find_spec(f"{__name__}.{build}")
    if spec is None or spec.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(spec.origin)
    except OSError:  # built for another system
        return None
    if not _is_of(Path(spec.origin).parent, loaded):
        _warn_of_other_sources()
        return None
    return loaded if loaded.userbert_can_run() else None


@cache
def _warn_of_other_sources() -> None:
    warn(
        "the kernels were built from other sources; PyTorch's operations do their work. "
        "Install userbert again (make, or pip install) to build them anew."
    )


def _is_of(folder: Path, loaded: ctypes.CDLL) -> bool:
    """Whether a library is of the sources in a folder; an installed package has none there."""
    sources = sorted(folder.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if not hasattr(loaded, "userbert_sources"):  # built before it said of which it is
        return False
    loaded.userbert_sources.restype = ctypes.c_char_p
    return not sources or loaded.userbert_sources() == digest.encode()


def run(name: str, call: ctypes.Structure, *more: Any) -> None:
    """Call a function of the library; whoever does has asked whether it is available."""
    native = library()
    assert native is not None
    native[name](ctypes.byref(call), *more)


def fork() -> int | None:
    """The address of `GOMP_parallel` in the process's OpenMP; without, kernels run on one thread.

    PyTorch's threads, and not a pool of our own: two pools that spin fight for the cores. They do
    not live on in a forked child, which would wait for them for ever.
    """
    return _gomp_parallel() if os.getpid() == _PROCESS else None


@cache
def _gomp_parallel() -> int | None:
    process = ctypes.CDLL(None)
    if not hasattr(process, "GOMP_parallel"):
        return None
    return ctypes.cast(process.GOMP_parallel, ctypes.c_void_p).value


class Block:
    """Memory that goes back to where it came from once nobody holds it."""

    def __init__(self, memory: NDArray[np.uint8], idle: list[NDArray[np.uint8]]) -> None:
        self._memory = memory
        self._idle = idle
        self.address: int = memory.ctypes.data

    def __del__(self) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(self._memory)


class Blocks:
    """Memory that is used again: fresh pages cost more than what is computed in them."""

    def __init__(self) -> None:
        self._idle: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> Block:
        """A block of at least `size` bytes, with whatever was left in it."""
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if memory.nbytes < size:
            # A quarter more, as the next batch may be somewhat longer.
            memory = np.empty(size + size // 4, np.uint8)
        return Block(memory, self._idle)
