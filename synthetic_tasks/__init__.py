"""Synthetic tasks with dials for skew and local structure: data for studies of how abilities emerge. numpy only."""

from __future__ import annotations

from synthetic_tasks.addition import Addition
from synthetic_tasks.bayes_net import BayesNet
from synthetic_tasks.card import card
from synthetic_tasks.chain import Chain
from synthetic_tasks.classification import Classification
from synthetic_tasks.export import generate
from synthetic_tasks.expressions import Expressions
from synthetic_tasks.gallery import describe, gallery
from synthetic_tasks.markov import Markov
from synthetic_tasks.parity import Parity
from synthetic_tasks.repeats import Repeats
from synthetic_tasks.task import Batch, Pairs, Task, batch, preset, stream, turn
from synthetic_tasks.two_hop import TwoHop

TASKS: dict[str, type[Task]] = {
    "markov": Markov,
    "repeats": Repeats,
    "classification": Classification,
    "parity": Parity,
    "addition": Addition,
    "expressions": Expressions,
    "two_hop": TwoHop,
    "bayes_net": BayesNet,
}

__all__ = [
    "TASKS",
    "Addition",
    "Batch",
    "BayesNet",
    "Chain",
    "Classification",
    "Expressions",
    "Markov",
    "Pairs",
    "Parity",
    "Repeats",
    "Task",
    "TwoHop",
    "batch",
    "card",
    "describe",
    "gallery",
    "generate",
    "preset",
    "stream",
    "turn",
]
