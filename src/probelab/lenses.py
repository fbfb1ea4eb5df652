"""What the residual stream says, and who wrote it: logit lens, tuned lens, direct logit attribution."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probelab.model import readout
from probelab.spec import Transformer
from probelab.subject import Model
from probelab.train import one_thread
from probelab.weights import EPS
from synthetic_tasks import Batch

EMBEDS = ("embed", "pos_embed")
WHOLE = ("hook_attn_out", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "logits")  # sums over parts
ROUNDS = 30  # of L-BFGS at most for a translator: more fit it closer, but not on held-out sequences (pilot: 20 to 300)


class Translators(NamedTuple):
    """A tuned lens: `x + x weight + bias` before the final norm, for each lens but the last, which needs none."""

    weight: Tensor  # [lens d_model d_model]
    bias: Tensor  # [lens d_model]


class Part(NamedTuple):
    """What writes to the residual stream: embed, pos_embed, head, attn_bias, mlp (with its bias); or norm_bias."""

    component: str
    layer: int | None = None
    head: int | None = None


def residual_streams(model: Model, batch: Batch) -> Tensor:
    """The stream after 0, 1, ... all blocks, `[lens batch pos d_model]`."""
    needs_stream(model.spec)
    last = model.spec.layers - 1
    sites = [f"blocks.{layer}.hook_resid_pre" for layer in range(last + 1)] + [f"blocks.{last}.hook_resid_post"]
    cache = model.cache(batch, sites)
    return torch.stack([cache[site] for site in sites])


def read_out(model: Model, stream: Tensor) -> Tensor:
    """Logits `[... outputs]` of a stream `[... d_model]`, as if it were the last: norm, readout MLP, unembedding."""
    return readout(model.spec, model.params, stream[None])[0]


def logit_lens(model: Model, batch: Batch, tuned: Translators | None = None) -> Tensor:
    """Log-probabilities in nats that the stream gives after 0, 1, ... all blocks, `[lens batch pos outputs]`.

    Each stream is read as if it were the last, through the final norm with its own mean and scale (nostalgebraist
    2020). The last lens is the model itself, unless a clamp overwrites logits. Errors: a model without a stream.
    """
    streams = residual_streams(model, batch)
    if tuned is not None:
        moved = [translated(*each) for each in zip(streams[:-1], *tuned, strict=True)]
        streams = torch.stack([*moved, streams[-1]])
    with one_thread():
        return read_out(model, streams).log_softmax(-1)


def tuned_lens(model: Model, batch: Batch, rounds: int = ROUNDS) -> Translators:
    """Translators that bring each lens closest to the model's own answer (Belrose et al. 2023).

    Each minimises the mean KL(model || lens) over the positions at which something is asked, by full-batch L-BFGS from
    the identity. Nothing is drawn, and nothing is carried over from another checkpoint: what is measured at a step does
    not depend on which other steps are. Score it on other sequences.
    """
    streams = residual_streams(model, batch)[:, torch.from_numpy(batch.targets >= 0)]
    with one_thread():
        goal = read_out(model, streams[-1]).log_softmax(-1)
        fitted = [translator(model, stream, goal, rounds) for stream in streams[:-1]]
    return Translators(*map(torch.stack, zip(*fitted, strict=True)))


def translator(model: Model, stream: Tensor, goal: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """The map of one lens, from `stream [n d_model]` to the model's log-probabilities `goal [n outputs]`."""
    width = stream.shape[-1]
    weight, bias = stream.new_zeros(width, width).requires_grad_(), stream.new_zeros(width).requires_grad_()
    search = torch.optim.LBFGS([weight, bias], max_iter=rounds, line_search_fn="strong_wolfe")

    def distance() -> Any:
        search.zero_grad()
        gap = kl(goal, read_out(model, translated(stream, weight, bias)).log_softmax(-1)).mean()
        gap.backward()
        return gap

    search.step(distance)
    return weight.detach(), bias.detach()


