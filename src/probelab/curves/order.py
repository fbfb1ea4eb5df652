"""Which came first: two onsets in the same runs, paired, with an exact test.

    gap = log10(onset of second) - log10(onset of first), one for each run     > 0: the first came first

Under the null hypothesis the two are exchangeable within a run, so every gap could as well have the other sign: p is
the share of all 2^n sign patterns whose mean gap is at least as far out (two-sided; sampled above 16 pairs). The
smallest p is 2/2^n: 5 pairs cannot reach .05, 6 give .031.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from probelab.curves._groups import groups, once, shared
from probelab.curves.seeds import attained, median_interval
from probelab.rows import pick, tidy
from synthetic_tasks.task import stream

Which = str | dict[str, Any]


def order(
    onsets: pd.DataFrame, first: Which, second: Which, pair_by: str = "run", by: Sequence[str] = ()
) -> pd.DataFrame:
    """The gap between two kinds of onset, in decades: one row for each group of `by` (one in all, if empty).

    `first` and `second` are coordinates, or the name of a metric: `order(dated, "prefix_matching", "copy")`,
    `order(dated, {"arm": "a"}, {"arm": "b"}, pair_by="seed")`. `value` is the median gap with an order-statistic
    interval at `level` (.95 from 6 pairs on, the range below), `p` the sign-flip test, `p_first` the chance that the
    first comes first (ties count half), `n` the pairs that tell an order.

    A run that never switched is later than its last step: with the other date known, the pair tells the order, and
    its gap is at least so much (`censored` counts these: infinite in the median, at their bound in the test). Where
    neither switched, or the bounds overlap, the pair tells nothing: `silent`. `unpaired` counts runs that have only
    one of the two. Errors: a run with two onsets of a kind, no pair at all.
    """
    found = []
    for _, part in groups(onsets, by):
        one, two = (pick(part, **({"metric": w} if isinstance(w, str) else w)) for w in (first, second))
        for side in (one, two):
            once(side, pair_by, "side of an order")
        pairs = bounds(one, pair_by).add_suffix(" 1").join(bounds(two, pair_by).add_suffix(" 2"), how="inner")
        if pairs.empty:
            raise ValueError(f"no {pair_by} has both {name(first)} and {name(second)}: there is no pair to order")
        with np.errstate(divide="ignore"):
            least = np.log10((pairs["lo 2"] / pairs["hi 1"]).to_numpy(float))
            most = np.log10((pairs["hi 2"] / pairs["lo 1"]).to_numpy(float))
        found.append(
            {
                **shared(part, by),
                "measure": "order",
                "metric": "gap",
                "first": name(first),
                "second": name(second),
                **verdict(least, most),
                "unpaired": len(one) + len(two) - 2 * len(pairs),
            }
        )
    return tidy(found)


def bounds(onsets: pd.DataFrame, pair_by: str) -> pd.DataFrame:
    """Between which steps each onset lies: its date, or from `last` on, or up to `since`."""
    lo, hi = onsets["value"].to_numpy(float, copy=True), onsets["value"].to_numpy(float, copy=True)
    status = onsets["status"].to_numpy(str)
    early, unknown = status == "begun", status == "too few"
    late = ~np.isin(status, ["switched", "begun", "too few"])
    lo[late], hi[late] = onsets["last"].to_numpy(float)[late], np.inf
    lo[early], hi[early] = 0, np.maximum(onsets["since"].to_numpy(float)[early], 1)
    lo[unknown], hi[unknown] = 0, np.inf
    return pd.DataFrame({"lo": lo, "hi": hi}, index=pd.Index(onsets[pair_by], name=pair_by))


def verdict(least: np.ndarray, most: np.ndarray) -> dict[str, Any]:
    """Gap, test and effect from the bounds of each pair's gap `[n]`."""
    exact = least == most
    known = exact | (least > 0) | (most < 0)
    gap = np.where(exact | (least > 0), least, most)[known]  # where only bounded, the value nearest to no gap
    far = np.where(exact[known], gap, np.copysign(np.inf, gap))
    middle, lo, hi = median_interval(far)
    return {
        "value": middle,
        "lo": lo,
        "hi": hi,
        "level": attained(len(gap)),
        "p": sign_flip(gap),
        "p_first": float(np.mean((gap > 0) + 0.5 * (gap == 0))) if len(gap) else np.nan,
        "n": len(gap),
        "censored": int((~exact[known]).sum()),
        "silent": int((~known).sum()),
    }


def sign_flip(gaps: np.ndarray) -> float:
    """Two-sided p of the mean of `gaps` `[n]` among all their sign patterns, or 65,536 of them."""
    if len(gaps) < 2:  # the two patterns of one pair are as far from no gap: 2/2
        return 1.0 if len(gaps) else np.nan
    rng = stream("curves", "sign flip")
    test = permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=2**16, vectorized=True, rng=rng)
    return float(test.pvalue)


def name(which: Which) -> str:
    """The kind of onset in words."""
    return which if isinstance(which, str) else " ".join(str(v) for v in which.values())
