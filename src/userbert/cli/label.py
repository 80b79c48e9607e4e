"""The verb `label`: writes label files from events, profiles, or lists of users.

Labels from events use only events at or after each cut-off.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from userbert.cli.options import (
    At,
    Cutoffs,
    Data,
    open_data,
    pairs_from_options,
    read_user_ids,
    show,
)
from userbert.folders import refuse_existing, require_ending

if TYPE_CHECKING:
    from userbert.tasks.labels import Labels

app = typer.Typer(
    help="Write labels without target leakage: from events at or after each cut-off, from a "
    "profile field that models must hide, or from a list of users.",
    no_args_is_help=True,
)

LabelFile = Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write.")]


@app.command("next")
def label_next(
    data: Data,
    output: LabelFile,
    attribute: Annotated[str, typer.Option(metavar="A", help="Attribute to predict.")],
    horizon: Annotated[
        str | None, typer.Option(metavar="D", help="Maximum time until the next word, such as 30d.")
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Label each user with the attribute's values in the next word.

    Example: `userbert label next data --attribute category --cutoff 2017-09-01 -o next.parquet`
    """
    from userbert.tasks import labels

    _check_output(output)
    opened = open_data(data)
    pairs = pairs_from_options(opened, cutoff, at)
    _save(labels.label_next(opened, attribute, pairs, horizon=horizon), output)


@app.command("return")
def label_return(
    data: Data,
    output: LabelFile,
    horizon: Annotated[str, typer.Option(metavar="D", help="Time after the cut-off, such as 28d.")],
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Label whether each user acts again within a horizon.

    Example: `userbert label return data --horizon 28d --cutoff 2017-09-01 -o return.parquet`
    """
    from userbert.tasks import labels

    _check_output(output)
    opened = open_data(data)
    _save(labels.label_return(opened, pairs_from_options(opened, cutoff, at), horizon), output)


@app.command("attribute")
def label_attribute(
    data: Data,
    output: LabelFile,
    field: Annotated[str, typer.Option(metavar="F", help="Profile field to predict.")],
    positive: Annotated[
        list[str], typer.Option(metavar="V", help="Value that counts as positive. May be repeated.")
    ],
    hide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="F", help="Another profile field that reveals the label. May be repeated."
        ),
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Label whether a profile field has one of the positive values.

    Example: `userbert label attribute data --field kids --positive 1 --positive 2 -o kids.parquet`
    """
    from userbert.tasks import labels

    _check_output(output)
    opened = open_data(data)
    pairs = pairs_from_options(opened, cutoff, at)
    _save(labels.label_attribute(opened, pairs, field, positive, hide or []), output)


@app.command("response")
def label_response(
    data: Data,
    output: LabelFile,
    users: Annotated[
        Path, typer.Option(metavar="FILE", help="Users who responded: column user_id.")
    ],
    among: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Users who were contacted: column user_id. Default: all."
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of non-responders to draw per responder. Default: all.", min=1
        ),
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Label whether each user responded. Choose a cut-off before the responses.

    Example: `userbert label response data --users redeemed.csv --cutoff 2017-09-01 -o r.parquet`
    """
    from userbert.tasks import labels

    _check_output(output)
    opened = open_data(data)
    response = labels.label_response(
        opened,
        pairs_from_options(opened, cutoff, at),
        read_user_ids(users),
        among=None if among is None else read_user_ids(among),
        negatives=negatives,
    )
    _save(response, output)


def _check_output(output: Path) -> None:
    """Raises `InputError` if the output exists or is not named as a Parquet file."""
    refuse_existing(output)
    require_ending(output, ".parquet")


def _save(labels: "Labels", output: Path) -> None:
    """Writes labels and prints their number and the next command."""
    labels.save(output)
    positives = f", {labels.targets.mean():.1%} positive" if labels.kind == "binary" else ""
    show(f"{output}: {len(labels):,} labels{positives}")
    show(f"next: userbert evaluate MODEL DATA --labels {output} -o verdict")
