"""Is what a probe finds used? The model runs on with the probe's directions exchanged, or the target erased."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probelab.edit import Edit
from probelab.measures._contract import Row
from probelab.measures._estimate import pooled
from probelab.measures._examples import Question, asked, by_place, cells, question, sites_of
from probelab.measures._read import nats
from probelab.probes import logistic, onehot, ridge
from probelab.subject import Model, Subject, chunks
from probelab.subspaces import along, random_basis, read_by, told_by, white
from probelab.train import one_thread
from synthetic_tasks import Batch, Task, stream
from synthetic_tasks.task import choose, require

Array = np.ndarray
CHANGED = "changed"  # the fact that hands an edit what its site is to hold


@dataclass(frozen=True)
class Use:
    """How much the loss rises when a `layer` no longer says what a probe reads there; 95 % intervals over sequences.

    interchange  of what the probe reads, each place gets what another sequence with another label has there (as Geiger
                 et al. 2024 do; but the subspace is the probe's, not learned)
    erasure      all that tells the target linearly is replaced by its mean: LEACE (Belrose et al. 2023)

    Both in nats per answer: the loss with the change minus the loss without, raw, as early in training there is little
    to lose. Beside them

    <metric>_control  the same along random subspaces of equal dimension, rescaled place by place to equal norm. Mean of
                      several, the same at all steps
    <metric>_excess   the change minus its control: above 0 where what the probe finds is used

    Probes and erasers are fitted on one half of the sequences, as those of the measure `probe` are; the other half is
    changed, at all the positions at once. Answers count from the first changed position of a sequence on.

    target, site, layers, positions, pooled, kind, penalty, test, split  as in `probe`; layers are changed one by one
    n         sequences that training never sees, the same at every step
    dims      how many directions of those that the probe reads are exchanged, the first tell most; None: all, one less
              than classes. Where that is the whole width, a random subspace is no control
    controls  random subspaces
    seed      of what is exchanged with what, and of the controls
    """

    target: str = "answer"
    site: str = "resid_post"
    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    pooled: bool = False
    kind: str = "ridge"
    penalty: float = 1.0
    dims: int | None = None
    controls: int = 4
    n: int = 512
    test: float = 0.5
    split: str = "train"
    seed: int = 0

    name = "use"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 4, "n", self.n, "at least 4 sequences")
        require(0 < self.test < 1, "test", self.test, "a share between 0 and 1")
        require(self.penalty > 0, "penalty", self.penalty, "more than 0")
        require(self.dims is None or self.dims >= 1, "dims", self.dims, "at least 1, or None")
        require(self.controls >= 1, "controls", self.controls, "at least 1")
        choose("kind of probe", self.kind, ("ridge", "logistic"))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batch, task = subject.batch(self.n, self.split), subject.task
        asks = question(task, batch, self.target, self.positions, self.test).worthwhile(self.pooled)
        test, donors = batch[len(asks.train) :], self._donors(task, asks)
        changed = np.zeros(test.targets.shape, bool)
        changed[:, asks.positions] = donors >= 0
        counted = (test.targets >= 0) & np.logical_or.accumulate(changed, axis=1)
        if not counted.any():
            raise ValueError(f"target = {self.target!r}: {task.name} asks nothing at or after the positions changed")
        for step, model in subject:
            for layer, site in sites_of(model, self.site, self.layers).items():
                here = dict(step=step, split=self.split, site=self.site, target=self.target, layer=layer)
                losses = self._losses(model, batch, site, asks, donors)
                rise = {name: ((loss - losses["none"]) * counted).sum(1) for name, loss in losses.items()}
                for metric in ("interchange", "erasure"):
                    change, control = rise[metric], np.mean([rise[f"{metric} {k}"] for k in range(self.controls)], 0)
                    found = {metric: change, f"{metric}_control": control, f"{metric}_excess": change - control}
                    for name, total in found.items():
                        yield dict(here, metric=name, **pooled(total, counted.sum(1)).row())

    def _donors(self, task: Task, asks: Question) -> Array:
        """Which of the held-out sequences each takes over from, `[sequence pos]`; -1 where none has another label."""
        columns = zip(asks.positions, asks.test.T, strict=True)
        drawn = [others(labels, stream("probe", "donor", task.name, self.seed, pos)) for pos, labels in columns]
        return np.stack(drawn, axis=1)

    def _losses(self, model: Model, batch: Batch, site: str, asks: Question, donors: Array) -> dict[str, Array]:
        """Change -> loss of the held-out sequences, `[sequence pos]`; `none` is no change."""
        held, cut, at = model.cache(batch, [site])[site], len(asks.train), asks.positions
        known = bool(held.isfinite().all())  # nothing is found where training diverged
        held = held if known else torch.zeros_like(held)
        with one_thread():
            changes = self._changes(held[:, at].flatten(2).double(), asks, donors)
        test, found = batch[cut:], {}
        for name, change in changes.items():
            if not known:
                found[name] = np.full(test.targets.shape, np.nan)
                continue
            new = held[cut:].clone()
            new[:, at] += change.to(new).reshape(new[:, at].shape)
            changed = replace(test, facts={**test.facts, CHANGED: new.cpu().numpy()})
            edit = Edit(site, lambda value, context: context.facts[CHANGED].to(value))
            parts = chunks(changed, model.chunk(changed, True))
            found[name] = np.concatenate([nats(part, model(part, [edit])) for part in parts])
        return found

    def _changes(self, held: Tensor, asks: Question, donors: Array) -> dict[str, Tensor]:
        """What each change adds to the second half of `held [sequence pos d]`; nothing where there is no donor."""
        cut, donor = len(asks.train), torch.from_numpy(donors).to(held.device)
        given = held[cut:][donor.clamp(min=0), torch.arange(held.shape[1], device=held.device)]
        train, test, given = (cells(x[None], self.pooled) for x in (held[:cut], held[cut:], given))
        labels = asked(asks.train[None], self.pooled).to(held.device)
        fit, there = ridge if self.kind == "ridge" else logistic, labels[:, 0] >= 0
        probes, space = fit(train, labels, asks.classes, self.penalty), white(train, there)
        read = read_by(probes, space, self.dims)
        told = told_by(train, onehot(labels[:, 0], asks.classes).mT, there, space)
        part, whole = along(space, read), along(space, told)
        found = {"interchange": part(given) - part(test), "erasure": -whole(test)}
        most = min(asks.classes - 1, test.shape[2])
        for k in range(self.controls):
            basis = random_basis(stream("probe", "random", self.seed, k), len(test), most, test.shape[2]).to(test)
            part, whole = along(space, basis[:, : read.shape[1]]), along(space, basis)
            found[f"interchange {k}"] = as_long(part(given) - part(test), found["interchange"])
            found[f"erasure {k}"] = as_long(-whole(test), found["erasure"])
        changes = {
            name: by_place(x, self.pooled, len(asks.positions)) * (donor >= 0)[..., None] for name, x in found.items()
        }
        return {"none": torch.zeros_like(changes["erasure"]), **changes}


def others(labels: Array, rng: np.random.Generator) -> Array:
    """For each of `labels [sequence]` a random sequence with another label; -1 where there is none, or no label."""
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        return np.full_like(labels, -1)
    order = known[np.argsort(labels[known], kind="stable")]
    first, last = (np.searchsorted(labels[order], labels, side) for side in ("left", "right"))
    many = len(order) - (last - first)
    drawn = (rng.random(len(labels)) * many).astype(np.int64)
    drawn += np.where(drawn < first, 0, last - first)  # past all those with the same label
    found = order[np.minimum(drawn, len(order) - 1)]
    return np.where((labels >= 0) & (many > 0), found, -1)


def as_long(change: Tensor, model: Tensor) -> Tensor:
    """A change `[cell n d]`, rescaled at each place to the norm of another."""
    length, wanted = (x.norm(dim=-1, keepdim=True) for x in (change, model))
    return change * (wanted / length.clamp(min=1e-30))
