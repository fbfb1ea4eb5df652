"""Measures: what is read off a model at its checkpoints. `MEASURES` lists what ships; any object like them will do."""

from __future__ import annotations

from probelab.measures._contract import Measure, Named
from probelab.measures.circuit import Circuit
from probelab.measures.classify import Classify
from probelab.measures.heads import Heads
from probelab.measures.icl import InContext
from probelab.measures.loss import Loss
from probelab.measures.mixture import Mixture
from probelab.measures.norms import Norms
from probelab.measures.patterns import Patterns
from probelab.measures.strategy import Strategy

MEASURES: dict[str, type] = {
    "loss": Loss,
    "strategy": Strategy,
    "icl": InContext,
    "heads": Heads,
    "norms": Norms,
    "patterns": Patterns,
    "classify": Classify,
    "circuit": Circuit,
    "mixture": Mixture,
}

__all__ = [
    "MEASURES",
    "Circuit",
    "Classify",
    "Heads",
    "InContext",
    "Loss",
    "Measure",
    "Mixture",
    "Named",
    "Norms",
    "Patterns",
    "Strategy",
]
