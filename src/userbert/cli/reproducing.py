"""The verb `reproduce`: the paper's experiments, on data that everybody can have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from userbert.cli.options import needs_torch, show, typed_command


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
