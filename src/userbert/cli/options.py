"""What verbs share: the options of the same meaning, and what they do first and say last."""

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
"""What a verb was asked for."""

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder of prepared data.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A pretrained model.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write; must not exist yet.")]
Cutoffs = Annotated[
    list[str] | None,
    typer.Option(
        "--cutoff",
        metavar="T",
        help="Events before this instant are visible: 2017-09-01 or 2017-09-01T04:00, in the "
        "schema's timezone. May be given several times. Default: just after the last event.",
    ),
]


class Engine(StrEnum):
    """What does the work."""

    LOCAL = "local"
    SPARK = "spark"


class BackendName(StrEnum):
    """What computes vectors in the service."""

    TORCH = "torch"
    ONNX = "onnx"


EngineOption = Annotated[Engine, typer.Option("--engine", help="This machine, or Spark's.")]
Master = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="With --engine spark: local[2], spark://HOST:7077, yarn, k8s://…. "
        "Default: what spark-submit says.",
    ),
]
At = Annotated[
    Path | None,
    typer.Option(
        "--at", metavar="FILE", help="Users and their own cut-offs: columns user_id and cutoff."
    ),
]


def tell_error(message: str) -> None:
    """Tell why a verb did not do what it was asked for."""
    # As text, not as markup: `userbert[train]` keeps its brackets.
    _stderr.print(Text.assemble(("error: ", "bold red"), message))


def open_data(data: Path) -> "PreparedData":
    """Open prepared data, and compare all files with their checksums."""
    from userbert.data.store import PreparedData

    opened = PreparedData.open(data)
    opened.verify()
    return opened


@contextmanager
def session_of(engine: Engine, master: str | None) -> Iterator["SparkSession | None"]:
    """The session that an engine works in; None: this machine."""
    if engine is Engine.LOCAL:
        if master is not None:
            raise InputError("--master is Spark's; add --engine spark, or leave it out.")
        yield None
        return
    from userbert.data.prepare.cluster import spark_session

    with spark_session(master) as session:
        yield session


def pairs_given(data: "PreparedData", cutoffs: list[str] | None, at: Path | None) -> "Pairs":
    """The (user, cut-off) pairs that `--cutoff` or `--at` ask for."""
    from userbert.data.use.pairs import instant_of, pairs_at, read_pairs

    if at is not None:
        if cutoffs:
            raise InputError("--at names each user's cut-off; leave --cutoff out.")
        return read_pairs(at, data)
    instants = [instant_of(cutoff, data, "--cutoff") for cutoff in cutoffs or []]
    return pairs_at(data, instants or [data.default_cutoff], "--cutoff")


def user_ids_in(path: Path) -> list[str]:
    """The column `user_id` of a file."""
    from userbert.data.use.pairs import read_table, users_of

    frame = read_table(path)
    if "user_id" not in frame.columns:
        raise InputError(
            f"{path}: expected a column user_id, found {', '.join(frame.columns) or 'none'}. "
            "Rename the column that holds the user."
        )
    return users_of(frame.drop_nulls("user_id"), str(path)).to_list()


def typed_command() -> list[str]:
    """The command as it was typed, without where the program lies."""
    return ["userbert", *sys.argv[1:]]


def needs_torch() -> None:
    """Say what to install where the base install ends."""
    needs("torch", "train")


def needs(package: str, extra: str) -> None:
    """Say which extra to install if a package is not there."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise InputError(f"this needs {package}. Install it with: pip install 'userbert[{extra}]'")
