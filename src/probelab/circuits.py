"""A circuit as a set of edges: the model run with those alone, how faithful that is, and the search for a small one.

    full circuit    every edge carries what it carries in the clean run: the clean run itself
    empty circuit   every edge carries what it carries in the corrupt run: the corrupt run itself
    faithfulness    F(C) = (M(C) - M(empty)) / (M(full) - M(empty)), M a mean over pairs: 1 if C is all it takes

Circuits are bool `[circuit edge]`, over the edges of `probelab.paths.edges(spec)`; `~C` is the complement of C.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, einsum

from probelab.answers import Metric
from probelab.edit import Tape
from probelab.model import apply
from probelab.paths import Edge, alike, edges, receivers, refuse_clamps, senders, stream_of
from probelab.spec import Transformer
from probelab.subject import CACHE, Model
from probelab.sweep import Sweep
from probelab.train import one_thread
from synthetic_tasks import Batch, stream
from synthetic_tasks.task import require

Array = np.ndarray


class Wiring:
    """Models on clean and corrupt sequences of one shape, run with only the edges of a circuit carrying what is clean.

    models  checkpoints, or seeds, of one spec and one task
    read    the position of each sequence that a metric reads, int `[batch]`; None: all positions

    A receiver reads its input of the corrupt run plus, for each edge of the circuit that ends there, what the sender
    now writes minus what it writes in the corrupt run (Conmy et al. 2023; Hanna et al. 2024). Parts run in their order,
    so the edges of a circuit act together, and a sender that nothing clean reaches carries nothing.
    """

    def __init__(self, models: Sequence[Model], clean: Batch, corrupt: Batch, read: Array | None = None):
        refuse_clamps(models)
        alike(clean, corrupt)
        self.sweep, self.spec, self.clean = Sweep(models, clean, read), models[0].spec, clean
        self.edges = edges(self.spec)
        sites = [*(part.name for part in senders(self.spec)), *map(stream_of, receivers(self.spec)), "logits"]
        self.corrupt = self.sweep.hold(corrupt, sites)

    def __call__(self, circuits: Array, metric: Metric) -> Tensor:
        """The metric in each circuit, `[member circuit batch]`; a pass through the model for each."""
        chosen = np.atleast_2d(np.asarray(circuits, bool))
        fits = chosen.shape[1] == len(self.edges)
        require(fits, "shape of circuits", chosen.shape, f"[circuit edge], and the model has {len(self.edges)} edges")
        size = self.room()
        with one_thread(), torch.no_grad():
            parts = [self.side_by_side(chosen[at : at + size], metric) for at in range(0, len(chosen), size)]
        return torch.cat(parts, 1)

    def full(self, metric: Metric) -> Tensor:
        """The metric in the clean run, `[member batch]`."""
        with one_thread(), torch.no_grad():
            return self.sweep.unedited(metric)

    def empty(self, metric: Metric) -> Tensor:
        """The metric in the corrupt run, `[member batch]`."""
        return metric(self.sweep.reading(self.corrupt["logits"]))

    def gap(self, metric: Metric) -> Array:
        """M(full) - M(empty) of each model, float64 `[member]`; 0 where no more than rounding tells them apart."""
        full, empty = (value.double().mean(-1).cpu().numpy() for value in (self.full(metric), self.empty(metric)))
        return np.where(np.abs(full - empty) > 1e-5 * np.maximum(np.abs(full), np.abs(empty)), full - empty, 0.0)

    def faithfulness(self, circuits: Array, metric: Metric) -> Array:
        """F of each circuit, a ratio of means over the pairs, float64 `[member circuit]`.

        1 does what the model does, 0 what it does on corrupt input; both may be passed, as edges also pull against one
        another. It means little where clean and corrupt hardly differ, as in an untrained model.
        """
        full, empty = (value.double().mean(-1)[:, None] for value in (self.full(metric), self.empty(metric)))
        return ((self(circuits, metric).double().mean(-1) - empty) / (full - empty)).cpu().numpy()

    def side_by_side(self, circuits: Array, metric: Metric) -> Tensor:
        """The metric of circuits that lie along the batch."""
        count, tape = len(circuits), Wires(self.spec, circuits, self.corrupt)
        x = self.sweep.inputs(self.clean)
        tiled = type(x)(*(None if part is None else part.repeat(1, count, *[1] * (part.dim() - 2)) for part in x))
        return self.sweep.judged(apply(self.spec, self.sweep.params, tiled, tape), count, metric)

    def room(self) -> int:
        """Circuits at a time, from the spec and the memory alone."""
        spec, model, (batch, length) = self.spec, self.sweep.models[0], self.clean.tokens.shape
        heads = max(map(spec.heads_of, range(spec.layers)))
        floats = spec.d_model * (2 * len(senders(spec)) + 6 * heads + 8) + 2 * spec.d_mlp + 3 * heads * length
        room = min(model.memory, CACHE) if self.sweep.device == "cpu" else model.memory
        return max(1, room // (4 * floats * length * batch * len(self.sweep.models)))


class Wires(Tape):
    """A tape that notes how far each sender departs from its corrupt run, and feeds receivers through circuits' wires.

    departures  `[sender member circuit batch pos d_model]`, of the senders that have passed
    wires       1 where an edge is in a circuit, `[circuit sender receiver]`
    """

    def __init__(self, spec: Transformer, circuits: Array, corrupt: dict[str, Tensor]):
        super().__init__()
        self.listening, self.corrupt, self.count = True, corrupt, len(circuits)
        self.senders, self.receivers = senders(spec), receivers(spec)
        ends = [(self.senders.index(edge.sender), self.receivers.index(edge.receiver)) for edge in edges(spec)]
        wires = np.zeros((self.count, len(self.senders), len(self.receivers)), bool)
        wires[:, *zip(*ends, strict=True)] = circuits
        self.wires = torch.from_numpy(wires).to(corrupt["logits"])
        some = corrupt[self.senders[0].name].unsqueeze(1)
        self.departures = some.new_empty(len(self.senders), len(some), self.count, *some.shape[2:])
        self.passed = 0  # senders so far
        self.inputs = {part.name: stream_of(part) for part in self.receivers}
        self.outputs = {part.name for part in self.senders}

    def wants(self, *sites: str) -> bool:
        return any(site in self.inputs or site in self.outputs for site in sites)

    def __call__(self, site: str, value: Tensor) -> Tensor:
        if site in self.inputs:
            return self.fed(site).reshape(value.shape)
        if site in self.outputs:
            departure = value.unflatten(1, (self.count, -1)) - self.corrupt[site].unsqueeze(1)
            several = departure.unbind(-2) if site.endswith("result") else [departure]
            for one in several:
                self.departures[self.passed] = one
                self.passed += 1
        return value

    def fed(self, site: str) -> Tensor:
        """What the receivers of a site read, `[member circuit batch pos receiver d_model]`."""
        mine = [k for k, part in enumerate(self.receivers) if part.name == site]
        wires = self.wires[:, : self.passed, mine]  # all that has been written so far is theirs to read
        carried = einsum("csr,smcbtd->mcbtrd", wires, self.departures[: self.passed])
        return carried + self.corrupt[self.inputs[site]].unsqueeze(1).unsqueeze(-2)


def discover(wiring: Wiring, metric: Metric, bar: float = 0.9) -> Array:
    """A small circuit of one model that is faithful, |1 - F| <= 1 - bar: bool `[edge]`.

    From the full circuit down. In each round F is computed exactly without each edge that is left; those that matter
    least go, in that order, as many as can go together. It ends when no edge can go alone: what is found is minimal,
    though not always the smallest. Graphs of a few hundred edges allow this exact search, which needs neither the order
    of ACDC (Conmy et al. 2023) nor the gradients of EAP-IG (Hanna et al. 2024).

    Costs two passes for each edge that is left in each of a few rounds: some 300 for 110 edges. Half as many dropped a
    round find no smaller circuit (24 and 25 edges of 110 against 24 and 26), at 2.6 times the price.
    """
    require(0 < bar < 1, "bar", bar, "between 0 and 1: how faithful the circuit is to be")
    require(len(wiring.sweep.models) == 1, "models", len(wiring.sweep.models), "one: the circuit of one model")
    gap = wiring.gap(metric)[0]
    require(bool(gap), "gap between clean and corrupt", gap, "more than rounding leaves: nothing is there to explain")
    circuit = np.ones(len(wiring.edges), bool)
    while circuit.any():
        misses = np.abs(1 - wiring.faithfulness(without_each(circuit), metric)[0])
        least = np.flatnonzero(circuit)[np.argsort(misses, kind="stable")]
        fewer = np.tile(circuit, (len(least), 1))
        fewer[:, least] = ~np.tri(len(least), dtype=bool)  # without the least, without the two least, ...
        good = np.abs(1 - wiring.faithfulness(fewer, metric)[0]) <= 1 - bar
        allowed = len(good) if good.all() else int(good.argmin())
        if not allowed:
            break
        circuit = fewer[allowed - 1]
    return circuit


def without_each(circuit: Array) -> Array:
    """The circuits that lack one edge of a circuit each, bool `[edge of it, edge]`."""
    inside = np.flatnonzero(circuit)
    fewer = np.tile(circuit, (len(inside), 1))
    fewer[np.arange(len(inside)), inside] = False
    return fewer


def random_circuits(circuit: Array, count: int, *address: str | int) -> Array:
    """Circuits of as many edges drawn at random, bool `[count edge]`: what is faithful by size alone."""
    rng = stream("circuit", *address)
    return rng.permuted(np.tile(np.asarray(circuit, bool), (count, 1)), axis=1)


def random_subsets(circuit: Array, count: int, *address: str | int) -> Array:
    """Halves of a circuit, each edge with probability 1/2, bool `[count edge]`: what to take away from it."""
    rng = stream("subsets", *address)
    return np.asarray(circuit, bool) & (rng.random((count, len(circuit))) < 0.5)


def named(graph: Sequence[Edge], circuit: Array) -> list[str]:
    """A circuit's edges as text, such as "0.1 -> 1.0 k"."""
    return [" -> ".join(edge.names) for edge, inside in zip(graph, circuit, strict=True) if inside]
