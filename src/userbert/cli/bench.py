"""The verb `bench`: measures our speed, and compares it with peers on the same work."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from userbert.cli.options import BackendName, require_package, require_torch, show, typed_command
from userbert.errors import InputError
from userbert.folders import refuse_existing, write_json
from userbert.provenance import provenance_record

app = typer.Typer(
    help="Measure our speed, and compare it with peers on the same work.", no_args_is_help=True
)


class WorkloadName(StrEnum):
    """Workload of `bench train`: the amount of behavior per user."""

    SPARSE = "sparse"
    DAILY = "daily"
    FULL = "full"


class EventCount(StrEnum):
    """Workload of `bench prepare`: the number of events."""

    THREE = "3M"
    THIRTY = "30M"
    NINETY = "90M"
    SIX_HUNDRED = "600M"


_MEMORY_USERS = [10_000, 100_000, 1_000_000]
"""Default numbers of users for measuring memory."""
_EVENT_COUNTS = [EventCount.THREE, EventCount.THIRTY, EventCount.NINETY]
"""Default workloads of `bench prepare`; 600M needs a large disk and much time."""


@app.command()
def train(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    workloads: Annotated[
        list[WorkloadName] | None,
        typer.Option(
            "--workload", help="Amount of behavior per user. May be repeated. Default: all."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns per competitor.")] = 5,
    batches: Annotated[int, typer.Option(min=1, max=32, help="Number of batches per turn.")] = 16,
) -> None:
    """Compare a training step at the paper's size with Hugging Face's BertModel.

    Example: `userbert bench train -o train.json`
    """
    _require_peers("transformers")
    from userbert.benchmarks.train import Repeats, bench_train

    if output is not None:
        refuse_existing(output)
    names = [workload.value for workload in workloads or list(WorkloadName)]
    rows = bench_train(names, Repeats(batches, rounds))
    for row in rows:
        show(
            f"{row['workload']:>6} {row['variant']:>7}: {row['ours_ms']:7.1f} ms per batch, "
            f"{row['reference']} {row['reference_ms']:7.1f} ms: {row['ratio']:.1f} times as fast"
        )
    _write_rows(rows, output)


@app.command()
def prepare(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    workloads: Annotated[
        list[EventCount] | None,
        typer.Option(
            "--workload", help="Number of events. May be repeated. Default: all but 600M."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder that keeps logs for the next run."),
    ] = None,
) -> None:
    """Compare preparation, local and on Spark, with a Polars sort and a pandas loop over users.

    Example: `userbert bench prepare --workload 3M -o prepare.json`
    """
    _require_peers("pandas", "pyspark")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.prepare import USERS, bench_prepare
    from userbert.experiments.simulate import simulate

    if output is not None:
        refuse_existing(output)
    names = [workload.value for workload in workloads or _EVENT_COUNTS]
    with TemporaryDirectory() as folder:
        root = work or Path(folder)
        logs = {name: root / f"logs-{name}" for name in names}
        for name, path in logs.items():
            if not path.exists():
                simulate(path, USERS[name])
        rows = bench_prepare(logs)
    for row in rows:
        comparison = ""
        if row["reference"] is not None:
            comparison = f", {row['reference']} {row['reference_events_per_s']:,}: "
            comparison += f"{row['ratio']:.1f} times as fast"
        show(
            f"{row['workload']:>4} {row['variant']:>5}: {row['events_per_s']:,} events/s in "
            f"{row['peak_memory_gib']} GiB{comparison}"
        )
    _write_rows(rows, output)


@app.command()
def embed(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of simulated users per turn.")] = 8192,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns per competitor.")] = 5,
    memory: Annotated[
        list[int] | None,
        typer.Option(
            metavar="USERS",
            help="Number of users for measuring memory. May be repeated. "
            "Default: 10,000, 100,000 and 1,000,000.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder that keeps prepared data for the next run."),
    ] = None,
) -> None:
    """Compare embedding at the paper's size with Hugging Face's BertModel and a GRU.

    Example: `userbert bench embed -o embed.json`
    """
    _require_peers("transformers")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.embed import bench_embed, memory_row
    from userbert.data.prepare.prepare import prepare
    from userbert.experiments.simulate import simulate
    from userbert.schema.models import Schema

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        root = work or Path(folder)

        def prepared(number: int) -> Path:
            path = root / f"data-{number}"
            if not path.exists():
                logs = Path(folder) / f"logs-{number}"
                simulate(logs, number)
                prepare(Schema.load(logs / "schema.yaml"), path)
            return path

        rows = bench_embed(prepared(users), rounds)
        rows += [memory_row(prepared(number)) for number in memory or _MEMORY_USERS]
    for row in rows:
        comparison = ""
        if row["reference"] is not None:
            comparison = f", {row['reference']} {row['reference_users_per_s']:,}: "
            comparison += f"{row['ratio']:.1f} times as fast"
        show(
            f"{row['users']:>9,} users, {row['precision']:>7}: {row['users_per_s']:,} users/s in "
            f"{row['peak_memory_gib']} GiB{comparison}"
        )
    _write_rows(rows, output)


@app.command()
def init(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    events: Annotated[int, typer.Option(min=1000, help="Number of log events.")] = 10_000_000,
) -> None:
    """Compare `init` on a large log, as Parquet and as CSV, with one pass by Polars.

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
    _write_rows(rows, output)


