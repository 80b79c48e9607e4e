"""Options and helpers that several verbs share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from userbert.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from userbert.data.store import PreparedData
    from userbert.data.use.pairs import Pairs

_stderr = Console(stderr=True, highlight=False, soft_wrap=True)
show = Console(highlight=False, soft_wrap=True).print
"""Prints results to standard output."""

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of prepared data.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a pretrained model.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Path to write. It must not exist.")]
Cutoffs = Annotated[
    list[str] | None,
    typer.Option(
        "--cutoff",
        metavar="T",
        help="Use events before this instant, such as 2017-09-01 or 2017-09-01T04:00, in the "
        "schema's timezone. May be repeated. Default: just after the last event.",
    ),
]


class Engine(StrEnum):
    """Engine that runs the work: this machine, or Spark."""

    LOCAL = "local"
    SPARK = "spark"


class BackendName(StrEnum):
    """Runtime that computes vectors in the service."""

    TORCH = "torch"
    ONNX = "onnx"


EngineOption = Annotated[
    Engine, typer.Option("--engine", help="Run on this machine (local), or on Spark.")
]
Master = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Spark master, with --engine spark: local[2], spark://HOST:7077, yarn, k8s://…. "
        "Default: the setting of spark-submit.",
    ),
]
At = Annotated[
    Path | None,
    typer.Option(
        "--at", metavar="FILE", help="File of users and cut-offs: columns user_id and cutoff."
    ),
]


def print_error(message: str) -> None:
    """Prints an error to standard error."""
    # Text, not markup, which would drop the brackets of `userbert[train]`.
    _stderr.print(Text.assemble(("error: ", "bold red"), message))


def open_data(data: Path) -> "PreparedData":
    """Opens prepared data; raises `DataError` if a file differs from its checksum."""
    from userbert.data.store import PreparedData

    opened = PreparedData.open(data)
    opened.verify()
    return opened


@contextmanager
def engine_session(engine: Engine, master: str | None) -> Iterator["SparkSession | None"]:
    """Yields the Spark session of an engine; None for the local engine.

    Raises `InputError` if the engine is local and `master` is given.
    """
    if engine is Engine.LOCAL:
        if master is not None:
            raise InputError("--master is for Spark: add --engine spark, or leave --master out.")
        yield None
        return
    from userbert.data.prepare.cluster import spark_session

    with spark_session(master) as session:
        yield session


def pairs_from_options(data: "PreparedData", cutoffs: list[str] | None, at: Path | None) -> "Pairs":
    """Returns the (user, cut-off) pairs that `--cutoff` or `--at` select.

    Without both, the cut-off is just after the last event. Raises `InputError` if both are given.
    """
    from userbert.data.use.pairs import instant_of, pairs_at, read_pairs, refuse_both

    refuse_both(cutoffs or None, at, ("--cutoff", "--at"))
    if at is not None:
        return read_pairs(at, data)
    instants = [instant_of(cutoff, data, "--cutoff") for cutoff in cutoffs or []]
    return pairs_at(data, instants or [data.default_cutoff], "--cutoff")


def read_user_ids(path: Path) -> list[str]:
    """Returns the user ids of a file, without nulls.

    Raises `InputError` if the file has no column `user_id`.
    """
    from userbert.data.use.pairs import read_table, user_id_column

    frame = read_table(path)
    if "user_id" not in frame.columns:
        raise InputError(
            f"{path}: expected a column user_id, found {', '.join(frame.columns) or 'none'}. "
            "Rename the column of user ids."
        )
    return user_id_column(frame.drop_nulls("user_id"), str(path)).to_list()


def typed_command() -> list[str]:
    """Returns the command as typed, without the path of the program."""
    return ["userbert", *sys.argv[1:]]


def require_torch() -> None:
    """Raises `InputError` that names the extra to install if torch is missing."""
    require_package("torch", "train")


def require_package(package: str, extra: str) -> None:
    """Raises `InputError` that names `extra`, which installs the package, if it is missing."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise InputError(f"this needs {package}. Install it with: pip install 'userbert[{extra}]'")
