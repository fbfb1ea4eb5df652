"""From a spec to parameters to a forward pass with named sites (TransformerLens's legacy names)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probelab import recurrent
from probelab.attention import Dropout, attend, attend_at, row_at
from probelab.edit import SILENT, Tape
from probelab.positions import sinusoids
from probelab.prefixes import Rows
from probelab.spec import Recurrent, Transformer
from probelab.weights import Params, Shape, embed, linear, norm
from synthetic_tasks import Batch, Task, stream
from synthetic_tasks.task import choose_from


def shapes(spec: Transformer | Recurrent, task: Task) -> dict[str, Shape]:
    """Every parameter of a model on a task, by name."""
    d, table = spec.d_model, {"embed.W_E": Shape((task.vocab, spec.d_model), "embed", "embedding")}
    if task.features:
        table["embed.W_in"] = Shape((task.features, d), "weight", "embedding")
    if isinstance(spec, Recurrent):
        unembed = Shape((d, task.outputs), "unembed", "readout")
        return {**table, **recurrent.shapes(spec), "unembed.W_U": unembed}
    if spec.positions == "learned":
        table["pos_embed.W_pos"] = Shape((task.context, d), "embed", "positions")

    def add_norm(name: str) -> None:
        if spec.norm == "layer":
            table[f"{name}.w"] = Shape((d,), "one", "norm")
            table[f"{name}.b"] = Shape((d,), "zero", "norm")

    def add_linear(
        weight: str, bias: str, sizes: tuple[int, int], role: str, group: str, biased: bool = spec.biases
    ) -> None:
        table[weight] = Shape(sizes, role, group)
        if biased:
            table[bias] = Shape(sizes[1:], "zero", "bias")

    for layer in range(spec.layers):
        block, heads, size = f"blocks.{layer}", spec.heads_of(layer), spec.head_size(layer)
        add_norm(f"{block}.ln1")
        add_linear(f"{block}.attn.W_QKV", f"{block}.attn.b_QKV", (d, 3 * heads * size), "weight", "attention")
        if spec.positions == "relative":
            table[f"{block}.attn.W_rel"] = Shape((heads, task.context, size), "embed", "positions")
        add_linear(f"{block}.attn.W_O", f"{block}.attn.b_O", (heads * size, d), "output", "attention")
        if spec.d_mlp:
            add_norm(f"{block}.ln2")
            add_linear(f"{block}.mlp.W_in", f"{block}.mlp.b_in", (d, spec.d_mlp), "weight", "mlp")
            add_linear(f"{block}.mlp.W_out", f"{block}.mlp.b_out", (spec.d_mlp, d), "output", "mlp")
    add_norm("ln_final")
    widths = (d, *spec.readout)
    for k, sizes in enumerate(zip(widths, widths[1:], strict=False)):
        add_linear(f"readout.{k}.W", f"readout.{k}.b", sizes, "hidden", "readout", biased=True)
    if not spec.tied:
        table["unembed.W_U"] = Shape((widths[-1], task.outputs), "unembed", "readout")
    elif task.outputs != task.vocab:
        raise ValueError(
            f"tied = True needs as many outputs as symbols; {task.name} has {task.vocab} symbols "
            f"and {task.outputs} outputs"
        )
    return table


# Standard deviation of a matrix by its role. gpt2: Radford et al. 2019. lecun: 1/sqrt(fan in). The others as in the
# authors' code: edelman2024 is gpt2 at two layers; reddy2023 has 1/sqrt(63) where d_model is 128 (63 of it content), He
# before ReLU; singh2024 is lecun with label embeddings of 0.02 truncated at two standard deviations, .88 of it.
INITS = {
    "gpt2": lambda role, fan_in, layers: 0.02 / (2 * layers) ** 0.5 if role == "output" else 0.02,
    "lecun": lambda role, fan_in, layers: 0.02 if role == "embed" else fan_in**-0.5,
    "edelman2024": lambda role, fan_in, layers: 0.01 if role == "output" else 0.02,
    "reddy2023": lambda role, fan_in, layers: ({"hidden": 2.0, "weight": 128 / 63}.get(role, 1.0) / fan_in) ** 0.5,
    "singh2024": lambda role, fan_in, layers: 0.0176 if role == "embed" else fan_in**-0.5,
}


def init(spec: Transformer | Recurrent, task: Task, seed: int) -> dict[str, np.ndarray]:
    """Parameters from the init seed's stream; each has its own address, so one more leaves the others as they are."""
    std = choose_from("init", spec.init, INITS)
    params = {}
    for name, (shape, role, _) in shapes(spec, task).items():
        if role in ("one", "zero"):
            params[name] = np.full(shape, float(role == "one"), np.float32)
        else:
            scale = std(role, shape[-2] if role != "embed" else shape[-1], spec.layers)
            params[name] = (stream("init", seed, name).standard_normal(shape) * scale).astype(np.float32)
    return params


