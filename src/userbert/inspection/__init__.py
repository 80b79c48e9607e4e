"""Describes the content of a folder or file of userbert, as tables for people.

In: prepared data, a model, a task, an evaluation, labels, vectors or scores. Out: rich tables,
which `userbert inspect` prints. Works without torch.
"""

from pathlib import Path

from rich.console import RenderableType

from userbert.data.store import PreparedData
from userbert.embedding.embedding_folder import refuse_unfinished
from userbert.embedding.embeddings import holds_vectors
from userbert.errors import InputError
from userbert.folders import describe_path
from userbert.inspection.explanation import explanation_table, user_words_table
from userbert.inspection.models import (
    describe_evaluation,
    describe_fused,
    describe_model,
    describe_task,
)
from userbert.inspection.models import evaluation_table as evaluation_table
from userbert.inspection.prepared import describe_data
from userbert.inspection.tables import describe_file
from userbert.inspection.vectors import describe_vectors

__all__ = ["evaluation_table", "explanation_table", "inspect"]


def inspect(path: Path, user: str | None = None, cutoff: str | None = None) -> RenderableType:
    """Describes the content of `path`; with `user`, the words or nearest neighbours of this user.

    `cutoff` applies only to the words of a user, in prepared data. Raises `InputError` if userbert
    did not write `path`, `path` is damaged, or `user` or `cutoff` does not apply or is not valid.
    """
    if (path / "manifest.json").is_file():
        data = PreparedData.open(path)
        if user is None:
            _refuse_options(path, "prepared data as a whole", cutoff=cutoff)
            return describe_data(data)
        data.verify()
        return user_words_table(data, user, cutoff)
    refuse_unfinished(path)
    if path.is_file() or any(path.glob("part-*.parquet")):
        if holds_vectors(path):
            _refuse_options(path, "vectors", cutoff=cutoff)
            return describe_vectors(path, user)
        _refuse_options(path, "a table", user=user, cutoff=cutoff)
        return describe_file(path)
    for name, describe in (
        ("task.json", describe_task),
        ("fused.json", describe_fused),
        ("report.json", describe_evaluation),
        ("training.json", describe_model),
        ("config.json", describe_model),
    ):
        if (path / name).is_file():
            _refuse_options(
                path, describe_path(path).removeprefix("it is "), user=user, cutoff=cutoff
            )
            return describe(path)
    raise InputError(
        f"{path}: expected prepared data, a model, task or evaluation folder, or a file of labels, "
        f"embeddings or scores; {describe_path(path)}. Name one of these, or copy the folder again."
    )


def _refuse_options(path: Path, kind: str, **options: str | None) -> None:
    """Raises `InputError` if an option has a value; `kind` names the content of `path`."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"--{name} does not apply: {path} is {kind}. Leave the option out, or show the "
                "words of a user with inspect DATA --user ID."
            )
