"""What a model would answer if it stopped after each block: the logit lens, and the tuned lens beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probelab.lenses import Translators, kl, logit_lens, needs_stream, tuned_lens
from probelab.measures._contract import Row
from probelab.measures._estimate import pooled
from probelab.subject import Model, Subject, chunks, unseen
from synthetic_tasks import Batch
from synthetic_tasks.task import require

METRICS = ("loss", "kl", "accuracy")


@dataclass(frozen=True)
class Lens:
    """Scores of the stream read out after each block, over scored positions; 95 % intervals over sequences.

    `layer` counts the blocks passed: 0 is the embedding, the last is the model itself (nostalgebraist 2020).

    lens_loss      of the targets, nats per scored token
    lens_kl        KL(model || lens) in nats, from the model's own answer; 0 in the last layer
    lens_accuracy  how often the target is the likeliest. Chance: `task.chance(split)`
    tuned_loss, tuned_kl, tuned_accuracy  the same of the tuned lens (Belrose et al. 2023), with `tuned`

    n      sequences that training never sees; the tuned lens is fitted on as many others, of the split train
    split  where they come from
    tuned  fit a tuned lens too, at each step anew: a fit a layer, some hundred passes through the readout
    """

    n: int = 512
    split: str = "train"
    tuned: bool = False

    name = "lens"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_stream(subject.spec.model)
        batch = subject.batch(self.n, self.split)
        others = unseen(subject.task, subject.spec.data, "train", self.n, "tuned lens")
        for step, model in subject:
            lenses: dict[str, Translators | None] = {"lens": None}
            if self.tuned:
                lenses["tuned"] = tuned_lens(model, others)
            for name, tuned in lenses.items():
                parts = [scored(model, part, tuned) for part in chunks(batch, model.chunk(batch, True))]
                asked = (batch.targets >= 0).sum(1)
                mean = pooled(np.concatenate(parts), asked[:, None, None])
                for layer, m in np.ndindex(mean.value.shape):
                    metric = f"{name}_{METRICS[m]}"
                    yield dict(step=step, split=self.split, layer=layer, metric=metric, **mean.row(layer, m))


def scored(model: Model, part: Batch, tuned: Translators | None) -> np.ndarray:
    """The `METRICS` of each sequence, summed over scored positions: float64 `[sequence lens metric]`."""
    said = logit_lens(model, part, tuned)
    targets = torch.from_numpy(part.targets).to(said.device)
    loss = -said.gather(-1, targets.clamp(min=0).expand(len(said), -1, -1)[..., None])[..., 0]
    scores = torch.stack([loss, kl(said[-1], said), (said.argmax(-1) == targets).to(loss)], -1)
    return torch.where((targets >= 0)[..., None], scores, 0).double().sum(2).movedim(0, 1).cpu().numpy()
