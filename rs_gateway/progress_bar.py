"""How far a long command is, for who sits at a terminal; nothing where nobody looks."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rs_gateway.data_console import words


@contextmanager
def progress_bar(description: str) -> Generator[Callable[[int, int], None]]:
    """A bar on stderr that is gone afterwards. Call what is given with how much is done, of how much."""
    if not words.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=words, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def progress_steps() -> Generator[Callable[[str, int, int | None], None]]:
    """The same for work in steps: call it with the step's name, how much of it is done, and of how much, if known."""
    if not words.is_terminal:
        yield lambda step, done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), TaskProgressColumn())
    with Progress(*columns, console=words, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, done, total: progress.update(task, description=step, completed=done, total=total)
