"""Loads a model or a task as whatever runs it: torch or onnxruntime.

In: a folder, or a file of `export`. Out: a `Backend`. Each way is imported when it is asked for, so
that a server with onnxruntime needs no torch.
"""

from pathlib import Path

from userbert.errors import InputError
from userbert.export.backend import Backend, RunsOn
from userbert.folders import found_at


def load_backend(
    path: str | Path, runs_on: RunsOn = "torch", *, threads: int | None = None
) -> Backend:
    """Load what is to answer: a model or task folder for torch, a file of `export` for onnx.

    With `threads`, so many compute: of torch, in the whole process. Otherwise torch and onnxruntime
    take as many as there are cores; torch, what OMP_NUM_THREADS says.

    Raises `ModelError` if it is damaged, and `InputError` if it is something else or cannot be
    loaded by what is installed.
    """
    path = Path(path)
    if runs_on == "onnx":
        if path.is_dir():
            raise InputError(
                f"{path}: onnxruntime reads a file that `userbert export` wrote, and this is a "
                f"folder ({found_at(path)}). Write one: userbert export {path} -o {path.name}.onnx"
            )
        try:
            from userbert.export.runtime import Runtime
        except ModuleNotFoundError as error:
            raise _lacks(error, path, "onnxruntime", "serve") from error
        return Runtime.load(path, threads=threads)
    if path.is_file():
        raise InputError(
            f"{path}: torch reads the folder of a model or of a task, and this is a file. "
            "Name the folder; a file of `userbert export` is read with --backend onnx."
        )
    try:
        from userbert.export.torch_backend import TorchBackend
    except ModuleNotFoundError as error:
        raise _lacks(error, path, "torch", "train") from error
    return TorchBackend.load(path, threads=threads)


def _lacks(error: ModuleNotFoundError, path: Path, module: str, extra: str) -> Exception:
    """What to say of a module that is not installed; another than that is our fault."""
    if error.name != module:
        return error
    return InputError(
        f"{path}: this needs {module}. Install it with: pip install 'userbert[{extra}]'"
    )
