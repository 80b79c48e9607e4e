"""The verbs `simulate`, for simulated logs, and `reproduce`, for the paper's experiments."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from userbert.cli.options import Output, require_torch, show, typed_command


def simulate(
    output: Output,
    users: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of users. The paper has 22,500,000.")
    ],
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed. The same seed gives the same bytes.")
    ] = 0,
) -> None:
    """Write simulated logs with the structure of the paper's data.

    Example: `userbert simulate -o ecosystem --users 10000`
    """
    from userbert.experiments.simulate import simulate as write_logs

    logs = write_logs(output, users, seed=seed)
    events = sum(logs.events.values())
    show(
        f"{output}: {events:,} events of {users:,} users in {logs.seconds:.1f} s "
        f"({events / logs.seconds:,.0f} per second)"
    )
    show(f"next: userbert prepare {output / 'schema.yaml'} -o data")


class DataName(StrEnum):
    """Data set of the experiments."""

    SIMULATED = "simulated"
    COMPLETE_JOURNEY = "complete-journey"


def reproduce(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder to write, or of an interrupted run."),
    ],
    data: Annotated[
        list[DataName] | None,
        typer.Option("--data", help="Data set. May be repeated. Default: both."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes instead of hours: a trial, not a result.")
    ] = False,
) -> None:
    """Repeat the paper's experiments: its baselines, figures 3 to 6 and table 2.

    Run the same command again to resume an interrupted run; finished parts are kept.

    Example: `userbert reproduce -o reproduction --quick`
    """
    require_torch()
    from userbert.experiments.reproduction.plan import FULL, QUICK
    from userbert.experiments.reproduction.reproduce import reproduce as run

    plans = QUICK if quick else FULL
    page = run(output, [plans[name.value] for name in data or list(DataName)], typed_command())
    show(f"{page}: our figures and tables next to the paper's")
