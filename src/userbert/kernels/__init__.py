"""Kernels in C for CPUs with AVX-512 and bf16; whoever calls them has a way without.

In: arrays by their addresses. `setup.py` builds the library if there is a compiler; `available`
says whether it is there and this processor can run it. The C files say what each function does.
Nothing here needs torch, but its OpenMP threads are used, so it must be loaded before a call.
"""

import ctypes
from functools import cache
from importlib.util import find_spec


def available() -> bool:
    """Whether the kernels were built and can run here."""
    return library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The library of all kernels, if it was built and can run here."""
    spec = find_spec(f"{__name__}._native")
    if spec is None or spec.origin is None:
        return None
    loaded = ctypes.CDLL(spec.origin)
    return loaded if loaded.userbert_can_run() else None


@cache
def fork() -> ctypes.c_void_p:
    """`GOMP_parallel` of the process's OpenMP, or null: then kernels run on one thread."""
    return ctypes.cast(getattr(ctypes.CDLL(None), "GOMP_parallel", None), ctypes.c_void_p)
