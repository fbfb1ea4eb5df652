"""What a model and the oracles of its task say on a batch, a chunk of sequences at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor, from_numpy

from probelab.subject import Model, chunks
from synthetic_tasks import Batch, Task

Array = np.ndarray
ROOM = 2**18  # log-probabilities that an oracle gives at a time


def by_model(model: Model, batch: Batch, read: Callable[[Batch, Tensor], Array]) -> Array:
    """`read(part, logits)` `[sequence ...]` of all the parts of a batch; one forward pass each."""
    return np.concatenate([read(part, model(part)) for part in chunks(batch, model.chunk(batch, False))])


def by_oracle(task: Task, batch: Batch, read: Callable[[Batch, Array], Array]) -> dict[str, Array]:
    """`read(part, log-probabilities)` `[sequence ...]` of every oracle; empty if the task has none."""
    size = max(1, ROOM // (batch.tokens.shape[1] * task.outputs))
    try:
        parts = [{name: read(part, logs) for name, logs in task.oracles(part).items()} for part in chunks(batch, size)]
    except NotImplementedError:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def nats(part: Batch, logits: Tensor) -> Array:
    """Loss of a model's answers, float64 `[sequence pos]` in nats; 0 where nothing is asked."""
    targets = from_numpy(part.targets).to(logits.device)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    return losses.view(targets.shape).double().cpu().numpy()


def oracle_nats(part: Batch, logs: Array) -> Array:
    """Loss of an oracle's answers, float64 `[sequence pos]` in nats; 0 where nothing is asked."""
    said = np.take_along_axis(logs, np.maximum(part.targets, 0)[..., None], axis=2)[..., 0]
    return np.where(part.targets >= 0, -said, 0.0)
