"""The command line: one verb a stage. It reads arguments, calls the stage, and says what came out.

Exit codes: 0 done, 1 our fault, 2 the user's input (one message that says what to change).
"""

import os
import sys
import traceback

import typer

from userbert.cli import bench, label, learning, logs, reproducing, serving, simulating
from userbert.cli.options import tell_error
from userbert.errors import InputError, UserBertError

app = typer.Typer(
    help="Vectors of who users are, learned from logs of what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.command()(logs.init)
app.command()(logs.prepare)
app.command()(logs.forget)
app.command()(logs.inspect)
app.add_typer(label.app, name="label")
app.command()(learning.pretrain)
app.command()(learning.extend)
app.command()(serving.embed)
app.command()(serving.serve)
app.command()(serving.lookalike)
app.command()(serving.export)
app.command()(learning.finetune)
app.command()(learning.predict)
app.command()(learning.explain)
app.command()(learning.evaluate)
app.command()(learning.demo)
app.command()(simulating.simulate)
app.command()(reproducing.reproduce)
app.add_typer(bench.app, name="bench")


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
