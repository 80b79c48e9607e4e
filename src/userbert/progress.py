"""On standard error: a progress bar for anything that takes more than a moment, and warnings.

On a terminal the bar lives; elsewhere (a log file, CI) nothing is drawn. Of work inside other work
only the outer bar is shown.
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

_is_shown = ContextVar("_is_shown", default=False)

Advance = Callable[[int, str], None]
"""Called as `advance(done, note)`: so much more is done; `note` is shown beside the bar."""


class _Speed(ProgressColumn):
    """How many units are done in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text()
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


def warn(message: str) -> None:
    """Tell what is worth a look."""
    # As text, not as markup: brackets are kept.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("warning: ", "yellow"), message))


@contextmanager
def progress(description: str, total: int | None, *, is_shown: bool = True) -> Iterator[Advance]:
    """Show a bar for `total` units of work and yield the function that advances it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Speed(),
        TextColumn("{task.fields[note]}"),
    )
    is_silent = not is_shown or _is_shown.get() or not console.is_terminal
    outer = _is_shown.set(True)
    try:
        with Progress(*columns, console=console, disable=is_silent) as bar:
            task = bar.add_task(description, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                bar.update(task, advance=done, note=note)

            yield advance
    finally:
        _is_shown.reset(outer)
