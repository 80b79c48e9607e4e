"""Loads a model or a task to run with torch or onnxruntime.

In: a model or task folder, or a file that `userbert export` wrote. Out: a `Backend`. Only the
library that runs the network is imported, so a server with onnxruntime needs no torch.
"""

from pathlib import Path

from userbert.errors import InputError
from userbert.export.backend import Backend, RunsOn
from userbert.folders import describe_path


def load_backend(
    path: str | Path, runs_on: RunsOn = "torch", *, threads: int | None = None
) -> Backend:
    """Loads a model or task folder with torch, or an exported file with onnxruntime.

    `threads` is the number of compute threads; with torch, in the whole process. The default is one
    per core, or torch's own (also set by OMP_NUM_THREADS).

    Raises `ModelError` if `path` is missing, damaged, or neither a model, a task nor an exported
    file; `InputError` if the library needs a folder and finds a file or vice versa, the task has
    aggregates, or the library is not installed.
    """
    path = Path(path)
    if runs_on == "onnx":
        if path.is_dir():
            raise InputError(
                f"{path}: onnxruntime reads a file that `userbert export` wrote, and this is a "
                f"folder ({describe_path(path)}). Write one: "
                f"userbert export {path} -o {path.name}.onnx"
            )
        try:
            from userbert.export.runtime import Runtime
        except ModuleNotFoundError as error:
            raise _missing_library(error, path, "onnxruntime", "serve") from error
        return Runtime.load(path, threads=threads)
    if path.is_file():
        raise InputError(
            f"{path}: torch reads the folder of a model or of a task, and this is a file. Name the "
            "folder; a file that `userbert export` wrote runs with the backend onnx."
        )
    try:
        from userbert.export.torch_backend import TorchBackend
    except ModuleNotFoundError as error:
        raise _missing_library(error, path, "torch", "train") from error
    return TorchBackend.load(path, threads=threads)


def _missing_library(error: ModuleNotFoundError, path: Path, module: str, extra: str) -> Exception:
    """Returns an `InputError` with the extra to install if `module` is missing, else `error`."""
    if error.name != module:
        return error
    return InputError(
        f"{path}: this needs {module}. Install it with: pip install 'userbert[{extra}]'"
    )
