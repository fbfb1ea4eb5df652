"""Norms of the weights and of the gradient, in all and for each group of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from probelab.measures._contract import Row
from probelab.model import inputs, shapes
from probelab.subject import Model, Subject
from probelab.train import one_thread
from synthetic_tasks import Batch


@dataclass(frozen=True)
class Norms:
    """Euclidean norms; `site` is a parameter group (embedding, attention, mlp, ...), none for all together.

    weight_norm  of the weights
    grad_norm    of the gradient of the mean loss on the batch that training reads next, without dropout and before
                 clipping, nats per unit of weight
    """

    name = "norms"
    version = 1

    def __call__(self, subject: Subject) -> Iterator[Row]:
        for step, model in subject:
            slopes = gradient(model, subject.training_batch(step))
            for metric, tensors in (("weight_norm", model.params), ("grad_norm", slopes)):
                squares = by_group(model, tensors)
                yield dict(step=step, metric=metric, value=sum(squares.values()) ** 0.5)
                for group, square in squares.items():
                    yield dict(step=step, metric=metric, site=group, value=square**0.5)


def gradient(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Slope of the mean loss in nats per scored token with respect to each parameter, by name."""
    weights = list(model.params.values())
    targets = torch.from_numpy(batch.targets).to(model.device)
    try:
        for weight in weights:
            weight.requires_grad_()
        with one_thread(), torch.enable_grad():
            logits = model.apply(inputs([batch], model.device, model.dtype), model.tape(batch))
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
            slopes = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return dict(zip(model.params, slopes, strict=True))


def by_group(model: Model, tensors: dict[str, Tensor]) -> dict[str, float]:
    """Sum of squares of each parameter group, in float64."""
    squares: dict[str, float] = {}
    for name, (_, _, group) in shapes(model.spec, model.task).items():
        squares[group] = squares.get(group, 0.0) + float(tensors[name].detach().double().square().sum())
    return squares
