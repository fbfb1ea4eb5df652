"""One rule gives every verdict: worked by hand here, and its intervals held against scipy and against counting."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from probelab.claims import Claim, Estimate, card, judge, median, number, share
from probelab.conduct import barred
from probelab.studies import STUDIES

ROWS = pd.DataFrame({"value": [1.0]})


def claim(estimate: Any, region: tuple[float, float] = (0.0, 1.0), **more: Any) -> Claim:
    quantity = estimate if callable(estimate) else lambda rows: Estimate(*estimate)
    return Claim("name", "A sentence.", "Somebody 2020", quantity, region, **more)


@pytest.mark.parametrize(
    ("estimate", "verdict", "reason"),
    [
        ((0.5, 0.4, 0.6, 6), "held", ""),
        ((0.5, 0.0, 1.0, 6), "held", ""),  # the region is closed
        ((2.0, 1.5, 2.5, 6), "failed", ""),
        ((-2.0, -2.5, -0.1, 6), "failed", ""),
        ((1.0, 0.9, 1.1, 6), "undecided", "crosses the edge"),
        ((1.1, 1.0, 1.2, 6), "undecided", "crosses the edge"),  # it touches
        ((0.5, -9.0, 9.0, 6), "undecided", "crosses the edge"),
        ((0.5, 0.4, 0.6, 5), "undecided", "n = 5, needs 6; run --preset full"),
        ((math.nan, 0.4, 0.6, 6), "undecided", "no estimate"),
        ((0.5, math.nan, 0.6, 6), "undecided", "no estimate"),
        ((math.inf, math.inf, math.inf, 6), "failed", ""),  # it never happened, in any seed
        ((math.inf, 0.5, math.inf, 6), "undecided", "crosses the edge"),
    ],
)
def test_the_rule(estimate: tuple[float, float, float, int], verdict: str, reason: str) -> None:
    judged = judge(claim(estimate), ROWS)
    assert judged.verdict == verdict and reason in judged.reason and bool(reason) == bool(judged.reason)


def test_open_regions() -> None:
    assert judge(claim((5, 4, 6, 6), (0.0, math.inf)), ROWS).verdict == "held"
    assert judge(claim((math.inf, 1, math.inf, 6), (0.0, math.inf)), ROWS).verdict == "held"
    assert judge(claim((5, 4, 6, 6), (-math.inf, 0.0)), ROWS).verdict == "failed"


def test_a_claim_may_need_more_seeds() -> None:
    assert judge(claim((0.5, 0.4, 0.6, 6), least=8), ROWS).reason.startswith("n = 6, needs 8")


def test_preconditions() -> None:
    met, unmet = ("it learned", lambda rows: True), ("it came near", lambda rows: False)
    assert judge(claim((0.5, 0.4, 0.6, 6), preconditions=(met,)), ROWS).verdict == "held"
    judged = judge(claim((2.0, 1.5, 2.5, 6), preconditions=(met, unmet)), ROWS)
    assert judged.verdict == "undecided" and judged.reason == "precondition not met: it came near"


def impossible(rows: pd.DataFrame) -> Any:
    return rows[rows["value"] > 9].iloc[0]


@pytest.mark.parametrize("wrong", [impossible, lambda rows: rows["nowhere"]])
def test_what_cannot_be_computed_is_undecided(wrong: Any) -> None:
    for one in (claim(wrong), claim((0.5, 0.4, 0.6, 6), preconditions=(("it learned", wrong),))):
        judged = judge(one, ROWS)
        assert judged.verdict == "undecided" and "cannot be computed from these rows" in judged.reason


def test_a_bar_stands_before_any_verdict() -> None:
    for estimate in ((0.5, 0.4, 0.6, 6), (2.0, 1.5, 2.5, 6)):
        judged = judge(claim(estimate), ROWS, barred="not judged: dials were altered")
        assert judged.verdict == "undecided" and judged.reason == "not judged: dials were altered"


def test_what_bars() -> None:
    study = STUDIES["markov"]
    assert barred(study, "full", range(100, 106), altered=False) == ""
    assert "dials were altered" in barred(study, "full", range(100, 106), altered=True)
    assert "seeds below 100" in barred(study, "full", [100, 9], altered=False)
    assert "smoke" in barred(study, "smoke", [100], altered=False)


def test_the_median_and_its_interval() -> None:
    assert median(np.array([3.0, 1, 2, 6, 5, 4])) == Estimate(3.5, 1, 6, 6)
    assert median(np.arange(1.0, 10)) == Estimate(5, 2, 8, 9)  # P(at most 1 of 9 below) = 10/512 < .025
    assert median(np.array([1.0, 1, 1, np.inf, np.inf, np.inf])).hi == math.inf
    nothing, gap = median(np.array([])), median(np.array([1.0, np.nan]))
    assert nothing.n == 0 and gap.n == 2 and math.isnan(nothing.value) and math.isnan(gap.value)


@pytest.mark.parametrize("n", [6, 7, 9, 12])
def test_the_interval_covers_the_median(n: int) -> None:
    """Every way in which n seeds may fall below or above the true median, 0, counted."""
    ranks = np.array(list(product([-1.0, 1.0], repeat=n)))
    values = ranks * np.arange(1, n + 1)
    covered = np.mean([low <= 0 <= high for _, low, high, _ in map(median, values)])
    assert covered >= 0.95


@pytest.mark.parametrize(("held", "n"), [(0, 6), (3, 6), (6, 6), (7, 20), (99, 100)])
def test_a_share_is_clopper_and_pearsons(held: int, n: int) -> None:
    found = share(np.arange(n) < held)
    low = stats.beta.ppf(0.025, held, n - held + 1) if held else 0.0
    high = stats.beta.ppf(0.975, held + 1, n - held) if held < n else 1.0
    assert found.value == held / n and found.n == n and (found.lo, found.hi) == pytest.approx((low, high), rel=1e-6)


def test_a_share_worked_by_hand() -> None:
    assert share(np.ones(6, bool)).lo == pytest.approx(0.025 ** (1 / 6))  # .54: what six of six can promise
    assert share(np.array([])).n == 0


def test_the_card_shows_failures_and_reasons() -> None:
    judged = [
        judge(claim((2.0, 1.5, 2.5, 6), unit="nats", published=".3"), ROWS),
        judge(claim((0.5, 0.4, 0.6, 3), (-math.inf, 1)), ROWS),
        judge(claim((math.inf, 0.4, math.inf, 6), (0.1, math.inf)), ROWS),
    ]
    lines = card(judged).splitlines()
    assert all(line.count("|") == 6 for line in lines)
    assert "| 2 nats (1.5 to 2.5), n = 6 | 0 to 1 nats | .3 | **failed** |" in lines[2]
    assert "≤ 1" in lines[3] and "**undecided** (n = 3, needs 6; run --preset full)" in lines[3]
    assert "unbounded" in lines[4] and "≥ 0.1" in lines[4]
    assert [number(x) for x in (0.12345, 1234.5, math.nan, -math.inf)] == ["0.123", "1234", "-", "unbounded"]


def test_every_claim_of_a_study_has_a_region_a_source_and_a_published_value() -> None:
    for study in STUDIES.values():
        names = [one.name for one in study.claims]
        assert names and len(set(names)) == len(names) and study.tried, study.name
        for one in study.claims:
            assert one.region[0] < one.region[1] and one.source and one.published and one.least >= 6
            assert one.sentence.endswith(".")
