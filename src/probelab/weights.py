"""The few functions that touch weights, and with them the member axis: a stack of models is one batched product.

Weights are `[member ...]`, activations `[member batch pos ...]`. A stack of one goes the same way, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, baddbmm, bmm

Params = dict[str, Tensor]
EPS = 1e-5  # added to the variance


class Shape(NamedTuple):
    """One parameter: its shape `[in out]`, what it does, and its decay group."""

    shape: tuple[int, ...]
    role: str
    group: str


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x [member ... in]` times `weight [member in out]` plus `bias [member out]`."""
    rows = x.flatten(1, -2)
    out = bmm(rows, weight) if bias is None else baddbmm(bias.unsqueeze(1), rows, weight)
    return out.view(*x.shape[:-1], weight.shape[-1])


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows of `table [member vocab d]` at `tokens [member ...]`."""
    members, vocab, width = table.shape
    if members > 1:
        first = tokens.new_tensor(range(0, members * vocab, vocab)).view(-1, *[1] * (tokens.dim() - 1))
        tokens = tokens + first
    return F.embedding(tokens, table.reshape(members * vocab, width))


def norm(kind: str, p: Params, name: str, x: Tensor) -> Tensor:
    """Layer normalisation of `x [member ... d]`; only the kind "layer" has a weight and a bias, "none" does nothing."""
    if kind == "none":
        return x
    if kind == "plain":
        return F.layer_norm(x, x.shape[-1:], eps=EPS)
    weight, bias = p[f"{name}.w"], p[f"{name}.b"]
    if len(x) == 1:
        return F.layer_norm(x, x.shape[-1:], weight.squeeze(0), bias.squeeze(0), EPS)
    if torch.is_grad_enabled():
        return torch.stack(
            [F.layer_norm(one, one.shape[-1:], w, b, EPS) for one, w, b in zip(x, weight, bias, strict=True)]
        )
    width, each = x.shape[-1:], (len(x), *[1] * (x.dim() - 2), -1)  # the kernel is slow without weights: ones are some
    normed = F.layer_norm(x, width, x.new_ones(width), x.new_zeros(width), EPS)
    return torch.addcmul(bias.view(each), normed, weight.view(each))
