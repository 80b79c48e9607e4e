"""The command line: one verb a stage. It reads arguments, calls the stage, and says what came out.

Exit codes: 0 done, 1 our fault, 2 the user's input (one message that says what to change).
"""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from userbert.cli import bench, lab, label, learning, logs, serving
from userbert.cli.options import show, tell_error
from userbert.errors import InputError, UserBertError

_PANELS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Data": (logs.init, logs.prepare, logs.inspect, logs.forget),
    "Learn": (learning.pretrain, learning.extend, learning.finetune),
    "Judge": (learning.evaluate, learning.explain, learning.demo),
    "Use": (serving.embed, learning.predict, serving.lookalike, serving.export, serving.serve),
    "Lab": (lab.simulate, lab.reproduce),
}
"""The verbs of each stage, in the order of help."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
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
    """Vectors of who users are, learned from logs of what they do."""


for panel, verbs in _PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
    if panel == "Data":
        app.add_typer(label.app, name="label", rich_help_panel="Labels")
app.add_typer(bench.app, name="bench", rich_help_panel="Lab")


_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    # torch's threads wait for work by spinning: for long, they take the time of others on a busy
    # machine; not at all, waking them costs more than they do (docs/decisions/0003). Read when
    # torch is loaded, so it is set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except InputError as error:
        tell_error(str(error))
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has caught Ctrl-C, and says nothing
            tell_error("interrupted; nothing half-written was left")
        raise
    except UserBertError as error:
        tell_error(str(error))
        sys.exit(1)
    except Exception:
        # The last stop: whatever it is, it is our fault.
        traceback.print_exc()
        tell_error("this is a fault of userbert; please report it with the lines above")
        sys.exit(1)
