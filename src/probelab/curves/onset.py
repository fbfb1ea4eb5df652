"""The date of one switch: a logistic in log step, behind a gate, with a profile-likelihood interval.

    value  end ........________     y = start + (end - start) / (1 + exp(-(ln t - ln t50) / s)) + AR(1) noise
                      /
         start ______/              t10 and t90 = t50 * exp(-+2.197 s): where 10 % and 90 % of the change is done
                t10 t50 t90         width = log10(t90 / t10), in decades

Gate. A curve has switched only if (1) the logistic beats a flat line and a drift (linear in ln t) by `MARGIN` of BIC,
all with AR(1) noise; (2) it changes by at least `AMPLITUDE` noise SD; (3) both plateaus are seen: `PLATEAU`
checkpoints at or beyond t10 and t90, `SIDE` on each side of t50, and an interval that ends inside the record.

Interval. Profile likelihood of ln t50 over width and rho, where rho is judged by restricted likelihood (plain
likelihood takes it too small on short curves). The cut is an F quantile with (n - 4)(1 - rho) degrees of freedom:
neighbours that agree are not two witnesses. A switch sharper than the checkpoints is only known to lie between two of
them: with fewer than two checkpoints inside (t10, t90) the interval contains that bracket (it then covers more than
its rate), and with none, t50 is the bracket's geometric middle and t10, t90 are its ends, so that the width is an
upper bound.

Step 0 has no logarithm and is dropped: the level before is read off the first steps, not off the untrained model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probelab.curves._ar1 import solve
from probelab.curves._groups import groups, once
from probelab.curves._logistic import columns, profile, search
from probelab.rows import pick, tidy

MARGIN = 8.0  # with 10, one true switch of 8 noise SD in four is lost; with 6, 7 % of autocorrelated drifts are dated
AMPLITUDE = 3.0
PLATEAU, SIDE = 2, 3
LEAST = 10  # checkpoints
TAIL = np.log(9)  # the logit of 90 %

Window = tuple[float | None, float | None]


@dataclass(frozen=True)
class Onset:
    """When one curve switched. Times are steps, levels in the curve's unit; NaN (and "") unless `status` is "switched".

    status  switched, flat, drift, too few, unfinished (under way when the record ends), begun (when it starts)
    since, last  the steps between which the curve was seen; n the checkpoints among them
    noise, rho   SD of the residuals and their correlation from one checkpoint to the next
    """

    status: str
    n: int
    since: float
    last: float
    t50: float = np.nan
    lo: float = np.nan
    hi: float = np.nan
    t10: float = np.nan
    t90: float = np.nan
    start: float = np.nan
    end: float = np.nan
    noise: float = np.nan
    rho: float = np.nan

    @property
    def switched(self) -> bool:
        """Whether there is a date."""
        return self.status == "switched"

    @property
    def width(self) -> float:
        """Decades from 10 % to 90 % of the change."""
        return float(np.log10(self.t90 / self.t10))

    @property
    def direction(self) -> str:
        """Whether the curve rises or falls ("rise", "fall")."""
        return "" if not self.switched else "rise" if self.end > self.start else "fall"

    def row(self) -> dict[str, Any]:
        """The columns of an onset row: t50 is its `value`."""
        fields = asdict(self)
        return {"value": fields.pop("t50"), **fields, "width": self.width, "direction": self.direction}


def fit_onset(
    steps: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    between: Window = (None, None),
    level: float = 0.95,
) -> Onset:
    """Date the switch of one curve (`steps` and `values` `[n]`, in any order), or refuse: see the module's docstring.

    `between` keeps the steps from one to another (both included, None is open), so that each switch of a curve that has
    several is dated by itself. Missing values are dropped. Errors: a step twice, a negative step, an empty window.
    """
    t, y = usable(steps, values, between)
    n = len(t)
    seen: dict[str, Any] = {"n": n, "since": float(t[0]) if n else np.nan, "last": float(t[-1]) if n else np.nan}
    if n < LEAST:
        return Onset("too few", **seen)
    scale, middle = np.ptp(y), y.mean()
    if scale <= 1e-12 * np.abs(y).max():
        return Onset("flat", **seen)
    x, y = np.log(t), (y - middle) / scale
    guess, scores = search(x, y)
    rival = min("flat", "drift", key=scores.__getitem__)
    if scores[rival] - scores["logistic"] < MARGIN:
        return Onset(rival, **seen)
    mu, s, rho, lo, hi = profile(x, y, guess, level)
    design = columns(x, (mu, s))
    before, change = solve(y, design, rho)
    noise = np.sqrt(((y - design @ [before, change]) ** 2).sum() / (n - 4))
    if abs(change) < AMPLITUDE * noise:
        return Onset(rival, **seen)
    t10, t90 = mu - TAIL * s, mu + TAIL * s
    if (x >= t90).sum() < PLATEAU or (x > mu).sum() < SIDE or hi >= x[-1]:
        return Onset("unfinished", **seen)
    if (x <= t10).sum() < PLATEAU or (x < mu).sum() < SIDE or lo <= x[0]:
        return Onset("begun", **seen)
    after = np.searchsorted(x, mu)
    inside = ((x > t10) & (x < t90)).sum()
    if inside < 2:
        lo, hi = min(lo, x[after - 1]), max(hi, x[after])
    if inside == 0:
        t10, t90 = x[after - 1], x[after]
        mu = (t10 + t90) / 2
    at = {"t50": mu, "lo": lo, "hi": hi, "t10": t10, "t90": t90}
    found: dict[str, Any] = {name: float(np.exp(x)) for name, x in at.items()}
    found |= {"start": float(middle + scale * before), "end": float(middle + scale * (before + change))}
    return Onset("switched", **seen, **found, noise=float(noise * scale), rho=rho)


def usable(
    steps: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    between: Window = (None, None),
    zero: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values in order, without missing values, what lies outside the window, and (unless `zero`) step 0."""
    t, y = np.asarray(steps, float), np.asarray(values, float)
    if t.ndim != 1 or t.shape != y.shape:
        raise ValueError(f"steps {t.shape} and values {y.shape} must be two lists of one length")
    order = np.argsort(t)
    t, y = t[order], y[order]
    if (t < 0).any():
        raise ValueError(f"step {t[0]:g} is negative: steps count from 0, the untrained model")
    if (np.diff(t) == 0).any():
        raise ValueError(f"step {t[1:][np.diff(t) == 0][0]:g} occurs twice: this is more than one curve")
    start, stop = between[0] or 0, np.inf if between[1] is None else between[1]
    if start >= stop:
        raise ValueError(f"between = {between!r} is empty: its first step must come before its second")
    keep = np.isfinite(y) & (zero | (t > 0)) & (t >= start) & (t <= stop)
    return t[keep], y[keep]


