"""Path patching: what is carried from one part of a transformer to another, edge by edge, exactly.

    embed ──► 0.0 q k v ──► 0.0 ──► mlp 0 ──► 1.0 q k v ──► 1.0 ──► logits
      └─────────┴─── every part reads the sum of all that was written before it ───┘

What a part reads is the sum of what was written before it, so one term can be exchanged for one reader alone. Senders
are the embedding (tokens and positions together), every head, and every MLP; receivers are the queries, keys and values
of every head, every MLP, and the logits. Biases of attention's output are the same for every input: nobody sends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probelab.answers import Metric
from probelab.attention import queries_keys_values
from probelab.edit import SILENT
from probelab.model import mlp
from probelab.places import Place
from probelab.spec import Transformer
from probelab.subject import Model
from probelab.sweep import Sweep
from probelab.train import one_thread
from synthetic_tasks import Batch
from synthetic_tasks.task import choose_from, require

SENDERS = {"resid_pre": "embed", "result": "{layer}.{head}", "mlp_out": "mlp {layer}"}  # site -> name in a table
# site -> name in a table, the stream that is read there, and the site where what is made of it appears
RECEIVERS = {
    "q_input": ("{layer}.{head} q", "resid_pre", "q"),
    "k_input": ("{layer}.{head} k", "resid_pre", "k"),
    "v_input": ("{layer}.{head} v", "resid_pre", "v"),
    "mlp_in": ("mlp {layer}", "resid_mid", "mlp_out"),
    "resid_post": ("logits", "resid_post", "resid_post"),
}


class Edge(NamedTuple):
    """From what a part writes to what another one reads, such as ("0.1", "1.0 k"): both as places."""

    sender: Place
    receiver: Place

    @property
    def names(self) -> tuple[str, str]:
        """Sender and receiver as they stand in a table."""
        ends = zip(self, (SENDERS[self.sender.site], RECEIVERS[self.receiver.site][0]), strict=True)
        sender, receiver = (name.format(layer=part.layer, head=part.head) for part, name in ends)
        return sender, receiver


def senders(spec: Transformer) -> list[Place]:
    """All that write to the residual stream, in the order in which they do; layer 0's `resid_pre` is the embedding."""
    found = [Place("resid_pre", 0)]
    for layer in range(spec.layers):
        found += [Place("result", layer, head=head) for head in range(spec.heads_of(layer))]
        found += [Place("mlp_out", layer)] if spec.d_mlp else []
    return found


def receivers(spec: Transformer) -> list[Place]:
    """All that read it, in the order in which they do; the logits read the last `resid_post`."""
    found = []
    for layer in range(spec.layers):
        found += [Place(f"{part}_input", layer, head=k) for k in range(spec.heads_of(layer)) for part in "qkv"]
        found += [Place("mlp_in", layer)] if spec.d_mlp else []
    return [*found, Place("resid_post", spec.layers - 1)]


def edges(spec: Transformer) -> list[Edge]:
    """Every direct edge, by sender, then by receiver."""
    return [Edge(s, r) for s in senders(spec) for r in receivers(spec) if depth(s) < depth(r)]


def depth(part: Place) -> float:
    """When a part reads or writes: heads of one layer at once, its MLP after them."""
    if part.site == "resid_pre":
        return -1
    return part.layer + {"mlp_out": 0.5, "mlp_in": 0.5, "resid_post": 1}.get(part.site, 0)


def edge_named(spec: Transformer, sender: str, receiver: str) -> Edge:
    """The edge of these names, such as `edge_named(spec, "0.1", "1.0 k")`."""
    known = {" -> ".join(edge.names): edge for edge in edges(spec)}
    return choose_from("edge", f"{sender} -> {receiver}", known)


def stream_of(receiver: Place) -> str:
    """The full name of the site of the residual stream that a receiver reads."""
    return Place(RECEIVERS[receiver.site][1], receiver.layer).name


