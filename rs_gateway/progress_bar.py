"""How far a long command is, for who sits at a terminal; nothing where nobody looks."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rs_gateway.data_console import words


@contextmanager
def progress_steps() -> Generator[Callable[[str, int, int | None], None]]:
    """A bar on stderr that is gone afterwards: call what is given with a step's name, how much is done, of how much."""
    if not words.is_terminal:
        yield lambda step, done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=words, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, done, total: progress.update(task, description=step, completed=done, total=total)


@contextmanager
def progress_bar(description: str) -> Generator[Callable[[int, int], None]]:
    """The same for work of one step: call it with how much is done, of how much."""
    with progress_steps() as show:
        yield lambda done, total: show(description, done, total)
