"""Which components write the answer: direct logit attribution on the task's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from probelab.lenses import Part, attribution_by_source, direct_logit_attribution, logit_directions
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, kind_of
from probelab.subject import Model, Subject
from synthetic_tasks import Task
from synthetic_tasks.task import Pairs, require


@dataclass(frozen=True)
class Attribution:
    """What each component adds to the logit of the answer minus that of the foil, on clean sequences; 95 % intervals.

    attribution       by `component`: embed, pos_embed, head (`layer`, `head`), attn_bias and mlp (`layer`), norm_bias;
                      directly, through the scale that the final norm has in that pass
    logit_difference  their sum, which is the model's own
    attribution_from_<role>  what a head adds by attending to the position that the task's fact <role> names, with
                      `by_position`; means over the sequences where it names one

    Logits. A component that tells answer and foil apart no better than chance adds 0. Not defined for models with a
    readout MLP, nor where a clamp overwrites the stream.

    n            pairs, from a stream that training never reads
    kind         of the task's pairs; the first, if None
    by_position  also rows by `pos`, the position that heads attend to; 0 after the one where the answer is read, so
                 that they sum to the head's attribution
    """

    n: int = 256
    kind: str | None = None
    by_position: bool = False

    name = "attribution"
    version = 2

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one pair")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        pairs = drawn(self.name, subject, self.n, self.kind)
        looks = roles(subject.task, pairs) if self.by_position else {}
        for step, model in subject:
            parts, by_part, by_source = attributed(model, pairs, self.by_position)
            here = dict(step=step, pairs=kind_of(subject, self.kind))
            yield from (dict(here, **row) for row in self._rows(parts, by_part, by_source, looks))

    def _rows(
        self, parts: list[Part], by_part: np.ndarray, by_source: np.ndarray | None, looks: dict[str, np.ndarray]
    ) -> Iterator[Row]:
        """`by_part [sequence part]` and `by_source [sequence head pos]` as rows."""
        yield dict(metric="logit_difference", **pooled(by_part.sum(1), np.ones(len(by_part))).row())
        mean = pooled(by_part, np.ones((len(by_part), 1)))
        for k, part in enumerate(parts):
            yield dict(metric="attribution", **coordinates(part), **mean.row(k))
        if by_source is None:
            return
        heads = [part for part in parts if part.component == "head"]
        found = pooled(by_source, np.ones((len(by_source), 1, 1)))
        for k, pos in np.ndindex(found.value.shape):
            yield dict(metric="attribution", **coordinates(heads[k]), pos=pos, **found.row(k, pos))
        for role, look in looks.items():
            there = pooled((by_source * look[:, None]).sum(2), np.any(look, axis=1, keepdims=True))
            for k, part in enumerate(heads):
                yield dict(metric=f"attribution_from_{role}", **coordinates(part), **there.row(k))


def coordinates(part: Part) -> dict[str, Any]:
    """The columns that say which part it is."""
    return {name: value for name, value in part._asdict().items() if value is not None}


def roles(task: Task, pairs: Pairs) -> dict[str, np.ndarray]:
    """For each role, which position it names where the answer is read: bool `[sequence pos]`; absent ones left out."""
    rows, places = np.arange(len(pairs.position)), np.arange(pairs.clean.tokens.shape[1])
    named = {role: pairs.clean.facts[role][rows, pairs.position] for role in task.roles}
    looks = {role: np.equal.outer(position, places) for role, position in named.items()}
    return {role: look for role, look in looks.items() if look.any()}


def attributed(model: Model, pairs: Pairs, by_position: bool) -> tuple[list[Part], np.ndarray, np.ndarray | None]:
    """The parts, what each adds `[sequence part]`, and what each head adds by source `[sequence head pos]`."""
    size, parts = model.chunk(pairs.clean, True), []
    by_part, by_source = [], []
    for start in range(0, len(pairs.clean), size):
        rows = slice(start, start + size)
        here = pairs.clean[rows], pairs.position[rows], logit_directions(model, pairs.answer[rows], pairs.foil[rows])
        found = direct_logit_attribution(model, *here)
        parts = list(found)
        by_part.append(stacked(found))
        if by_position:
            by_source.append(stacked(attribution_by_source(model, *here)))
    return parts, np.concatenate(by_part), np.concatenate(by_source) if by_position else None


def stacked(found: dict[Part, Tensor]) -> np.ndarray:
    """float64 `[sequence part ...]`."""
    return np.stack([values.double().cpu().numpy() for values in found.values()], axis=1)
