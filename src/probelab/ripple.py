"""Interventions that change many positions: recomputed from there to the position read.

A change in the last layer but one changes rows (sequence, cell, position) of its stream, none behind the position that
is read, as a causal model allows: behind that layer only these are computed (`Ripple`). For one key, value or stream
they begin at its position; for a place at all positions, where the source parts from the base. Behind a place at all
positions of an earlier layer whole streams are computed, but of the last layer only what is read (`Throughout`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probelab.answers import Metric
from probelab.attention import scores_at
from probelab.model import block
from probelab.places import Place
from probelab.reach import READS, WRITES, Way, known, positions, taken, where_asked
from probelab.weights import linear

if TYPE_CHECKING:
    from probelab.sweep import Sweep


def spreads(sweep: Sweep, place: Place) -> bool:
    """Is this a place whose change is known in one layer before the last, and spreads over positions from there?"""
    if sweep.read is None or not known(place) or place.layer > sweep.spec.layers - 2:
        return False
    if place.pos is None:
        return place.site in (*WRITES, *READS)
    return place.site in (*READS, "resid_pre") and place.layer == sweep.spec.layers - 2


def ripple(sweep: Sweep, cells: list[tuple[Place, ...]], source: Mapping[str, Tensor], metric: Metric) -> Tensor:
    """The metric `[member cell batch]` of cells of one site, layer and kind, one place each."""
    places, held = [cell[0] for cell in cells], source[cells[0][0].name]
    if places[0].layer < sweep.spec.layers - 2:
        way = Throughout(sweep, places, held)
        return way.judged(way.onward(*way.written()), metric)
    way = Ripple(sweep, places, held)
    stage, rows = way.written() if places[0].pos is None else ("mid", way.attended())
    return way.judged(way.after("mid", way.onward(way.after(stage, rows)), way.last), metric)


class Throughout(Way):
    """All positions: what is there has the axes `member batch cell pos ...`."""

    def __init__(self, sweep: Sweep, places: Sequence[Place], source: Tensor):
        super().__init__(sweep, places, source, where_asked(sweep, places))
        self.there = (self.rows.unsqueeze(-1), torch.arange(self.length, device=source.device))
        self.heads, self.keys, self.neurons = (at.unsqueeze(-1) for at in (self.heads, self.keys, self.neurons))

    def onward(self, stage: str, value: Tensor) -> Tensor:
        """The last stream where it is read, from what it is behind a part of this layer: cells along the batch."""
        cells = self.pos.shape[1]
        resid = self.after(stage, value).expand(-1, -1, cells, -1, -1).flatten(1, 2)
        for layer in range(self.layer + 1, self.spec.layers):
            read = self.read.repeat_interleave(cells) if layer == self.last else None
            resid = block(self.spec, layer, self.params, resid, at=read)
        return resid.unflatten(1, (-1, cells)).squeeze(3)


class Ripple(Way):
    """Rows `[row]`: `sequence`, `cell`, `query`. What is there has the axes `member row ...`."""

    def __init__(self, sweep: Sweep, places: Sequence[Place], source: Tensor):
        everywhere = places[0].pos is None
        super().__init__(sweep, places, source, (where_asked if everywhere else positions)(sweep, places))
        self.cells = Way(sweep, places, source, self.pos)
        query = torch.arange(self.length, device=source.device)
        begun = self.differing() if everywhere else (query >= self.pos[..., None]) & (self.pos >= 0)[..., None]
        inside = begun & (query <= self.read[:, None, None])
        self.cell, self.sequence, self.query = inside.transpose(0, 1).nonzero(as_tuple=True)
        self.there, self.touched = (self.sequence, self.query), inside.any(-1)
        self.head_of = self.heads[0]
        self.heads, self.keys, self.neurons = (
            at[self.sequence, self.cell] for at in (self.heads, self.keys, self.neurons)
        )

    @property
    def reaches(self) -> Tensor:
        """Which cells change any row, bool `[batch cell]`: all others leave what is read as it is, to the bit."""
        return self.touched

    def differing(self) -> Tensor:
        """The positions at which a source at all of them changes the stream, bool `[batch cell pos]`.

        Two inputs that begin alike hold the same up to where they part, and patching one with the other changes nothing
        before.
        """
        axis = 2 + self.place.axes.index("pos")
        change = (self.source - self.sweep.held(self.place.name)[0]).movedim(axis, 2).flatten(3)
        differs = (change.abs().sum(-1) != 0).any(0)  # so does NaN, of two masked scores
        if self.site in READS:  # a key changes all later queries' rows
            differs = differs.cumsum(-1) > 0
        return differs.unsqueeze(1).expand(-1, self.pos.shape[1], -1)

    def by_heads(self) -> Tensor:
        """What the change of a head adds at all positions: every cell has the same rows, so it is one product."""
        if self.place.head is None or self.place.key is not None:
            return super().by_heads()
        rows = len(self.sequence) // len(self.head_of)
        change = taken(self.carried() - self.held("attn.hook_z"), self.sequence[:rows], self.query[:rows])
        out = self.weight("attn.W_O").unflatten(1, (self.spec.heads_of(self.layer), -1))
        return (change.transpose(1, 2)[:, self.head_of] @ out[:, self.head_of]).flatten(1, 2)

    def attended(self) -> Tensor:
        """The stream after this layer's attention in each row, where it reads something else at one position.

        One changed key among many: with s its score, S the log-sum of the other scores' exponentials and z' what the
        head would carry without that key, it carries w v + (1 - w) z', w = 1 / (1 + exp(S - s)).
        """
        changed = self.cells.changed_reading()
        k, v = (taken(part, self.sequence, self.cell) for part in changed[:2])
        pos = self.pos[self.sequence, self.cell]
        others, total = self.without(pos)
        own = self.entry(self.at(self.held(f"attn.hook_{self.rotary}q")), k, self.query - pos, self.layer)
        weight = torch.sigmoid(own - total).unsqueeze(-1)
        z, stream = weight * v + (1 - weight) * others, self.at(self.held("hook_resid_pre"))
        if self.site == "resid_pre":
            itself = (self.query == pos).nonzero(as_tuple=True)[0]
            k, v, x = (part[:, self.sequence[itself], self.cell[itself]] for part in changed)
            q = self.asking(x, self.query[itself], self.layer)
            z[:, itself], stream[:, itself] = self.asked_anew(q, k, v, itself), x
        return stream + linear(z.flatten(-2), self.weight("attn.W_O"), self.params.get(f"blocks.{self.layer}.attn.b_O"))

    def without(self, pos: Tensor) -> tuple[Tensor, Tensor]:
        """Without the key at `pos` of each row: what heads carry `[member row head d_head]`, and log-sums of scores.

        (z - a v) / (1 - a) has no cancellation to speak of where another key has at least as much weight a; the key
        that has most is left out of the scores instead.
        """
        pattern, total, most, rest, rest_total = self.sweep.once(f"attention of layer {self.layer}", self.attention)
        v, z = self.held("attn.hook_v"), self.at(self.held("attn.hook_z"))
        weight = taken(pattern, self.sequence, self.query, pos)
        others = (z - weight[..., None] * taken(v, self.sequence, pos)) / (1 - weight)[..., None]
        first = self.at(most) == pos[:, None]
        return (
            torch.where(first[..., None], self.at(rest), others),
            torch.where(first, self.at(rest_total), self.at(total) + torch.log1p(-weight)),
        )

    def attention(self) -> tuple[Tensor, ...]:
        """Of this layer's base: the pattern `[member batch query key head]`; `[member batch query head]` the log-sum of
        scores, the key with most weight, and without that one what heads carry and the log-sum.
        """
        q, k, v = (self.held(f"attn.hook_{name}") for name in (f"{self.rotary}q", f"{self.rotary}k", "v"))
        scores = self.scores(q, k)
        most = scores.argmax(-1, keepdim=True)
        fewer = scores.scatter(-1, most, -torch.inf)
        rest = (fewer.softmax(-1).nan_to_num(0.0) @ v.transpose(2, 3)).transpose(2, 3)  # the first query has no rest
        total, rest_total = (part.logsumexp(-1).transpose(2, 3) for part in (scores, fewer))
        return (
            scores.softmax(-1).permute(0, 1, 3, 4, 2).contiguous(),
            total,
            most.squeeze(-1).transpose(2, 3),
            rest,
            rest_total,
        )

    def asked_anew(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        """What heads carry where the query itself changes, with its own key and value: `[member row head d_head]`."""
        sequence, query = self.sequence[rows], self.query[rows]
        keys, values = (
            self.held(f"attn.hook_{name}").transpose(2, 3)[:, sequence] for name in (f"{self.rotary}k", "v")
        )
        scores = scores_at(self.spec, self.layer, self.params, q.unsqueeze(2), keys, query).squeeze(2)
        at = query[None, :, None, None].expand(*scores.shape[:-1], 1)
        own = self.entry(q, k, torch.zeros_like(query), self.layer).unsqueeze(-1)
        pattern = scores.scatter(-1, at, own).softmax(-1)
        change = v - values[:, torch.arange(len(query)), :, query].transpose(0, 1)
        return (pattern.unsqueeze(-2) @ values).squeeze(-2) + pattern.gather(-1, at) * change

    def onward(self, after: Tensor) -> Tensor:
        """The stream after the last layer's attention where it is read, if rows of the stream before are `after`."""
        k, v = self.entering(after)
        stream, query, keys, values = self.reading()
        count, read = self.pos.shape[1], self.read[self.sequence]
        cell, itself = self.sequence * count + self.cell, (self.query == read).nonzero()[:, 0]
        changed = after.index_select(1, itself)
        stream = stream.repeat_interleave(count, 1).index_copy(1, cell[itself], changed)
        query = query.repeat_interleave(count, 1).index_copy(1, cell[itself], self.asking(changed, self.query[itself]))
        scores = scores_at(self.spec, self.last, self.params, query.unflatten(1, (-1, count)), keys, self.read)
        own = self.entry(query.index_select(1, cell), k, read - self.query)
        heads, length = scores.shape[3:]
        entries = (cell[:, None] * heads + torch.arange(heads, device=cell.device)) * length + self.query[:, None]
        entries = entries.flatten().expand(len(own), -1)
        pattern = scores.flatten(1).scatter(1, entries, own.flatten(1)).view_as(scores).softmax(-1)
        weight = pattern.flatten(1).gather(1, entries)
        others = pattern.flatten(1).scatter(1, entries, torch.zeros_like(weight)).view_as(pattern)
        z = (others.transpose(2, 3) @ values).transpose(2, 3).flatten(1, 2)
        added = weight.view_as(own).unsqueeze(-1) * v
        return self.joined(stream, z.index_add(1, cell, added)).unflatten(1, (-1, count))
