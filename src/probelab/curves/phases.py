"""The phases of a run: which strategy it is nearest to, and when that changes.

    nearest   uniform uniform unigram unigram unigram bigram bigram bigram
                             ^ into unigram          ^ into bigram

The switch into a phase is the step from which the nearest strategy is that one or a later one: the first sustained
crossing of 0 by (the least distance to an earlier strategy) - (the least to this or a later one), with the interval
of `crossing`. A phase that is passed over (never the nearest between its switch and the next) is "skipped", and has
no date.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from probelab.curves._groups import groups, once
from probelab.curves.crossing import Crossing, first_above
from probelab.curves.onset import seen_at
from probelab.rows import pick, tidy
from synthetic_tasks.task import choose


def phases(
    rows: pd.DataFrame,
    order: Sequence[str],
    column: str = "strategy",
    metric: str = "kl",
    by: Sequence[str] = ("run",),
    hold: int = 3,
    **where: Any,
) -> pd.DataFrame:
    """Date each switch to the next of the strategies in `order`, a row each, in every group of `by`.

    Columns: `strategy` (the one entered) and `before`, `value` in steps with `lo` and `hi`, `held` (checkpoints at
    which it was the nearest before the next switch), and `status`: switched, never, skipped, begun (past it from the
    first checkpoint on), too few. Errors: an unknown strategy, two values of one at one step, fewer than two
    strategies.
    """
    if len(order) < 2:
        raise ValueError(f"order = {tuple(order)!r} is too short: a switch takes two strategies")
    found = []
    for _, part in groups(pick(rows, metric=metric, **where), by):
        for name in order:
            choose(column, name, sorted(part[column].dropna().unique()))
            once(part[part[column] == name], "step", "curve")
        part = part[part[column].isin(order)]
        [(keys, _)] = groups(part, by)
        table = part.pivot(index="step", columns=column, values="value")[list(order)].dropna()
        for k, (date, held) in enumerate(switches(table.index.to_numpy(float), table.to_numpy(float), hold), 1):
            names = {column: order[k], "before": order[k - 1], "measure": "phases"}
            found.append({**keys, **names, **date.row(), "held": held, **seen_at(part, date.step)})
    return tidy(found)


def switches(t: np.ndarray, distance: np.ndarray, hold: int = 3) -> list[tuple[Crossing, int]]:
    """The switch into each strategy but the first, and the checkpoints it holds; distances are `[step strategy]`."""
    later = range(1, distance.shape[1])
    dates = [first_above(t, distance[:, :k].min(1) - distance[:, k:].min(1), hold) for k in later]
    starts = [{"switched": date.step, "begun": -np.inf}.get(date.status, np.inf) for date in dates]
    nearest = distance.argmin(1)
    found = []
    for k, date, start, stop in zip(later, dates, starts, [*starts[1:], np.inf], strict=True):
        held = int(((nearest == k) & (t >= start) & (t < stop)).sum())
        skipped = np.isfinite(start) and not held
        found.append((Crossing("skipped", date.n, date.since, date.last) if skipped else date, held))
    return found
