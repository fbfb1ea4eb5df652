"""Let a model go on writing: batches of texts, keys and values kept, one symbol at a time; and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probelab.attention import queries_keys_values, write
from probelab.edit import SILENT
from probelab.model import mlp, readout, shapes
from probelab.positions import future, rotate_at, sinusoids
from probelab.spec import Recurrent, Transformer
from probelab.subject import CACHE, Model
from probelab.train import one_thread
from probelab.weights import embed
from synthetic_tasks import Task
from synthetic_tasks.task import require

Array = np.ndarray
MATRICES = (
    "weight",
    "output",
    "hidden",
    "unembed",
    "recurrent",
)  # roles of parameters that every symbol is multiplied by
KEPT = 3 / 4  # finished texts leave when fewer than this share of those at hand is unfinished


def decode(
    model: Model,
    texts: Array,
    parse: Callable[[Array], Array],
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Array:
    """Texts int `[batch symbol]` (-1 on the right) and what the model writes after each: int `[batch context+1]`.

    A text is finished when `parse(text)`, `[batch]`, is not negative, or when the context is full: then the last symbol
    is the model's last answer. For many samples repeat the rows.

    temperature  0: the likeliest symbol (the first of equals). Otherwise symbols are drawn from
                 softmax(logits / temperature), and `rng` gives each row and place a number of its own, whatever else
                 stands in the batch and however much is left to write
    """
    require(temperature >= 0, "temperature", temperature, "0 (the likeliest symbol) or more")
    require((temperature > 0) == (rng is not None), "rng", rng, "a generator if the temperature is above 0, else None")
    texts = np.asarray(texts)
    lengths, room = (texts >= 0).sum(axis=1), model.task.context + 1
    require(bool((lengths >= 1).all()), "texts", "an empty one", "at least one symbol in each")
    require(texts.max(initial=0) < model.task.vocab, "texts", texts.max(initial=0), f"below {model.task.vocab}")
    require(lengths.max(initial=0) <= room, "texts", lengths.max(initial=0), f"at most {room} symbols")
    told = np.full((len(texts), room), -1, np.int64)
    width = min(room, texts.shape[1])
    told[:, :width] = texts[:, :width]
    luck = None if rng is None else rng.random(told.shape, np.float32)
    with one_thread(), torch.no_grad():
        for length in np.unique(lengths):
            rows = np.flatnonzero((lengths == length) & (parse(told) < 0))
            for part in np.array_split(rows, -(-len(rows) // rows_at_a_time(model))) if len(rows) else ():
                told[part] = _lot(
                    model, told[part], int(length), parse, temperature, None if luck is None else luck[part]
                )
    return told


def _lot(
    model: Model, told: Array, length: int, parse: Callable[[Array], Array], temperature: float, luck: Array | None
) -> Array:
    """The same for unfinished texts of one length, which are written in step; finished ones leave."""
    reader: Reader = Keeping(model) if can_keep(model) else Rereading(model)
    held, going = np.arange(len(told)), np.ones(len(told), bool)  # rows that the reader has; which are unfinished
    for place in range(length, told.shape[1]):
        read = slice(0 if place == length else place - 1, place)
        logits = reader(torch.from_numpy(np.maximum(told[held, read], 0)))  # finished rows read anything
        said = _draw(logits, temperature, None if luck is None else luck[held, place])
        told[held[going], place] = said[going]
        going[going] = parse(told[held[going]]) < 0
        if not going.any():
            break
        if going.mean() < KEPT:  # to copy what is kept costs about as much as to read a symbol
            reader.stay(torch.from_numpy(np.flatnonzero(going)))
            held, going = held[going], going[going]
    return told


def _draw(logits: Tensor, temperature: float, luck: Array | None) -> Array:
    """A symbol for each row of logits `[batch outputs]`: where its number, `[batch]`, falls in the distribution."""
    if luck is None:
        return logits.argmax(-1).cpu().numpy()
    upto = (logits.double() / temperature).softmax(-1).cumsum(-1).cpu().numpy()
    return np.minimum((upto <= luck[:, None]).sum(axis=1), logits.shape[-1] - 1)


class Reader(Protocol):
    """Called on the next symbols of all texts, int `[batch symbol]`, it gives what may follow: `[batch outputs]`."""

    def __call__(self, tokens: Tensor) -> Tensor: ...

    def stay(self, rows: Tensor) -> None:
        """Only these rows go on."""


class Rereading:
    """Reads every text from its beginning each time: works for any model, and is what `Keeping` is tested against."""

    def __init__(self, model: Model):
        self.model, self.told = model, torch.empty((0, 0), dtype=torch.int64)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.told = torch.cat([self.told, tokens], 1) if len(self.told) else tokens
        return self.model(self.told)[:, -1]

    def stay(self, rows: Tensor) -> None:
        self.told = self.told[rows]


def can_keep(model: Model) -> bool:
    """Transformers that nothing clamps: clamps may look at whole patterns, and other kinds have no keys."""
    return isinstance(model.spec, Transformer) and not model.edits


class Keeping:
    """Keeps keys and values, so that each symbol is read once: the beginning of the texts at once, then one by one."""

    def __init__(self, model: Model):
        self.model, self.read = model, 0
        self.kept: list[Tensor] = []  # a layer's keys and values, `[keys-or-values batch head context d_head]`

    def __call__(self, tokens: Tensor) -> Tensor:
        spec, p, task = self.model.spec, self.model.params, self.model.task
        at = torch.arange(self.read, self.read + tokens.shape[1], device=self.model.device)
        if not self.kept:
            sizes = [(spec.heads_of(layer), spec.head_size(layer)) for layer in range(spec.layers)]
            some = p["embed.W_E"]
            self.kept = [some.new_empty(2, len(tokens), heads, task.context, size) for heads, size in sizes]
        resid = embed(tokens.to(self.model.device)[None], p["embed.W_E"])
        if spec.positions == "learned":
            resid = resid + p["pos_embed.W_pos"][:, None, at]
        if spec.positions == "sinusoidal":
            resid = resid + sinusoids(task.context, spec.d_model, spec.base, resid.dtype, resid.device)[at]
        for layer in range(spec.layers):
            resid = resid + self._attend(layer, resid, at)
            if spec.d_mlp:
                resid = resid + mlp(spec, layer, p, resid, SILENT)
        self.read += tokens.shape[1]
        return readout(spec, p, resid[:, :, -1])[0]

    def _attend(self, layer: int, x: Tensor, at: Tensor) -> Tensor:
        """What a layer's attention writes at positions `at`, the last ones read: `x [1 batch new d_model]`."""
        spec, p, first, end = self.model.spec, self.model.params, self.read, self.read + len(at)
        q, k, v = queries_keys_values(spec, layer, p, x, SILENT)
        if spec.positions == "rotary":
            q, k = (rotate_at(part, spec.base, at, self.model.task.context) for part in (q, k))
        q, k, v = (part[0].transpose(1, 2) for part in (q, k, v))
        kept = self.kept[layer]
        kept[0, :, :, first:end], kept[1, :, :, first:end] = k, v
        keys, values = kept[0, :, :, :end], kept[1, :, :, :end]
        scale = spec.score_scale(layer)
        if spec.positions == "relative":
            offsets = (at[:, None] - torch.arange(end, device=at.device)).clamp(min=0)
            vectors = p[f"blocks.{layer}.attn.W_rel"][0][:, offsets]  # [head new key d_head]
            scores = q @ keys.mT + torch.einsum("bhqe,hqke->bhqk", q, vectors)
            scores = scale * scores + future(end, q.dtype, q.device)[first:end]
            z = scores.softmax(-1) @ values
        else:
            z = F.scaled_dot_product_attention(q, keys, values, is_causal=first == 0, scale=scale)
        return write(spec, layer, p, z.transpose(1, 2)[None], SILENT)

    def stay(self, rows: Tensor) -> None:
        self.kept = [kept[:, rows] for kept in self.kept]