def onset(
    rows: pd.DataFrame,
    metric: str | None = None,
    by: Sequence[str] = ("run",),
    between: Window = (None, None),
    fit: Callable[..., Onset | tuple[Onset, ...]] = fit_onset,
    **where: Any,
) -> pd.DataFrame:
    """Date every curve: one row for each group of `by`, with the coordinates that are constant in it.

    `where` picks the rows first: `onset(rows, "prefix_matching", by=("run", "layer", "head"), split="train")`. With
    `fit=rise_and_fall` each curve gives two rows. A curve that never switched has value NaN and is censored at `last`.
    Where the rows count sequences and tokens, so do the dates. Errors: a curve with two values at one step.
    """
    chosen = pick(rows, **({} if metric is None else {"metric": metric}), **where)
    found = []
    for keys, part in groups(chosen, by):
        once(part, "step", "curve")
        dated = fit(part["step"].to_numpy(float), part["value"].to_numpy(float), between=between)
        for one in dated if isinstance(dated, tuple) else (dated,):
            found.append({**keys, "measure": "onset", **one.row(), **seen_at(part, one.t50)})
    return tidy(found)


def seen_at(part: pd.DataFrame, step: float) -> dict[str, Any]:
    """Sequences and tokens seen at a step between two checkpoints."""
    part = part.sort_values("step")
    x = part["step"].to_numpy(float)
    counts = {c: part[c].to_numpy(float) for c in ("sequences", "tokens") if c in part}
    return {c: None if np.isnan(step) else round(float(np.interp(step, x, y))) for c, y in counts.items()}
