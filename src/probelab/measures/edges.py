"""What every edge between parts of the model does to the answer: exact path patching on the task's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probelab import paths
from probelab.answers import logit_difference
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, kind_of, lots, numbers
from probelab.subject import Model, Subject
from synthetic_tasks.task import Pairs, require


@dataclass(frozen=True)
class Edges:
    """What changes if one edge, from `sender` to `receiver`, carries the other run's value; 95 % intervals over pairs.

    edge_effect  on the logit of the answer minus that of the foil, where clean calls for the answer
    all_edges    the same of all edges at once: from one run to the other; there is no sender and no receiver

    Senders are `embed` (tokens and positions), heads ("0.1": head 1 of layer 0) and `mlp 0`; receivers are a head's
    queries, keys or values ("1.0 k"), `mlp 0` and `logits` (Wang et al. 2023; Goldowsky-Dill et al. 2023). Logits, not
    shares: early in training there is little to share.

    An edge that works only together with others shows in noising, one of several that can each do the work in denoising
    (Heimersheim & Nanda 2024). Edges that carry the same in both runs have no effect: positions, for one.

    n        pairs, from a stream that training never reads
    kind     of the task's pairs; the first, if None
    noising  clean runs with an edge from corrupt ones: what breaks (below 0). Else corrupt runs with an edge from clean
             ones: what it restores (above 0)
    """

    n: int = 64
    kind: str | None = None
    noising: bool = False

    name = "edges"
    version = 2

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one pair")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        pairs, graph = drawn(self.name, subject, self.n, self.kind), paths.edges(subject.spec.model)
        for step, model in subject:
            size = model.chunk(pairs.clean, True)
            by_edge = np.concatenate([self.effects(model, lot) for lot in lots(pairs, size)])
            mean = pooled(by_edge, np.ones((len(by_edge), 1)))
            here = dict(step=step, pairs=kind_of(subject, self.kind))
            yield dict(here, metric="all_edges", **mean.row(len(graph)))
            for k, edge in enumerate(graph):
                sender, receiver = edge.names
                yield dict(here, metric="edge_effect", sender=sender, receiver=receiver, **mean.row(k))

    def effects(self, model: Model, pairs: Pairs) -> np.ndarray:
        """float64 `[pair edge]`; the last column is all of them at once."""
        metric, rows = logit_difference(pairs), np.arange(len(pairs.answer))
        base, source = (pairs.clean, pairs.corrupt) if self.noising else (pairs.corrupt, pairs.clean)
        alone = paths.edge_effects([model], base, source, metric, pairs.position)[0]
        before, after = (metric(model(batch)[rows, pairs.position]) for batch in (base, source))
        return np.concatenate([numbers(alone).T, numbers(after - before)[:, None]], axis=1)
