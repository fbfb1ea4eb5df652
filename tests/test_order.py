"""Two onsets are put in order by pairs, exactly, and coinciding ones rarely."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_onset import noise, switch

from probelab.curves import fit_onset, order
from probelab.curves.order import sign_flip
from synthetic_tasks.task import stream


def dated(metric: str, values: list[float | str], last: float = 900) -> pd.DataFrame:
    """Onset rows of one metric: a number is a date, a word a status."""
    rows = [
        {"status": v, "value": np.nan} if isinstance(v, str) else {"status": "switched", "value": v} for v in values
    ]
    runs = [f"r{k}" for k in range(len(rows))]
    return pd.DataFrame(rows).assign(run=runs, seed=range(len(rows)), arm="a", metric=metric, since=2, last=last)


def test_six_of_one_sign_give_one_in_thirty_two() -> None:
    """2 of the 2^6 sign patterns are as extreme: 2/64."""
    assert sign_flip(np.array([0.3, 0.1, 0.2, 0.5, 0.4, 0.25])) == pytest.approx(1 / 32)
    assert sign_flip(np.array([0.3, 0.1, 0.2, 0.5, 0.4])) == pytest.approx(1 / 16)


def test_hand_worked_sign_flip() -> None:
    """Gaps 3 2 -1 sum to 4; of the 8 patterns 6, 4, -4 and -6 are as far out: 4/8."""
    assert sign_flip(np.array([3.0, 2.0, -1.0])) == pytest.approx(0.5)
    assert sign_flip(np.zeros(3)) == sign_flip(np.array([0.4])) == 1 and np.isnan(sign_flip(np.array([])))


def test_a_gap_is_in_decades_and_paired() -> None:
    one, two = dated("heads", [10, 20, 30, 40, 50, 60]), dated("copy", [20, 40, 60, 80, 100, 240])
    found = order(pd.concat([one, two.iloc[::-1]]), "heads", "copy").iloc[0]
    assert found["value"] == pytest.approx(np.log10(2))
    assert (found["lo"], found["hi"]) == pytest.approx((np.log10(2), np.log10(4)))
    assert (found["n"], found["p_first"], found["level"]) == (6, 1, 0.95) and found["p"] == pytest.approx(1 / 32)
    back = order(pd.concat([one, two]), "copy", "heads").iloc[0]
    assert back["value"] == -found["value"] and back["p"] == found["p"] and back["p_first"] == 0
    assert (found["first"], found["second"], found["arm"]) == ("heads", "copy", "a")


def test_a_run_that_never_switched_is_later_than_its_end() -> None:
    rows = pd.concat([dated("heads", [10, 20, "flat", "begun"]), dated("copy", ["flat", 40, "flat", 50])])
    found = order(rows, "heads", "copy").iloc[0]
    assert (found["n"], found["censored"], found["silent"], found["p_first"]) == (3, 2, 1, 1)
    assert found["p"] == pytest.approx(1 / 4) and found["value"] == np.inf and found["lo"] == pytest.approx(np.log10(2))
    late = order(pd.concat([dated("heads", [950]), dated("copy", ["flat"])]), "heads", "copy").iloc[0]
    assert (late["n"], late["silent"]) == (0, 1) and np.isnan([late["p"], late["value"], late["p_first"]]).all()


def test_arms_are_paired_by_seed() -> None:
    slow = dated("copy", [100, 200, 300]).assign(arm="slow", run=["x", "y", "z"])
    rows = pd.concat([dated("copy", [10, 20, 30, 40]), slow])
    found = order(rows, {"arm": "a"}, {"arm": "slow"}, pair_by="seed").iloc[0]
    assert found["value"] == pytest.approx(1) and (found["n"], found["unpaired"]) == (3, 1)
    with pytest.raises(ValueError, match="no run has both a and slow"):
        order(rows[rows["run"] != "r0"], {"arm": "a"}, {"arm": "slow"})
    with pytest.raises(ValueError, match="no metric 'cpoy'; did you mean 'copy'"):
        order(rows, "cpoy", "copy")
    with pytest.raises(ValueError, match="in one side of an order"):
        order(rows, {"arm": "a"}, {"metric": "copy"}, pair_by="seed")


def test_coinciding_onsets_are_rarely_ordered() -> None:
    """Two metrics that switch together, one wider and noisier, in 6 seeds: p < .05 in about one study in twenty."""
    t, false = np.geomspace(1, 3000, 25), []
    for study in range(30):
        gaps = []
        for seed in range(6):
            rng = stream("test", "coincide", study, seed)
            t50 = 10 ** rng.uniform(1.4, 2.2)
            pair = [fit_onset(t, 12 * k * switch(t, t50, 0.6 / k) + noise(rng, 25, 0.4)).t50 for k in (1, 2)]
            gaps.append(np.log10(pair[1] / pair[0]))
        gaps = np.array(gaps)
        false.append(sign_flip(gaps[~np.isnan(gaps)]) < 0.05)
    assert np.mean(false) <= 2 / 30
