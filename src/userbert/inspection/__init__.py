"""What is inside a folder or file that userbert wrote, as tables for people.

In: prepared data, a model, a task, an evaluation, labels, vectors or scores. Out: rich tables. The
command line's `inspect` prints them; nothing here needs torch.
"""

from pathlib import Path

from rich.console import RenderableType

from userbert.data.store import PreparedData
from userbert.embedding.embedding_folder import refuse_unfinished
from userbert.embedding.embeddings import holds_vectors
from userbert.errors import InputError
from userbert.folders import describe_path
from userbert.inspection.explanation import moved, words_of
from userbert.inspection.models import (
    describe_evaluation,
    describe_fused,
    describe_model,
    describe_task,
)
from userbert.inspection.models import verdict as verdict
from userbert.inspection.prepared import describe_data
from userbert.inspection.tables import describe_file
from userbert.inspection.vectors import describe_vectors

__all__ = ["inspect", "moved", "verdict"]


def inspect(path: Path, user: str | None = None, cutoff: str | None = None) -> RenderableType:
    """Describe what `path` holds; with `user`, that user's words, or neighbours among vectors.

    Raises `InputError` if nothing is there that userbert wrote, or it is damaged.
    """
    if (path / "manifest.json").is_file():
        data = PreparedData.open(path)
        if user is None:
            _refuse(path, "prepared data as a whole", cutoff=cutoff)
            return describe_data(data)
        data.verify()
        return words_of(data, user, cutoff)
    refuse_unfinished(path)
    if path.is_file() or any(path.glob("part-*.parquet")):
        if holds_vectors(path):
            _refuse(path, "vectors", cutoff=cutoff)
            return describe_vectors(path, user)
        _refuse(path, "a table", user=user, cutoff=cutoff)
        return describe_file(path)
    for name, describe in (
        ("task.json", describe_task),
        ("fused.json", describe_fused),
        ("report.json", describe_evaluation),
        ("training.json", describe_model),
        ("config.json", describe_model),
    ):
        if (path / name).is_file():
            _refuse(path, describe_path(path).removeprefix("it is "), user=user, cutoff=cutoff)
            return describe(path)
    raise InputError(
        f"{path}: expected prepared data, a model, task or evaluation folder, or a file of labels, "
        f"embeddings or scores; {describe_path(path)}. Name one of these, or copy the folder again."
    )


def _refuse(path: Path, kind: str, **options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"--{name}: {path} is {kind}, which has no such thing. Leave it out, or look at a "
                "user's words by inspect DATA --user ID."
            )
