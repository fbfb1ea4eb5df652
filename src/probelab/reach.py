"""Interventions recomputed only where they reach: from one position to the one that is read.

A change of the residual stream at position p, behind the attention of the last layer but one, alters one key and one
value of the last layer, and the reader's own stream where p is read. So the last layer's scores at the position read
change in one entry, and everything else there is the base's. In the last layer itself only p = read matters. What
changes many positions of earlier layers is in `ripple`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, einsum

from probelab.answers import Metric
from probelab.attention import carried_at, fused, scores_at
from probelab.model import mlp, readout
from probelab.places import Place
from probelab.positions import future, relative_scores, rotate, rotate_at
from probelab.weights import linear, norm

if TYPE_CHECKING:
    from probelab.sweep import Sweep

ROWS = ("z", "q", "rot_q", "pattern", "attn_scores")  # a query's row, which matters to its own position alone
WRITES = (*ROWS, "attn_out", "resid_mid", "mlp_out", "post", "resid_post")
READS = ("k", "v", "rot_k")


def covers(sweep: Sweep, place: Place) -> bool:
    """Can this place be recomputed along one position?"""
    if sweep.read is None or not known(place):
        return False
    if place.layer == sweep.spec.layers - 1:
        return place.site in (*WRITES, *READS) or (place.site == "resid_pre" and place.pos is not None)
    return place.layer == sweep.spec.layers - 2 and place.site in WRITES and place.pos is not None


def known(place: Place) -> bool:
    """Single keys are replaced in a head's pattern, and single neurons behind the MLP's nonlinearity."""
    entry = place.site == "pattern" and place.head is not None
    return (place.key is None or entry) and (place.neuron is None or place.site == "post")


def reach(sweep: Sweep, cells: list[tuple[Place, ...]], source: Mapping[str, Tensor], metric: Metric) -> Tensor:
    """The metric `[member cell batch]` of cells of one site, layer and kind, one place each."""
    places = [cell[0] for cell in cells]
    place, last, held = places[0], sweep.spec.layers - 1, source[places[0].name]
    if place.layer == last and (place.site in WRITES or place.pos is None):
        return where_read(sweep, places, held, metric)
    way = Way(sweep, places, held, positions(sweep, places))
    if place.site in WRITES:
        stream = way.after(*way.written())
        changed = (*way.entering(stream), stream)
    else:
        changed = way.changed_reading()
    return way.judged(way.after("mid", way.through_attention(*changed), last), metric)


def positions(sweep: Sweep, places: Sequence[Place]) -> Tensor:
    """Where each place is, int `[batch cell]`; -1: nowhere."""
    batch, device = len(sweep.base), sweep.device
    return torch.stack([torch.as_tensor(place.pos, device=device).expand(batch) for place in places], 1)


def where_asked(sweep: Sweep, places: Sequence[Place]) -> Tensor:
    """The position that the metric reads, for each place: int `[batch cell]`."""
    assert sweep.read is not None
    return sweep.read.unsqueeze(1).expand(-1, len(places))


def where_read(sweep: Sweep, places: Sequence[Place], source: Tensor, metric: Metric) -> Tensor:
    """The metric `[member cell batch]` of changes in the last layer: none, but at the position read."""
    kinds = list(dict.fromkeys((place.head, place.key, place.neuron) for place in places))
    one_each = [next(p for p in places if (p.head, p.key, p.neuron) == kind) for kind in kinds]
    way = Last(sweep, one_each, source)
    found = way.judged(way.after(*way.written()), metric)
    found = found[:, [kinds.index((p.head, p.key, p.neuron)) for p in places]]
    if places[0].pos is None:
        return found
    there = positions(sweep, places) == where_asked(sweep, places)
    return torch.where(there.mT, found, sweep.unedited(metric).unsqueeze(1))


def taken(value: Tensor, *at: Tensor) -> Tensor:
    """`value[:, *at]`, many times as fast: the axes behind `member` are made one, and whole rows of it are copied."""
    index, *others = at
    for size, other in zip(value.shape[2:], others, strict=False):
        index = index * size + other
    return value.flatten(1, len(at)).index_select(1, index.flatten()).unflatten(1, index.shape)


class Way:
    """Places of one site, layer and kind: where they are, and what they change there.

    `pos` are the positions of each cell, int `[batch cell]`. What is "there" has the axes `member batch cell ...`.
    """

    def __init__(self, sweep: Sweep, places: Sequence[Place], source: Tensor, pos: Tensor):
        self.sweep, self.spec, self.params, self.source = sweep, sweep.spec, sweep.params, source
        self.place, self.last = places[0], sweep.spec.layers - 1
        self.site, self.layer = self.place.site, self.place.layer
        self.rotary = "rot_" if self.spec.positions == "rotary" else ""
        assert sweep.read is not None
        self.read, self.pos, self.length = sweep.read, pos, sweep.base.tokens.shape[1]
        self.rows = torch.arange(len(pos), device=pos.device)[:, None]
        self.heads, self.keys, self.neurons = (
            torch.tensor([0 if at is None else at for at in column], device=pos.device).expand(pos.shape)
            for column in zip(*((p.head, p.key, p.neuron) for p in places), strict=True)
        )
        self.there = (self.rows, pos.clamp(min=0))

    def at(self, value: Tensor, *inner: Tensor) -> Tensor:
        """What `[member batch pos ...]` is there; `inner` chooses along the axes that follow."""
        return taken(value, *self.there, *inner)

    def held(self, name: str, layer: int | None = None) -> Tensor:
        """What a site of a layer (this one, by default) holds for the base."""
        return self.sweep.held(f"blocks.{self.layer if layer is None else layer}.{name}")[0]

    def weight(self, name: str, layer: int | None = None) -> Tensor:
        return self.params[f"blocks.{self.layer if layer is None else layer}.{name}"]

    @property
    def mid(self) -> Tensor:
        """The residual stream of the base after this layer's attention."""
        return self.held("hook_resid_mid" if self.spec.d_mlp else "hook_resid_post")

    def after(self, stage: str, value: Tensor, layer: int | None = None) -> Tensor:
        """The residual stream after a layer, from what it is there ("post") or after the attention ("mid")."""
        if stage == "mid" and self.spec.d_mlp:
            return value + mlp(self.spec, self.layer if layer is None else layer, self.params, value)
        return value

    def written(self) -> tuple[str, Tensor]:
        """What becomes of the residual stream there, and behind which part of the layer."""
        if self.site == "resid_mid":
            return "mid", self.at(self.source)
        if self.site == "resid_post":
            return "post", self.at(self.source)
        if self.site == "attn_out":
            return "mid", self.at(self.mid + self.source - self.held("hook_attn_out"))
        if self.site == "mlp_out":
            return "post", self.at(self.held("hook_resid_post") + self.source - self.held("hook_mlp_out"))
        if self.site == "post":
            change, out = self.source - self.held("mlp.hook_post"), self.weight("mlp.W_out")
            one = self.place.neuron is not None
            added = (
                self.at(change, self.neurons)[..., None] * out[:, self.neurons] if one else linear(self.at(change), out)
            )
            return "post", self.at(self.held("hook_resid_post")) + added
        return "mid", self.at(self.mid) + self.by_heads()

    def by_heads(self) -> Tensor:
        """What the change of a head (or of all) adds to the stream there."""
        out = self.weight("attn.W_O").unflatten(1, (self.spec.heads_of(self.layer), -1))
        if self.place.key is not None:  # one entry of a pattern: the value at its key comes in by as much more
            change = (self.source - self.held("attn.hook_pattern")).transpose(2, 3)
            values = einsum("mbthe,mhed->mbthd", self.held("attn.hook_v"), out)
            return self.at(change, self.heads, self.keys)[..., None] * values[:, self.there[0], self.keys, self.heads]
        added = einsum("mbthe,mhed->mhbtd", self.carried() - self.held("attn.hook_z"), out)
        return self.at(added.sum(1)) if self.place.head is None else taken(added, self.heads, *self.there)

    def carried(self) -> Tensor:
        """What the heads would carry if all were the source's, `[member batch pos head d_head]`."""
        if self.site == "z":
            return self.source
        v = self.source if self.site == "v" else self.held("attn.hook_v")
        if self.site in ("pattern", "attn_scores"):
            pattern = self.source if self.site == "pattern" else self.source.softmax(-1)
            return (pattern @ v.transpose(2, 3)).transpose(2, 3)
        q, k = (self.held(f"attn.hook_{self.rotary}{part}") for part in "qk")
        if self.site != "v":
            turned = rotate(self.source, self.spec.base) if self.rotary and len(self.site) == 1 else self.source
            q, k = (turned, k) if self.site[-1] == "q" else (q, turned)
        return self.attending(q, k, v)

    def attending(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the heads of this layer carry, `[member batch pos head d_head]`."""
        v = v.transpose(2, 3)
        if self.spec.attention == "fused" and self.spec.positions != "relative":
            return fused(q.transpose(2, 3), k.transpose(2, 3), v, self.spec.score_scale(self.layer)).transpose(2, 3)
        return (self.scores(q, k).softmax(-1) @ v).transpose(2, 3)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores of this layer before the softmax, `[member batch head query key]`."""
        q, k = q.transpose(2, 3), k.transpose(2, 3)
        scores = q @ k.mT
        if self.spec.positions == "relative":
            scores = scores + relative_scores(q, self.weight("attn.W_rel"))
        return torch.add(future(self.length, q.dtype, q.device), scores, alpha=self.spec.score_scale(self.layer))

    def entering(self, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Key and value of a layer (the last, by default) there, from its stream `x` there."""
        k, v = self.projected(x, slice(1, 3), self.last if layer is None else layer)
        return rotate_at(k, self.spec.base, self.there[1], self.length) if self.rotary else k, v

    def asking(self, x: Tensor, at: Tensor, layer: int | None = None) -> Tensor:
        """Queries of a layer (the last, by default) from its streams `x [member row d_model]`, at positions `[row]`."""
        (q,) = self.projected(x, slice(0, 1), self.last if layer is None else layer)
        return rotate_at(q, self.spec.base, at, self.length) if self.rotary else q

    def projected(self, x: Tensor, parts: slice, layer: int) -> tuple[Tensor, ...]:
        """Some of query (0), key (1) and value (2) of a layer, `[member ... head d_head]`, from its stream."""
        heads, normed = self.spec.heads_of(layer), norm(self.spec.norm, self.params, f"blocks.{layer}.ln1", x)
        weight, bias = self.weight("attn.W_QKV", layer), self.params.get(f"blocks.{layer}.attn.b_QKV")
        weight = weight.unflatten(-1, (3, -1))[..., parts, :].flatten(-2)
        bias = None if bias is None else bias.unflatten(-1, (3, -1))[..., parts, :].flatten(-2)
        return linear(normed, weight, bias).unflatten(-1, (parts.stop - parts.start, heads, -1)).unbind(-3)

    def changed_reading(self) -> tuple[Tensor, ...]:
        """Key and value of this layer there where what it reads is changed; if its whole stream, the stream too."""
        if self.site == "resid_pre":
            stream = self.at(self.source)
            return *self.entering(stream, self.layer), stream
        k, v = (self.at(self.held(f"attn.hook_{part}")) for part in (f"{self.rotary}k", "v"))
        new = self.at(self.source)
        if self.rotary and self.site == "k":
            new = rotate_at(new, self.spec.base, self.there[1], self.length)
        if self.place.head is not None:
            mine = torch.arange(new.shape[-2], device=new.device) == self.heads[..., None]
            new = torch.where(mine[..., None], new, v if self.site == "v" else k)
        return (k, new) if self.site == "v" else (new, v)

    def reading(self) -> tuple[Tensor, ...]:
        """Of the last layer's base: stream and query where it is read, and all keys and values `[m b head key e]`."""
        stream = self.sweep.reading(self.held("hook_resid_pre", self.last))
        q = self.held(f"attn.hook_{self.rotary}q", self.last).squeeze(2)
        keys, values = (self.held(f"attn.hook_{name}", self.last).transpose(2, 3) for name in (f"{self.rotary}k", "v"))
        return stream, q, keys, values

    def through_attention(self, k: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        """The last stream after attention where it is read, if one position has this key and value (and stream)."""
        stream, query, keys, values = self.reading()
        stream, query, behind = stream.unsqueeze(2), query.unsqueeze(2), self.read[:, None] - self.there[1]
        if x is not None:
            itself = self.pos == self.read[:, None]
            b, c = itself.nonzero(as_tuple=True)
            stream, query = torch.where(itself[..., None], x, stream), query.repeat(1, 1, itself.shape[1], 1, 1)
            query[:, b, c] = self.asking(taken(x, b, c), self.read[b])
        scores = scores_at(self.spec, self.last, self.params, query, keys, self.read).expand(-1, -1, k.shape[2], -1, -1)
        own = self.entry(query, k, behind)[..., None]  # of keys behind the reader too: `judged` leaves them out
        at = self.there[1][None, :, :, None, None].expand_as(own)
        pattern = scores.scatter(-1, at, own).softmax(-1)
        z = (pattern.transpose(2, 3) @ values).transpose(2, 3)
        z = z + pattern.gather(-1, at) * (v - self.at(values.transpose(2, 3)))
        return self.joined(stream, z)

    def joined(self, stream: Tensor, z: Tensor) -> Tensor:
        """The stream after the last layer's attention, whose heads carry `z [member ... head d_head]`."""
        return stream + linear(
            z.flatten(-2), self.weight("attn.W_O", self.last), self.params.get(f"blocks.{self.last}.attn.b_O")
        )

    def entry(self, q: Tensor, k: Tensor, behind: Tensor, layer: int | None = None) -> Tensor:
        """Scores `[member ... head]` of queries `[... d_head]` at keys that lie `behind [...]` positions back."""
        scores = (q * k).sum(-1)
        if self.spec.positions == "relative":
            offsets = self.weight("attn.W_rel", self.last if layer is None else layer)  # [member head offset d_head]
            scores = scores + (q * offsets[:, :, behind.clamp(min=0)].movedim(1, -2)).sum(-1)
        return scores * self.spec.score_scale(self.last if layer is None else layer)

    @property
    def reaches(self) -> Tensor:
        """Which cells can change what is read, bool `[batch cell]`."""
        return (self.pos >= 0) & (self.pos <= self.read[:, None])

    def judged(self, resid: Tensor, metric: Metric) -> Tensor:
        """The metric `[member cell batch]` from the last stream where it is read; what lies behind cannot reach it."""
        found = metric(readout(self.spec, self.params, resid).transpose(1, 2))
        return torch.where(self.reaches.mT, found, self.sweep.unedited(metric).unsqueeze(1))


class Last(Way):
    """Places in the last layer where it is read: what is asked and written there is one row, `[member batch 1 ...]`."""

    def __init__(self, sweep: Sweep, places: Sequence[Place], source: Tensor):
        super().__init__(sweep, places, source, where_asked(sweep, places))
        self.there = (self.rows, torch.zeros_like(self.pos))
        if self.rotary and self.site == "q":  # turned while it has all positions
            self.site, self.source = "rot_q", rotate(self.source, self.spec.base)
        if self.site in WRITES:
            axis = 2 + self.place.axes.index("pos")
            self.source = self.source.movedim(axis, 2)[:, self.rows, self.read.unsqueeze(1)].movedim(2, axis)

    def attending(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same where it is read, `[member batch 1 head d_head]`."""
        scores = scores_at(self.spec, self.layer, self.params, q, k.transpose(2, 3), self.read)
        return carried_at(scores.softmax(-1).transpose(2, 3), v)
