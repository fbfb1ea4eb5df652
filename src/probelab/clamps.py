"""Clamps: activations that are overwritten in every forward pass while the rest learns (Singh et al. 2024).

They belong to a trajectory (`Spec.edits`), so this room loads no torch: what they do is said in methods of the tensors
that they are given. A gradient flows through all that is not overwritten. Sequences are items and labels in turn, and
the answer is asked at the last position:

    x1 l1 x2 l2 ... xn ln xq        positions 0 to 2n: labels stand at the odd ones, the query is the last

with the facts `classes` and `labels`, int `[batch n+1]`: class and label of every item, the query's last. What is
overwritten with what follows the authors' `opto.py` (github.com/aadityasingh/icl-dynamics).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from probelab.kinds import build, settle
from synthetic_tasks.task import choose_from, require

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor", Any], "Tensor"]  # (what a site holds, context) -> what it holds from now on, as in `Edit`
NEVER = -1e9  # logit of a label that is not in the context, as in the authors' code; after -inf a loss may be infinite


@dataclass(frozen=True)
class Clamp:
    """What is overwritten, in which layer. `facts` are those of the batch that it needs."""

    layer: int = 1

    name: ClassVar[str]
    facts: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        settle(self)

    @property
    def named(self) -> tuple[int, ...]:
        """The heads that it names."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Sites that it looks at, so that no faster way leaves them out."""
        return ()

    def changes(self) -> dict[str, Change]:
        """By site, what becomes of what it holds."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """Refuse a layer or a head that the model does not have."""
        if not hasattr(model, "heads_of"):
            raise ValueError(f"the clamp {self.name} is for a transformer, not for {model!r}")
        require(0 <= self.layer < model.layers, f"{self.name}: layer", self.layer, f"0 to {model.layers - 1}")
        most = model.heads_of(self.layer) - 1
        for head in self.named:
            require(0 <= head <= most, f"{self.name}: head", head, f"0 to {most} in layer {self.layer}")

    def fact(self, context: Any, name: str) -> Tensor:
        """A fact of the batch, by its name."""
        if name not in context.facts:
            raise ValueError(
                f"the clamp {self.name} needs the fact {name!r}, which comes with a Batch of its task: "
                f"call the model with one (facts here: {', '.join(context.facts) or 'none'})"
            )
        return context.facts[name]


@dataclass(frozen=True)
class PreviousToken(Clamp):
    """A head attends to the position before; position 0, which has none, to itself ("clamp 1")."""

    layer: int = 0
    head: int = 0

    name = "previous_token"

    @property
    def named(self) -> tuple[int, ...]:
        return (self.head,)

    def changes(self) -> dict[str, Change]:
        def previous(pattern: Tensor, context: Any) -> Tensor:
            """`[batch head query key]`"""
            fixed = pattern.new_ones(pattern.shape[-1] - 1).diag(-1)
            fixed[0, 0] = 1
            changed = pattern.clone()
            changed[:, self.head] = fixed
            return changed

        return {f"blocks.{self.layer}.attn.hook_pattern": previous}


@dataclass(frozen=True)
class HandBuiltLayer(Clamp):
    """A layer reads what perfect previous-token heads would write, and nothing of the layers below ("clamp 1+2").

    Keys of the context read the embedding of the token before: a label's that of its item. The first item, the query,
    all queries, all values and the residual stream have the raw embeddings (with positions, where a model adds them).
    """

    name = "hand_built_layer"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("hook_embed", "blocks.0.hook_resid_pre")

    def changes(self) -> dict[str, Change]:
        def raw(stream: Tensor, context: Any) -> Tensor:
            """`[batch pos d_model]`"""
            return context.sites["blocks.0.hook_resid_pre"]

        def shifted(keys: Tensor, context: Any) -> Tensor:
            """`[batch pos head d_model]`"""
            changed = keys.clone()
            changed[:, 1:-1] = context.sites["hook_embed"][:, :-2, None]
            return changed

        return {f"blocks.{self.layer}.hook_resid_pre": raw, f"blocks.{self.layer}.hook_k_input": shifted}

    def check(self, model: Any) -> None:
        super().check(model)
        require(self.layer > 0, f"{self.name}: layer", self.layer, "1 or more, as the layers below are done without")


@dataclass(frozen=True)
class Match(Clamp):
    """The query attends, with a head, evenly to the labels of its class that are its answer ("clamp match").

    Where the context has none, the head attends as it has learned to.
    """

    head: int = 0

    name = "match"
    facts = ("classes", "labels")

    @property
    def named(self) -> tuple[int, ...]:
        return (self.head,)

    def changes(self) -> dict[str, Change]:
        def match(pattern: Tensor, context: Any) -> Tensor:
            """`[batch head query key]`"""
            classes, labels = (self.fact(context, name) for name in self.facts)
            right = (classes[:, :-1] == classes[:, -1:]) & (labels[:, :-1] == labels[:, -1:])
            count = right.sum(-1, keepdim=True)
            row = pattern.new_zeros(len(pattern), pattern.shape[-1])
            row[:, 1::2] = right.to(pattern.dtype) / count.clamp(min=1)
            changed = pattern.clone()
            changed[:, self.head, -1] = row.where(count > 0, pattern[:, self.head, -1])
            return changed

        return {f"blocks.{self.layer}.attn.hook_pattern": match}


@dataclass(frozen=True)
class Copy(Clamp):
    """The logits of the query are a head's scores at the labels, before the softmax ("clamp copy").

    A label that stands there several times has the logsumexp of its scores. One that does not has NEVER: where the
    answer is not in the context the loss is about 1e9 nats.
    """

    head: int = 0

    name = "copy"
    facts = ("labels",)

    @property
    def named(self) -> tuple[int, ...]:
        return (self.head,)

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"blocks.{self.layer}.attn.hook_attn_scores",)

    def changes(self) -> dict[str, Change]:
        def copy(logits: Tensor, context: Any) -> Tensor:
            """`[batch pos outputs]`"""
            labels = self.fact(context, "labels")[:, :-1, None].long()
            scores = context.sites[self.reads[0]][:, self.head, -1, 1::2, None]  # [batch pair 1]
            said = logits.new_full((*labels.shape[:2], logits.shape[-1]), NEVER).scatter(2, labels, scores)
            changed = logits.clone()
            changed[:, -1] = said.logsumexp(1)
            return changed

        return {"logits": copy}


@dataclass(frozen=True)
class OnlyHeads(Clamp):
    """The other heads of a layer carry nothing: `z` is zero ("only head 3 active")."""

    heads: tuple[int, ...] = (0,)

    name = "only_heads"

    @property
    def named(self) -> tuple[int, ...]:
        return self.heads

    def changes(self) -> dict[str, Change]:
        def only(z: Tensor, context: Any) -> Tensor:
            """`[batch pos head d_head]`"""
            changed = z.new_zeros(z.shape)
            changed[:, :, list(self.heads)] = z[:, :, list(self.heads)]
            return changed

        return {f"blocks.{self.layer}.attn.hook_z": only}


CLAMPS: dict[str, type[Clamp]] = {
    clamp.name: clamp for clamp in (PreviousToken, HandBuiltLayer, Match, Copy, OnlyHeads)
}


def clamp_of(name: str, /, **dials: Any) -> Clamp:
    """The clamp of a name, with its dials."""
    return build(f"the clamp {name}", choose_from("clamp", name, CLAMPS), dials)
