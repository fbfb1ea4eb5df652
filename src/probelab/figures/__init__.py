"""From tables to Plotly figures, one kind of picture a file: nothing is computed, torch and network are not needed."""

from __future__ import annotations

from probelab.figures._save import plotted, save
from probelab.figures.against import against
from probelab.figures.attribution import attribution
from probelab.figures.causal import causal
from probelab.figures.dynamics import dynamics
from probelab.figures.edges import edges
from probelab.figures.heads import heads
from probelab.figures.lens import lens
from probelab.figures.multiples import multiples
from probelab.figures.patching import patching
from probelab.figures.pattern import pattern
from probelab.figures.phase_diagram import phase_diagram
from probelab.figures.phases import phases
from probelab.figures.plane import plane
from probelab.figures.probes import probes
from probelab.figures.race import race
from probelab.figures.timeline import timeline

FIGURES = {
    "dynamics": dynamics,
    "multiples": multiples,
    "phases": phases,
    "phase_diagram": phase_diagram,
    "plane": plane,
    "race": race,
    "heads": heads,
    "pattern": pattern,
    "patching": patching,
    "edges": edges,
    "lens": lens,
    "attribution": attribution,
    "causal": causal,
    "timeline": timeline,
    "probes": probes,
    "against": against,
}

__all__ = [
    "FIGURES",
    "against",
    "attribution",
    "causal",
    "dynamics",
    "edges",
    "heads",
    "lens",
    "multiples",
    "patching",
    "pattern",
    "phase_diagram",
    "phases",
    "plane",
    "plotted",
    "probes",
    "race",
    "save",
    "timeline",
]
