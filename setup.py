"""Builds the kernels in C, where there is a compiler for them; all else is in pyproject.toml."""

import hashlib
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

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


class Libraries(build_ext):
    """Builds libraries that are of no version of Python."""

    def copy_extensions_to_source(self) -> None:
        """Put them beside their sources, in place of those that a version of Python would find."""
        for older in KERNELS.glob("*.cpython-*.so"):
            older.unlink()
        super().copy_extensions_to_source()

    def get_ext_filename(self, fullname: str) -> str:
        """Name a library as every Python finds it."""
        return f"{Path(*fullname.split('.'))}.so"


class Wheel(bdist_wheel):
    """A wheel of every Python: of one platform with libraries, of all where none was built."""

    def get_tag(self) -> tuple[str, str, str]:
        """Look at what was built."""
        built = self.get_finalized_command("build_ext")
        libraries = [Path(built.get_ext_fullpath(one.name)) for one in built.extensions or ()]
        self.root_is_pure = not any(library.exists() for library in libraries)
        *_, system = super().get_tag()
        return "py3", "none", "any" if self.root_is_pure else system


builds = [build("_bf16", has_bf16=True), build("_avx512", has_bf16=False)]
setup(
    ext_modules=builds if platform.machine() in ("x86_64", "AMD64") else [],
    cmdclass={"build_ext": Libraries, "bdist_wheel": Wheel},
)