def translated(stream: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`stream [... d_model]` moved by a translator."""
    return stream + stream @ weight + bias


def kl(said: Tensor, other: Tensor) -> Tensor:
    """KL(said || other) in nats, `[...]`, of log-probabilities `[... outputs]`."""
    return (said.exp() * (said - other)).sum(-1)


def logit_directions(model: Model, answer: np.ndarray, foil: np.ndarray | None = None) -> Tensor:
    """From the last normalised stream to the logit of `answer [batch]`, or to answer minus foil: `[batch d_model]`.

    Errors: a model with a readout MLP, behind which no direction of the stream is a logit's.
    """
    needs_stream(model.spec)
    if model.spec.readout:
        raise ValueError(
            f"readout = {model.spec.readout} stands between stream and logits, which is not linear: logits are no sum "
            "over components; measure lens instead"
        )
    answers = model.unembedding.T[torch.from_numpy(np.asarray(answer))]
    return answers if foil is None else answers - model.unembedding.T[torch.from_numpy(np.asarray(foil))]


def direct_logit_attribution(
    model: Model, batch: Batch, position: np.ndarray, directions: Tensor
) -> dict[Part, Tensor]:
    """What each part adds to a logit (difference) at `position [batch]`, directly: `[batch]` each.

    `directions` are those of `logit_directions`. The final norm is linear once its scale is that of the actual pass, so
    the parts sum to the logit (difference), to rounding (Elhage et al. 2021; Wang et al. 2022, section 3.1). Errors: a
    clamp that overwrites the stream itself, which then is no sum of its parts.
    """
    refuse_clamps(model, ("hook_result", *WHOLE))
    spec, layers = model.spec, range(model.spec.layers)
    sites = [site for site in ("hook_embed", "hook_pos_embed") if site in model.sites]
    sites += [f"blocks.{layer}.attn.hook_z" for layer in layers]
    sites += [f"blocks.{layer}.hook_mlp_out" for layer in layers if spec.d_mlp]
    cache = model.cache(batch, [*sites, last_site(model)])
    held = {site: at_position(value, position) for site, value in cache.items()}
    onto = onto_stream(model, held[last_site(model)], directions)
    found = {Part(name): (held[f"hook_{name}"] * onto).sum(-1) for name in EMBEDS if f"hook_{name}" in held}
    for layer in layers:
        here, out = f"blocks.{layer}", model.head_weights(layer)["W_O"]
        by_head = (held[f"{here}.attn.hook_z"] * heads_onto(onto, out)).sum(-1)
        found |= {Part("head", layer, head): by_head[:, head] for head in range(len(out))}
        if spec.biases:
            found[Part("attn_bias", layer)] = onto @ model[f"{here}.attn.b_O"]
        if spec.d_mlp:
            found[Part("mlp", layer)] = (held[f"{here}.hook_mlp_out"] * onto).sum(-1)
    if spec.norm == "layer":
        found[Part("norm_bias")] = directions @ model["ln_final.b"]
    return found


def attribution_by_source(model: Model, batch: Batch, position: np.ndarray, directions: Tensor) -> dict[Part, Tensor]:
    """What each head adds, by the position that it comes from: `[batch source]` each; sums are the head's attribution.

    That is pattern times value, through W_O; positions after `position` add nothing.
    """
    refuse_clamps(model, ("hook_z", "hook_result", *WHOLE))
    layers = range(model.spec.layers)
    sites = [f"blocks.{layer}.attn.hook_{site}" for layer in layers for site in ("pattern", "v")]
    cache = model.cache(batch, [*sites, last_site(model)])
    onto, found = onto_stream(model, at_position(cache[last_site(model)], position), directions), {}
    for layer in layers:
        here, out = f"blocks.{layer}.attn", model.head_weights(layer)["W_O"]
        looks = at_position(cache[f"{here}.hook_pattern"].transpose(1, 2), position)
        moved = torch.einsum("nkhe,nhe->nhk", cache[f"{here}.hook_v"], heads_onto(onto, out))
        found |= {Part("head", layer, head): (looks * moved)[:, head] for head in range(len(out))}
    return found


def refuse_clamps(model: Model, sites: tuple[str, ...]) -> None:
    """Raise if a clamp of the run overwrites one of these."""
    for clamp in model.edits:
        for site in clamp.changes():
            if site.endswith(sites):
                raise ValueError(f"the clamp {clamp.name} overwrites {site}: logits are no sum over components here")


def last_site(model: Model) -> str:
    """The stream that the final norm reads."""
    return f"blocks.{model.spec.layers - 1}.hook_resid_post"


def at_position(value: Tensor, position: np.ndarray) -> Tensor:
    """What `value [batch pos ...]` holds at `position [batch]`."""
    return value[torch.arange(len(value)), torch.from_numpy(np.asarray(position))]


def onto_stream(model: Model, stream: Tensor, directions: Tensor) -> Tensor:
    """What a unit written to the stream adds along `directions [batch d_model]`, behind the norm of this `stream`."""
    if model.spec.norm == "none":
        return directions
    if model.spec.norm == "layer":
        directions = directions * model["ln_final.w"]
    scale = (stream.var(-1, keepdim=True, correction=0) + EPS).sqrt()
    return (directions - directions.mean(-1, keepdim=True)) / scale  # taking off the mean is its own transpose


def heads_onto(onto: Tensor, out: Tensor) -> Tensor:
    """The same seen from what each head carries: `onto [batch d_model]` through W_O, `[batch head d_head]`."""
    return torch.einsum("hed,nd->nhe", out, onto)


def needs_stream(spec: Any) -> None:
    """Raise if a model has no residual stream."""
    if not isinstance(spec, Transformer):
        raise ValueError(f"a lens reads the residual stream, and {type(spec).__name__} has none: measure loss instead")
