"""A model as a `transformer_lens.TransformerBridge`: the same function, and all of TransformerLens's tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probelab.positions import sinusoids
from probelab.spec import Transformer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from probelab.subject import Model


def to_transformer_lens(model: Model) -> TransformerBridge:
    """A bridge that gives the logits of `model`, with its own copy of the weights, in its dtype and on its device.

    What the native model of TransformerLens has no dial for is written into weights: missing biases are zeros, a plain
    norm is a layer norm with weight 1 and bias 0 (TransformerLens's own rounds to float32), sinusoids and no
    positions are a `W_pos`, a tied readout is a transposed copy. It has no dropout, which only matters for training on.
    Raises a ValueError that names the dial where it cannot be the same function.
    """
    check(model)
    from transformer_lens import TransformerBridge, TransformerBridgeConfig

    spec, task = model.spec, model.task
    config = TransformerBridgeConfig(
        n_layers=spec.layers,
        n_heads=spec.heads_of(0),
        d_model=spec.d_model,
        d_head=spec.head_size(0),
        d_mlp=spec.d_mlp or None,
        n_ctx=task.context,
        d_vocab=task.vocab,
        d_vocab_out=task.outputs,
        attn_only=spec.d_mlp == 0,
        act_fn=spec.activation,
        normalization_type=None if spec.norm == "none" else "LN",
        positional_embedding_type="rotary" if spec.positions == "rotary" else "standard",
        seed=0,  # what it draws is overwritten; without a seed it would draw from the global stream
    )
    setattr(config, "rotary_base", spec.base)  # noqa: B010 (declared int: its constructor rounds the base)
    boot_native = getattr(TransformerBridge, "boot_native")  # noqa: B009 (added when the class is loaded)
    bridge = boot_native(config, device=model.device, dtype=model.dtype)
    bridge.load_state_dict(state(model, bridge.state_dict()))
    return bridge.eval()


def check(model: Model) -> None:
    """Raise where the native model of TransformerLens cannot be the same function."""
    spec, task = model.spec, model.task
    if not isinstance(spec, Transformer):
        raise ValueError(f"model = {type(spec).__name__} cannot become a TransformerBridge: only a Transformer can")
    layers = range(spec.layers)
    sizes = {(spec.heads_of(layer), spec.head_size(layer)) for layer in layers}
    absolute = "'learned', 'rotary', 'sinusoidal' or 'none'"
    for dial, value, holds, allowed in [
        ("positions", spec.positions, spec.positions != "relative", absolute),
        ("heads", spec.heads, len(sizes) == 1, "the same number in every layer"),
        ("scaled", spec.scaled, spec.scaled or spec.head_size(0) == 1, "True: its scores are divided by sqrt(d_head)"),
        ("readout", spec.readout, not spec.readout, "(): its logits are linear in the last normalised stream"),
        ("edits", model.edits, not model.edits, "(): it knows no clamps"),
        ("features", task.features, task.features == 0, f"0: it reads tokens only, and {task.name} has vectors"),
    ]:
        if not holds:
            raise ValueError(
                f"{dial} = {value!r} cannot be expressed by TransformerLens's native model; it can: {allowed}"
            )


def state(model: Model, blank: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under TransformerLens's names, its matrices `[out in]`. What we lack is zero, or one in a norm."""
    spec, ours = model.spec, {name: model[name] for name in model.params}
    found = {name: torch.full_like(value, float("ln" in name and "weight" in name)) for name, value in blank.items()}
    found |= {"embed.weight": ours["embed.W_E"], "unembed.weight": model.unembedding.T}
    if spec.positions == "learned":
        found["pos_embed.weight"] = ours["pos_embed.W_pos"]
    elif spec.positions == "sinusoidal":
        device = torch.device(model.device)
        found["pos_embed.weight"] = sinusoids(model.task.context, spec.d_model, spec.base, model.dtype, device)
    for layer in range(spec.layers):
        for kind in "Wb":
            whole = ours.pop(f"blocks.{layer}.attn.{kind}_QKV", None)
            parts = () if whole is None else whole.chunk(3, -1)
            ours |= {f"blocks.{layer}.attn.{kind}_{x}": part for x, part in zip("QKV", parts, strict=False)}
    rooms = {
        f"blocks.{layer}.{theirs}": f"blocks.{layer}.{name}"
        for layer in range(spec.layers)
        for theirs, name in ROOMS.items()
    }
    for theirs, name in {**rooms, "ln_final": "ln_final.w"}.items():
        for part, source in (("weight", name), ("bias", bias_of(name))):
            if source in ours:
                found[f"{theirs}.{part}"] = ours[source].t()
    return found


ROOMS = {"ln1": "ln1.w", "ln2": "ln2.w", "mlp.in": "mlp.W_in", "mlp.out": "mlp.W_out"}
ROOMS |= {f"attn.{x}": f"attn.W_{x.upper()}" for x in "qkvo"}


def bias_of(weight: str) -> str:
    """The name of the bias beside a weight: `attn.b_O` for `attn.W_O`, `ln1.b` for `ln1.w`."""
    room, _, name = weight.rpartition(".")
    return f"{room}.b{name[1:]}"
