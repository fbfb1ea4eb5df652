"""The birth of a circuit: since when the one that is found in the trained model does the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probelab.answers import logit_difference
from probelab.circuits import Wiring, discover, random_circuits, random_subsets, without_each
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, kind_of, lots
from probelab.paths import edges
from probelab.subject import Model, Subject
from synthetic_tasks.task import Pairs, require

Array = np.ndarray
FOUND_ON = "circuit"  # the purpose of the pairs that the circuit is found on: others than it is scored on


@dataclass(frozen=True)
class Faithful:
    """How much of the answer a circuit of direct edges gives, at every checkpoint; it is found at the last of them.

    M is the logit of the answer minus that of the foil, a mean over pairs where clean calls for the answer. Some
    `edges` carry what they carry in the clean run, all others what they carry in the corrupt one: those of the
    `circuit`, its `complement`, as many drawn at `random`, or `all`.

    effect        M(edges) - M(no edges), in logits; 95 % interval over pairs
    faithfulness  effect / effect of all, a ratio of means: 1 does what the model does. NaN where the model does not
                  tell clean from corrupt (the interval of all holds 0): there is nothing to be faithful to
    edge_drop     by `sender` and `receiver`, for each edge of the circuit: M(circuit) - M(circuit without it), in
                  logits; 95 % interval. These rows list the circuit
    incompleteness  |M(circuit without K) - M(all without K)|, in logits, for random halves K of the circuit: 0 if the
                    circuit breaks just as the model does, more where others stand in for it (Wang et al. 2023)
    circuit_size  edges in the circuit

    Costs a pass over the pairs for each circuit: at a checkpoint 2 + random + 2 subsets + circuit_size, to find it
    some hundred.

    Of random circuits and of subsets: the median, with lo and hi that hold 95 % of them. `probelab.curves.onset` dates
    a birth: of `effect` when the circuit begins to work, of `faithfulness` when the model comes to rely on it.

    n       pairs to score on; as many others to find the circuit on
    kind    of the task's pairs; the first, if None
    bar     the circuit found has |1 - faithfulness| <= 1 - bar, and no edge that can go
    random  circuits drawn at random, the same at every checkpoint
    subsets halves K, the same at every checkpoint
    at      the step where the circuit is found, in rows as `found_at`; None: the last one kept. Name it where the run
            is to grow, as rows that are there already stay
    """

    n: int = 64
    kind: str | None = None
    bar: float = 0.9
    random: int = 20
    subsets: int = 10
    at: int | None = None

    name = "faithful"
    version = 2

    def __post_init__(self) -> None:
        require(self.n >= 2, "n", self.n, "at least two pairs")
        require(0 < self.bar < 1, "bar", self.bar, "between 0 and 1")
        require(self.random >= 1, "random", self.random, "at least one circuit")
        require(self.subsets >= 1, "subsets", self.subsets, "at least one")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        pairs, at = drawn(self.name, subject, self.n, self.kind), subject.kept(self.at)
        circuit, graph = self.circuit(subject), edges(subject.spec.model)
        address = (subject.task.name, subject.task.world, subject.spec.data)
        other = random_circuits(circuit, self.random, *address)
        gone = random_subsets(circuit, self.subsets, *address)
        tried = np.concatenate([circuit[None], ~circuit[None], other, circuit & ~gone, ~gone, without_each(circuit)])
        inside = [edge.names for edge, there in zip(graph, circuit, strict=True) if there]
        ends = 2 + self.random + np.cumsum([0, self.subsets, self.subsets])
        for step, model in subject:
            effects, full = effects_of(model, pairs, tried)
            here = dict(step=step, pairs=kind_of(subject, self.kind), found_at=at)
            yield dict(here, metric="circuit_size", value=float(circuit.sum()))
            scored, broken, whole_broken, lacking = np.split(effects, ends, axis=1)
            yield from (dict(here, **row) for row in self.rows(scored, full))
            apart = np.abs(broken.mean(0) - whole_broken.mean(0))
            yield dict(here, metric="incompleteness", **spread(apart))
            drops = pooled(scored[:, :1] - lacking, np.ones_like(full))
            for k, (sender, receiver) in enumerate(inside):
                yield dict(here, metric="edge_drop", sender=sender, receiver=receiver, **drops.row(k))

    def rows(self, effects: Array, full: Array) -> Iterator[Row]:
        """Of effects `[pair circuit]`: the circuit, its complement and random ones; and of all edges, `[pair 1]`."""
        whole = pooled(full, np.ones_like(full)).row(0)
        yield dict(metric="effect", edges="all", **whole)
        told_apart = whole["lo"] > 0 or whole["hi"] < 0
        shares = pooled(effects, full if told_apart else np.full_like(full, np.nan))
        for metric, mean in (("effect", pooled(effects, np.ones_like(full))), ("faithfulness", shares)):
            yield dict(metric=metric, edges="circuit", **mean.row(0))
            yield dict(metric=metric, edges="complement", **mean.row(1))
            yield dict(metric=metric, edges="random", **spread(mean.value[2:]))

    def circuit(self, subject: Subject) -> Array:
        """The circuit of a run, bool `[edge]`, found on pairs that nothing is scored on; all edges, if it is blind."""
        model = subject.model(subject.kept(self.at))
        pairs = drawn(self.name, subject, self.n, self.kind, FOUND_ON)
        wiring = Wiring([model], pairs.clean, pairs.corrupt, pairs.position)
        metric = logit_difference(pairs)
        return discover(wiring, metric, self.bar) if wiring.gap(metric)[0] else np.ones(len(wiring.edges), bool)


def spread(values: Array) -> Row:
    """The median of values `[n]`, and what holds 95 % of them."""
    lo, middle, hi = np.quantile(values, [0.025, 0.5, 0.975])
    return dict(value=middle, lo=lo, hi=hi, n=len(values))


def effects_of(model: Model, pairs: Pairs, circuits: Array) -> tuple[Array, Array]:
    """M(circuit) - M(empty) of each pair, float64 `[pair circuit]`, and M(full) - M(empty), `[pair 1]`."""
    found, whole = [], []
    for lot in lots(pairs, model.chunk(pairs.clean, True)):
        metric = logit_difference(lot)
        wiring = Wiring([model], lot.clean, lot.corrupt, lot.position)
        empty = wiring.empty(metric)[0].double()
        found.append((wiring(circuits, metric)[0].double() - empty).T.cpu().numpy())
        whole.append((wiring.full(metric)[0].double() - empty).cpu().numpy())
    return np.concatenate(found), np.concatenate(whole)[:, None]
