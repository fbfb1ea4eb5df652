"""Many runs, one line: the median over seeds and an interval for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binom

from probelab.curves._groups import NUMBERS, SEEDS, groups, once
from probelab.rows import tidy


def over_seeds(rows: pd.DataFrame, by: Sequence[str] | None = None) -> pd.DataFrame:
    """Median over runs with an interval, one row for each step and each value of the other coordinates (or of `by`).

    `lo` and `hi` are order statistics: no shape is assumed, and the interval holds for the median of the population
    of seeds. `level` is the rate at which they do: .95 from 6 runs on; with fewer they are the range, whose rate is 1
    - 2^(1 - n): .94 for 5 runs, .75 for 3, .5 for 2. `n` counts the runs that have a value (missing ones are left
    out). Errors: a run with two values in one cell.
    """
    if by is None:
        by = [c for c in rows.columns if c not in NUMBERS + SEEDS]
    elif "step" in rows and "step" not in by:
        by = [*by, "step"]
    found = []
    for _, part in groups(rows, by):
        run = "run" if "run" in part else "seed"
        once(part, run, "cell")
        values = part["value"].to_numpy(float)
        values = values[~np.isnan(values)]
        middle, lo, hi = median_interval(values)
        keys = {c: part[c].iloc[0] for c in by}
        found.append({**keys, "value": middle, "lo": lo, "hi": hi, "n": len(values), "level": attained(len(values))})
    return tidy(found)


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median of `values` `[n]` and order statistics around it: 95 % from n = 6 on, the range below. May be infinite."""
    n = len(values)
    if n == 0:
        return np.nan, np.nan, np.nan
    ordered = np.sort(values)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    middle = low if low == high else np.nan if np.isinf([low, high]).all() else (low + high) / 2
    k = max(int(binom.ppf(0.025, n, 0.5)), 1)
    return float(middle), float(ordered[k - 1]), float(ordered[n - k])


def attained(n: int) -> float:
    """The rate at which an interval from `n` runs covers a median: the range misses it if all lie on one side."""
    return min(0.95, 1 - 2.0 ** (1 - n)) if n else 0.0
