"""What can be read off the stream by a linear probe, at every layer, position and checkpoint, with controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from einops import reduce
from torch import Tensor

from probelab.measures._contract import Row
from probelab.measures._estimate import pooled
from probelab.measures._examples import Question, asked, cells, features, question, sites_of
from probelab.model import init
from probelab.probes import frequencies, hits, logistic, nats, online_code, ridge, uniform_code
from probelab.subject import CACHE, Model, Subject
from probelab.train import one_thread
from synthetic_tasks import Batch, Task, stream
from synthetic_tasks.task import choose, require

Array = np.ndarray
DRAWS = 3  # of control tasks and of shuffles, whose mean is taken: one alone may be easy or hard by luck


class Told(NamedTuple):
    """What probes are told of both halves, `[target sequence pos]`: the target, controls, the target shuffled."""

    train: Array
    test: Array
    classes: int


@dataclass(frozen=True)
class Probe:
    """How well linear probes of each `layer` and `pos` find a `target`; 95 % intervals over held-out sequences.

    accuracy           on held-out sequences. `chance`: of the most frequent label of the training half
    accuracy_control   the same for a control task (Hewitt & Liang 2019): each type has a random label, drawn as labels
                       are distributed and the same in every context. The type of an example is the token at its
                       position, of a vector its class. Mean of three control tasks
    selectivity        accuracy minus accuracy_control: what the probe owes to the features, not to learning types by
                       heart. Left out where types are held out, and where vectors have no class
    accuracy_shuffled  after fitting on shuffled labels, mean of three shuffles: about chance. Where features form a few
                       tight clusters it varies, as each of them is right or wrong as a whole

    The logistic probe also gives

    log_loss           held out, in nats (mixed with one example that is of every class alike: `probes.nats`)
    v_information      about the target, in nats (Xu et al. 2020): the loss of a guess by label frequencies of the
                       training half, minus log_loss. Negative where the probe overfits
    compression        bits of the training half's labels where all are as likely, over those of an online code (Voita
                       & Titov 2020); `compression_control` of the control tasks. No interval

    Each but chance comes also as `<metric>_untrained`: of the run's model at its initial weights, alike at all steps.

    target     a fact of the task, `[batch]` or `[batch pos]`, -1 where it is left out; `answer`: the batch's target;
               `token`: the token at the position itself. That is a trap: the embedding wrote it there, so that an
               untrained model has it too, and so has any function of it: look at selectivity, and hold out types
    site       TransformerLens's short name: resid_post, resid_pre, resid_mid, attn_out, mlp_out, z, ...
    layers     all, if None
    positions  all, if None; negative ones count from the end. Left out: those with fewer than two labels
    pooled     one probe for all the positions together, and rows without `pos`
    kind       ridge or logistic
    penalty    of the squared weights, on standardised features: scikit-learn's alpha, or 1 / C
    n          sequences that training never sees, the same at every step
    test       share of the sequences (and types) that is held out
    held_out   sequences, or types as well: no type that is scored was fitted on. Where the target is a function of the
               type, a class that only held-out types have cannot be found
    split      where sequences come from
    seed       of the controls, and of the types that are held out
    """

    target: str = "answer"
    site: str = "resid_post"
    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    pooled: bool = False
    kind: str = "ridge"
    penalty: float = 1.0
    n: int = 1024
    test: float = 0.5
    held_out: str = "sequences"
    split: str = "train"
    seed: int = 0

    name = "probe"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 4, "n", self.n, "at least 4 sequences")
        require(0 < self.test < 1, "test", self.test, "a share between 0 and 1")
        require(self.penalty > 0, "penalty", self.penalty, "more than 0")
        choose("kind of probe", self.kind, ("ridge", "logistic"))
        choose("held_out of probe", self.held_out, ("sequences", "types"))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batch, asks = self._question(subject)
        told, first = self._told(subject.task, asks), untrained(subject)
        baseline = {f"{metric}_untrained": rows for metric, rows in self._scores(first, batch, asks, told).items()}
        spots: list[Row] = [{}] if self.pooled else [dict(pos=pos) for pos in asks.positions]
        layers = sites_of(first, self.site, self.layers)
        everywhere = [dict(layer=layer, **spot) for layer in layers for spot in spots]
        chance = self._chance(told)
        for step, model in subject:
            here = dict(step=step, split=self.split, site=self.site, target=self.target)
            yield from (dict(here, metric="chance", **at, **row) for at, row in zip(spots, chance, strict=True))
            for metric, rows in (self._scores(model, batch, asks, told) | baseline).items():
                yield from (dict(here, metric=metric, **at, **row) for at, row in zip(everywhere, rows, strict=True))

    def _question(self, subject: Subject) -> tuple[Batch, Question]:
        """The sequences, and what is asked of those to fit on and of those held out."""
        batch, task = subject.batch(self.n, self.split), subject.task
        asks = question(task, batch, self.target, self.positions, self.test)
        if self.held_out == "types":
            if asks.types is None:
                raise ValueError(f"held_out = 'types', but vectors of {task.name!r} have no type: hold out sequences")
            held = stream("probe", "types", task.name, self.seed).random(asks.types.max() + 1) < self.test
            fitted, scored = np.split(held[asks.types], [len(asks.train)])
            asks = asks._replace(train=np.where(fitted, -1, asks.train), test=np.where(scored, asks.test, -1))
        return batch, asks.worthwhile(self.pooled)

    def _told(self, task: Task, asks: Question) -> Told:
        train, test, cut = asks.train, asks.test, len(asks.train)
        targets = [(train, test)]
        if asks.types is not None and self.held_out == "sequences":
            share = np.bincount(train[train >= 0], minlength=asks.classes) / (train >= 0).sum()
            for k in range(DRAWS):
                rng = stream("probe", "control", task.name, self.seed, k)
                labels = rng.choice(asks.classes, size=asks.types.max() + 1, p=share)[asks.types]
                targets.append((np.where(train >= 0, labels[:cut], -1), np.where(test >= 0, labels[cut:], -1)))
        for k in range(DRAWS):
            shuffled, rng = train.copy(), stream("probe", "shuffled", task.name, self.seed, k)
            for column in shuffled.T:
                column[column >= 0] = rng.permutation(column[column >= 0])
            targets.append((shuffled, test))
        first, second = zip(*targets, strict=True)
        return Told(np.stack(first), np.stack(second), asks.classes)

    def _chance(self, told: Told) -> list[Row]:
        """The accuracy of the most frequent label, in each cell of a layer."""
        train, test = (asked(half[:1], self.pooled) for half in told[:2])
        return means(hits(frequencies(train, told.classes), test), test >= 0, told)

    def _scores(self, model: Model, batch: Batch, asks: Question, told: Told) -> dict[str, list[Row]]:
        """metric -> value, interval and n of each cell, as many cells at a time as fit into memory."""
        sites = sites_of(model, self.site, self.layers)
        x = cells(features(model, batch, sites.values(), asks.positions), self.pooled)
        train, test = (asked(half, self.pooled).repeat(len(sites), 1, 1).to(x.device) for half in told[:2])
        floats = x.shape[1] * (x.shape[2] + train.shape[1] * told.classes)
        room = min(model.memory, CACHE) if model.device == "cpu" else model.memory
        size = max(1, room // (32 * floats))
        lots = zip(x.split(size), train.split(size), test.split(size), strict=True)
        with one_thread():
            parts = [self._examine(*lot, told) for lot in lots]
        return {metric: [row for part in parts for row in part[metric]] for metric in parts[0]}

    def _examine(self, x: Tensor, train: Tensor, test: Tensor, told: Told) -> dict[str, list[Row]]:
        """Fit on the first half of `x [cell n d]`, and score on the second; NaN where training has diverged."""
        if not (finite := x.isfinite().all(-1).all(-1)).all():
            found = self._examine(x.masked_fill(~finite[:, None, None], 0.0), train, test, told)
            return {
                metric: [
                    row if known else {**row, **dict.fromkeys(("value", "lo", "hi"), np.nan)}
                    for row, known in zip(rows, finite, strict=True)
                ]
                for metric, rows in found.items()
            }
        cut, there = train.shape[2], test[:, :1] >= 0
        fit = ridge if self.kind == "ridge" else logistic
        scores = fit(x[:, :cut], train, told.classes, self.penalty)(x[:, cut:])
        right, controlled = hits(scores, test), train.shape[1] > 1 + DRAWS
        found = {"accuracy": right[:, :1], "accuracy_shuffled": right[:, -DRAWS:].mean(1, keepdim=True)}
        if controlled:
            found["accuracy_control"] = right[:, 1:-DRAWS].mean(1, keepdim=True)
            found["selectivity"] = right[:, :1] - found["accuracy_control"]
        if self.kind == "ridge":
            return {metric: means(part, there, told) for metric, part in found.items()}
        fitted = (train[:, :1] >= 0).sum(-1, keepdim=True)
        guess = frequencies(train[:, :1], told.classes).expand(-1, -1, -1, test.shape[2])
        found["log_loss"] = nats(scores[:, :1].log_softmax(-2), test[:, :1], fitted)
        found["v_information"] = nats(guess, test[:, :1], fitted) - found["log_loss"]
        rows = {metric: means(part, there, told) for metric, part in found.items()}
        sent = train[:, :-DRAWS]
        shorter = uniform_code(sent, told.classes) / online_code(x[:, :cut], sent, told.classes, self.penalty)
        rows["compression"] = [dict(value=value, n=len(told.train[0])) for value in shorter[:, 0].tolist()]
        if controlled:
            control = shorter[:, 1:].mean(1).tolist()
            rows["compression_control"] = [dict(value=value, n=len(told.train[0])) for value in control]
        return rows


def untrained(subject: Subject) -> Model:
    """The run's model before its first step."""
    spec, task = subject.spec, subject.task
    weights = init(spec.model, task, spec.init)
    return Model(spec.model, task, weights, device=subject.device, memory=subject.memory, edits=spec.edits)


def means(found: Tensor, there: Tensor, told: Told) -> list[Row]:
    """The mean of what was found of each example that is there, both `[cell 1 n]`, with its interval, by cell."""
    sums = (
        reduce(part.double().cpu().numpy(), "cell 1 (seq pos) -> seq cell", "sum", seq=told.test.shape[1])
        for part in (found * there, there)
    )
    mean = pooled(*sums)
    return [mean.row(cell) for cell in range(len(found))]
