"""Builds the C kernels if there is a compiler; all other metadata is in pyproject.toml."""

import hashlib
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/userbert/kernels")

# The loader compares this with the sources next to a library, to detect an outdated build.
digest = hashlib.sha256()
for source in sorted(KERNELS.glob("*.[ch]")):
    digest.update(source.read_bytes())


def build(name: str, *, has_bf16: bool) -> Extension:
    """Return a plain shared library for ctypes, which needs neither Python's headers nor torch.

    bf16.h explains how the two builds differ. Each function declares the instructions that it uses,
    so both can be compiled on any x86-64.
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
        optional=True,  # without it, userbert runs PyTorch's operations instead
    )


class Libraries(build_ext):
    """Builds libraries that do not depend on the version of Python."""

    def copy_extensions_to_source(self) -> None:
        """Copy the libraries next to their sources; remove old ones named for a Python version."""
        for outdated in KERNELS.glob("*.cpython-*.so"):
            outdated.unlink()
        super().copy_extensions_to_source()

    def get_ext_filename(self, fullname: str) -> str:
        """Return a file name that does not name a version of Python."""
        return f"{Path(*fullname.split('.'))}.so"


class Wheel(bdist_wheel):
    """A wheel for every Python: for one platform if it has libraries, else for all platforms."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag, depending on whether the libraries were built."""
        command = self.get_finalized_command("build_ext")
        libraries = [
            Path(command.get_ext_fullpath(extension.name)) for extension in command.extensions or ()
        ]
        self.root_is_pure = not any(library.exists() for library in libraries)
        *_, platform_tag = super().get_tag()
        return "py3", "none", "any" if self.root_is_pure else platform_tag


builds = [build("_bf16", has_bf16=True), build("_avx512", has_bf16=False)]
setup(
    ext_modules=builds if platform.machine() in ("x86_64", "AMD64") else [],
    cmdclass={"build_ext": Libraries, "bdist_wheel": Wheel},
)
