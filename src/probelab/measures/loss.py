"""Loss in nats per scored token, over the whole sequence or by position, beside that of the task's oracles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probelab.measures._contract import Row
from probelab.measures._estimate import mean_where, pooled
from probelab.measures._read import by_model, by_oracle, nats, oracle_nats
from probelab.subject import Subject
from synthetic_tasks.task import require


@dataclass(frozen=True)
class Loss:
    """Metrics `loss` and, by `strategy`, `oracle_loss` (constant over steps); nats, 95 % interval over sequences.

    n            sequences that training never sees
    split        where they come from
    by_position  also a row for each position at which something is asked
    """

    n: int = 1024
    split: str = "train"
    by_position: bool = False

    name = "loss"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batch = subject.batch(self.n, self.split)
        asked = batch.targets >= 0
        oracles = by_oracle(subject.task, batch, oracle_nats)
        constant = [
            dict(metric="oracle_loss", strategy=name, **row)
            for name, losses in oracles.items()
            for row in self._rows(losses, asked)
        ]
        for step, model in subject:
            found = [dict(metric="loss", **row) for row in self._rows(by_model(model, batch, nats), asked)]
            yield from (dict(step=step, split=self.split, **row) for row in found + constant)

    def _rows(self, losses: np.ndarray, asked: np.ndarray) -> Iterator[Row]:
        """The mean of `losses [sequence pos]`, then the mean at each position."""
        yield mean_where(losses, asked).row()
        if self.by_position:
            for pos in np.flatnonzero(asked.any(axis=0)):
                yield dict(pos=int(pos), **pooled(losses[:, pos], asked[:, pos]).row())
