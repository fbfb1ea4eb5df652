"""Many interventions on one input, each on its own: cells along the batch, checkpoints along the member axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probelab.answers import Metric
from probelab.edit import Edit, Tape
from probelab.model import apply, block, inputs, readout
from probelab.places import Place
from probelab.prefixes import Rows
from probelab.reach import covers, reach
from probelab.ripple import ripple, spreads
from probelab.spec import Transformer
from probelab.subject import CACHE, Model
from probelab.train import one_thread
from synthetic_tasks import Batch
from synthetic_tasks.task import choose, require

Cell = Place | tuple[Place, ...]  # what one intervention touches: several places at once, if need be
Held = Mapping[str, Tensor]  # what sites hold, `[member batch ...]`
# sites that cost a slower way, copy another, or are wide and seldom asked for
FUTURE = {"pattern": 0.0, "attn_scores": -torch.inf}  # what a query has of keys behind it
INSIDE = ("q", "k", "v", "rot_q", "rot_k", "z")  # sites as wide as a head
DEAR = ("_input", "result", "scores", "pattern", "mlp_in", "mlp.hook_pre", "mlp.hook_post")
Method = Callable[[list[tuple[Place, ...]], Held, Metric], Tensor]


class Sweep:
    """A base input, and for each of several models of one kind what becomes of it under interventions.

    models  checkpoints, or seeds, of one spec and one task
    base    the sequences that are intervened on; what sites hold for them is kept, all of them at once
    read    the position of each sequence that the metric reads, int `[batch]`; None: all positions

    A change at one position is followed along the one way that it can take (`reach`); one that changes many positions
    behind the layer that it is in, row by row (`ripple`); others start at the layer that they change (`onward`). Each
    gives what one whole pass a cell gives (`one_by_one`), which clamped and recurrent models take.
    """

    def __init__(self, models: Sequence[Model], base: Batch, read: np.ndarray | None = None):
        first = models[0]
        for model in models:
            model.check(base)
            alike = (model.spec, model.task, model.dtype, model.device) == (
                first.spec,
                first.task,
                first.dtype,
                first.device,
            )
            require(alike, "models", model.spec, f"of one spec, task, dtype and device, such as {first.spec}")
        if read is not None:
            shape, length = np.shape(read), base.tokens.shape[1]
            fits = shape == (len(base),) and np.min(read) >= 0 and np.max(read) < length
            require(bool(fits), "read", read, f"a position from 0 to {length - 1} for each of {len(base)} sequences")
        self.models, self.spec, self.base, self.device = tuple(models), first.spec, base, first.device
        self.params = {name: torch.cat([model.params[name] for model in models]) for name in first.params}
        self.read = None if read is None else torch.as_tensor(np.asarray(read), device=self.device)
        self.plain = isinstance(self.spec, Transformer) and not any(model.edits for model in models)
        self._held: dict[str, Tensor] = {}
        self._packed: dict[str, Callable[[], Tensor]] = {}
        self._once: dict[str, tuple[Tensor, ...]] = {}
        self._short = False  # whether what is held ends where it is read

    def hold(self, batch: Batch, places: Iterable[str], at: Tensor | None = None) -> dict[str, Tensor]:
        """What the sites of these names hold for `batch`, `[member batch ...]`.

        Where only one position of each sequence is read, `at [batch]`, sites of the last layer hold that one row, `pos`
        of size 1, but for what that row reads: the layer's `resid_pre`, heads' inputs, keys and values.
        """
        wanted = list(dict.fromkeys(places))
        self.models[0].check(batch)
        with one_thread(), torch.no_grad():
            if not self.plain:
                caches = [model.cache(batch, wanted) for model in self.models]
                return {name: torch.stack([cache[name] for cache in caches]) for name in wanted}
            tape = Until(wanted, known=self.models[0].sites)
            with suppress(Enough):
                apply(self.spec, self.params, self.inputs(batch), tape, at=at)
            return tape.recorded()

    def beside(self, other: Batch, places: Iterable[str]) -> dict[str, Tensor]:
        """The same for `other`, read where the base is; behind that position sites hold anything.

        The first such pass is the base's too (`held`), and computes once what both inputs begin with; `other` ends with
        the last layer's keys and values, where no more is asked of it.
        """
        wanted, count = list(dict.fromkeys(places)), len(self.base)
        self.models[0].check(other)
        alike = self.plain and other.tokens.shape == self.base.tokens.shape
        if (
            self.read is None
            or not alike
            or self._held
            or self._packed
            or any(name.endswith("_input") for name in wanted)
        ):
            return self.hold(other, wanted, self.read)
        rows = Rows(self.base, other, self.read, words=self.spec.positions not in ("learned", "sinusoidal"))
        tape = Tape([*self.usual, *wanted], known=self.models[0].sites)
        first, second = self.inputs(self.base), self.inputs(other)
        both = type(first)(*(None if x is None else torch.cat([x, y], 1) for x, y in zip(first, second, strict=True)))
        sites, last = self.models[0].sites, f"blocks.{self.spec.layers - 1}"
        ends = [f"{last}.hook_resid_pre", *(f"{last}.attn.hook_{name}" for name in ("k", "v", "rot_k"))]
        early = all(name in ends or sites.index(name) < sites.index(ends[0]) for name in wanted)
        with one_thread(), torch.no_grad():
            at = self.read if early and count > 1 else self.read.repeat(2)
            apply(self.spec, self.params, both, tape, at=at, rows=rows)
        self._short = True
        self._packed = {name: partial(rows.spread, value, slice(count)) for name, value in tape.recorded().items()}
        return {name: rows.spread(tape.sites[name], slice(count, None)) for name in wanted}

    @property
    def usual(self) -> list[str]:
        """The sites that one pass over the base records for all that may follow."""
        return [name for name in self.models[0].sites if self.plain and not name.endswith(DEAR)]

    def held(self, *names: str) -> list[Tensor]:
        """What sites of these names hold for the base (`hold`): one pass for the usual ones, kept for the next time."""
        for name in self._packed.keys() & set(names):
            self._held[name] = self._packed.pop(name)()
        if any(name not in self._held for name in names):
            known = self._held.keys() | self._packed.keys()
            self._held |= self.hold(self.base, [name for name in (*names, *self.usual) if name not in known], self.read)
        return [self._held[name] for name in names]

    def once(self, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What is derived from the base, kept for the next time."""
        if name not in self._once:
            self._once[name] = make()
        return self._once[name]

    def inputs(self, batch: Batch) -> Any:
        """One copy of a batch for every model."""
        return inputs([batch] * len(self.models), self.device, self.models[0].dtype)

    def unedited(self, metric: Metric) -> Tensor:
        """The metric on the base as it is, `[member batch]`."""
        return self.answered(self.held("logits")[0], metric)

    def answered(self, logits: Tensor, metric: Metric) -> Tensor:
        """The metric on logits as `beside` and `held` give them, `[member batch]`."""
        return metric(logits.squeeze(2) if self.plain and self.read is not None else self.reading(logits))

    def reading(self, value: Tensor) -> Tensor:
        """The part of `[member batch pos ...]` that the metric reads."""
        return value if self.read is None else value[:, torch.arange(len(self.base)), self.read]

    def __call__(self, cells: Sequence[Cell], source: Held, metric: Metric) -> Tensor:
        """The metric under each intervention, `[member cell batch]`.

        `source` has, by the full name of a site, what takes the place of what the base holds there, `[member batch
        ...]`: what sites hold for another input (`hold`), zeros, a mean, noise. Of the last layer only rows that are
        read matter, so what sites hold there is enough.
        """
        every = [(cell,) if isinstance(cell, Place) else tuple(cell) for cell in cells]
        require(bool(every) and all(every), "cells", cells, "one or more, each of one or more places")
        places = dict.fromkeys(place for cell in every for place in cell)
        source = {name: self.fitting(place, source) for name, place in {place.name: place for place in places}.items()}
        for place in places:
            place.check(source[place.name].shape[1:])
        found = {}
        with one_thread(), torch.no_grad():
            for chosen, way in self.ways(every):
                found |= dict(zip(chosen, way([every[k] for k in chosen], source, metric).unbind(1), strict=True))
        return torch.stack([found[k] for k in range(len(every))], 1)

    def fitting(self, place: Place, source: Held) -> Tensor:
        """The source of a place's site: axes `member`, `batch` and `pos` of size 1 serve all."""
        name = choose("site of this model", place.name, self.models[0].sites)
        value, axes = source[choose("site in the source", name, source)], ("member", "batch", *place.shape)
        sizes = [len(self.models), len(self.base), *self.sizes(place)]
        fits = len(sizes) == value.dim() and all(
            have == size or (have == 1 and axis in ("member", "batch", "pos"))
            for have, size, axis in zip(value.shape, sizes, axes, strict=True)
        )
        wanted = f"{sizes} ({' '.join(axes)}), or 1 member, 1 sequence, 1 position for all"
        if not fits:
            raise ValueError(f"source of {name} has the shape {list(value.shape)}: it must be {wanted}")
        value = value.expand(sizes)
        if self._short and place.site in FUTURE and self.looks_ahead(place, value):
            self._short, self._held, self._packed, self._once = False, {}, {}, {}
        return value

    def sizes(self, place: Place) -> list[int]:
        """Of the axes of a place's site after `batch`."""
        spec, length, inside = self.spec, self.base.tokens.shape[1], place.site in INSIDE
        heads = spec.heads_of(place.layer) if isinstance(spec, Transformer) and "head" in place.shape else 0
        neurons = spec.readout[place.layer] if place.site == "readout" else getattr(spec, "d_mlp", 0)
        width = spec.head_size(place.layer) if isinstance(spec, Transformer) and inside else spec.d_model
        sizes = dict(pos=length, key=length, head=heads, d=width, neuron=neurons, vocab=self.models[0].task.outputs)
        return [sizes[axis] for axis in place.shape]

    def looks_ahead(self, place: Place, value: Tensor) -> bool:
        """Does a pattern (or do scores) show a query what lies behind it? `beside` has computed none of that."""
        key = torch.arange(value.shape[-1], device=value.device)
        query = key[:, None]
        if place.layer == self.spec.layers - 1 and self.read is not None:
            value, query = value[:, torch.arange(len(self.base)), :, self.read], self.read[:, None, None, None]
        return bool(((value != FUTURE[place.site]) & (key > query)).any())

    def ways(self, cells: list[tuple[Place, ...]]) -> Iterator[tuple[list[int], Method]]:
        """Which cells go together, and how."""
        groups: dict[tuple, list[int]] = {}
        for k, cell in enumerate(cells):
            groups.setdefault(self.kind(cell), []).append(k)
        ways = {"one by one": self.one_by_one, "onward": self.onward}
        ways |= {"reach": partial(reach, self), "ripple": partial(ripple, self)}
        for (way, *_), chosen in groups.items():
            size = self.room(way)
            yield from ((chosen[at : at + size], ways[way]) for at in range(0, len(chosen), size))

    def kind(self, cell: tuple[Place, ...]) -> tuple:
        """The way of a cell, and what those that go together have in common."""
        if not self.plain:
            return ("one by one",)
        place = cell[0]
        way = "reach" if covers(self, place) else "ripple" if spreads(self, place) else "onward"
        if len(cell) > 1 or way == "onward":
            return "onward", min(part.begins for part in cell)
        return way, place.site, place.layer, *(at is None for at in (place.head, place.pos, place.key, place.neuron))

    def room(self, way: str) -> int:
        """Cells at a time, from the spec and the memory alone."""
        spec, model, length = self.spec, self.models[0], self.base.tokens.shape[1]
        if way == "one by one":
            return 1_000_000  # one after the other in any case
        heads = max(map(spec.heads_of, range(spec.layers)))
        floats = 8 * spec.d_model + 2 * spec.d_mlp + model.task.outputs + 3 * heads * length
        floats *= len(self.models) * len(self.base) * (1 if way == "reach" else length)
        room = min(model.memory, 2 * CACHE) if self.device == "cpu" else model.memory
        return max(1, room // (4 * floats))

    def onward(self, cells: list[tuple[Place, ...]], source: Held, metric: Metric) -> Tensor:
        """Cells along the batch, from the first layer that any of them changes."""
        members, batch, count = len(self.models), len(self.base), len(cells)
        patches = Patches(cells, source, batch)
        start = min(self.spec.layers - 1, *(place.begins for cell in cells for place in cell))
        if start < 0:
            tiled = self.inputs(self.base)
            tiled = type(tiled)(*(None if x is None else x.repeat(1, count, *[1] * (x.dim() - 2)) for x in tiled))
            logits = apply(self.spec, self.params, tiled, patches)
            return self.judged(logits, count, metric)
        (resid,) = self.held(f"blocks.{start}.hook_resid_pre")
        resid = resid.unsqueeze(1).expand(members, count, *resid.shape[1:]).flatten(1, 2)
        for layer in range(start, self.spec.layers):
            if layer == self.spec.layers - 1 and self.read is not None and patches.last < layer:
                resid = block(self.spec, layer, self.params, resid, at=self.read.repeat(count)).squeeze(2)
                return metric(readout(self.spec, self.params, resid).unflatten(1, (count, batch)))
            resid = block(self.spec, layer, self.params, resid, patches)
        return self.judged(readout(self.spec, self.params, resid, patches), count, metric)

    def judged(self, logits: Tensor, count: int, metric: Metric) -> Tensor:
        """The metric on logits `[member cell*batch pos vocab]`."""
        if self.read is not None:
            logits = logits[:, torch.arange(logits.shape[1]), self.read.repeat(count)]
        return metric(logits.unflatten(1, (count, len(self.base))))

    def one_by_one(self, cells: list[tuple[Place, ...]], source: Held, metric: Metric) -> Tensor:
        """One whole pass for each cell and model: slow, and what the other ways are tested against."""
        values = []
        for cell in cells:
            passes = []
            for member, model in enumerate(self.models):
                edits = [Edit(place.name, replacing(place, source[place.name][member])) for place in cell]
                whole = inputs([self.base], self.device, model.dtype)
                passes.append(model.apply(whole, model.tape(self.base, (), edits)))
            values.append(metric(self.reading(torch.stack(passes))))
        return torch.stack(values, 1)


def replacing(place: Place, source: Tensor) -> Callable[[Tensor, Any], Tensor]:
    """What an edit does: the place takes what `source` `[batch ...]` has there."""
    return lambda value, context: torch.where(place.mask(value.shape).to(value.device), source, value)


class Enough(Exception):
    """All that was asked for is on the tape."""


class Until(Tape):
    """A tape that stops the pass when it has all that it was asked for."""

    def __call__(self, site: str, value: Tensor) -> Tensor:
        value = super().__call__(site, value)
        if len(self.sites) == len(self.record):
            raise Enough
        return value


class Patches(Tape):
    """A tape for cells along the batch: each site passes with the places of every cell replaced."""

    def __init__(self, cells: list[tuple[Place, ...]], source: Held, batch: int):
        super().__init__()
        self.source, self.batch = source, batch
        self.places: dict[str, list[tuple[Place, ...]]] = {}
        for place in (place for cell in cells for place in cell):
            self.places.setdefault(place.name, [])
        for name, lists in self.places.items():
            lists += [tuple(place for place in cell if place.name == name) for cell in cells]
        self.last = max(place.begins for cell in cells for place in cell)
        self.listening = True

    def __call__(self, site: str, value: Tensor) -> Tensor:
        if site not in self.places:
            return value
        source, cells = self.source[site], self.places[site]
        value = value.unflatten(1, (len(cells), self.batch))
        masks = torch.stack([masked(places, value.shape[2:]) for places in cells]).to(value.device)
        return torch.where(masks, source.unsqueeze(1), value).flatten(1, 2)

    def wants(self, *sites: str) -> bool:
        return any(site in self.places for site in sites)


def masked(places: tuple[Place, ...], shape: Sequence[int]) -> Tensor:
    """The entries of a site of `shape` that any of these places means, all axes at their size."""
    found = torch.zeros(tuple(shape), dtype=torch.bool)
    for place in places:
        found |= place.mask(shape)
    return found
