"""The few functions that touch weights, and with them the member axis: a stack of models is one batched product.

Weights are `[member ...]`, activations `[member batch pos ...]`. A stack of one goes the same way, bit for bit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, baddbmm, bmm

Params = dict[str, Tensor]


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


def norm(kind: str, x: Tensor) -> Tensor:
    """Layer normalisation of `x [... d]` without weight and bias; nothing where the kind is "none"."""
    return x if kind == "none" else F.layer_norm(x, x.shape[-1:], eps=1e-5)


def behind_norm(p: Params, name: str, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The linear map that reads a norm, with the norm's own weight and bias folded in, if it has any.

    `(x * w + b) W + c = x (w W) + (b W + c)`: a few thousand products instead of a pass over all activations.
    """
    if f"{name}.w" not in p:
        return weight, bias
    shift = p[f"{name}.b"].unsqueeze(1)
    shift = bmm(shift, weight) if bias is None else baddbmm(bias.unsqueeze(1), shift, weight)
    return p[f"{name}.w"].unsqueeze(-1) * weight, shift.squeeze(1)
