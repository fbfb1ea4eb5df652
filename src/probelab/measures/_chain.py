"""What measures of chains share: tasks that have one, the answers that a model gives, rates with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from probelab.decode import decode
from probelab.measures._estimate import pooled
from probelab.subject import Model, Subject
from synthetic_tasks.chain import Chain

Array = np.ndarray


def chain_of(measure: str, subject: Subject) -> Chain:
    """The chain of a run's task, or an error that says what to measure instead."""
    chain = getattr(subject.task, "chain", None)
    if chain is None:
        raise ValueError(
            f"{measure} needs a task with chains, and {subject.task.name!r} has none: measure loss or lens"
        )
    return chain


def answered(model: Model, chain: Chain, texts: Array) -> Array:
    """The answers that a model gives when it goes on from texts, its likeliest symbols: `[batch]`, -1 for none."""
    return chain.parse(decode(model, texts, chain.parse))


def rate(happened: Array, where: Array | None = None) -> dict[str, Any]:
    """`value lo hi n` of a mean over rows `[batch]`, or over those `where` it counts; nothing counted: NaN."""
    there = np.ones(happened.shape, bool) if where is None else where
    return pooled(happened[there], np.ones(there.sum())).row() if there.any() else dict(value=np.nan, n=0)
