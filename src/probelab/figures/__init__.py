"""From tables to Plotly figures, one kind of picture a file: nothing is computed, torch and network are not needed."""

from __future__ import annotations

from probelab.figures._save import plotted, save
from probelab.figures.dynamics import dynamics
from probelab.figures.heads import heads
from probelab.figures.pattern import pattern
from probelab.figures.phases import phases

FIGURES = {"dynamics": dynamics, "phases": phases, "heads": heads, "pattern": pattern}

__all__ = ["FIGURES", "dynamics", "heads", "pattern", "phases", "plotted", "save"]
