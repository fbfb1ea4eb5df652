"""Dates of planted switches are found at their stated rate, and none where none was planted."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import expit

import probelab.curves
from probelab.curves import CURVES, crossing, fit_onset, onset, overtake, phases, rise_and_fall
from probelab.curves._ar1 import RHOS, inner, misfit, whiten
from synthetic_tasks.task import stream

STEPS = np.geomspace(1, 3000, 40)


def switch(t: np.ndarray, t50: float, width: float) -> np.ndarray:
    """A logistic in log step whose 10-90 % width is so many decades."""
    return expit(np.log(t / t50) * 2 * np.log(9) / (width * np.log(10)))


def noise(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """AR(1) noise of SD 1."""
    innovations = rng.standard_normal(n) * np.sqrt(1 - rho**2)
    innovations[0] /= np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], innovations)


def test_the_table_lists_the_files() -> None:
    folder = Path(probelab.curves.__file__).parent
    assert sorted(CURVES) == sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_"))


def test_one_pass_over_rho_equals_whitening_each() -> None:
    rng = stream("test", "ar1")
    y, shape = rng.standard_normal((2, 30))
    for rho, fast, cross in zip(RHOS, misfit(y, shape), inner(y, shape, RHOS), strict=True):
        design = whiten(np.stack([np.ones(30), shape, y], 1), rho)
        _, rss, *_ = np.linalg.lstsq(design[:, :2], design[:, 2])
        assert fast == pytest.approx(rss[0] / 30) and cross == pytest.approx(design[:, 1] @ design[:, 2])


# --- planted curves without noise


@pytest.mark.parametrize(("size", "direction"), [(2.0, "rise"), (-2.0, "fall")])
def test_a_planted_sigmoid_is_read_off(size: float, direction: str) -> None:
    found = fit_onset(STEPS, 5 + size * switch(STEPS, 100, 0.5))
    assert (found.status, found.direction, found.n) == ("switched", direction, 40)
    assert found.t50 == pytest.approx(100, rel=1e-3) and found.width == pytest.approx(0.5, rel=1e-3)
    assert found.t10 == pytest.approx(100 * 10**-0.25, rel=1e-3) and found.t90 == pytest.approx(
        100 * 10**0.25, rel=1e-3
    )
    assert (found.start, found.end) == pytest.approx((5, 5 + size), abs=1e-3)
    assert 98 < found.lo < 100 < found.hi < 102


def test_a_step_is_dated_to_its_bracket() -> None:
    found = fit_onset(STEPS, STEPS > 100.0)
    left, right = STEPS[STEPS <= 100][-1], STEPS[STEPS > 100][0]
    assert (found.lo, found.hi, found.t10, found.t90) == pytest.approx((left, right, left, right))
    assert found.t50 == pytest.approx(np.sqrt(left * right))
    assert fit_onset(STEPS, STEPS > 100.0).width == pytest.approx(np.log10(right / left))


@pytest.mark.parametrize(
    ("values", "status"),
    [
        (0 * STEPS + 0.1, "flat"),
        (np.log(STEPS), "drift"),
        (switch(STEPS, 2000, 0.6), "unfinished"),
        (switch(STEPS, 2, 0.8), "begun"),
        (np.log(STEPS) ** 2, "unfinished"),
        (switch(STEPS, 30, 0.3) - switch(STEPS, 500, 0.3), "flat"),
        ((STEPS > 2500) * 1.0, "unfinished"),
    ],
    ids="constant ramp late early convex transient outlier".split(),
)
def test_what_is_no_finished_switch_gets_no_date(values: np.ndarray, status: str) -> None:
    found = fit_onset(STEPS, values)
    assert found.status == status and np.isnan([found.t50, found.lo, found.hi, found.width]).all()
    assert found.last == pytest.approx(3000) and found.direction == ""


def test_a_short_curve_is_not_judged() -> None:
    assert fit_onset(STEPS[:9], switch(STEPS[:9], 3, 0.2)).status == "too few"
    assert fit_onset([], []).status == "too few"


def test_step_0_and_missing_values_are_dropped_and_order_is_free() -> None:
    values = switch(STEPS, 100, 0.5)
    t, y = np.append(STEPS[::-1], [0, 7]), np.append(values[::-1], [99, np.nan])
    assert fit_onset(t, y) == fit_onset(STEPS, values)


@settings(max_examples=15, deadline=None)
@given(st.floats(1, 3), st.floats(-1e3, 1e3), st.floats(0.01, 100), st.booleans())
def test_units_do_not_matter(later: float, level: float, size: float, falls: bool) -> None:
    values = switch(STEPS, 60, 0.4) + 0.03 * noise(stream("test", "units"), 40, 0.3)
    plain = fit_onset(STEPS, values)
    turned = fit_onset(STEPS * later, level + size * values * (-1 if falls else 1))
    assert (turned.t50, turned.lo, turned.hi) == pytest.approx(
        np.multiply(later, (plain.t50, plain.lo, plain.hi)), rel=1e-3
    )
    assert turned.direction == ("fall" if falls else "rise") and turned.rho == plain.rho


def test_each_switch_of_a_curve_is_dated_in_its_window() -> None:
    t = np.geomspace(1, 3000, 60)
    values = 2 - 0.5 * switch(t, 10, 0.2) - switch(t, 300, 0.2) + 0.005 * noise(stream("test", "two"), 60, 0.3)
    early, late = fit_onset(t, values, between=(None, 60)), fit_onset(t, values, between=(30, None))
    assert early.t50 == pytest.approx(10, rel=0.03) and late.t50 == pytest.approx(300, rel=0.03)
    assert early.end == pytest.approx(1.5, abs=0.01) and late.start == pytest.approx(1.5, abs=0.01)
    assert early.last < 60 and late.since > 30


def test_misfit_widens_the_interval() -> None:
    wave = 0.05 * np.sin(np.log(STEPS) * 3)
    scattered = wave[stream("test", "misfit").permutation(40)]
    smooth, rough = (fit_onset(STEPS, switch(STEPS, 100, 0.5) + extra) for extra in (wave, scattered))
    assert smooth.rho > 0.6 and rough.rho < 0.4
    assert np.log(smooth.hi / smooth.lo) > 1.2 * np.log(rough.hi / rough.lo)


@pytest.mark.parametrize(
    ("steps", "between", "error"),
    [
        ([1, 2, 2, 3], (None, None), "step 2 occurs twice"),
        ([-1, 2, 3, 4], (None, None), "step -1 is negative"),
        ([1, 2, 3], (None, None), "one length"),
        ([1, 2, 3, 4], (50, 10), "is empty"),
    ],
)
def test_a_bad_question_is_repeated(steps: list[float], between: tuple, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        fit_onset(steps, [0.0] * 4, between=between)


# --- rates


def coverage(sims: int, n: int, rho: float, width: float, snr: float) -> list[bool]:
    """Whether each interval holds the planted midpoint, over the curves that were dated."""
    held = []
    for k in range(sims):
        rng = stream("test", "coverage", k, n, f"{rho} {width} {snr}")
        t, t50 = np.geomspace(1, 3000, n), 10 ** rng.uniform(1.3, 2.2)
        found = fit_onset(t, snr * switch(t, t50, width) + noise(rng, n, rho))
        held += [found.lo <= t50 <= found.hi] if found.switched else []
    return held


def false_dates(sims: int, n: int, rho: float, drift: float) -> float:
    """The share of switchless curves that get a date."""
    t = np.geomspace(1, 3000, n)
    trend = drift * np.linspace(0, 1, n)
    rngs = (stream("test", "flat", k, n, f"{rho} {drift}") for k in range(sims))
    return np.mean([fit_onset(t, trend + noise(rng, n, rho)).switched for rng in rngs])


def test_intervals_cover_at_their_rate() -> None:
    settings = [(20, 0.0, 0.5, 20), (40, 0.5, 0.8, 20), (40, 0.7, 0.4, 15), (80, 0.7, 0.3, 30)]
    held = [coverage(60, *setting) for setting in settings]
    assert all(len(h) >= 55 for h in held)
    assert all(np.mean(h) >= 0.86 for h in held) and 0.92 <= np.mean(sum(held, [])) <= 0.985


def test_noise_gets_no_date() -> None:
    assert max(false_dates(100, 20, rho, drift) for rho, drift in [(0, 0), (0.7, 0), (0.7, 6)]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho", "width", "snr"), list(product([20, 40, 80], [0, 0.4, 0.7], [0.4, 1], [15, 40])))
def test_500_intervals_cover_at_their_rate(n: int, rho: float, width: float, snr: float) -> None:
    held = coverage(500, n, rho, width, snr)
    assert len(held) >= 400 and 0.90 <= np.mean(held) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho", "drift"), list(product([12, 20, 40, 80], [0, 0.4, 0.7], [0, 6])))
def test_500_times_noise_gets_no_date(n: int, rho: float, drift: float) -> None:
    assert false_dates(500, n, rho, drift) <= 0.05


# --- rise and fall


def test_a_transient_has_two_dates() -> None:
    values = switch(STEPS, 30, 0.3) - 0.8 * switch(STEPS, 500, 0.4) + 0.02 * noise(stream("test", "transient"), 40, 0.4)
    rise, fall = rise_and_fall(STEPS, values)
    assert (rise.direction, fall.direction) == ("rise", "fall")
    assert rise.lo < 30 < rise.hi < fall.lo < 500 < fall.hi
    dip = rise_and_fall(STEPS, -values)
    assert [d.direction for d in dip] == ["fall", "rise"] and dip[0].t50 == pytest.approx(rise.t50)


def test_one_switch_is_no_transient() -> None:
    shapes = {
        "sigmoid": switch(STEPS, 100, 0.5),
        "lopsided": 1 - np.exp(-STEPS / 100),
        "tilted": switch(STEPS, 100, 0.2) - 0.05 * np.log(STEPS),
        "overshooting": switch(STEPS, 50, 0.3) - 0.05 * switch(STEPS, 500, 0.3),
    }
    for name, values in shapes.items():
        for size in (0, 0.01, 0.05):
            rise, fall = rise_and_fall(STEPS, values + size * noise(stream("test", name), 40, 0.5))
            assert not fall.switched, (name, size)
            assert fall.last == rise.last
    assert [d.status for d in rise_and_fall(STEPS, 0 * STEPS)] == ["flat", "flat"]


def test_one_noisy_switch_is_rarely_a_transient() -> None:
    rngs = [stream("test", "single", k) for k in range(40)]
    pairs = [rise_and_fall(STEPS, 15 * switch(STEPS, 100, 0.4) + noise(rng, 40, 0.6)) for rng in rngs]
    assert sum(fall.switched for _, fall in pairs) <= 2 and sum(rise.switched for rise, _ in pairs) >= 38


# --- crossings and phases


def test_a_crossing_is_bracketed_and_must_last() -> None:
    t = np.arange(0, 1000, 50)
    values = np.where(t > 510, 1.0, 0.0)
    values[4] = 1.0  # one checkpoint is not a switch
    found = crossing(t, values)
    assert (found.lo, found.hi, found.status) == (500, 550, "switched") and 500 < found.step < 550
    assert crossing(t, -values).step == found.step
    assert crossing(t, 0 * t).status == "never" and crossing(t[:5], values[:5]).status == "too few"


def test_a_crossing_right_after_step_0_has_a_date() -> None:
    found = overtake([0, 10, 20, 30, 40, 50, 60], [3, 1, 1, 1, 1, 1, 1], [2] * 7)
    assert (found.step, found.lo, found.hi) == (5, 0, 10)
    assert overtake([0, 10, 20, 30, 40, 50], [0] * 6, [2] * 6).status == "begun"


def test_the_interval_holds_the_time_the_curves_met() -> None:
    held = []
    for k, (n, rho, size) in product(range(60), [(25, 0, 0.02), (60, 0.5, 0.1), (40, 0.7, 0.1)]):
        rng = stream("test", "overtake", k, n)
        t, met = np.geomspace(1, 3000, n), 10 ** rng.uniform(1, 2.5)
        found = overtake(t, 1 - 2 * switch(t, met, 0.6) + size * noise(rng, n, rho), 0 * t)
        held.append(found.lo <= met <= found.hi)
    assert np.mean(held) >= 0.93


def distances(curves: dict[str, np.ndarray], steps: np.ndarray, run: str = "a") -> pd.DataFrame:
    parts = [pd.DataFrame({"step": steps, "strategy": s, "value": v}) for s, v in curves.items()]
    return pd.concat(parts).assign(run=run, seed=1, metric="kl", sequences=lambda rows: rows["step"] * 64)


def test_phases_follow_the_nearest_strategy() -> None:
    t = np.arange(0, 900, 20)
    curves = {
        "uniform": np.interp(t, [0, 100, 500, 600], [0.0, 0.1, 0.1, 0.3]),
        "unigram": np.interp(t, [0, 100, 500, 600], [0.1, 0.01, 0.01, 0.2]),
        "bigram": np.interp(t, [0, 500, 600], [0.3, 0.2, 0.01]),
    }
    found = phases(distances(curves, t), ("uniform", "unigram", "bigram")).set_index("strategy")
    assert list(found["before"]) == ["uniform", "unigram"] and list(found["status"]) == ["switched"] * 2
    assert found["value"].tolist() == pytest.approx([100 * 0.1 / 0.19, 550], rel=0.02)
    assert (found["lo"] <= found["value"]).all() and (found["value"] <= found["hi"]).all()
    assert found["hi"]["unigram"] == 60 and found["lo"]["bigram"] == 540
    assert found["held"]["unigram"] == 25 and found["sequences"]["bigram"] == round(found["value"]["bigram"] * 64)


def test_a_phase_passed_over_is_said_to_be() -> None:
    t = np.arange(0, 900, 20)
    curves = {"uniform": t / 900, "unigram": 0 * t + 0.6, "bigram": 1 - t / 900}
    found = phases(distances(curves, t), ("uniform", "unigram", "bigram")).set_index("strategy")
    assert list(found["status"]) == ["skipped", "switched"] and np.isnan(found["value"]["unigram"])
    stuck = phases(distances({**curves, "uniform": 0 * t}, t), ("uniform", "bigram"))
    assert list(stuck["status"]) == ["never"] and stuck["last"].item() == 880
    with pytest.raises(ValueError, match="'bigarm'.*'bigram'"):
        phases(distances(curves, t), ("uniform", "bigarm"))
    with pytest.raises(ValueError, match="too short"):
        phases(distances(curves, t), ("uniform",))


# --- rows


def measured(run: str, t50: float, head: int = 0) -> pd.DataFrame:
    t = np.append(0, np.unique(STEPS.round()))
    values = np.append(0, switch(t[1:], t50, 0.4))
    return pd.DataFrame(
        {
            "run": run,
            "arm": "two layers",
            "seed": int(run[1:]),
            "step": t,
            "metric": "copying",
            "head": head,
            "value": values,
        }
    ).assign(sequences=lambda rows: rows["step"] * 64, measure="heads", layer=1, lo=np.nan)


def test_rows_become_one_dated_row_a_curve() -> None:
    rows = pd.concat([measured("r1", 50), measured("r2", 90), measured("r1", 200, head=1)])
    rows = pd.concat([rows, rows.assign(metric="entropy", value=0.5)])
    found = onset(rows, "copying", by=("run", "head"))
    assert found["value"].tolist() == pytest.approx([50, 90, 200], rel=1e-2)
    assert found["run"].tolist() == ["r1", "r2", "r1"] and found["head"].tolist() == [0, 0, 1]
    assert (found["arm"] == "two layers").all() and (found["layer"] == 1).all() and (found["measure"] == "onset").all()
    assert found["sequences"].tolist() == (found["value"] * 64).round().tolist() and "step" not in found
    flat = onset(rows, "entropy", head=1)
    assert flat["status"].item() == "flat" and flat["value"].isna().item() and flat["last"].item() == 3000


def test_two_curves_in_one_are_refused() -> None:
    rows = pd.concat([measured("r1", 50), measured("r1", 200, head=1)])
    with pytest.raises(ValueError, match="2 times in one curve; they differ in 'head'"):
        onset(rows, "copying")
    with pytest.raises(ValueError, match="no column 'haed'; did you mean 'head'"):
        onset(rows, "copying", by=("run", "haed"))


def test_a_transient_gives_two_rows() -> None:
    rows = measured("r1", 20)
    rows["value"] -= np.append(0, switch(rows["step"].to_numpy()[1:], 600, 0.3))
    assert onset(rows, "copying", fit=rise_and_fall)["direction"].tolist() == ["rise", "fall"]
