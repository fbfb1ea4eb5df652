"""Measures: what is read off a model at its checkpoints. `MEASURES` lists what ships; any object like them will do."""

from __future__ import annotations

from probelab.measures._contract import Measure, Named
from probelab.measures.answers import Answers
from probelab.measures.attribution import Attribution
from probelab.measures.backpatch import BackPatch
from probelab.measures.circuit import Circuit
from probelab.measures.classify import Classify
from probelab.measures.composition import Composition
from probelab.measures.early import Early
from probelab.measures.edges import Edges
from probelab.measures.faithful import Faithful
from probelab.measures.follow import Follow
from probelab.measures.heads import Heads
from probelab.measures.icl import InContext
from probelab.measures.lens import Lens
from probelab.measures.loss import Loss
from probelab.measures.mixture import Mixture
from probelab.measures.norms import Norms
from probelab.measures.patching import Patching
from probelab.measures.patterns import Patterns
from probelab.measures.probe import Probe
from probelab.measures.ready import Ready
from probelab.measures.reasoning import Reasoning
from probelab.measures.sparsity import Sparsity
from probelab.measures.strategy import Strategy
from probelab.measures.use import Use

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
    "patching": Patching,
    "edges": Edges,
    "faithful": Faithful,
    "ready": Ready,
    "probe": Probe,
    "use": Use,
    "lens": Lens,
    "attribution": Attribution,
    "composition": Composition,
    "answers": Answers,
    "early": Early,
    "follow": Follow,
    "reasoning": Reasoning,
    "sparsity": Sparsity,
    "backpatch": BackPatch,
}

__all__ = [
    "MEASURES",
    "Answers",
    "Attribution",
    "BackPatch",
    "Circuit",
    "Classify",
    "Composition",
    "Early",
    "Edges",
    "Faithful",
    "Follow",
    "Heads",
    "InContext",
    "Lens",
    "Loss",
    "Measure",
    "Mixture",
    "Named",
    "Norms",
    "Patching",
    "Patterns",
    "Probe",
    "Ready",
    "Reasoning",
    "Sparsity",
    "Strategy",
    "Use",
]
