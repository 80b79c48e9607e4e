"""The verb `simulate`: logs of users whose truth is known."""

from typing import Annotated

import typer

from userbert.cli.options import Output, show


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
