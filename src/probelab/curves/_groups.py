"""Rows taken apart into curves, and what is the same all along each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from synthetic_tasks.task import choose

NUMBERS = ("value", "lo", "hi", "n")
TIMES = ("step", "sequences", "tokens")
SEEDS = ("run", "seed", "world", "data", "init")
DATED = ("status", "direction", "since", "last", "t10", "t90", "start", "end", "noise", "rho", "width", "held")


def groups(rows: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each group of rows that agree on the columns `by`, with every coordinate that is constant within it."""
    for column in by:
        choose("column", column, list(rows.columns))
    parts = [part for _, part in rows.groupby(list(by), dropna=False, sort=False)] if by else [rows]
    for part in parts:
        yield constant(part), part


def constant(part: pd.DataFrame) -> dict[str, Any]:
    """The coordinates on which all rows agree."""
    free = [c for c in part.columns if c not in NUMBERS + TIMES]
    return {c: part[c].iloc[0] for c in free if part[c].nunique(dropna=False) == 1}


def shared(part: pd.DataFrame, by: Sequence[str]) -> dict[str, Any]:
    """What runs that are put together have in common: `by`, and the coordinates that tell no seed and no date."""
    return {c: v for c, v in constant(part).items() if c in by or c not in SEEDS + DATED}


def once(part: pd.DataFrame, column: str, what: str) -> None:
    """Raise if a value of `column` occurs twice within a group, naming the coordinates that tell the rows apart."""
    twice = part[part[column].duplicated(keep=False)]
    if len(twice):
        culprit = twice[twice[column] == twice[column].iloc[0]]
        free = [c for c in part.columns if c not in NUMBERS + TIMES + DATED and culprit[c].nunique(dropna=False) > 1]
        hint = f"; they differ in {', '.join(map(repr, free))}: choose one value, or add it to by" if free else ""
        raise ValueError(f"{column} {twice[column].iloc[0]!r} occurs {len(culprit)} times in one {what}{hint}")
