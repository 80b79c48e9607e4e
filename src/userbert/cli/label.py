"""The verb `label`: labels that use only what lies at or after each cut-off."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from userbert.cli.options import At, Cutoffs, Data, open_data, pairs_given, show, user_ids_in
from userbert.folders import refuse_existing, require_ending

if TYPE_CHECKING:
    from userbert.tasks.labels import Labels

app = typer.Typer(
    help="Write leakage-safe labels: what is known only at or after each cut-off.",
    no_args_is_help=True,
)

LabelFile = Annotated[Path, typer.Option("-o", "--output", help="Labels to write, a Parquet file.")]


@app.command("next")
def label_next(
    data: Data,
    output: LabelFile,
    attribute: Annotated[str, typer.Option(metavar="A", help="Whose values are predicted.")],
    horizon: Annotated[
        str | None, typer.Option(metavar="D", help="How long to wait for the next word: 30d.")
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Which values of an attribute does a user's next word hold?

    Example: `userbert label next data --attribute category --cutoff 2017-09-01 -o next.parquet`
    """
    from userbert.tasks import labels

    _refuse(output)
    opened = open_data(data)
    pairs = pairs_given(opened, cutoff, at)
    _save(labels.label_next(opened, attribute, pairs, horizon=horizon), output)


@app.command("return")
def label_return(
    data: Data,
    output: LabelFile,
    horizon: Annotated[str, typer.Option(metavar="D", help="How long after the cut-off: 28d.")],
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Does a user act again within a horizon?

    Example: `userbert label return data --horizon 28d --cutoff 2017-09-01 -o return.parquet`
    """
    from userbert.tasks import labels

    _refuse(output)
    opened = open_data(data)
    _save(labels.label_return(opened, pairs_given(opened, cutoff, at), horizon), output)


@app.command("attribute")
def label_attribute(
    data: Data,
    output: LabelFile,
    field: Annotated[str, typer.Option(metavar="F", help="The profile field.")],
    positive: Annotated[list[str], typer.Option(metavar="V", help="A value that counts as yes.")],
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="Another field that gives the answer away."),
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Has a profile field one of some values?

    Example: `userbert label attribute data --field kids --positive 1 --positive 2 -o kids.parquet`
    """
    from userbert.tasks import labels

    _refuse(output)
    opened = open_data(data)
    pairs = pairs_given(opened, cutoff, at)
    _save(labels.label_attribute(opened, pairs, field, positive, hide or []), output)


@app.command("response")
def label_response(
    data: Data,
    output: LabelFile,
    users: Annotated[Path, typer.Option(metavar="FILE", help="Who responded: column user_id.")],
    among: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who was asked. Default: all users.")
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(metavar="N", help="Draw so many others a responder.", min=1)
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Is a user one of those who responded after the cut-off?

    Example: `userbert label response data --users redeemed.csv --cutoff 2017-09-01 -o r.parquet`
    """
    from userbert.tasks import labels

    _refuse(output)
    opened = open_data(data)
    made = labels.label_response(
        opened,
        pairs_given(opened, cutoff, at),
        user_ids_in(users),
        among=None if among is None else user_ids_in(among),
        negatives=negatives,
    )
    _save(made, output)


def _refuse(output: Path) -> None:
    refuse_existing(output)
    require_ending(output, ".parquet")


def _save(labels: "Labels", output: Path) -> None:
    labels.save(output)
    positives = f", {labels.targets.mean():.1%} positive" if labels.kind == "binary" else ""
    show(f"{output}: {len(labels):,} labels{positives}")
    show(f"next: userbert evaluate MODEL DATA --labels {output} -o verdict")