class Inputs(NamedTuple):
    """What a model reads: `tokens [member batch pos]` and perhaps `vectors [member batch pos feature]`."""

    tokens: Tensor
    vectors: Tensor | None = None


def inputs(batches: list[Batch], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
    """One batch per member, stacked; all of one shape."""
    tokens = torch.from_numpy(np.stack([b.tokens for b in batches])).to(device, torch.int64)
    if batches[0].vectors is None:
        return Inputs(tokens.clamp_(min=0))  # padding stands at the right, where no scored position looks
    return Inputs(
        tokens, torch.from_numpy(np.stack([b.vectors for b in batches if b.vectors is not None])).to(device, dtype)
    )


def no_dropout(site: str, value: Tensor) -> Tensor:
    """Evaluation, and models without dropout."""
    return value


def apply(
    spec: Transformer | Recurrent,
    p: Params,
    x: Inputs,
    tape: Tape = SILENT,
    drop: Dropout = no_dropout,
    at: Tensor | None = None,
    rows: Rows | None = None,
) -> Tensor:
    """Logits `[member batch pos outputs]`; `drop` zeroes parts of what a site holds while training.

    A transformer read at one position of each sequence, `at [batch]`, computes of its last layer that row alone, and of
    the others perhaps only some `rows`: what is on the tape is packed then, where it is not a head's, and sequences
    beyond those that `at` has end with the keys and values of the last layer.
    """
    resid = drop("hook_embed", embedded(spec, p, x, tape))
    if isinstance(spec, Recurrent):
        return tape("logits", linear(recurrent.recur(spec, p, resid, tape), p["unembed.W_U"]))
    if rows is not None:
        resid = rows.pack(resid)
    for layer in range(spec.layers):
        resid = block(spec, layer, p, resid, tape, drop, at if layer == spec.layers - 1 else None, rows)
    return readout(spec, p, resid, tape)


def block(
    spec: Transformer,
    layer: int,
    p: Params,
    resid: Tensor,
    tape: Tape = SILENT,
    drop: Dropout = no_dropout,
    at: Tensor | None = None,
    rows: Rows | None = None,
) -> Tensor:
    """One layer: the residual stream `[member batch pos d_model]` before it -> after it (one row, `at [batch]`)."""
    here = f"blocks.{layer}"
    resid = tape(f"{here}.hook_resid_pre", resid)
    if at is None:
        out = attend(spec, layer, p, resid, tape, drop, rows)
    else:
        out = attend_at(spec, layer, p, resid, at, tape, rows)
        resid = row_at(resid, at, rows)
    resid = resid + drop(f"{here}.hook_attn_out", tape(f"{here}.hook_attn_out", out))
    if spec.d_mlp:
        resid = tape(f"{here}.hook_resid_mid", resid)
        out = mlp(spec, layer, p, tape(f"{here}.hook_mlp_in", resid), tape)
        resid = resid + drop(f"{here}.hook_mlp_out", tape(f"{here}.hook_mlp_out", out))
    return tape(f"{here}.hook_resid_post", resid)


# in place, or with what it is given kept; the widest tensor of all is read from memory once less in place
ACTIVATIONS = {"gelu": (torch.ops.aten.gelu_, F.gelu), "relu": (F.relu_, F.relu)}


def mlp(spec: Transformer, layer: int, p: Params, x: Tensor, tape: Tape = SILENT) -> Tensor:
    """What a layer's MLP writes to the residual stream: `x [member ... d_model]` -> the same shape."""
    here = f"blocks.{layer}"
    hidden = norm(spec.norm, p, f"{here}.ln2", x)
    hidden = tape(f"{here}.mlp.hook_pre", linear(hidden, p[f"{here}.mlp.W_in"], p.get(f"{here}.mlp.b_in")))
    kept = torch.is_grad_enabled() or tape.keeps(f"{here}.mlp.hook_pre")
    hidden = tape(f"{here}.mlp.hook_post", ACTIVATIONS[spec.activation][kept](hidden))
    return linear(hidden, p[f"{here}.mlp.W_out"], p.get(f"{here}.mlp.b_out"))


def readout(spec: Transformer, p: Params, resid: Tensor, tape: Tape = SILENT) -> Tensor:
    """Logits `[member ... outputs]` from the last residual stream `[member ... d_model]`."""
    unembed = p["embed.W_E"].mT if spec.tied else p["unembed.W_U"]
    hidden = norm(spec.norm, p, "ln_final", resid)
    for k in range(len(spec.readout)):
        hidden = tape(f"readout.{k}.hook_post", F.relu(linear(hidden, p[f"readout.{k}.W"], p[f"readout.{k}.b"])))
    return tape("logits", linear(hidden, unembed))


def embedded(spec: Transformer | Recurrent, p: Params, x: Inputs, tape: Tape) -> Tensor:
    """Tokens, vectors and positions as `[member batch pos d_model]`: `E[token] + vector @ W_in (+ P)`."""
    if x.vectors is None:
        resid = embed(x.tokens, p["embed.W_E"])
    else:  # where a vector speaks the token is -1, and where a token speaks the vector is zero
        speaks = (x.tokens >= 0).unsqueeze(-1)
        resid = embed(x.tokens.clamp(min=0), p["embed.W_E"]) * speaks + linear(x.vectors, p["embed.W_in"])
    resid = tape("hook_embed", resid)
    length = x.tokens.shape[-1]
    if spec.positions == "learned":
        learned = p["pos_embed.W_pos"].unsqueeze(1)
        if length < learned.shape[-2]:
            learned = learned[..., :length, :]
        return resid + tape("hook_pos_embed", learned.expand_as(resid))
    if spec.positions == "sinusoidal":
        return resid + tape(
            "hook_pos_embed", sinusoids(length, spec.d_model, spec.base, resid.dtype, resid.device).expand_as(resid)
        )
    return resid


def sites(spec: Transformer | Recurrent) -> list[str]:
    """Every site of the forward pass, in the order in which they are passed."""
    if isinstance(spec, Recurrent):
        return ["hook_embed", *recurrent.sites(spec), "logits"]
    names = ["hook_embed"] + ["hook_pos_embed"] * (spec.positions in ("learned", "sinusoidal"))
    for layer in range(spec.layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_{name}" for name in ("resid_pre", "q_input", "k_input", "v_input")]
        names += [f"{block}.attn.hook_{name}" for name in ("q", "k", "v")]
        if spec.positions == "rotary":
            names += [f"{block}.attn.hook_rot_q", f"{block}.attn.hook_rot_k"]
        names += [f"{block}.attn.hook_{name}" for name in ("attn_scores", "pattern", "z", "result")] + [
            f"{block}.hook_attn_out"
        ]
        if spec.d_mlp:
            names += [
                f"{block}.{name}"
                for name in ("hook_resid_mid", "hook_mlp_in", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")
            ]
        names += [f"{block}.hook_resid_post"]
    return [*names, *(f"readout.{k}.hook_post" for k in range(len(spec.readout))), "logits"]
