"""Which part of the forward pass an intervention touches: a site, and there a head, a position, a neuron, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synthetic_tasks.task import choose, choose_from, require

# short name of a site -> its name in TransformerLens, and the axes of what it holds after `batch`
SITES = {
    "embed": ("hook_embed", "pos d"),
    "pos_embed": ("hook_pos_embed", "pos d"),
    **{name: (f"blocks.{{}}.hook_{name}", "pos d") for name in ("resid_pre", "resid_mid", "resid_post")},
    **{name: (f"blocks.{{}}.hook_{name}", "pos d") for name in ("attn_out", "mlp_in", "mlp_out")},
    **{name: (f"blocks.{{}}.hook_{name}", "pos head d") for name in ("q_input", "k_input", "v_input")},
    **{name: (f"blocks.{{}}.attn.hook_{name}", "pos head d") for name in ("q", "k", "v", "rot_q", "rot_k", "z")},
    "result": ("blocks.{}.attn.hook_result", "pos head d"),
    "attn_scores": ("blocks.{}.attn.hook_attn_scores", "head pos key"),
    "pattern": ("blocks.{}.attn.hook_pattern", "head pos key"),
    "pre": ("blocks.{}.mlp.hook_pre", "pos neuron"),
    "post": ("blocks.{}.mlp.hook_post", "pos neuron"),
    "readout": ("readout.{}.hook_post", "pos neuron"),
    "logits": ("logits", "pos vocab"),
}
AFTER = 1_000_000
Position = int | tuple[int, ...] | None


def site_of(short: str, layer: int = 0) -> str:
    """The full name of a site: `site_of("z", 1)` is `blocks.1.attn.hook_z`."""
    return choose_from("site", short, SITES)[0].format(layer)


@dataclass(frozen=True)
class Place:
    """A part of what a site holds; None is all of an axis.

    site    short name, such as "z", "resid_pre", "pattern" or "post" (neurons)
    layer   whose site it is (0 for sites that have none)
    head    one head, where the site has heads
    pos     one position, or one for each sequence (a tuple; -1: none there); in patterns the query's
    key     one key position, in patterns and scores
    neuron  one neuron, or one entry of the last axis
    """

    site: str
    layer: int = 0
    head: int | None = None
    pos: Position = None
    key: int | None = None
    neuron: int | None = None

    def __post_init__(self) -> None:
        choose("site", self.site, SITES)
        for axis in ("head", "pos", "key", "neuron"):
            if getattr(self, axis) is not None and axis not in self.axes:
                axes = " ".join(self.axes)
                raise ValueError(f"{axis} = {getattr(self, axis)!r}: the site {self.site!r} has the axes batch {axes}")
            at = getattr(self, axis)
            each = at if axis == "pos" and isinstance(at, tuple) else [0 if at is None else at]
            kind = (
                "a whole number, a tuple with one for each sequence, or None"
                if axis == "pos"
                else "a whole number, or None"
            )
            require(all(isinstance(one, int | np.integer) and one is not True for one in each), axis, at, kind)

    @property
    def name(self) -> str:
        """The full name of its site."""
        return site_of(self.site, self.layer)

    @property
    def shape(self) -> tuple[str, ...]:
        """The axes of its site after `batch`."""
        return tuple(SITES[self.site][1].split())

    @property
    def axes(self) -> tuple[str, ...]:
        """The same, the last of them named as a neuron."""
        return self.shape if self.shape[-1] in ("neuron", "key") else (*self.shape[:-1], "neuron")

    @property
    def begins(self) -> int:
        """The layer that it is in: -1 before them all, AFTER behind."""
        return {"embed": -1, "pos_embed": -1, "readout": AFTER, "logits": AFTER}.get(self.site, self.layer)

    def check(self, shape: Sequence[int]) -> None:
        """Refuse a part that a site of `shape` `[batch ...]` does not have."""
        for name, size in zip(self.axes, shape[1:], strict=True):
            at = getattr(self, name)
            if isinstance(at, tuple):
                fits = len(at) == shape[0] and all(-1 <= one < size for one in at)
                require(fits, f"{name} of {self.name}", at, f"{shape[0]} positions from 0 to {size - 1}, -1 for none")
            else:
                require(at is None or 0 <= at < size, f"{name} of {self.name}", at, f"0 to {size - 1}, or None for all")

    def mask(self, shape: Sequence[int]) -> Tensor:
        """Which entries of a site of `shape` `[batch ...]` it means: bool, every axis that size or 1."""
        found = torch.ones((1,) * len(shape), dtype=torch.bool)
        for axis, (name, size) in enumerate(zip(self.axes, shape[1:], strict=True), 1):
            at = getattr(self, name)
            if at is None:
                continue
            here = torch.arange(size).view(-1, *(1,) * (len(shape) - 1 - axis))
            each = torch.as_tensor(at).view(-1, *(1,) * (len(shape) - 1))
            found = found & (here == each)
        return found
