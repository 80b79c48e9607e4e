"""The verb `reproduce`: the paper's experiments, on data that everybody can have.

The verb `simulate`: logs of users whose truth is known.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from userbert.cli.options import Output, needs_torch, show, typed_command


def simulate(
    output: Output,
    users: Annotated[int, typer.Option(metavar="N", min=1, help="The paper has 22,500,000.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write logs in the shape of the paper's ecosystem, made and not measured.

    Example: `userbert simulate -o ecosystem --users 10000`
    """
    from userbert.experiments.simulate import simulate as write_logs

    made = write_logs(output, users, seed=seed)
    events = sum(made.events.values())
    show(
        f"{output}: {events:,} events of {users:,} users in {made.seconds:.1f} s "
        f"({events / made.seconds:,.0f} a second)"
    )
    show(f"next: userbert prepare {output / 'schema.yaml'} -o data")


class DataName(StrEnum):
    """What the experiments are repeated on."""

    SIMULATED = "simulated"
    COMPLETE_JOURNEY = "complete-journey"


def reproduce(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write, or a run to go on with.")
    ],
    data: Annotated[
        list[DataName] | None,
        typer.Option("--data", help="May be given several times. Default: both."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes in place of hours: a trial, not a result.")
    ] = False,
) -> None:
    """Repeat the paper's experiments: its baselines, figures 3 to 6 and table 2.

    The same command goes on with what was interrupted; only whole parts are kept.

    Example: `userbert reproduce -o reproduction --quick`
    """
    needs_torch()
    from userbert.experiments.reproduction.plan import FULL, QUICK
    from userbert.experiments.reproduction.reproduce import reproduce as run

    plans = QUICK if quick else FULL
    page = run(output, [plans[name.value] for name in data or list(DataName)], typed_command())
    show(f"{page}: the paper's figures and tables beside ours")
