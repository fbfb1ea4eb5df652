"""From the observed variable to the target by direct answers about what is near: each step forgets those before."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from probelab.measures._read import by_model
from probelab.subject import Model
from synthetic_tasks import Batch, BayesNet

Array = np.ndarray


class Step(NamedTuple):
    """A text that shows one set of variables, and asks how likely certain values of the next set are.

    query, stage  which query, and which of its steps
    shown, told   the variables of both sets, and their values
    seen          how many of them are shown
    here, there   both sets' values, read as binary numbers
    """

    query: int
    stage: int
    shown: tuple[int, ...]
    told: tuple[int, ...]
    seen: int
    here: int
    there: int


class Walk:
    """p(target = 1) = sum over the values of all sets of p(S1 | observed) p(S2 | S1) ... p(target | Sn).

    S1, S2, ... are sets that d-separate the two, one behind the other (`Network.stages`). The texts do not depend on
    the model: they are made once.
    """

    def __init__(self, task: BayesNet, batch: Batch):
        facts = zip(*(batch.facts[name].tolist() for name in ("observed", "evidence", "target")), strict=True)
        self.steps: list[Step] = []
        for query, (one, value, other) in enumerate(facts):
            sets = [(one,), *task.fixed.net.stages(one, other), (other,)]
            for stage, (here, there) in enumerate(pairwise(sets)):
                seen = [(value,)] if stage == 0 else product((0, 1), repeat=len(here))
                for known, told in product(seen, [*product((0, 1), repeat=len(there))]):
                    shown, numbers = here + there, (binary(known), binary(told))
                    self.steps.append(Step(query, stage, shown, known + told, len(here), *numbers))
        most = max(len(step.shown) for step in self.steps)
        shown, state = np.full((len(self.steps), most), -1), np.full((len(self.steps), task.variables), -1)
        self.at = np.full((len(self.steps), most), -1)  # where each variable is named that is asked
        for row, step in enumerate(self.steps):
            shown[row, : len(step.shown) - 1], shown[row, -1] = step.shown[:-1], step.shown[-1]
            state[row, list(step.shown)] = step.told
            self.at[row, step.seen : len(step.shown)] = 2 + 2 * np.arange(step.seen, len(step.shown))
        self.texts = task.query(state, shown).tokens
        self.told = np.array([(*step.told, *[0] * (most - len(step.told))) for step in self.steps])

    def __call__(self, model: Model) -> Array:
        """p(target = 1) by a model, `[query]`."""
        p = spoken(model, self.texts, self.at)
        likely = np.where(self.at < 0, 1, np.where(self.told == 1, p, 1 - p)).prod(axis=1)
        mass = [{step.here: 1.0} for step in self.steps if step.stage == 0 and step.there == 0]
        for stage in range(1 + max(step.stage for step in self.steps)):
            later: dict[int, dict[int, float]] = {}
            for step, share in zip(self.steps, likely, strict=True):
                if step.stage == stage:
                    found = later.setdefault(step.query, {})
                    found[step.there] = found.get(step.there, 0.0) + mass[step.query][step.here] * share
            for query, found in later.items():
                mass[query] = found
        return np.array([found[1] for found in mass])


def binary(values: tuple[int, ...]) -> int:
    """Values of 0 and 1, read as one number."""
    return int("".join(map(str, values)), 2)


def spoken(model: Model, texts: Array, at: Array) -> Array:
    """p(value 1) among the two values after reading up to `at [text place]`, float64 of this shape; where -1, any."""
    batch = Batch(texts, np.full_like(texts, -1))
    task: Any = model.task
    zero, one = task.chain.symbols
    odds = by_model(model, batch, lambda part, logits: (logits[..., one] - logits[..., zero]).double().cpu().numpy())
    return 1 / (1 + np.exp(-odds[np.arange(len(texts))[:, None], at]))
