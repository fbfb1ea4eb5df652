"""The same training step three ways: ours, a TransformerLens bridge, and plain PyTorch with fused attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, cycle

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from probelab.bridge import to_transformer_lens
from probelab.model import init, shapes
from probelab.optim import Flat, Update
from probelab.spec import Spec, Transformer
from probelab.subject import Model
from probelab.train import member_losses
from synthetic_tasks import batch

Step = Callable[[], float]


def batches(spec: Spec, n: int = 8) -> list:
    """A few batches, drawn beforehand: only the step is timed."""
    return [batch(spec.task, spec.data, step, "train", spec.batch) for step in range(n)]


def ours(specs: list[Spec]) -> Step:
    """What `probelab.train.train` does at each step, on a stack of one or more members."""
    first = specs[0]
    flat = Flat(shapes(first.model, first.task), len(specs))
    for member, spec in enumerate(specs):
        flat.load(member, init(spec.model, spec.task, spec.init))
    update = Update(flat, [spec.optimizer for spec in specs])
    data, steps = cycle(list(zip(*(batches(spec) for spec in specs), strict=True))), count()

    def step() -> float:
        losses = member_losses(first, flat, list(next(data)), "cpu")
        flat.backward(losses.sum())
        values = losses.tolist()
        update(next(steps))
        return values[0]

    return step


def by_hand(spec: Spec, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """The usual loop around a module, with PyTorch's fused AdamW."""
    data = cycle([(torch.from_numpy(b.tokens), torch.from_numpy(b.targets)) for b in batches(spec)])
    chosen = spec.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=chosen.lr,
        betas=chosen.betas,
        eps=chosen.eps,
        weight_decay=chosen.weight_decay,
        fused=True,
    )

    def step() -> float:
        loss = loss_of(*next(data))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def transformer_lens(spec: Spec) -> Step:
    """The bridge, in training mode. Its logits with our own cross-entropy are faster than `return_type="loss"`."""
    start = init(spec.model, spec.task, spec.init)
    bridge = to_transformer_lens(Model(spec.model, spec.task, start)).train()
    return by_hand(spec, bridge, lambda tokens, targets: cross_entropy(bridge(tokens, return_type="logits"), targets))


def eager(spec: Spec) -> Step:
    """nanoGPT's way: modules, one joint projection, the fused attention kernel."""
    model = Plain(spec)
    return by_hand(spec, model, lambda tokens, targets: cross_entropy(model(tokens), targets))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class Plain(nn.Module):
    """A decoder-only transformer with learned or rotary positions and pre-normalisation."""

    def __init__(self, spec: Spec):
        super().__init__()
        model, task, d = spec.model, spec.task, spec.model.d_model
        self.embed = nn.Embedding(task.vocab, d)
        self.positions = nn.Embedding(task.context, d) if model.positions == "learned" else None
        self.blocks = nn.ModuleList([Block(spec) for _ in range(model.layers)])
        self.final, self.unembed = nn.LayerNorm(d), nn.Linear(d, task.outputs, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.final(x))


class Block(nn.Module):
    """Attention and perhaps an MLP, each behind a layer normalisation."""

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        model, d = spec.model, spec.model.d_model
        assert isinstance(model, Transformer)
        self.heads, self.rotary = model.heads_of(0), model.positions == "rotary"
        self.before, self.joint, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        sizes = (nn.Linear(d, model.d_mlp), nn.GELU(), nn.Linear(model.d_mlp, d)) if model.d_mlp else ()
        self.mlp = nn.Sequential(nn.LayerNorm(d), *sizes) if sizes else None
        frequencies = model.base ** (-torch.arange(0, d // self.heads, 2) / (d // self.heads))
        angles = torch.outer(torch.arange(spec.task.context), frequencies)
        self.register_buffer("cos", angles.cos().repeat_interleave(2, -1))
        self.register_buffer("sin", angles.sin().repeat_interleave(2, -1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.joint(self.before(x)).split(d, -1))
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).reshape(b, t, d))
        return x if self.mlp is None else x + self.mlp(x)

    def turn(self, x: Tensor) -> Tensor:
        other = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * self.cos[: x.shape[-2]] + other * self.sin[: x.shape[-2]]
