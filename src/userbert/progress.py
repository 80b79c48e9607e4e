"""Progress bars and warnings on standard error.

Bars are drawn on a terminal only, not in log files or CI. While a bar is open, no second bar is
drawn.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_has_bar = ContextVar("_has_bar", default=False)
"""Whether a bar is open in this context."""

Advance = Callable[[int, str], None]
"""`advance(done, note)` adds `done` units of work and shows `note` next to the bar."""


class _SpeedColumn(ProgressColumn):
    """Units of work per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text()
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


def warn(message: str) -> None:
    """Prints a warning to standard error."""
    # Text, not markup, which would drop brackets.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("warning: ", "yellow"), message))


@contextmanager
def progress(description: str, total: int | None, *, is_shown: bool = True) -> Iterator[Advance]:
    """Shows a bar for `total` units of work (None: unknown); yields the function that advances it.

    Draws nothing if `is_shown` is false, another bar is open, or the output is not a terminal.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _SpeedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    is_silent = not is_shown or _has_bar.get() or not console.is_terminal
    token = _has_bar.set(True)
    try:
        with Progress(*columns, console=console, disable=is_silent) as bar:
            task = bar.add_task(description, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                bar.update(task, advance=done, note=note)

            yield advance
    finally:
        _has_bar.reset(token)
