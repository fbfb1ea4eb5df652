"""What the studies of few-shot classification ask of their rows: a split's score at the end, and differences of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from probelab.claims import Estimate, median
from probelab.curves import overtake
from probelab.rows import ends, pick

SCORES = {  # the usual score of each split: in context among the context's labels, in weights any label that is owned
    "train": "log_prob",
    "icl2": "accuracy_in_context",
    "flip": "accuracy_in_context",
    "iwl": "owned_accuracy",
    "iwl_common": "owned_accuracy",
    "iwl_rare": "owned_accuracy",
    "ciwl": "accuracy_in_context",
}
Quantity = Callable[[pd.DataFrame], Estimate]


def scores(table: pd.DataFrame, *splits: str) -> pd.DataFrame:
    """The rows of the usual score of some splits (all, if none is named)."""
    rows = pick(table, measure="classify")
    usual = rows["split"].map(SCORES).fillna("accuracy")
    rows = rows[rows["metric"] == usual]
    return rows[rows["split"].isin(splits)] if splits else rows


def of_arm(table: pd.DataFrame, *arms: str) -> pd.DataFrame:
    """The rows of some arms, also where turned dials follow their names: `arm, task.dim=16`."""
    turned = [name for name in map(str, table["arm"].unique()) if any(name.startswith(f"{a}, task.") for a in arms)]
    return table[table["arm"].isin([*arms, *turned])]


def crossings(rows: pd.DataFrame, level: float, metric: str, falling: bool = False, hold: int = 3) -> pd.DataFrame:
    """When the curve of each run of an arm rises above a level for good (or falls below it), as rows of `metric`."""
    dated = []
    for (arm, run, seed), curve in rows.groupby(["arm", "run", "seed"], sort=False):
        curve = curve.sort_values("step")
        line, values = np.full(len(curve), level), curve["value"].to_numpy()
        below, above = (values, line) if falling else (line, values)
        crossed = overtake(curve["step"].to_numpy(), below, above, hold)
        dated.append({"arm": arm, "run": run, "seed": seed, **crossed.row()})
    return pd.DataFrame(dated).assign(measure="crossing", metric=metric)


def final(table: pd.DataFrame, arm: str, split: str) -> pd.Series:
    """A split's usual score at the end of training, by seed."""
    rows = ends(scores(pick(table, arm=arm), split))
    if not len(rows):
        raise ValueError(f"no {split} of {arm!r}")
    return rows.set_index("seed")["value"].sort_index()


def end(arm: str, split: str) -> Quantity:
    """Median over seeds of a split's score at the end of training."""
    return lambda table: median(final(table, arm, split))


def rise(split: str, low: str, high: str) -> Quantity:
    """Median over seeds of what a split gains from one arm to another, paired by seed."""
    return lambda table: median((final(table, high, split) - final(table, low, split)).dropna())


def reached(arm: str, split: str, least: float) -> Callable[[pd.DataFrame], bool]:
    """Does the median over seeds reach a score?"""
    return lambda table: bool(final(table, arm, split).median() >= least)
