"""Synthetic tasks with dials for skew and local structure: data for studies of how abilities emerge. numpy only."""

from __future__ import annotations

from synthetic_tasks.card import card
from synthetic_tasks.chain import Chain
from synthetic_tasks.classification import Classification
from synthetic_tasks.export import generate
from synthetic_tasks.gallery import describe, gallery
from synthetic_tasks.markov import Markov
from synthetic_tasks.parity import Parity
from synthetic_tasks.repeats import Repeats
from synthetic_tasks.task import Batch, Pairs, Task, batch, preset, stream, turn

TASKS: dict[str, type[Task]] = {
    "markov": Markov,
    "repeats": Repeats,
    "classification": Classification,
    "parity": Parity,
}

__all__ = [
    "TASKS",
    "Batch",
    "Chain",
    "Classification",
    "Markov",
    "Pairs",
    "Parity",
    "Repeats",
    "Task",
    "batch",
    "card",
    "describe",
    "gallery",
    "generate",
    "preset",
    "stream",
    "turn",
]
