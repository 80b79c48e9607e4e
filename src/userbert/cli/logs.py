"""Verbs of the data: from raw logs to words that one can look at."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from userbert.cli.options import (
    Data,
    Engine,
    EngineOption,
    Master,
    Output,
    open_data,
    session_of,
    show,
    user_ids_in,
)
from userbert.errors import InputError
from userbert.progress import warn


class OnInvalid(StrEnum):
    """What `prepare` does with rows that cannot be used."""

    FAIL = "fail"
    QUARANTINE = "quarantine"


def init(
    events: Annotated[list[Path], typer.Argument(metavar="EVENTS...", help="Event logs.")],
    profiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One row a user: what is known of them.")
    ] = None,
    output: Output = Path("schema.yaml"),
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what was counted of each column, as a table.")
    ] = False,
) -> None:
    """Propose a schema for event logs, with the reason of each choice as a comment.

    Example: `userbert init events.parquet --profiles profiles.parquet`
    """
    from userbert.folders import publishing_file
    from userbert.infer.explain_table import COLUMNS, evidence
    from userbert.infer.inference import propose
    from userbert.infer.proposal import render
    from userbert.schema import Schema

    proposal = propose(events, profiles, output.parent)
    text = render(proposal)
    Schema.parse(text)
    for warning in proposal.warnings():
        warn(warning)
    if explain:
        for name, rows in evidence(proposal):
            table = Table(*(Column(name, overflow="fold") for name in COLUMNS), title=Text(name))
            for row in rows:
                table.add_row(*map(Text, row))
            show(table)
    with publishing_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    bad_rows = " --on-invalid quarantine" if proposal.is_flawed() else ""
    show(f"{output} is written. Look it through, then: userbert prepare {output} -o data{bad_rows}")


def prepare(
    schema: Annotated[Path, typer.Argument(metavar="SCHEMA", help="What the logs mean.")],
    output: Output,
    engine: EngineOption = Engine.LOCAL,
    master: Master = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory to keep to on this machine. Default: 2GiB."),
    ] = None,
    on_invalid: Annotated[
        OnInvalid,
        typer.Option(help="Stop at a row that cannot be used, or set such rows aside."),
    ] = OnInvalid.FAIL,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL|DATA0", help="Use the ids of a model, or of other prepared data."
        ),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA0", help="Add the logs to those of other prepared data, with their ids."
        ),
    ] = None,
    grow: Annotated[
        bool,
        typer.Option("--grow", help="With either: give new values ids, behind those that are."),
    ] = False,
) -> None:
    """Turn raw logs into prepared data.

    Example: `userbert prepare schema.yaml -o data`
    """
    from userbert.data.prepare.prepare import prepare as prepare_data
    from userbert.data.vocabulary import Vocabularies
    from userbert.folders import read_json
    from userbert.schema import Schema

    if append is not None and vocabulary is not None:
        raise InputError("--append takes the ids of the data appended to; leave --vocabulary out.")
    if grow and append is None and vocabulary is None:
        raise InputError("--grow: there are no ids to keep; add --append or --vocabulary.")
    if memory is not None and engine is Engine.SPARK:
        raise InputError("--memory is of this machine; with Spark, its own settings say.")
    meaning = Schema.load(schema)
    vocabularies = None if vocabulary is None else Vocabularies.load(vocabulary)
    opened = None if append is None else open_data(append)
    with session_of(engine, master) as spark:
        data = prepare_data(
            meaning,
            output,
            memory=_bytes(memory or "2GiB"),
            on_invalid=on_invalid.value,
            vocabularies=vocabularies,
            append=opened,
            grow=grow,
            spark=spark,
        )
    summary = read_json(output / "summary.json")
    for warning in summary["warnings"]:
        warn(warning)
    last = datetime.fromtimestamp(data.last_event // 1_000_000, data.schema.zone)
    if last > datetime.now(UTC):
        warn(
            f"the last event is at {last:%Y-%m-%d %H:%M}, in the future: without --cutoff, vectors "
            "are of that moment. If the time is wrong, correct it in the logs."
        )
    for name in data.schema.segments:
        show(f"{name}: {summary['actions'][name]:,} actions in {summary['words'][name]:,} words")
    rows = {
        key: sum(account[key] for account in summary["rows"].values())
        for key in ("read", "outside_segments", "duplicates_dropped", "quarantined")
    }
    told = f"{output}: {len(data):,} users from {rows['read']:,} rows; "
    told += f"{rows['outside_segments']:,} rows are in no segment"
    if rows["duplicates_dropped"]:
        told += f", {rows['duplicates_dropped']:,} were said before"
    show(told)
    if rows["quarantined"]:
        rejected = output / "rejected.parquet"
        warn(f"{rows['quarantined']:,} rows cannot be used; {rejected} holds them, and why.")
    show(f"next: userbert pretrain {output} -o model")


def forget(
    data: Data,
    users: Annotated[Path, typer.Option(metavar="FILE", help="Who: column user_id.")],
) -> None:
    """Remove users from prepared data, in place.

    Example: `userbert forget data --users left.csv`
    """
    from userbert.data.prepare.forget import forget as forget_users

    count = forget_users(data, user_ids_in(users))
    show(f"{data}: {count:,} users are forgotten")
    show("models that learned from them still do: pretrain anew, and remove old embeddings")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="Prepared data, a model, a task, an evaluation, labels or embeddings."),
    ],
    user: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Of data: one user's words. Of embeddings: the nearest users."
        ),
    ] = None,
    cutoff: Annotated[
        str | None, typer.Option(metavar="T", help="With a user's words: before this instant.")
    ] = None,
) -> None:
    """Show what is inside a folder or file that userbert wrote.

    Example: `userbert inspect data --user 17`
    """
    from userbert.inspection import inspect as describe

    show(describe(path, user, cutoff))


def _bytes(size: str) -> int:
    """Read 2GiB, 512MiB or a number of bytes."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number, factor = (size[:-3], units[size[-3:]]) if size[-3:] in units else (size, 1)
    try:
        found = int(float(number) * factor)
    except ValueError:
        found = 0
    if found < 64 << 20:
        raise InputError(f"--memory: expected at least 64MiB, such as 2GiB, found {size!r}.")
    return found