def rows_at_a_time(model: Model) -> int:
    """Texts whose keys and values fit into half of what the model may use, and into a processor's cache."""
    spec, room = model.spec, min(model.memory, CACHE) if model.device == "cpu" else model.memory
    heads = sum(spec.heads_of(layer) * spec.head_size(layer) for layer in range(spec.layers)) if can_keep(model) else 0
    return max(1, room // (8 * model.task.context * (2 * heads + spec.d_model)))


def flops(spec: Transformer | Recurrent, task: Task, symbols: Array | int) -> Array:
    """Floating-point operations to read so many symbols once each, keys and values kept: float64, shape of `symbols`.

    Two for each weight of a matrix and symbol, and in attention four for each width of a head, query and key. Norms,
    softmax and activations are left out, as is usual (Kaplan et al. 2020, table 1).
    """
    read = np.asarray(symbols, np.float64)
    weights = sum(shape[0] * shape[1] for shape, role, _ in shapes(spec, task).values() if role in MATRICES)
    total = 2 * read * (weights + spec.tied * spec.d_model * task.outputs)
    if isinstance(spec, Transformer):
        widths = sum(spec.heads_of(layer) * spec.head_size(layer) for layer in range(spec.layers))
        total += 4 * widths * read * (read + 1) / 2
    return total
