"""Contestants take turns, so that a noisy machine is noisy for all; what is reported are ratios of neighbours."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import NamedTuple

Call = Callable[[], object]


class Line(NamedTuple):
    """One ratio: what was done, against whom, what is promised at least (or at most), and what was found."""

    work: str
    peer: str
    floor: str
    ratio: str


def race(contestants: dict[str, Call], rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of a call in each of `rounds` rounds, by name; in a round each is called once."""
    for call in contestants.values():
        for _ in range(warm):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """Median over rounds of how many times longer `of` took than `to`."""
    return median(a / b for a, b in zip(of, to, strict=True))


def times(call: Call, n: int) -> Call:
    """`n` calls as one."""

    def calls() -> None:
        for _ in range(n):
            call()

    return calls


def as_table(lines: list[Line]) -> str:
    """Markdown."""
    rows = [Line("work", "peer", "floor", "ratio"), Line(*["---"] * 4), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
