"""Contestants take turns, so that a noisy machine is noisy for all of them; what is reported are ratios of medians."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

Call = Callable[[], object]


def race(contestants: dict[str, Call], rounds: int, warm: int = 3) -> dict[str, float]:
    """Median seconds of one call, by name, over `rounds` rounds in which each is called once."""
    for call in contestants.values():
        for _ in range(warm):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def times(call: Call, n: int) -> Call:
    """`n` calls as one."""

    def calls() -> None:
        for _ in range(n):
            call()

    return calls
