"""What a model would say if it stopped after each block: the logit lens, and the tuned lens beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from probelab.lenses import Translators, kl, logit_lens, needs_stream, tuned_lens
from probelab.measures._contract import Row
from probelab.measures._estimate import pooled
from probelab.measures._examples import labels_of, places
from probelab.subject import Model, Subject, chunks, unseen
from synthetic_tasks import Batch, Task
from synthetic_tasks.task import require

METRICS = ("loss", "kl", "accuracy")


@dataclass(frozen=True)
class Lens:
    """Scores of the stream read out after each block, over scored positions; 95 % intervals over sequences.

    `layer` counts the blocks passed: 0 is the embedding, the last is the model itself (nostalgebraist 2020).

    lens_loss      of the target, nats per scored token
    lens_kl        KL(model || lens) in nats, from the model's own answer there; 0 in the last layer
    lens_accuracy  how often the target is the likeliest. Chance of an answer: `task.chance(split)`; of another fact see
                   step 0
    tuned_loss, tuned_kl, tuned_accuracy  the same of the tuned lens (Belrose et al. 2023), with `tuned`

    n          sequences that training never sees; the tuned lens is fitted on as many others, of the split train
    split      where they come from
    tuned      fit a tuned lens too, at each step anew: a fit a layer, some hundred passes through the readout
    target     `answer`: the batch's target. Or a fact of the task, `[batch]` or `[batch pos]`, -1 where it is left out,
               numbered as answers are: a value that is never written is looked for as the symbol that would write it
    positions  which are scored, all if None; negative ones count from the end. Left out: those without a target
    pooled     all positions together, in rows without `pos`
    """

    n: int = 512
    split: str = "train"
    tuned: bool = False
    target: str = "answer"
    positions: tuple[int, ...] | None = None
    pooled: bool = True

    name = "lens"
    version = 2

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_stream(subject.spec.model)
        batch = self._asking(subject.task, subject.batch(self.n, self.split))
        others = unseen(subject.task, subject.spec.data, "train", self.n, "tuned lens")
        fitted = {"tuned": self._asking(subject.task, others)} if self.tuned else {}
        asked = batch.targets >= 0
        counts = asked.sum(1, keepdims=True) if self.pooled else asked
        spots: list[tuple[int, Row]] = [(pos, dict(pos=pos)) for pos in np.flatnonzero(asked.any(0)).tolist()]
        spots = [(0, {})] if self.pooled else spots
        for step, model in subject:
            tuned_ones = {name: tuned_lens(model, others) for name, others in fitted.items()}
            for name, tuned in ({"lens": None} | tuned_ones).items():
                parts = [scored(model, part, tuned, self.pooled) for part in chunks(batch, model.chunk(batch, True))]
                mean = pooled(np.concatenate(parts), counts[:, None, :, None])
                for layer, (spot, at), m in product(range(len(mean.value)), spots, range(len(METRICS))):
                    here = dict(step=step, split=self.split, target=self.target, layer=layer, **at)
                    yield dict(here, metric=f"{name}_{METRICS[m]}", **mean.row(layer, spot, m))

    def _asking(self, task: Task, batch: Batch) -> Batch:
        """The batch with the target at the positions for its targets, and nothing asked elsewhere."""
        labels = batch.targets if self.target == "answer" else labels_of(task, batch, self.target)
        kept = np.isin(np.arange(labels.shape[1]), places(labels.shape[1], self.positions))
        labels = np.where(kept, labels, -1)
        if not 0 <= labels.max() < task.outputs:
            there = f"goes up to {labels.max()}" if labels.max() >= 0 else "is nowhere at the positions asked"
            raise ValueError(
                f"target = {self.target!r} cannot be read by a lens: in {task.name} it {there}, and a lens says one of "
                f"the answers 0 to {task.outputs - 1}"
            )
        return replace(batch, targets=labels)


def scored(model: Model, part: Batch, tuned: Translators | None, pooled: bool) -> np.ndarray:
    """The `METRICS` of each sequence, at each position or `pooled` summed: float64 `[sequence lens pos metric]`."""
    said = logit_lens(model, part, tuned)
    targets = torch.from_numpy(part.targets).to(said.device)
    loss = -said.gather(-1, targets.clamp(min=0).expand(len(said), -1, -1)[..., None])[..., 0]
    scores = torch.stack([loss, kl(said[-1], said), (said.argmax(-1) == targets).to(loss)], -1)
    scores = torch.where((targets >= 0)[..., None], scores, 0).double()
    return (scores.sum(2, keepdim=True) if pooled else scores).movedim(0, 1).cpu().numpy()
