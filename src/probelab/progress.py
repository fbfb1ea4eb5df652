"""Progress of long work: a bar with the time left in a terminal or notebook, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 20  # at most, where there is no terminal


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of units just done."""
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.advance(task, done)
        return
    began, done_so_far, told = time.monotonic(), 0, 0

    def advance(done: int) -> None:
        nonlocal done_so_far, told
        done_so_far += done
        if done_so_far * LINES // max(total, 1) > told:
            told = done_so_far * LINES // max(total, 1)
            spent = time.monotonic() - began
            left = spent * (total - done_so_far) / max(done_so_far, 1)
            print(
                f"{what}: {done_so_far}/{total}, {spent:.0f} s spent, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield advance
