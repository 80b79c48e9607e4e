"""Verbs of data: `init`, `prepare`, `forget` and `inspect`."""

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
    engine_session,
    open_data,
    read_user_ids,
    show,
)
from userbert.errors import InputError
from userbert.progress import warn


class OnInvalid(StrEnum):
    """Treatment of invalid rows by `prepare`."""

    FAIL = "fail"
    QUARANTINE = "quarantine"


def init(
    events: Annotated[list[Path], typer.Argument(metavar="EVENTS...", help="Files of event logs.")],
    profiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of profiles, one row per user.")
    ] = None,
    output: Output = Path("schema.yaml"),
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the evidence for each column as a table.")
    ] = False,
) -> None:
    """Propose a schema for event logs, with the reason for each choice as a comment.

    Example: `userbert init events.parquet --profiles profiles.parquet`
    """
    from userbert.folders import publishing_file
    from userbert.infer.explain_table import COLUMNS, explain_tables
    from userbert.infer.inference import propose
    from userbert.infer.proposal import render
    from userbert.schema import Schema

    proposal = propose(events, profiles, output.parent)
    text = render(proposal)
    Schema.parse(text)
    for warning in proposal.warnings():
        warn(warning)
    if explain:
        for name, rows in explain_tables(proposal):
            table = Table(*(Column(name, overflow="fold") for name in COLUMNS), title=Text(name))
            for row in rows:
                table.add_row(*map(Text, row))
            show(table)
    with publishing_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    on_invalid = " --on-invalid quarantine" if proposal.is_flawed() else ""
    show(f"wrote {output}. Check it, then: userbert prepare {output} -o data{on_invalid}")


def prepare(
    schema: Annotated[Path, typer.Argument(metavar="SCHEMA", help="Schema of the logs.")],
    output: Output,
    engine: EngineOption = Engine.LOCAL,
    master: Master = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory limit on this machine. Default: 2GiB."),
    ] = None,
    on_invalid: Annotated[
        OnInvalid,
        typer.Option(help="Fail at the first invalid row, or quarantine invalid rows."),
    ] = OnInvalid.FAIL,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL|DATA0", help="Reuse the ids of a model or of other prepared data."
        ),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA0", help="Add the logs to other prepared data, and reuse its ids."
        ),
    ] = None,
    grow: Annotated[
        bool,
        typer.Option("--grow", help="With --vocabulary or --append: add ids for new values."),
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
        raise InputError("--append reuses the ids of the other data: leave --vocabulary out.")
    if grow and append is None and vocabulary is None:
        raise InputError("--grow adds to existing ids: add --append or --vocabulary.")
    if memory is not None and engine is Engine.SPARK:
        raise InputError("--memory limits this machine: with Spark, use Spark's own settings.")
    loaded_schema = Schema.load(schema)
    vocabularies = None if vocabulary is None else Vocabularies.load(vocabulary)
    opened = None if append is None else open_data(append)
    with engine_session(engine, master) as spark:
        data = prepare_data(
            loaded_schema,
            output,
            memory=_parse_bytes(memory or "2GiB"),
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
            f"the last event is in the future, at {last:%Y-%m-%d %H:%M}: without --cutoff, vectors "
            "are as of that time. If the time is wrong, correct it in the logs."
        )
    for name in data.schema.segments:
        show(f"{name}: {summary['actions'][name]:,} actions in {summary['words'][name]:,} words")
    rows = {
        key: sum(account[key] for account in summary["rows"].values())
        for key in ("read", "outside_segments", "duplicates_dropped", "quarantined")
    }
    message = f"{output}: {len(data):,} users from {rows['read']:,} rows; "
    message += f"{rows['outside_segments']:,} rows are in no segment"
    if rows["duplicates_dropped"]:
        message += f", {rows['duplicates_dropped']:,} are duplicates"
    show(message)
    if rows["quarantined"]:
        rejected = output / "rejected.parquet"
        warn(f"{rows['quarantined']:,} rows are invalid; {rejected} holds them with the reasons.")
    show(f"next: userbert pretrain {output} -o model")


def forget(
    data: Data,
    users: Annotated[
        Path, typer.Option(metavar="FILE", help="File of users to remove: column user_id.")
    ],
) -> None:
    """Remove users from prepared data, in place.

    Example: `userbert forget data --users left.csv`
    """
    from userbert.data.prepare.forget import forget as forget_users

    count = forget_users(data, read_user_ids(users))
    show(f"{data}: removed {count:,} users")
    show(
        "models trained on this data still contain them: pretrain again, and remove old embeddings"
    )


def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="Prepared data, a model, a task, an evaluation, labels or embeddings."),
    ],
    user: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="User to show. Data: the user's words. Embeddings: the nearest users.",
        ),
    ] = None,
    cutoff: Annotated[
        str | None, typer.Option(metavar="T", help="With --user: show words before this instant.")
    ] = None,
) -> None:
    """Show the contents of a folder or file that userbert wrote.

    Example: `userbert inspect data --user 17`
    """
    from userbert.inspection import inspect as describe

    show(describe(path, user, cutoff))


def _parse_bytes(size: str) -> int:
    """Returns the number of bytes in 2GiB, 512MiB or a plain number of bytes.

    Raises `InputError` for other text, and below 64 MiB.
    """
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number, factor = (size[:-3], units[size[-3:]]) if size[-3:] in units else (size, 1)
    try:
        count = int(float(number) * factor)
    except ValueError:
        count = 0
    if count < 64 << 20:
        raise InputError(f"--memory: expected at least 64MiB, such as 2GiB, found {size!r}.")
    return count
