"""The layers of an LSTM and of a plain recurrent net: controls, with what each layer gives out as a named site.

As in Chan et al. 2022's code the layers are stacked plainly, and each is one fused kernel; members go one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probelab.edit import Tape
from probelab.spec import LSTM, Recurrent
from probelab.weights import Params, Shape


def shapes(spec: Recurrent) -> dict[str, Shape]:
    """Every parameter of the layers, by name. An LSTM's gates lie side by side: input, forget, cell, output."""
    d = spec.d_model
    wide, table = 4 * d if isinstance(spec, LSTM) else d, {}
    for layer in range(spec.layers):
        here = f"recurrent.{layer}"
        table[f"{here}.W_in"] = Shape((d, wide), "recurrent", "recurrent")
        table[f"{here}.W_rec"] = Shape((d, wide), "recurrent", "recurrent")
        table[f"{here}.b"] = Shape((wide,), "zero", "bias")
    return table


def recur(spec: Recurrent, p: Params, x: Tensor, tape: Tape) -> Tensor:
    """What the last layer gives out: `x [member batch pos d_model]` -> the same shape."""
    for layer in range(spec.layers):
        here = f"recurrent.{layer}"
        members = zip(x, p[f"{here}.W_in"], p[f"{here}.W_rec"], p[f"{here}.b"], strict=True)
        x = tape(f"{here}.hook_out", torch.stack([unroll(spec, *member) for member in members]))
    return x


def unroll(spec: Recurrent, x: Tensor, w_in: Tensor, w_rec: Tensor, bias: Tensor) -> Tensor:
    """One layer of one member, from a state of zeros: `x [batch pos d_model]` -> the same shape.

    torch's kernels add a second bias. Here it is a constant: 1 for the forget gate, and zero elsewhere. So the learned
    bias starts at zero like every other, as in Haiku's LSTM, which Chan et al. 2022 use.
    """
    start, second = x.new_zeros(1, len(x), spec.d_model), torch.zeros_like(bias)
    weights = [w_in.mT, w_rec.mT, bias, second]
    options = (True, 1, 0.0, True, False, True)  # biases, layers, dropout, train, both directions, batch first
    if isinstance(spec, LSTM):
        second[spec.d_model : 2 * spec.d_model] = 1.0
        return torch.lstm(x, (start, start), weights, *options)[0]
    return torch.rnn_tanh(x, start, weights, *options)[0]


def sites(spec: Recurrent) -> list[str]:
    """Every site of the layers, in the order in which they are passed."""
    return [f"recurrent.{layer}.hook_out" for layer in range(spec.layers)]
