"""The command line: verbs parse arguments, call the library, and print the results.

Exit codes: 0 success, 1 a bug in userbert or a failed cluster, 2 unusable input (one message that
says what to change), 130 interrupted by Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from userbert.cli import bench, lab, label, learning, logs, serving
from userbert.cli.options import print_error, show
from userbert.errors import InputError, UserBertError

_PANELS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Data": (logs.init, logs.prepare, logs.inspect, logs.forget),
    "Learn": (learning.pretrain, learning.extend, learning.finetune),
    "Judge": (learning.evaluate, learning.explain, learning.demo),
    "Use": (serving.embed, learning.predict, serving.lookalike, serving.export, serving.serve),
    "Lab": (lab.simulate, lab.reproduce),
}
"""Verbs of each panel of the help, in order."""


class _PanelOrder(TyperGroup):
    """Group of verbs whose help lists `label` after the verbs of data."""

    # `Any`: depending on typer's version, the context is of click or of typer's copy of click.
    def list_commands(self, ctx: Any) -> list[str]:
        names = [name for name in super().list_commands(ctx) if name != "label"]
        return [*names[: len(_PANELS["Data"])], "label", *names[len(_PANELS["Data"]) :]]


app = typer.Typer(
    cls=_PanelOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        show(f"userbert {version('userbert')}")
        raise typer.Exit


@app.callback()
def userbert(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Learns vectors of users from event logs."""


for panel, verbs in _PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(label.app, name="label", rich_help_panel="Labels")
app.add_typer(bench.app, name="bench", rich_help_panel="Lab")


_INTERRUPTED = 130
"""Exit code of a process that Ctrl-C stopped."""


def main() -> None:
    """Runs the command line."""
    # torch's idle threads spin. Long spinning slows other processes on a busy machine; without
    # spinning, waking the threads costs more than their work (docs/decisions/0003). torch reads
    # the variable on import.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except InputError as error:
        print_error(str(error))
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer caught Ctrl-C and printed nothing
            print_error("interrupted before the output was complete")
        raise
    except UserBertError as error:
        print_error(str(error))
        sys.exit(1)
    except Exception:
        # Any other exception is a bug in userbert.
        traceback.print_exc()
        print_error("this is a bug in userbert; please report it with the lines above")
        sys.exit(1)
