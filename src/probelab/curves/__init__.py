"""Rows to rows: dates of switches, their order, and what many seeds say together. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from probelab.curves.across import across
from probelab.curves.crossing import Crossing, crossing, overtake
from probelab.curves.onset import Onset, fit_onset, onset
from probelab.curves.order import order
from probelab.curves.phases import phases
from probelab.curves.seeds import over_seeds
from probelab.curves.transience import rise_and_fall

CURVES: dict[str, Callable[..., Any]] = {
    "across": across,
    "crossing": crossing,
    "onset": onset,
    "order": order,
    "phases": phases,
    "seeds": over_seeds,
    "transience": rise_and_fall,
}

__all__ = [
    "CURVES",
    "Crossing",
    "Onset",
    "across",
    "crossing",
    "fit_onset",
    "onset",
    "order",
    "over_seeds",
    "overtake",
    "phases",
    "rise_and_fall",
]
