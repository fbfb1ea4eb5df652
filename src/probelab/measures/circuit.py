"""Where heads look in a few-shot classification: the progress measures of Reddy 2023 and Singh et al. 2024."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probelab.composition import places
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.subject import Model, Subject, chunks
from synthetic_tasks import Batch
from synthetic_tasks.task import require

METRICS = ("label_to_item", "query_to_correct", "query_to_labels", "query_to_likes", "induction")


@dataclass(frozen=True)
class Circuit:
    """Attention of every `layer` and `head` between items and labels; means, with 95 % intervals over sequences.

    label_to_item     from a label to the item just before it (Reddy's item-label association, in layer 0 the first half
                      of an induction circuit)
    query_to_correct  from the query to the labels of its own class, summed (target-item-label association)
    query_to_labels   from the query to all labels
    query_to_likes    from the query to items of its own class
    induction         to the labels of its own class minus to all others: Singh's induction strength, -1 to 1

    Chance is what a head scores that looks at all it has read alike, in rows `<metric>_chance` without layer and head.

    n      sequences that training never sees
    split  where they come from; where the query's class is not in the context, nothing is correct
    """

    n: int = 512
    split: str = "icl"

    name = "circuit"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        if not {"classes", "item"} <= set(subject.task.facts):
            raise ValueError(
                f"circuit needs the facts `classes` and `item`, and {subject.task.name!r} has none: measure heads"
            )
        batch = subject.batch(self.n, self.split)
        length = batch.tokens.shape[1]
        alike = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
        everywhere = looked(batch, np.broadcast_to(alike, (len(batch), 1, length, length)))
        chance = [row for row in rows(everywhere, [(None, None)], "_chance")]
        for step, model in subject:
            parts = [looked(part, patterns(model, part)) for part in chunks(batch, model.chunk(batch, True))]
            found = rows(np.concatenate(parts), places(model), "")
            yield from (dict(step=step, split=self.split, **row) for row in [*found, *chance])


def patterns(model: Model, part: Batch) -> np.ndarray:
    """Attention of all heads of all layers, `[sequence head query key]`."""
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.spec.layers)]
    cache = model.cache(part, sites)
    return torch.cat([cache[site] for site in sites], 1).double().cpu().numpy()


def looked(part: Batch, pattern: np.ndarray) -> np.ndarray:
    """The `METRICS` of each sequence and head, `[sequence head metric]`."""
    classes, query = part.facts["classes"], pattern[:, :, -1]
    like = (classes[:, :-1] == classes[:, -1:]).astype(np.float64)[:, None]
    items, labels = query[:, :, :-1:2], query[:, :, 1::2]
    after = pattern[:, :, np.arange(1, pattern.shape[2], 2), np.arange(0, pattern.shape[2] - 1, 2)]
    right, every = (labels * like).sum(-1), labels.sum(-1)
    return np.stack([after.mean(-1), right, every, (items * like).sum(-1), 2 * right - every], axis=-1)


def rows(found: np.ndarray, heads: list, suffix: str) -> Iterator[Row]:
    """One row for each head and metric; `heads` lists layer and head."""
    mean = pooled(found, np.ones((len(found), 1, 1)))
    for k, (layer, head) in enumerate(heads):
        at = {} if layer is None else dict(layer=layer, head=head)
        for m, metric in enumerate(METRICS):
            yield dict(at, metric=metric + suffix, **mean.row(k, m))
