"""Kernels in C for CPUs with AVX-512; on other CPUs, callers use PyTorch's operations.

In: structures with the addresses of arrays. Out: results in these arrays. If there is a compiler,
`setup.py` builds the library twice: with and without the processor's bf16 instructions. `available`
returns whether this processor can run a build. The C files document each function. This module does
not import torch, but the kernels run on torch's OpenMP threads, so import torch before a call.
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
"""Names of the library's two builds, the faster first."""
_PROCESS = os.getpid()
"""Id of the process that imported this module; a forked child has another id."""
_MAX_IDLE = 2
"""Maximum number of unused arrays that each `Blocks` keeps for later calls, to bound memory."""


def available() -> bool:
    """Returns whether the kernels are built and this processor can run them."""
    return library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """Returns the fastest build of the library that this processor can run, if any."""
    return next((native for build in BUILDS if (native := load(build)) is not None), None)


def load(build: str) -> ctypes.CDLL | None:
    """Returns the build with this name; None if it is missing, outdated, or cannot run here."""
    spec = find_spec(f"{__name__}.{build}")
    if spec is None or spec.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(spec.origin)
    except OSError:  # built for another platform
        return None
    if not _matches_sources(Path(spec.origin).parent, loaded):
        _warn_outdated()
        return None
    return loaded if loaded.userbert_can_run() else None


@cache
def _warn_outdated() -> None:
    """Warns once per process of a library that does not match its sources."""
    warn(
        "the C kernels were built from other sources, so userbert runs PyTorch's slower operations "
        "instead. Reinstall userbert (make, or pip install) to rebuild them."
    )


def _matches_sources(folder: Path, loaded: ctypes.CDLL) -> bool:
    """Returns whether a library was built from the sources in the folder.

    Returns true if the folder has no sources, as in wheels.
    """
    sources = sorted(folder.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if not hasattr(loaded, "userbert_sources"):  # built before libraries recorded their sources
        return False
    loaded.userbert_sources.restype = ctypes.c_char_p
    return not sources or loaded.userbert_sources() == digest.encode()


def run(name: str, call: ctypes.Structure, *arguments: Any) -> None:
    """Calls function `name` of the library with the address of `call`, and more arguments."""
    native = library()
    assert native is not None
    native[name](ctypes.byref(call), *arguments)


def openmp_parallel() -> int | None:
    """Returns the address of `GOMP_parallel` in this process, or None to run on one thread.

    Kernels use PyTorch's thread pool, because two pools that spin compete for the cores. A forked
    child gets None: the pool does not survive a fork, so the child would wait forever.
    """
    return _gomp_parallel() if os.getpid() == _PROCESS else None


@cache
def _gomp_parallel() -> int | None:
    """Returns the address of `GOMP_parallel`, or None if no loaded library has it."""
    process = ctypes.CDLL(None)
    if not hasattr(process, "GOMP_parallel"):
        return None
    return ctypes.cast(process.GOMP_parallel, ctypes.c_void_p).value


class Block:
    """Memory that returns to its `Blocks` when the block is garbage-collected."""

    def __init__(self, memory: NDArray[np.uint8], idle: list[NDArray[np.uint8]]) -> None:
        self._memory = memory
        self._idle = idle
        self.address: int = memory.ctypes.data
        """Address of the first byte."""

    def __del__(self) -> None:
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(self._memory)


class Blocks:
    """Reuses memory between calls, because fresh pages cost more time than the computation."""

    def __init__(self) -> None:
        self._idle: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> Block:
        """Returns an uninitialised block of at least `size` bytes."""
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if memory.nbytes < size:
            # Room for a quarter more, because the next batch may be a little longer.
            memory = np.empty(size + size // 4, np.uint8)
        return Block(memory, self._idle)
