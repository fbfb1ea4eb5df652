"""What probes read and what they are asked: sites, labels and types at each position, cut into cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from probelab.measures.heads import present
from probelab.subject import Model
from synthetic_tasks import Batch, Task
from synthetic_tasks.task import choose, require

Array = np.ndarray


def labels_of(task: Task, batch: Batch, target: str) -> Array:
    """What each position is asked, int `[sequence pos]`; -1 where it is asked nothing.

    `answer` is the batch's target, `token` what stands at the position; all others are facts of the task, also one that
    it calls `answer`.
    """
    known = {"answer": batch.targets, "token": batch.tokens, **batch.facts}
    choose(f"target in {task.name}", target, list(known))
    fact, shape = np.asarray(known[target]), batch.tokens.shape
    whole = np.issubdtype(fact.dtype, np.integer) or fact.dtype == bool
    if not whole or fact.shape not in (shape, shape[:1]):
        raise ValueError(
            f"target = {target!r} cannot be read off: in {task.name} it is {fact.dtype} {list(fact.shape)}, and asked "
            f"is for a whole number of each sequence, or at each position, {list(shape)}"
        )
    if fact.ndim == 1:
        fact = np.broadcast_to(fact[:, None], shape)
    return np.where(present(batch).numpy(), fact, -1)


def types_of(task: Task, batch: Batch) -> Array | None:
    """The type of what stands at each position, int `[sequence pos]`; -1 where nothing does.

    That is its token; of a vector its class, in tasks with the fact `classes [batch item]` (the k-th vector of a
    sequence is of the k-th class). None where vectors have no class.
    """
    types = batch.tokens.copy()
    if batch.vectors is None:
        return types
    speaks = present(batch).numpy() & (types < 0)
    if speaks.any() and "classes" not in batch.facts:
        return None
    place = np.where(speaks, np.cumsum(speaks, axis=1) - 1, 0)
    return np.where(speaks, task.vocab + np.take_along_axis(batch.facts["classes"], place, axis=1), types)


def numbered(labels: Array) -> tuple[Array, int]:
    """Labels as 0, 1, ... in their order, -1 as it is; and how many there are."""
    known = np.unique(labels[labels >= 0])
    return np.where(labels >= 0, np.searchsorted(known, labels), -1), len(known)


def places(length: int, positions: Iterable[int] | None) -> list[int]:
    """Positions of a sequence, all if None; negative ones count from its end."""
    asked = range(length) if positions is None else positions
    for position in asked:
        require(-length <= position < length, "positions", position, f"{-length} to {length - 1}")
    return sorted({position % length for position in asked})


def sites_of(model: Model, site: str, layers: Iterable[int] | None) -> dict[int, str]:
    """Layer -> name of a site such as `resid_post`, `resid_pre`, `mlp_out`, `z`, or of recurrent nets `out`."""
    by_name: dict[str, dict[int, str]] = {}
    for name in model.sites:
        block, _, short = name.rpartition("hook_")
        if block.startswith(("blocks.", "recurrent.")):
            by_name.setdefault(short, {})[int(block.split(".")[1])] = name
    for short in ("attn_scores", "pattern"):  # what they hold is no vector at a position
        by_name.pop(short, None)
    found = by_name[choose("site to probe", site, list(by_name))]
    asked = found if layers is None else layers
    for layer in asked:
        require(layer in found, "layers", layer, f"0 to {len(found) - 1}")
    return {layer: found[layer] for layer in asked}


def features(model: Model, batch: Batch, sites: Iterable[str], positions: list[int]) -> Tensor:
    """What sites hold at some positions, `[layer sequence pos d]`; heads side by side, narrow layers filled with 0."""
    cache = model.cache(batch, sites)
    held = [cache[site][:, positions].flatten(2) for site in sites]
    widest = max(x.shape[-1] for x in held)
    return torch.stack([F.pad(x, (0, widest - x.shape[-1])) for x in held])


class Question(NamedTuple):
    """What a target asks at some positions, int `[sequence pos]`, of sequences to fit on and of others; -1: nothing."""

    target: str
    train: Array
    test: Array
    types: Array | None  # of both, one after the other
    classes: int
    positions: list[int]

    def worthwhile(self, pooled: bool) -> Question:
        """Without the positions whose probe has fewer than two labels to tell apart, or nothing to be tested on."""
        columns = np.flatnonzero((self.train >= 0).any(axis=0) | (self.test >= 0).any(axis=0))
        probes = [columns] if pooled else columns[:, None]
        kept = [k for k in probes if several(self.train[:, k]) and (self.test[:, k] >= 0).any()]
        if not kept:
            raise ValueError(
                f"target = {self.target!r} leaves nothing to probe: at no position are there two labels among the "
                f"{len(self.train)} sequences to fit on, and one among the {len(self.test)} held out"
            )
        columns = np.concatenate(kept)
        types = None if self.types is None else self.types[:, columns]
        at = [self.positions[k] for k in columns]
        return self._replace(train=self.train[:, columns], test=self.test[:, columns], types=types, positions=at)


def several(labels: Array) -> bool:
    """Are there two labels at least, beside -1?"""
    return len(np.unique(labels[labels >= 0])) >= 2


def question(task: Task, batch: Batch, target: str, positions: Iterable[int] | None, test: float) -> Question:
    """What a target asks, cut into two halves: the last `test` of the sequences are held out."""
    at, types = places(batch.tokens.shape[1], positions), types_of(task, batch)
    labels, classes = numbered(labels_of(task, batch, target)[:, at])
    cut = min(len(batch) - 1, max(1, round((1 - test) * len(batch))))
    return Question(target, labels[:cut], labels[cut:], None if types is None else types[:, at], classes, at)


def cells(x: Tensor, pooled: bool) -> Tensor:
    """Features `[layer sequence pos d]` as `[cell n d]`: a cell for each layer and position, or `pooled` each layer."""
    pattern = "layer sequence pos d -> layer (sequence pos) d"
    return rearrange(x, pattern if pooled else "layer sequence pos d -> (layer pos) sequence d")


def by_place(x: Tensor, pooled: bool, positions: int) -> Tensor:
    """The cells `[cell n d]` of one layer, put back as `[sequence pos d]`."""
    if pooled:
        return rearrange(x, "1 (sequence pos) d -> sequence pos d", pos=positions)
    return rearrange(x, "pos sequence d -> sequence pos d")


def asked(labels: Array, pooled: bool) -> Tensor:
    """Labels `[target sequence pos]` as `[cell target n]`: the cells of one layer."""
    pattern = "target sequence pos -> 1 target (sequence pos)"
    return torch.tensor(rearrange(labels, pattern if pooled else "target sequence pos -> pos target sequence"))
