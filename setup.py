"""Builds the kernels in C, where there is a compiler for them; all else is in pyproject.toml."""

import hashlib
import platform
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("src/userbert/kernels")

# By it the loader knows whether a library is of the sources that lie beside it.
digest = hashlib.sha256()
for source in sorted(KERNELS.glob("*.[ch]")):
    digest.update(source.read_bytes())

# A plain shared library: it needs neither Python's headers nor torch, and is loaded by ctypes.
# Each function says itself which instructions it uses, so one build runs on any x86-64.
native = Extension(
    "userbert.kernels._native",
    sources=sorted(map(str, KERNELS.glob("*.c"))),
    depends=sorted(map(str, KERNELS.glob("*.h"))),
    define_macros=[("USERBERT_SOURCES", f'"{digest.hexdigest()}"')],
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-g0",
        "-Wextra",
        "-fno-math-errno",
        "-fno-trapping-math",
    ],
    optional=True,  # without it PyTorch's own operations do the same
)

setup(ext_modules=[native] if platform.machine() in ("x86_64", "AMD64") else [])
