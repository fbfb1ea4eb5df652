"""The band over seeds is the median with order statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import quantile_test

from probelab.curves import over_seeds
from probelab.curves.seeds import attained, median_interval
from synthetic_tasks.task import stream


def runs(n: int, **more: object) -> pd.DataFrame:
    """`n` runs with value 10 * seed + step at steps 0 and 1."""
    rows = [{"run": f"r{s}", "seed": s, "step": t, "value": 10.0 * s + t} for s in range(n) for t in (0, 1)]
    return pd.DataFrame(rows).assign(arm="a", metric="loss", tokens=lambda r: r["step"] * 64, lo=np.nan, **more)


def test_few_seeds_give_their_range_and_its_rate() -> None:
    found = over_seeds(runs(3)).set_index("step")
    assert found.loc[1, ["value", "lo", "hi", "n", "level", "tokens"]].tolist() == [11, 1, 21, 3, 0.75, 64]
    assert attained(1) == 0 and attained(5) == 0.9375 and attained(6) == attained(40) == 0.95


@pytest.mark.parametrize("n", [6, 9, 20])
def test_the_interval_is_the_order_statistics_of_scipy(n: int) -> None:
    values = stream("test", "seeds", n).standard_normal(n)
    middle, lo, hi = median_interval(values)
    theirs = quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (middle, lo, hi) == pytest.approx((np.median(values), theirs.low, theirs.high))


def test_infinite_values_have_a_place() -> None:
    assert median_interval(np.array([1, 2, np.inf])) == (2, 1, np.inf)
    assert np.isnan(median_interval(np.array([-np.inf, np.inf]))[0]) and np.isnan(median_interval(np.array([]))).all()


def test_other_coordinates_stay_apart_and_missing_values_are_left_out() -> None:
    rows = pd.concat([runs(4, head=0), runs(4, head=1), runs(4)])  # the last has no head
    rows.iloc[0, rows.columns.get_loc("value")] = np.nan
    found = over_seeds(rows)
    assert len(found) == 6 and found["head"].isna().sum() == 2
    assert found[(found["head"] == 0) & (found["step"] == 0)]["n"].item() == 3
    assert len(over_seeds(rows[rows["head"] == 1], by=("arm",))) == 2


def test_a_run_twice_in_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="'r0' occurs 2 times in one cell; they differ in 'head'"):
        over_seeds(pd.concat([runs(2, head=0), runs(2, head=1)]), by=("arm", "metric"))