@app.command()
def serve(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    backend: Annotated[
        BackendName, typer.Option(help="Compute with PyTorch or ONNX Runtime.")
    ] = BackendName.TORCH,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Minutes at 80 % of the highest sustained rate.")
    ] = 10,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder that keeps logs for the next run.")
    ] = None,
) -> None:
    """Measure the service on loopback, called from a second process, on the sparse workload.

    Example: `userbert bench serve --minutes 1 -o serve.json`
    """
    require_torch()
    require_package("fastapi", "serve")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.prepare import USERS
    from userbert.benchmarks.serve import Durations, bench_serve
    from userbert.experiments.simulate import simulate

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        logs = (work or Path(folder)) / "logs-3M"
        if not logs.exists():
            simulate(logs, USERS["3M"])
        rows = bench_serve(logs, Durations(sustained=60 * minutes), backend.value)
    for row in rows:
        show(
            f"{row['workload']:>9}: {row['requests_per_s']} calls/s, "
            f"{row['users_per_s']:,} users/s, "
            f"p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, "
            f"{row['errors']} errors, {row['rejected']} rejected"
        )
    _write_rows(rows, output)


@app.command()
def lookalike(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write.")
    ] = None,
    users: Annotated[int, typer.Option(min=1000, help="Number of vectors to search.")] = 1_000_000,
) -> None:
    """Compare exact and indexed neighbour search with an exhaustive search by faiss.

    Example: `userbert bench lookalike -o lookalike.json`
    """
    require_package("faiss", "lookalike")
    from tempfile import TemporaryDirectory

    from userbert.benchmarks.lookalike import bench_lookalike

    if output is not None:
        refuse_existing(output)
    with TemporaryDirectory() as folder:
        rows = bench_lookalike(Path(folder), users)
    for row in rows:
        show(
            f"{row['variant']:>5}: {row['ms_per_query']} ms per query, recall {row['recall']}, "
            f"built in {row['build_seconds']} s; {row['reference']} {row['reference_ms']} ms: "
            f"{row['ratio']} times as fast"
        )
    _write_rows(rows, output)


def _write_rows(rows: Sequence[Mapping[str, Any]], output: Path | None) -> None:
    """Writes rows and their provenance if `output` is given."""
    if output is not None:
        write_json(output, {"made": provenance_record(typed_command(), [0], None), "rows": rows})
        show(f"{output}: {len(rows)} rows")


def _require_peers(*peers: str) -> None:
    """Raises `InputError` that names the extra to install if torch or a peer is missing.

    `peers` are names of packages.
    """
    from importlib.util import find_spec

    require_torch()
    if any(find_spec(peer) is None for peer in peers):
        raise InputError(
            f"this command compares with {' and '.join(peers)}. Install the missing libraries "
            "with: pip install 'userbert[bench]'"
        )
