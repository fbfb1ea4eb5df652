"""Which component matters, where, and since when: interventions on every part of a site, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from probelab.answers import METRICS, kl_from
from probelab.changes import gaussian, known, mean, partners, zero
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, kind_of, lots, numbers
from probelab.places import SITES, Place, site_of
from probelab.subject import Model, Subject
from probelab.sweep import Held, Sweep
from synthetic_tasks import Batch, Task
from synthetic_tasks.task import Pairs, choose, require

AXES = ("head", "position", "role", "key", "neuron")
CHANGES = ("denoise", "noise", "zero", "mean", "resample", "gaussian")
TOGETHER = 8  # checkpoints at a time; more only miss the CPU's cache


@dataclass(frozen=True)
class Patching:
    """What an intervention on a part of a site does to the answer; means, with 95 % intervals over pairs.

    effect     the metric with the intervention minus the metric without: raw, as the gap between clean and corrupt is
               near zero early in training
    recovery   of denoise and noise: the effect over the gap between both inputs, 1 if the part does it all (a ratio of
               means); NaN where the interval of the gap holds 0
    clean, corrupt  the metric on both inputs as they are

    site    a short name: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (what a head carries), q, k, v,
            pattern, attn_scores, post (neurons), ...; a readout has neurons of its own and is left out
    by      what a part is, beside its layer: head, position, role (the positions that the task's facts name, and the
            one where the answer is read; pairs that have no such position are left out), key (in patterns), neuron.
            Everything else is changed as a whole
    change  denoise: what the clean input holds, put into the corrupt one (is it enough?); noise: the reverse (is it
            needed?). In the clean input: zero, mean over the pairs, resample (another pair's), gaussian (3 standard
            deviations)
    metric  logit_difference (answer - foil), log_prob (nats), rank, kl (nats from the input as it is)
    n, kind of the task's pairs, from a stream that training never reads

    Heimersheim & Nanda 2024; Zhang & Nanda 2024. Equal to `transformer_lens.patching` on the same weights.
    """

    site: str = "z"
    by: tuple[str, ...] = ("head", "position")
    change: str = "denoise"
    metric: str = "logit_difference"
    n: int = 64
    kind: str | None = None

    name = "patching"
    version = 2

    def __post_init__(self) -> None:
        require(isinstance(self.by, tuple), "by", self.by, "a tuple, such as ('head', 'position')")
        choose("site", self.site, [site for site in SITES if site != "readout"])
        axes = SITES[self.site][1].split()
        for axis in self.by:
            choose("axis of `by`", axis, AXES)
            there = {"position": "pos", "role": "pos"}.get(axis, axis)
            words = [word for axis in axes for word in {"pos": ("position", "role")}.get(axis, (axis,)) if word in AXES]
            require(there in axes, "by", self.by, f"what tells parts of the site {self.site} apart: {', '.join(words)}")
        require(len(set(self.by)) == len(self.by), "by", self.by, "each axis once")
        require(not {"position", "role"} <= set(self.by), "by", self.by, "position or role, not both")
        choose("change", self.change, CHANGES)
        choose("metric", self.metric, [*METRICS, "kl"])
        require(self.n >= 2, "n", self.n, "at least two pairs")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        pairs = drawn(self.name, subject, self.n, self.kind)
        models = iter(subject)
        while group := list(islice(models, TOGETHER)):
            steps, together = zip(*group, strict=True)
            parts, found = self.in_lots(together, pairs, subject.memory)
            for k, step in enumerate(steps):
                here = dict(step=step, site=self.site, change=self.change, pairs=kind_of(subject, self.kind))
                yield from (here | row for row in self.rows(parts, found.of(k)))

    def cells(self, model: Model, task: Task, pairs: Pairs) -> tuple[list[Place], list[dict[str, Any]]]:
        """Every part of the site in every layer, and its coordinates."""
        length, spec = pairs.clean.tokens.shape[1], model.spec
        layers = [layer for layer in range(spec.layers) if site_of(self.site, layer) in model.sites]
        short = [site for site, (full, _) in SITES.items() if full.format(0) in model.sites]
        require(bool(layers), "site", self.site, f"a site of this model: {', '.join(short)}")
        places, coordinates = [], []
        for layer in layers if "{}" in SITES[self.site][0] else [0]:
            spans = {
                "head": range(spec.heads_of(layer)),
                "position": range(length),
                "role": [*task.roles, "answer"],
                "key": range(length),
                "neuron": range(spec.d_mlp),
            }
            for part in product(*(spans[axis] for axis in self.by)):
                at: dict[str, Any] = dict(zip(self.by, part, strict=True))
                coordinates.append({"layer": layer, **at})
                if "role" in at:
                    at["pos"] = tuple(map(int, position_of(at.pop("role"), pairs)))
                elif "position" in at:
                    coordinates[-1]["pos"] = at["pos"] = coordinates[-1].pop("position")
                    at.pop("position")
                places.append(Place(self.site, layer, **at))
        return places, coordinates

    def in_lots(self, models: tuple[Model, ...], pairs: Pairs, memory: int) -> tuple[list[dict[str, Any]], Found]:
        """The parts, and what was found of all pairs, as many at a time as fit into memory."""
        spec, length = models[0].spec, pairs.clean.tokens.shape[1]
        heads = max(map(spec.heads_of, range(spec.layers)))
        floats = length * (
            spec.layers * (20 * spec.d_model + 4 * spec.d_mlp + 6 * heads * length) + models[0].task.outputs
        )
        most = max(2, memory // (4 * floats * len(models)))
        base = pairs.corrupt if self.change == "denoise" else pairs.clean
        several = [
            (slice(start, start + most), lot)
            for start, lot in zip(range(0, self.n, most), lots(pairs, most), strict=True)
        ]
        cells, parts = self.cells(models[0], models[0].task, pairs)
        names = list(dict.fromkeys(cell.name for cell in cells))

        def averaged(part: Callable[[Held], Held]) -> dict[str, Tensor]:
            total: dict[str, Tensor] = {}
            for rows, _ in several:
                held = mean(part(Sweep(models, base[rows]).hold(base[rows], names)))
                total = {name: total.get(name, 0) + value * (len(base[rows]) / self.n) for name, value in held.items()}
            return total

        over_all: dict[str, Tensor] = {}
        if self.change == "mean":
            over_all = averaged(lambda held: held)
        if self.change == "gaussian":
            middle = averaged(known)
            squares = averaged(lambda held: {name: (x - middle[name]).square() for name, x in known(held).items()})
            over_all = {name: value.sqrt() for name, value in squares.items()}
        found = []
        for rows, few in several:
            found.append(self.effects(models, few, self.cells(models[0], models[0].task, few)[0], base, rows, over_all))
        return parts, Found(*(np.concatenate(part, axis=-1) for part in zip(*found, strict=True)))

    def effects(
        self,
        models: tuple[Model, ...],
        pairs: Pairs,
        cells: list[Place],
        every: Batch,
        rows: slice,
        over_all: dict[str, Tensor],
    ) -> Found:
        """What is found of some of the pairs: `rows` of `every`; `over_all` is the mean, or the spread, of all."""
        base, other = (pairs.corrupt, pairs.clean) if self.change == "denoise" else (pairs.clean, pairs.corrupt)
        sweep, names = Sweep(models, base, pairs.position), [cell.name for cell in cells]
        swapped = self.change in ("denoise", "noise")
        beside = sweep.beside(other, ["logits", *(names if swapped else [])])
        source = beside if swapped else over_all
        if self.change == "resample":
            source = sweep.hold(every[partners(self.n)[rows]], names)
        if self.change in ("zero", "gaussian"):
            held = sweep.hold(base, names)
            source = zero(held) if self.change == "zero" else gaussian(held, first=rows.start, width=over_all)
        metric = kl_from(sweep.unedited(lambda logits: logits)) if self.metric == "kl" else METRICS[self.metric](pairs)
        before, there = sweep.unedited(metric), sweep.answered(beside["logits"], metric)
        effect = sweep(cells, source, metric) - before.unsqueeze(1)
        clean, corrupt = (there, before) if self.change == "denoise" else (before, there)
        has = [np.broadcast_to(0 if cell.pos is None else cell.pos, len(base)) >= 0 for cell in cells]
        return Found(numbers(effect), numbers(clean), numbers(corrupt), np.broadcast_to(has, effect.shape))

    def rows(self, parts: list[dict[str, Any]], found: Found) -> Iterator[Row]:
        """Means over pairs of one model."""
        for metric, values in (("clean", found.clean), ("corrupt", found.corrupt)):
            yield dict(metric=metric, **pooled(values, np.ones(len(values))).row())
        effect = pooled(np.where(found.has, found.effect, 0.0).T, found.has.T)
        for k, part in enumerate(parts):
            yield dict(metric="effect", **part, **effect.row(k))
        if self.change not in ("denoise", "noise"):
            return
        gap = found.clean - found.corrupt if self.change == "denoise" else found.corrupt - found.clean
        between = pooled(gap, np.ones(len(gap))).row()
        clear = between["lo"] > 0 or between["hi"] < 0
        recovery = pooled(np.where(found.has, found.effect, 0.0).T, (found.has * gap).T)
        for k, part in enumerate(parts):
            unknown = dict(value=np.nan, lo=np.nan, hi=np.nan, n=len(gap))
            yield dict(metric="recovery", **part, **(recovery.row(k) if clear else unknown))


class Found(NamedTuple):
    """The effect of each cell on each pair `[member cell pair]`, the metric on both inputs `[member pair]`, and which
    pairs have a cell's position.
    """

    effect: np.ndarray
    clean: np.ndarray
    corrupt: np.ndarray
    has: np.ndarray

    def of(self, member: int) -> Found:
        return Found(*(part[member] for part in self))


def position_of(role: str, pairs: Pairs) -> np.ndarray:
    """The position that a role names for each pair, int `[pair]`; -1 where it names none."""
    if role == "answer":
        return pairs.position
    return pairs.clean.facts[role][np.arange(len(pairs.position)), pairs.position]
