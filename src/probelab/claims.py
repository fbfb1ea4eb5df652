"""A published sentence as data, and the one rule that judges it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from probelab.curves.seeds import median_interval

Verdict = Literal["held", "failed", "undecided"]


class Estimate(NamedTuple):
    """A quantity with its 95 % interval, and the number of seeds behind it."""

    value: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True)
class Claim:
    """What a paper says, and where the measured quantity must lie for it to hold here.

    quantity       rows of the study -> estimate
    region         closed interval, fixed before the report seeds are run
    published      what the source reports, for comparison
    preconditions  (sentence, rows -> bool): what makes the claim meaningful; unmet, it is undecided
    """

    name: str
    sentence: str
    source: str
    quantity: Callable[[pd.DataFrame], Estimate]
    region: tuple[float, float]
    published: str = ""
    unit: str = ""
    least: int = 6
    preconditions: tuple[tuple[str, Callable[[pd.DataFrame], bool]], ...] = ()


class Judged(NamedTuple):
    """A claim with its estimate, its verdict, and why it is undecided if it is."""

    claim: Claim
    estimate: Estimate
    verdict: Verdict
    reason: str = ""


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def judge(claim: Claim, table: pd.DataFrame, barred: str = "") -> Judged:
    """`held` if the interval lies in the region, `failed` if it misses it, else `undecided`.

    Too few seeds, an unmet precondition, or being barred (altered dials, tuning seeds) leaves a claim undecided, with
    the reason.
    """
    try:
        estimate = claim.quantity(table)
        unmet = [sentence for sentence, met in claim.preconditions if not met(table)]
    except (ValueError, LookupError) as error:
        return Judged(claim, NOTHING, "undecided", f"cannot be computed from these rows: {error}")
    if barred:
        return Judged(claim, estimate, "undecided", barred)
    if estimate.n < claim.least:
        return Judged(claim, estimate, "undecided", f"n = {estimate.n}, needs {claim.least}; run --preset full")
    if unmet:
        return Judged(claim, estimate, "undecided", f"precondition not met: {unmet[0]}")
    if any(math.isnan(end) for end in estimate[:3]):
        return Judged(claim, estimate, "undecided", "no estimate")
    low, high = claim.region
    if low <= estimate.lo and estimate.hi <= high:
        return Judged(claim, estimate, "held")
    if estimate.hi < low or estimate.lo > high:
        return Judged(claim, estimate, "failed")
    return Judged(claim, estimate, "undecided", "the interval crosses the edge of the region")


def of_row(row: pd.Series) -> Estimate:
    """The estimate that a row holds as `value lo hi n`, such as the row of `curves.order`."""
    return Estimate(float(row["value"]), float(row["lo"]), float(row["hi"]), int(row["n"]))


def median(values: np.ndarray | pd.Series) -> Estimate:
    """Median over seeds with the distribution-free interval of order statistics: the range for 6 and 7 seeds."""
    values = np.asarray(values, float)
    if not len(values) or np.isnan(values).any():
        return Estimate(math.nan, math.nan, math.nan, len(values))
    return Estimate(*median_interval(values), len(values))


def share(holds: np.ndarray | pd.Series) -> Estimate:
    """Share of seeds in which something holds, with the exact Clopper-Pearson interval: 6 of 6 gives .54 to 1."""
    holds = np.asarray(holds, bool)
    if not len(holds):
        return NOTHING
    interval = stats.binomtest(int(holds.sum()), len(holds)).proportion_ci(0.95)
    return Estimate(float(holds.mean()), float(interval.low), float(interval.high), len(holds))


def card(judged: list[Judged]) -> str:
    """The report card as a Markdown table."""
    lines = ["| claim | here (95 % interval) | region | published | verdict |", "| --- | --- | --- | --- | --- |"]
    for claim, estimate, verdict, reason in judged:
        low, high = claim.region
        ends = f"{number(low)} to {number(high)}"
        region = f"≤ {number(high)}" if low == -math.inf else f"≥ {number(low)}" if high == math.inf else ends
        interval = f"({number(estimate.lo)} to {number(estimate.hi)})"
        here = " ".join(filter(None, (number(estimate.value), claim.unit, interval))) + f", n = {estimate.n}"
        told = f"**{verdict}**" + (f" ({reason})" if reason else "")
        cells = (f"{claim.sentence} *{claim.source}*", here, f"{region} {claim.unit}".strip())
        lines.append("| " + " | ".join((*cells, claim.published, told)) + " |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three significant figures; infinite ends in words."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "unbounded"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
