"""Which later head reads which earlier one, and what both do to content: scores of the weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probelab.composition import KINDS, composition, composition_chance, matching_weights, places
from probelab.measures._contract import Row, needs_heads
from probelab.subject import Model, Subject


@dataclass(frozen=True)
class Composition:
    """Scores of every head (`layer`, `head`) and of what it reads of an earlier one (`sender_layer`, `sender_head`).

    q_composition, k_composition, v_composition
                      share of what the sender writes that the head reads with its queries, keys, values: Frobenius norm
                      of the product over the product of the norms (Elhage et al. 2021). In rows `<metric>_chance`,
                      without heads: the root mean square if the stream were turned at random, 1 / sqrt(d_model)
    matching_weights  sum of the eigenvalues of W_E W_Q W_K^T W_E^T over the sum of their moduli, from -1 to 1: above 0
                      where a token attends to its like; chance 0. It needs items that are symbols
    k_matching_weights  the same with keys that are what the sender writes, W_E W_V W_O: 1 in an induction head that
                      reads a previous-token head

    Weights alone: norms, biases and positions are left out, and there is no sampling. The score of the other circuit,
    W_E W_V W_O W_U, is `copying_weights` of the measure heads.
    """

    name = "composition"
    version = 1

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        for step, model in subject:
            yield from (dict(step=step, **row) for row in [*by_head(model), *by_pair(model)])


def by_head(model: Model) -> Iterator[Row]:
    """Rows of single heads."""
    for layer, head in [] if model.task.features else places(model):
        yield dict(layer=layer, head=head, metric="matching_weights", value=matching_weights(model, layer, head))


def by_pair(model: Model) -> Iterator[Row]:
    """Rows of a head and a sender below it, and chance."""
    where = places(model)
    pairs = [(i, j) for i, sender in enumerate(where) for j, reader in enumerate(where) if sender[0] < reader[0]]
    scores = {f"{kind.lower()}_composition": composition(model, kind) for kind in KINDS}
    for metric, score in scores.items():
        yield dict(metric=f"{metric}_chance", value=composition_chance(model))
        for i, j in pairs:
            yield dict(between(where[i], where[j]), metric=metric, value=float(score[i, j]))
    for i, j in [] if model.task.features else pairs:
        score = matching_weights(model, *where[j], sender=where[i])
        yield dict(between(where[i], where[j]), metric="k_matching_weights", value=score)


def between(sender: tuple[int, int], reader: tuple[int, int]) -> dict[str, Any]:
    """The columns that name two heads."""
    return dict(layer=reader[0], head=reader[1], sender_layer=sender[0], sender_head=sender[1])
