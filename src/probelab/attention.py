"""Attention with named sites: `q k v`, scores before the softmax, pattern, what each head carries and writes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from probelab.edit import Tape
from probelab.positions import future, relative_scores, rotate, rotate_at
from probelab.prefixes import Rows, spread
from probelab.spec import Transformer
from probelab.weights import Params, linear, norm

Dropout = Callable[[str, Tensor], Tensor]


def attend(
    spec: Transformer, layer: int, p: Params, x: Tensor, tape: Tape, drop: Dropout, rows: Rows | None = None
) -> Tensor:
    """What a layer's attention writes to the residual stream: `x [member batch pos d_model]` -> the same shape.

    Where only some `rows` are computed, `x` is packed, and the sites of heads are spread.
    """
    here = f"blocks.{layer}.attn"
    q, k, v = queries_keys_values(spec, layer, p, x, tape, rows)
    if spec.positions == "rotary":
        q = tape(f"{here}.hook_rot_q", rotate(q, spec.base))
        k = tape(f"{here}.hook_rot_k", rotate(k, spec.base))
    q, k, v = (part.transpose(2, 3) for part in (q, k, v))
    scale = spec.score_scale(layer)
    inner = (f"{here}.hook_attn_scores", f"{here}.hook_pattern")
    if spec.attention == "fused" and spec.positions != "relative" and spec.dropout == 0 and not tape.wants(*inner):
        z = fused(q, k, v, scale)
    else:
        scores = q @ k.transpose(-1, -2)
        if spec.positions == "relative":
            scores = scores + relative_scores(q, p[f"{here}.W_rel"])
        scores = tape(inner[0], torch.add(future(q.shape[-2], q.dtype, q.device), scores, alpha=scale))
        z = drop(inner[1], tape(inner[1], scores.softmax(-1))) @ v
    z = tape(f"{here}.hook_z", z.transpose(2, 3))
    return write(spec, layer, p, z if rows is None else rows.pack(z), tape)


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """What heads carry, `[member batch head pos d_head]` like what they are given; no pattern is ever written down."""
    flat = [part.flatten(0, 1) for part in (q, k, v)]
    z = F.scaled_dot_product_attention(flat[0], flat[1], flat[2], is_causal=True, scale=scale)
    return z.unflatten(0, q.shape[:2])


def write(spec: Transformer, layer: int, p: Params, z: Tensor, tape: Tape) -> Tensor:
    """What heads write to the residual stream, from what they carry: `z [member batch pos head d_head]`."""
    here = f"blocks.{layer}.attn"
    out, bias = p[f"{here}.W_O"], p.get(f"{here}.b_O")
    if tape.wants(f"{here}.hook_result"):
        written = tape(f"{here}.hook_result", by_head(z, out, z.shape[-2]))
        return written.sum(-2) if bias is None else written.sum(-2) + bias[:, None, None]
    return linear(z.flatten(-2), out, bias)


def row_at(x: Tensor, at: Tensor, rows: Rows | None = None) -> Tensor:
    """Of `[member batch pos ...]`, perhaps packed, what stands at one position of each sequence, `at [batch]`."""
    return x[:, torch.arange(len(at)).unsqueeze(-1), at.unsqueeze(-1)] if rows is None else rows.last(x)[:, : len(at)]


def attend_at(
    spec: Transformer, layer: int, p: Params, x: Tensor, at: Tensor, tape: Tape, rows: Rows | None = None
) -> Tensor:
    """The same where one position of each sequence asks, `at [batch]`: -> `[member batch 1 d_model]`.

    Sites hold that one row, but for keys, values and inputs of heads; they can be recorded, not edited. With `rows`,
    more sequences than ask may have keys and values.
    """
    here, heads = f"blocks.{layer}.attn", spec.heads_of(layer)
    for site in (f"blocks.{layer}.hook_{name}_input" for name in "qkv"):
        if tape.wants(site):
            tape(site, repeat(x, "... pos d -> ... pos head d", head=heads))
    normed = norm(spec.norm, p, f"blocks.{layer}.ln1", x)
    split = heads * spec.head_size(layer)
    weight, bias = p[f"{here}.W_QKV"], p.get(f"{here}.b_QKV")
    both = [
        (weight[..., part], None if bias is None else bias[..., part]) for part in (slice(split), slice(split, None))
    ]
    q = linear(row_at(normed, at, rows), *both[0]).unflatten(-1, (heads, -1))
    keys_values = linear(normed, *both[1])
    keys_values = keys_values if rows is None else rows.spread(keys_values)
    k, v = keys_values.unflatten(-1, (2, heads, -1)).unbind(-3)
    q, k, v = (tape(f"{here}.hook_{name}", part) for name, part in zip("qkv", (q, k, v), strict=True))
    if spec.positions == "rotary":
        q = tape(f"{here}.hook_rot_q", rotate_at(q, spec.base, at.unsqueeze(-1), k.shape[2]))
        k = tape(f"{here}.hook_rot_k", rotate(k, spec.base))
    k, v = k[:, : len(at)], v[:, : len(at)]
    scores = scores_at(spec, layer, p, q, k.transpose(2, 3), at).transpose(2, 3)
    pattern = tape(f"{here}.hook_pattern", tape(f"{here}.hook_attn_scores", scores).softmax(-1))
    return write(spec, layer, p, tape(f"{here}.hook_z", carried_at(pattern, v)), tape)


def carried_at(pattern: Tensor, v: Tensor) -> Tensor:
    """What heads carry to one query of each sequence, `[member batch 1 head d_head]`.

    pattern `[member batch head 1 key]`, v `[member batch key head d_head]`. A sum over values as they lie: a matrix
    product would copy them first, head by head.
    """
    return (pattern.squeeze(3).transpose(2, 3).unsqueeze(-1) * v).sum(2, keepdim=True)


def scores_at(spec: Transformer, layer: int, p: Params, q: Tensor, k: Tensor, at: Tensor) -> Tensor:
    """Scores of some queries of each sequence, which all stand at `at [batch]`: `[member batch some head key]`.

    q `[member batch some head d_head]`, k `[member batch head key d_head]`.
    """
    if q.shape[2] == 1:  # keys as they lie: a matrix product copies them head by head before, which costs more than it
        scores = (q * k.transpose(2, 3)).sum(-1).transpose(2, 3).unsqueeze(2)
    else:
        scores = (q.transpose(2, 3) @ k.mT).transpose(2, 3)
    behind = at.unsqueeze(-1) - torch.arange(k.shape[-2], device=at.device)  # how far back each key lies, `[batch key]`
    if spec.positions == "relative":
        by_offset = torch.einsum("mbshe,mhoe->mbsho", q, p[f"blocks.{layer}.attn.W_rel"])
        scores = scores + by_offset.gather(-1, behind.clamp(min=0)[:, None, None].expand_as(scores))
    return (scores * spec.score_scale(layer)).masked_fill((behind < 0)[:, None, None], -torch.inf)


def queries_keys_values(
    spec: Transformer, layer: int, p: Params, x: Tensor, tape: Tape, rows: Rows | None = None
) -> tuple[Tensor, ...]:
    """Queries, keys and values `[member batch pos head d_head]`; each head's input, before the norm, is a site too."""
    here, heads = f"blocks.{layer}.attn", spec.heads_of(layer)
    weight, bias, before = p[f"{here}.W_QKV"], p.get(f"{here}.b_QKV"), f"blocks.{layer}.ln1"
    inputs = [f"blocks.{layer}.hook_{name}_input" for name in "qkv"]
    if tape.wants(*inputs):
        split = [tape(site, repeat(x, "... pos d -> ... pos head d", head=heads)) for site in inputs]
        weights = weight.chunk(3, -1)
        parts = [
            rearrange(norm(spec.norm, p, before, part), "member batch pos head d -> member head (batch pos) d")
            @ rearrange(w, "member d (head e) -> member head d e", head=heads)
            for part, w in zip(split, weights, strict=True)
        ]
        parts = [
            rearrange(part, "member head (batch pos) e -> member batch pos head e", pos=x.shape[2]) for part in parts
        ]
        if bias is not None:
            parts = [
                part + rearrange(b, "member (head e) -> member 1 1 head e", head=heads)
                for part, b in zip(parts, bias.chunk(3, -1), strict=True)
            ]
    else:
        some, index = (None, None) if rows is None else rows.read_by(layer)
        both = linear(norm(spec.norm, p, before, x if some is None else x[:, :, some]), weight, bias)
        both = both if index is None else spread(both, index)
        parts = both.unflatten(-1, (3, heads, -1)).unbind(-3)
    return tuple(tape(f"{here}.hook_{name}", part) for name, part in zip("qkv", parts, strict=True))


def by_head(z: Tensor, out: Tensor, heads: int) -> Tensor:
    """What each head writes, `[member batch pos head d_model]`, from `z [member batch pos head d_head]`."""
    return torch.einsum("mbthe,mhed->mbthd", z, rearrange(out, "member (head e) d -> member head e d", head=heads))
