"""Parameters, gradients and moments as one `[member, n]` buffer each, and the optimisers as a few elementwise lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probelab.model import Shape
from probelab.spec import Optimizer
from probelab.weights import Params

LANE = 16  # floats; segments start on this boundary so that a member's arithmetic does not depend on its neighbours


class Flat:
    """A stack of models in one buffer. `params[name]` `[member ...]` are views, and so are the gradients in `grad`."""

    def __init__(self, table: dict[str, Shape], members: int, device: torch.device | str = "cpu"):
        self.table, self.slices, end = table, {}, 0
        for name, (shape, _, _) in table.items():
            size = math.prod(shape)
            self.slices[name] = slice(end, end + size)
            end += -(-size // LANE) * LANE
        self.theta = torch.zeros(members, end, device=device)
        self.grad = torch.zeros_like(self.theta)
        self.params: Params = {name: self.view(self.theta, name).requires_grad_() for name in table}
        self.grads = [self.view(self.grad, name) for name in table]

    def view(self, buffer: Tensor, name: str) -> Tensor:
        """One parameter of every member: `[member ...]`."""
        return buffer[:, self.slices[name]].unflatten(1, self.table[name].shape).detach()

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss with respect to all parameters, into `grad`."""
        for parameter in self.params.values():
            parameter.grad = None
        loss.backward()
        for gradient, parameter in zip(self.grads, self.params.values(), strict=True):
            gradient.zero_() if parameter.grad is None else gradient.copy_(parameter.grad)

    def load(self, member: int, arrays: dict[str, np.ndarray]) -> None:
        """Set one member's parameters."""
        for name in self.table:
            self.view(self.theta, name)[member] = torch.from_numpy(arrays[name])

    def arrays(self, member: int) -> dict[str, np.ndarray]:
        """One member's parameters by name, copied."""
        row = self.theta[member].cpu().numpy().copy()
        return {name: row[part].reshape(self.table[name].shape) for name, part in self.slices.items()}


class Update:
    """AdamW, Adam or SGD on a `Flat`; learning rate and decay may differ by member, all else is shared.

    AdamW decays weights directly (Loshchilov & Hutter 2019); Adam and SGD add `weight_decay * theta` to gradients (L2).
    """

    def __init__(self, flat: Flat, optimizers: Sequence[Optimizer]):
        self.flat, self.shared, self.optimizers = flat, optimizers[0], optimizers
        self.moments = [
            torch.zeros_like(flat.theta) for _ in range({"adamw": 2, "adam": 2, "sgd": 1}[self.shared.name])
        ]
        decay = torch.zeros_like(flat.theta)
        for member, optimizer in enumerate(optimizers):
            for name, part in flat.slices.items():
                if flat.table[name].group in optimizer.decayed:
                    decay[member, part] = optimizer.weight_decay
        self.decay = decay if bool(decay.any()) else None

    @torch.no_grad()
    def __call__(self, step: int) -> list[float]:
        """Take optimiser step number `step` (from 0). Returns each member's gradient norm before clipping."""
        theta, grad, shared = self.flat.theta, self.flat.grad, self.shared
        norms = torch.stack([row.norm() for row in grad])
        if shared.clip is not None:
            grad.mul_((shared.clip / (norms + 1e-12)).clamp(max=1.0)[:, None])
        rate = theta.new_tensor([learning_rate(o, step) for o in self.optimizers])[:, None]
        if self.decay is not None and shared.name != "adamw":
            grad.addcmul_(self.decay, theta)
        if shared.name == "sgd":
            velocity = self.moments[0].mul_(shared.momentum).add_(grad)
            theta.sub_(rate * velocity)
            return norms.tolist()
        first, second = self.moments
        b1, b2 = shared.betas
        first.lerp_(grad, 1 - b1)
        second.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        if self.decay is not None and shared.name == "adamw":
            theta.addcmul_(rate * self.decay, theta, value=-1)
        # theta -= rate * (first / c1) / (sqrt(second / c2) + eps), with c1 and c2 pulled out of the long rows
        c1, c2 = 1 - b1 ** (step + 1), math.sqrt(1 - b2 ** (step + 1))
        theta.addcdiv_(first, second.sqrt().add_(shared.eps * c2).mul_(-c1 / (c2 * rate)))
        return norms.tolist()


def learning_rate(optimizer: Optimizer, step: int) -> float:
    """The learning rate of step number `step` (from 0): a linear warm-up, then the schedule."""
    if step < optimizer.warmup:
        return optimizer.lr * (step + 1) / optimizer.warmup
    if optimizer.schedule == "cosine" and optimizer.horizon is not None:
        done = min(1.0, (step - optimizer.warmup) / (optimizer.horizon - optimizer.warmup))
        return optimizer.lr * 0.5 * (1 + math.cos(math.pi * done))
    if optimizer.schedule == "inverse_sqrt":
        return optimizer.lr * math.sqrt(optimizer.warmup / (step + 1))
    return optimizer.lr
