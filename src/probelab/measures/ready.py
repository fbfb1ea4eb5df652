"""Which part of a circuit is ready: attention patterns exchanged between a checkpoint and the trained model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probelab.answers import METRICS
from probelab.edit import Edit
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.measures._pairs import drawn, kind_of, lots, numbers
from probelab.places import site_of
from probelab.subject import Model, Subject
from synthetic_tasks.task import Pairs, choose, require


@dataclass(frozen=True)
class Ready:
    """What the answer would be if one part were as the checkpoint has it, and all the others as the trained model has.

    In the model itself a part has no effect before the others are there: all its parts seem to be born at once. A
    pattern says where to look, whatever the basis of the stream, and so can be handed from one checkpoint to another:

    given, by `layer`  the checkpoint, given the trained patterns of the layers up to this one: what it would answer if
                       these looked where they must. All of them given, what it lacks is to say what is found there
    looks, by `layer`  the trained model, given the patterns that the checkpoint makes in this layer; the checkpoint in
                       turn is given the trained ones of the layers before. High when the trained model can work with
                       them, which may be long after the checkpoint can
    model              the checkpoint as it is
    trained            the trained model as it is: what the others rise to

    Of an induction circuit, layer 0 is the previous-token head, layer 1 the match, and what is left the copy: Singh et
    al. 2024 give these parts while they train, here they are given afterwards. A mean over the clean inputs of the
    task's pairs, with 95 % interval. Costs 3 passes a layer and 2 more.

    metric   log_prob of the answer (nats), logit_difference (answer - foil), rank
    n, kind  of the task's pairs, from a stream that training never reads
    at       the step of the trained model; None: the last one kept. Name it where the run is to grow, as rows that are
             there already stay
    """

    metric: str = "log_prob"
    n: int = 128
    kind: str | None = None
    at: int | None = None

    name = "ready"
    version = 1

    def __post_init__(self) -> None:
        choose("metric", self.metric, METRICS)
        require(self.n >= 2, "n", self.n, "at least two pairs")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        pairs, at = drawn(self.name, subject, self.n, self.kind), subject.kept(self.at)
        trained = subject.model(at)
        several = list(lots(pairs, trained.chunk(pairs.clean, True)))
        given = [trained.cache(lot.clean, patterns(trained)) for lot in several]
        for step, model in subject:
            here = dict(step=step, pairs=kind_of(subject, self.kind), trained_at=at)
            parts = [self.judged(model, trained, lot, held) for lot, held in zip(several, given, strict=True)]
            for metric, layer in parts[0]:
                values = np.concatenate([part[metric, layer] for part in parts])
                row = dict(here, metric=metric, **pooled(values, np.ones(len(values))).row())
                yield row if layer is None else dict(row, layer=layer)

    def judged(self, model: Model, trained: Model, pairs: Pairs, given: dict[str, torch.Tensor]) -> dict:
        """(metric, layer) -> the answer to each pair, float64 `[pair]`."""

        def answer(model: Model, patterns: dict[str, torch.Tensor]) -> np.ndarray:
            logits = model(pairs.clean, taking(patterns))[np.arange(len(pairs.answer)), pairs.position]
            return numbers(METRICS[self.metric](pairs)(logits))

        found = {}
        for layer, site in enumerate(given):
            before, there = ({name: given[name] for name in list(given)[:count]} for count in (layer, layer + 1))
            found["given", layer] = answer(model, there)
            found["looks", layer] = answer(trained, model.cache(pairs.clean, [site], taking(before)))
        return found | {("model", None): answer(model, {}), ("trained", None): answer(trained, {})}


def patterns(model: Model) -> list[str]:
    """The attention patterns of every layer, in order."""
    return [site_of("pattern", layer) for layer in range(model.spec.layers)]


def taking(patterns: dict[str, torch.Tensor]) -> list[Edit]:
    """Edits that put these patterns, `[batch head pos key]`, in the place of a model's own."""
    return [Edit(site, lambda value, context, held=held: held) for site, held in patterns.items()]
