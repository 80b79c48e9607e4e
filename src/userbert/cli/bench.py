"""Verbs of speed: ours beside a peer's on the same work, in one run."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from userbert.cli.options import BackendName, needs, needs_torch, show, typed_command
from userbert.errors import InputError
from userbert.folders import refuse_existing, write_json
from userbert.provenance import made

app = typer.Typer(
    help="Measure our speed beside a peer's on the same work, in one run.", no_args_is_help=True
)


class WorkloadName(StrEnum):
    """How much behavior users have."""

    SPARSE = "sparse"
    DAILY = "daily"
    FULL = "full"


class EventCount(StrEnum):
    """How many events are prepared."""

    THREE = "3M"
    THIRTY = "30M"
    NINETY = "90M"
    SIX_HUNDRED = "600M"


_EMBEDDED = [10_000, 100_000, 1_000_000]
_USUAL = [EventCount.THREE, EventCount.THIRTY, EventCount.NINETY]


@app.command()
def train(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    workloads: Annotated[
        list[WorkloadName] | None,
        typer.Option("--workload", help="May be given several times. Default: all."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 5,
    batches: Annotated[int, typer.Option(min=1, max=32, help="Batches in a turn.")] = 16,
) -> None:
    """Time a training step of the paper's size beside Hugging Face's BertModel.

    Example: `userbert bench train -o train.json`
    """
    _needs_peers("transformers")
    from userbert.benchmarks.train import Look, bench_train

    if output is not None:
        refuse_existing(output)
    names = [workload.value for workload in workloads or list(WorkloadName)]
    rows = bench_train(names, Look(batches, rounds))
    for row in rows:
        show(
            f"{row['workload']:>6} {row['variant']:>7}: {row['ours_ms']:7.1f} ms a batch, "
            f"{row['reference']} {row['reference_ms']:7.1f} ms: {row['ratio']:.1f} times as fast"
        )
    _write(rows, output)


@app.command()
def prepare(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    workloads: Annotated[
        list[EventCount] | None,
        typer.Option(
            "--workload", help="May be given several times. Default: all but the largest."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where logs are kept for the next run."),
    ] = None,
) -> None:
    """Time preparation, here and on Spark, beside a sort by Polars and pandas user by user.

    Example: `userbert bench prepare --workload 3M -o prepare.json`
    """
    _needs_peers("pandas", "pyspark")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.prepare import USERS, bench_prepare
    from userbert.experiments.simulate import simulate

    if output is not None:
        refuse_existing(output)
    names = [workload.value for workload in workloads or _USUAL]
    with TemporaryDirectory() as folder:
        place = work or Path(folder)
        logs = {name: place / f"logs-{name}" for name in names}
        for name, path in logs.items():
            if not path.exists():
                simulate(path, USERS[name])
        rows = bench_prepare(logs)
    for row in rows:
        beside = ""
        if row["reference"] is not None:
            beside = f", {row['reference']} {row['reference_events_per_s']:,}: "
            beside += f"{row['ratio']:.1f} times as fast"
        show(
            f"{row['workload']:>4} {row['variant']:>5}: {row['events_per_s']:,} events/s in "
            f"{row['peak_memory_gib']} GiB{beside}"
        )
    _write(rows, output)


@app.command()
def embed(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Of a turn, simulated.")] = 8192,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 5,
    memory: Annotated[
        list[int] | None,
        typer.Option(
            metavar="USERS",
            help="Also look at the memory with so many users. May be given several times. "
            "Default: 10,000, 100,000 and 1,000,000.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where prepared data are kept for the next run."),
    ] = None,
) -> None:
    """Time embedding at the paper's size beside Hugging Face's BertModel and a GRU.

    Example: `userbert bench embed -o embed.json`
    """
    _needs_peers("transformers")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.embed import bench_embed, memory_row
    from userbert.data.prepare.prepare import prepare
    from userbert.experiments.simulate import simulate
    from userbert.schema.models import Schema

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        place = work or Path(folder)

        def prepared(number: int) -> Path:
            path = place / f"data-{number}"
            if not path.exists():
                logs = Path(folder) / f"logs-{number}"
                simulate(logs, number)
                prepare(Schema.load(logs / "schema.yaml"), path)
            return path

        rows = bench_embed(prepared(users), rounds)
        rows += [memory_row(prepared(number)) for number in memory or _EMBEDDED]
    for row in rows:
        beside = ""
        if row["reference"] is not None:
            beside = f", {row['reference']} {row['reference_users_per_s']:,}: "
            beside += f"{row['ratio']:.1f} times as fast"
        show(
            f"{row['users']:>9,} users, {row['precision']:>7}: {row['users_per_s']:,} users/s in "
            f"{row['peak_memory_gib']} GiB{beside}"
        )
    _write(rows, output)


@app.command()
def init(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    events: Annotated[int, typer.Option(min=1000, help="In the log.")] = 10_000_000,
) -> None:
    """Time `init` on a large log, as Parquet and as CSV, beside one pass by Polars.

    Example: `userbert bench init -o init.json`
    """
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.init import bench_init

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        rows = bench_init(Path(folder), events)
    for row in rows:
        show(
            f"{row['form']:>7}: {row['seconds']} s in {row['peak_memory_gib']} GiB, "
            f"{row['reference']} {row['reference_seconds']} s"
        )
    _write(rows, output)


@app.command()
def serve(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    backend: Annotated[BackendName, typer.Option(help="What computes.")] = BackendName.TORCH,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="At 80 % of the highest rate that is answered.")
    ] = 10,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where logs are kept for the next run.")
    ] = None,
) -> None:
    """Time the service on loopback: users of the sparse workload, called from a second process.

    Example: `userbert bench serve --minutes 1 -o serve.json`
    """
    needs_torch()
    needs("fastapi", "serve")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.prepare import USERS
    from userbert.benchmarks.serve import Look, bench_serve
    from userbert.experiments.simulate import simulate

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        logs = (work or Path(folder)) / "logs-3M"
        if not logs.exists():
            simulate(logs, USERS["3M"])
        rows = bench_serve(logs, Look(sustained=60 * minutes), backend.value)
    for row in rows:
        show(
            f"{row['workload']:>9}: {row['requests_per_s']} calls/s, "
            f"{row['users_per_s']:,} users/s, "
            f"p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, "
            f"{row['errors']} errors, {row['rejected']} rejected"
        )
    _write(rows, output)


@app.command()
def lookalike(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    users: Annotated[int, typer.Option(min=1000, help="Vectors to search.")] = 1_000_000,
) -> None:
    """Time a search for neighbours, exact and by index, beside faiss looking at each vector.

    Example: `userbert bench lookalike -o lookalike.json`
    """
    needs("faiss", "lookalike")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.lookalike import bench_lookalike

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        rows = bench_lookalike(Path(folder), users)
    for row in rows:
        show(
            f"{row['variant']:>5}: {row['ms_per_query']} ms a query, recall {row['recall']}, built "
            f"in {row['build_seconds']} s; {row['reference']} {row['reference_ms']} ms: "
            f"{row['ratio']} times as fast"
        )
    _write(rows, output)


def _write(rows: Sequence[Mapping[str, Any]], output: Path | None) -> None:
    """Write rows and where they come from, if a file is asked for."""
    if output is not None:
        write_json(output, {"made": made(typed_command(), [0], None), "rows": rows})
        show(f"{output}: {len(rows)} rows")


def _needs_peers(*peers: str) -> None:
    from importlib.util import find_spec

    needs_torch()
    if any(find_spec(peer) is None for peer in peers):
        raise InputError("this needs the peers. Install them with: pip install 'userbert[bench]'")
