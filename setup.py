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


def build(name: str, *, has_bf16: bool) -> Extension:
    """Describe a plain shared library: it needs neither Python's headers nor torch.

    It is loaded by ctypes; bf16.h says in what the two builds differ. Each function says itself
    which instructions it uses, so they can be built on any x86-64.
    """
    return Extension(
        f"userbert.kernels.{name}",
        sources=sorted(map(str, KERNELS.glob("*.c"))),
        depends=sorted(map(str, KERNELS.glob("*.h"))),
        define_macros=[
            ("USERBERT_SOURCES", f'"{digest.hexdigest()}"'),
            ("USERBERT_BF16", str(int(has_bf16))),
        ],
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


builds = [build("_bf16", has_bf16=True), build("_avx512", has_bf16=False)]
setup(ext_modules=builds if platform.machine() in ("x86_64", "AMD64") else [])
