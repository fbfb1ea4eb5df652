"""Which component matters, where, and since when: interventions on every part of a site, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from torch import Tensor

from probelab.answers import METRICS, kl_from
from probelab.changes import mean, noise, resample, zero
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, lots
from probelab.places import SITES, Place, site_of
from probelab.subject import Model, Subject
from probelab.sweep import Sweep
from synthetic_tasks import Task
from synthetic_tasks.task import Pairs, choose, require

AXES = ("head", "position", "role", "key", "neuron")
CHANGES = ("denoise", "noise", "zero", "mean", "resample", "gaussian")
TOGETHER = 4  # checkpoints at a time; more only miss the CPU's cache


@dataclass(frozen=True)
class Patching:
    """What an intervention on a part of a site does to the answer; means, with 95 % intervals over pairs.

    effect     the metric with the intervention minus the metric without: raw, as the gap between clean and corrupt is
               near zero early in training
    recovery   of denoise and noise: the effect over the gap between both inputs, 1 if the part does it all (a ratio of
               means); NaN where the interval of the gap holds 0
    clean, corrupt  the metric on both inputs as they are

    site    a short name: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (what a head carries), q, k, v,
            pattern, attn_scores, post (neurons), ...
    by      what a part is, beside its layer: head, position, role (the positions that the task's facts name, and the
            one where the answer is read), key (in patterns), neuron. Everything else is changed as a whole
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
    version = 1

    def __post_init__(self) -> None:
        choose("site", self.site, SITES)
        axes = SITES[self.site][1].split()
        for axis in self.by:
            choose("axis of `by`", axis, AXES)
            there = {"position": "pos", "role": "pos"}.get(axis, axis)
            require(there in axes, "by", self.by, f"axes of the site {self.site}: {' '.join(axes)}")
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
            _, parts = self.cells(together[0], subject.task, pairs)
            found = self.in_lots(together, pairs, subject.memory)
            for k, step in enumerate(steps):
                here = dict(step=step, site=self.site, change=self.change)
                yield from (here | row for row in self.rows(parts, [value[k] for value in found]))

    def cells(self, model: Model, task: Task, pairs: Pairs) -> tuple[list[Place], list[dict[str, Any]]]:
        """Every part of the site in every layer, and its coordinates."""
        length, spec = pairs.clean.tokens.shape[1], model.spec
        layers = [layer for layer in range(spec.layers) if site_of(self.site, layer) in model.sites]
        require(bool(layers), "site", self.site, f"a site of this model: {', '.join(model.sites)}")
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

    def in_lots(self, models: tuple[Model, ...], pairs: Pairs, memory: int) -> list[np.ndarray]:
        """`effects`, a part of the pairs at a time; a mean and another pair's value need them all at once."""
        spec, length = models[0].spec, pairs.clean.tokens.shape[1]
        heads = max(map(spec.heads_of, range(spec.layers)))
        floats = length * spec.layers * (20 * spec.d_model + 4 * spec.d_mlp + 6 * heads * length)
        alone = self.change in ("denoise", "noise", "zero")
        most = max(2, memory // (4 * floats * len(models))) if alone else self.n
        found = []
        for lot in lots(pairs, most):
            cells, _ = self.cells(models[0], models[0].task, lot)
            found.append(self.effects(models, lot, cells))
        return [np.concatenate(part, axis=-1) for part in zip(*found, strict=True)]

    def effects(self, models: tuple[Model, ...], pairs: Pairs, cells: list[Place]) -> list[np.ndarray]:
        """Of each pair: the effect of each cell `[member cell pair]`, and the metric `[member pair]` on both inputs."""
        base, other = (pairs.corrupt, pairs.clean) if self.change == "denoise" else (pairs.clean, pairs.corrupt)
        sweep, reverse = Sweep(models, base, pairs.position), Sweep(models, other, pairs.position)
        names = [cell.name for cell in cells]
        made = {"zero": zero, "mean": mean, "resample": resample, "gaussian": noise}
        swap = self.change in ("denoise", "noise")
        source = sweep.hold(other, names) if swap else made[self.change](sweep.hold(base, names))
        metric = kl_from(sweep.unedited(lambda logits: logits)) if self.metric == "kl" else METRICS[self.metric](pairs)
        before, there = sweep.unedited(metric), reverse.unedited(metric)
        effect = sweep(cells, source, metric) - before.unsqueeze(1)
        clean, corrupt = (there, before) if self.change == "denoise" else (before, there)
        return [numbers(value) for value in (effect, clean, corrupt)]

    def rows(self, parts: list[dict[str, Any]], found: list[np.ndarray]) -> Iterator[Row]:
        """Means over pairs of one model."""
        effect, clean, corrupt = found
        for metric, values in (("clean", clean), ("corrupt", corrupt)):
            yield dict(metric=metric, **pooled(values, np.ones(len(values))).row())
        mean_effect = pooled(effect.T, np.ones((len(clean), 1)))
        for k, part in enumerate(parts):
            yield dict(metric="effect", **part, **mean_effect.row(k))
        if self.change not in ("denoise", "noise"):
            return
        gap = clean - corrupt if self.change == "denoise" else corrupt - clean
        between = pooled(gap, np.ones(len(gap))).row()
        clear = between["lo"] > 0 or between["hi"] < 0
        recovery = pooled(effect.T, np.broadcast_to(gap[:, None], effect.T.shape))
        for k, part in enumerate(parts):
            unknown = dict(value=np.nan, lo=np.nan, hi=np.nan, n=len(gap))
            yield dict(metric="recovery", **part, **(recovery.row(k) if clear else unknown))


def position_of(role: str, pairs: Pairs) -> np.ndarray:
    """The position that a role names for each pair, int `[pair]`; -1 where it names none."""
    if role == "answer":
        return pairs.position
    return pairs.clean.facts[role][np.arange(len(pairs.position)), pairs.position]


def numbers(value: Tensor) -> np.ndarray:
    return value.double().cpu().numpy()
