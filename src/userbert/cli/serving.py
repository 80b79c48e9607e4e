"""Verbs of use: vectors of all users, look-alikes, a network for other runtimes, the service."""

from enum import StrEnum
from typing import Annotated

import typer

from userbert.cli.options import (
    At,
    Cutoffs,
    Data,
    Engine,
    EngineOption,
    Master,
    Model,
    Output,
    needs_torch,
    open_data,
    pairs_given,
    session_of,
    show,
)
from userbert.folders import refuse_existing, require_ending


class VectorsAs(StrEnum):
    """The form of vectors in a file."""

    LIST = "list"
    COLUMNS = "columns"


class Precision(StrEnum):
    """What the encoder computes in."""

    FLOAT32 = "float32"
    BF16 = "bf16"


def embed(
    model: Model,
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
    vectors_as: Annotated[
        VectorsAs, typer.Option("--format", help="One list a user, or columns e0, e1 ….")
    ] = VectorsAs.LIST,
    precision: Annotated[Precision, typer.Option(help="Of the encoder.")] = Precision.FLOAT32,
    engine: EngineOption = Engine.LOCAL,
    master: Master = None,
) -> None:
    """Write a vector of every user.

    Example: `userbert embed model data --cutoff 2017-09-01 -o embeddings.parquet`
    """
    needs_torch()
    from userbert.model.userbert import UserBert
    from userbert.serving.embed import write_embeddings

    refuse_existing(output)
    if engine is Engine.LOCAL:
        require_ending(output, ".parquet")
    opened = open_data(data)
    pairs = pairs_given(opened, cutoff, at)
    trained = UserBert.from_pretrained(model)
    with session_of(engine, master) as spark:
        write_embeddings(
            trained,
            opened,
            pairs,
            output,
            vectors_as=vectors_as.value,
            precision=precision.value,
            spark=spark,
        )
    show(f"{output}: {len(pairs):,} vectors")
