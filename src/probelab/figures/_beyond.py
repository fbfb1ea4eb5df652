"""Where to draw seeds and medians, some of which lie beyond the record: they are at its end, and never left out."""

from __future__ import annotations

import numpy as np
import pandas as pd


def seeds(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Rows with their `role` and height `y`: seed (value), never (last) or begun (since), as `status` says.

    Without a status, what has no value but a last step was never there; what was too short to judge has no height.
    `text` counts the seeds that are beyond the record at one place (by, x), on one of them; `of` says it in words.
    """
    status = rows["status"] if "status" in rows else pd.Series("switched", rows.index)
    there = rows["value"].notna() & (status == "switched")
    kinds = {"seed": (there, "value"), "begun": (status == "begun", "since"), "never": (status != "too few", "last")}
    role = np.select([here for here, _ in kinds.values()], list(kinds), "")
    y = np.select([role == kind for kind in kinds], [_numbers(rows, column) for _, column in kinds.values()], np.nan)
    found = rows.assign(role=np.where(np.isnan(y), "seed", role), y=y)
    place = [by, "x", "role", "y"]
    many, of = (found.groupby(keys)["y"].transform("count").astype(str) for keys in (place, place[:2]))
    counted = (found["role"] != "seed") & (many != "1") & ~found.duplicated(place)
    return found.assign(text=many.where(counted, ""), of=" (" + many + " of " + of + " seeds)")


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their `role` (median, or later than the last step), height `y`, interval, and its `top` in a figure.

    The interval of one that is `beyond` goes on behind its top.
    """
    value, lo, hi, last = (_numbers(rows, column) for column in ("value", "lo", "hi", "last"))
    later, endless = np.isnan(value), np.isinf(hi)
    places = dict(y=np.where(later, last, value), y_lo=lo, y_hi=hi, top=np.where(endless, last, hi))
    role, beyond = np.where(later, "later", "median"), endless & ~later & np.isfinite(last)
    return rows.assign(role=role, **places, beyond=beyond).dropna(subset=["y"])


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column, or as many missing values."""
    return rows[column].to_numpy(float) if column in rows else np.full(len(rows), np.nan)