def written(sender: Place, held: dict[str, Tensor]) -> Tensor:
    """What a sender writes, `[member batch pos d_model]`, of what its site holds."""
    value = held[sender.name]
    return value if sender.head is None else value[..., sender.head, :]


def edge_effects(
    models: Sequence[Model],
    base: Batch,
    source: Batch,
    metric: Metric,
    read: np.ndarray | None = None,
    *,
    which: Sequence[Edge] | None = None,
    by_position: bool = False,
) -> Tensor:
    """What each edge does alone: the metric with it patched minus the metric on `base`, `[member edge batch]`.

    The receiver reads what it reads in `base`, but for the sender's output, which is that of the sender's run on
    `source`; all other parts read the sender as in `base`, and what the receiver writes goes on as it will (Wang et al.
    2023, Goldowsky-Dill et al. 2023: paths of one edge). With clean as `base` and corrupt as `source` it is noising,
    what breaks without the edge; the other way round denoising, what the edge restores alone.

    models       checkpoints, or seeds, of one spec and one task
    read         the position of each sequence that the metric reads, int `[batch]`; None: all positions
    which        edges, in the order of the result; all of `edges(spec)` if None
    by_position  only one position of the sender's output is exchanged at a time: `[member edge pos batch]`

    A receiver is recomputed once for each sender; from there on each edge (and position) is a cell of a `Sweep`.
    """
    refuse_clamps(models)
    every = edges(models[0].spec)
    chosen = every if which is None else list(which)
    require(bool(chosen) and set(chosen) <= set(every), "which", which, "one or more of `edges(spec)`")
    alike(base, source)
    sweep = Sweep(models, base, read)
    sites = list(dict.fromkeys([edge.sender.name for edge in chosen]))
    streams = list(dict.fromkeys([stream_of(edge.receiver) for edge in chosen]))
    before, after = sweep.hold(base, [*sites, *streams]), sweep.hold(source, sites)
    at = range(base.tokens.shape[1]) if by_position else [None]
    found: dict[Edge, Tensor] = {}
    with one_thread(), torch.no_grad():
        for sender in dict.fromkeys(edge.sender for edge in chosen):
            mine = [edge for edge in chosen if edge.sender == sender]
            change = written(sender, after) - written(sender, before)
            made = [replace(edge.receiver, site=RECEIVERS[edge.receiver.site][2]) for edge in mine]
            patched = {
                place.name: made_of(sweep, place, before[stream_of(edge.receiver)] + change)
                for edge, place in zip(mine, made, strict=True)
            }
            cells = [replace(place, pos=pos) for place in made for pos in at]
            values = sweep(cells, patched, metric) - sweep.unedited(metric).unsqueeze(1)
            found |= dict(zip(mine, values.unflatten(1, (len(mine), len(at))).unbind(1), strict=True))
    effects = torch.stack([found[edge] for edge in chosen], 1)
    return effects if by_position else effects.squeeze(2)


def made_of(sweep: Sweep, place: Place, stream: Tensor) -> Tensor:
    """What a site behind receivers holds, of all heads, if they read `stream [member batch pos d_model]`."""
    if place.site == "resid_post":
        return stream
    if place.site == "mlp_out":
        return mlp(sweep.spec, place.layer, sweep.params, stream)
    return queries_keys_values(sweep.spec, place.layer, sweep.params, stream, SILENT)["qkv".index(place.site)]


def alike(one: Batch, other: Batch) -> None:
    """Refuse two inputs of which the sequences do not correspond."""
    shapes = one.tokens.shape, other.tokens.shape
    require(shapes[0] == shapes[1], "shape of the other input", shapes[1], f"{shapes[0]}, [batch pos], as of the first")


def refuse_clamps(models: Sequence[Any]) -> None:
    """Edges are told apart by their terms in a sum, and what is clamped reads or writes no such sum."""
    for model in models:
        if not isinstance(model.spec, Transformer):
            raise ValueError(f"edges lead from head to head: {type(model.spec).__name__} has no heads")
        if model.edits:
            raise ValueError(f"edges of a model with clamps ({', '.join(map(repr, model.edits))}) are not defined")
