"""A median over runs counts those that never switched."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probelab.curves import across
from probelab.curves.across import survival_median
from synthetic_tasks.task import stream


def dated(values: list[float | str], **more: object) -> pd.DataFrame:
    """Onset rows of one arm: a number is a date, a word a status."""
    rows = [
        {"status": v, "value": np.nan} if isinstance(v, str) else {"status": "switched", "value": v} for v in values
    ]
    runs = [f"r{k}" for k in range(len(rows))]
    table = pd.DataFrame(rows).assign(
        run=runs, seed=range(len(rows)), arm="two layers", metric="copy", since=1, last=900
    )
    return table.assign(measure="onset", t10=5.0, **more)


def test_hand_worked_kaplan_meier() -> None:
    """Times 1 2 3+ 4 5+ 6: S is 5/6, 4/6, 4/6, 4/6 * 2/3 = 4/9 < 1/2 at 4, so the median is 4.

    Log-log band at 1: Greenwood sum 1/30, SE sqrt(1/30) / ln(6/5) = 1.0014, S^exp(1.96 SE) = .27 < 1/2: doubted from 1.
    """
    times, censored = np.array([1, 2, 3, 4, 5, 6.0]), np.array([0, 0, 1, 0, 1, 0], bool)
    assert survival_median(times, censored) == pytest.approx((4, 1, 6))


def test_uncensored_it_is_the_median_in_log_step_and_six_give_their_range() -> None:
    found = across(dated([100, 200, 300, 400, 500, 900])).iloc[0]
    assert found["value"] == pytest.approx(np.sqrt(300 * 400))
    assert (found["lo"], found["hi"], found["n"], found["censored"], found["level"]) == (100, 900, 6, 0, 0.95)
    assert across(dated([100, 200, 300])).iloc[0]["value"] == 200
    assert across(dated([100, 200, 300])).iloc[0]["level"] == 0.75


def test_runs_that_never_switched_count() -> None:
    some = across(dated([100, 200, 300, "flat", "unfinished"])).iloc[0]
    assert (some["value"], some["n"], some["censored"]) == (300, 5, 2) and np.isinf(some["hi"])
    most = across(dated([100, "flat", "drift", "flat"])).iloc[0]
    assert np.isnan(most["value"]) and (most["lo"], most["hi"], most["last"]) == (100, np.inf, 900)
    none = across(dated(["flat", "never", "drift"])).iloc[0]
    assert np.isnan(none["value"]) and (none["lo"], none["hi"], none["censored"]) == (900, np.inf, 3)


def test_begun_counts_as_early_and_the_unjudged_apart() -> None:
    found = across(dated([100, 200, "begun", "too few"])).iloc[0]
    assert (found["value"], found["n"], found["begun"], found["unjudged"]) == (100, 3, 1, 1)


def test_each_group_apart_and_what_its_runs_share_is_kept() -> None:
    two = pd.concat([dated([100, 200, 300], layer=1), dated(["flat"] * 3, layer=0).assign(arm="one layer")])
    found = across(two).set_index("arm")
    assert found["value"]["two layers"] == 200 and np.isnan(found["value"]["one layer"])
    assert list(found["layer"]) == [1, 0] and not {"run", "seed", "t10", "status"} & set(found.columns)


def test_a_run_twice_is_refused() -> None:
    two = pd.concat([dated([100, 200], head=0), dated([100, 200], head=1)])
    with pytest.raises(ValueError, match="'r0' occurs 2 times in one group; they differ in 'head'"):
        across(two)


@pytest.mark.parametrize("n", [6, 10])
def test_the_interval_covers_the_population_median(n: int) -> None:
    held = []
    for k in range(200):
        rng = stream("test", "across", k, n)
        times, record = np.exp(rng.standard_normal(n)), np.exp(0.7 + 0.7 * rng.standard_normal(n))
        _, lo, hi = survival_median(np.minimum(times, record), times > record)
        held.append(lo <= 1 <= hi)
    assert 0.90 <= np.mean(held) <= 0.99
