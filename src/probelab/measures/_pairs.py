"""The task's pairs that interventions are measured on, the same at every step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from probelab.subject import Subject
from synthetic_tasks import stream
from synthetic_tasks.task import Pairs, choose


def drawn(measure: str, subject: Subject, n: int, kind: str | None, purpose: str = "measure") -> Pairs:
    """`n` pairs of a run's task from a stream that training never reads; each purpose has its own."""
    task = subject.task
    if kind is not None:
        choose(f"kind of pairs of {task.name}", kind, task.kinds)
    try:
        return task.pairs(stream(task.name, "pairs", task.world, subject.spec.data, purpose), n, kind)
    except NotImplementedError:
        raise ValueError(f"{measure} needs pairs, and {task.name!r} has none") from None


def kind_of(subject: Subject, kind: str | None) -> str:
    """The kind of pairs that is meant, for the column `pairs`: the task's first, if None."""
    return subject.task.kinds[0] if kind is None else kind


def lots(pairs: Pairs, size: int) -> Iterator[Pairs]:
    """So many pairs at a time."""
    for start in range(0, len(pairs.answer), size):
        rows = slice(start, start + size)
        clean, corrupt, position, answer, foil = pairs
        yield Pairs(clean[rows], corrupt[rows], position[rows], answer[rows], foil[rows])


def numbers(value: Tensor) -> np.ndarray:
    """float64, as the estimates want it."""
    return value.double().cpu().numpy()
