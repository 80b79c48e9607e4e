"""Verbs of speed: ours beside a peer's on the same work, in one run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from userbert.cli.options import needs_torch, refuse_existing, show, typed_command
from userbert.errors import InputError

app = typer.Typer(
    help="Measure our speed beside a peer's on the same work, in one run.", no_args_is_help=True
)


class WorkloadName(StrEnum):
    """How much behavior users have."""

    SPARSE = "sparse"
    DAILY = "daily"
    FULL = "full"


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
    _needs_peers()
    from userbert.benchmarks.train import Look, bench_train
    from userbert.folders import write_json
    from userbert.provenance import made

    if output is not None:
        refuse_existing(output)
    names = [workload.value for workload in workloads or list(WorkloadName)]
    rows = bench_train(names, Look(batches, rounds))
    for row in rows:
        show(
            f"{row['workload']:>6} {row['variant']:>7}: {row['ours_ms']:7.1f} ms a batch, "
            f"{row['reference']} {row['reference_ms']:7.1f} ms: {row['ratio']:.1f} times as fast"
        )
    if output is not None:
        write_json(output, {"made": made(typed_command(), [0], None), "rows": rows})
        show(f"{output}: {len(rows)} rows")


def _needs_peers() -> None:
    from importlib.util import find_spec

    needs_torch()
    if find_spec("transformers") is None:
        raise InputError("this needs the peers. Install them with: pip install 'userbert[bench]'")
