"""How often the answer is right: at once, after the true steps, and after steps of the model's own; at what price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from probelab.decode import decode, flops
from probelab.measures._chain import answered, chain_of, rate
from probelab.measures._contract import Row
from probelab.measures._read import by_model
from probelab.subject import Subject
from synthetic_tasks import Batch
from synthetic_tasks.task import require


@dataclass(frozen=True)
class Answers:
    """Answers of a task with chains, three `way`s; means with 95 % intervals over sequences.

    direct  the answer is asked for behind the prompt. A model that was never asked so early may well fail for that
            alone: train with `early`, or with the format "direct"
    forced  behind the true steps (teacher forcing)
    free    behind what the model writes itself, its likeliest symbols. What does not end in an answer is wrong

    accuracy  share of right answers. Chance: `task.chance(split)`
    tokens    symbols that the model writes, the answer among them
    flops     floating-point operations an answer: each symbol but the last is read once, keys and values kept
    all       forced: share of sequences in which each scored symbol is the likeliest (Wen et al. 2024's accuracy)
    steps     free: share of sequences in which each step is written, right or not: the model *writes steps*
    chain     free: share in which they are the right ones, symbol by symbol

    n      sequences that training never sees
    split  where they come from (None: the task's last one); where its rows have no steps, only direct is measured
    """

    n: int = 500
    split: str | None = None

    name = "answers"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        chain, split = chain_of(self.name, subject), self.split or subject.task.splits[-1]
        batch = subject.batch(self.n, split)
        truth, cuts = batch.facts["answer"], batch.facts["cuts"]
        right, stepped = chain.cut(batch), (cuts >= 0).sum(axis=1) > 1
        prompt, asked, forced = chain.prompt(batch), chain.ask(batch, 0), chain.ask(batch)

        def priced(texts: np.ndarray, begun: np.ndarray) -> dict[str, np.ndarray]:
            lengths = (texts >= 0).sum(axis=1)
            price = flops(subject.spec.model, subject.task, lengths - 1)
            return dict(tokens=lengths - (begun >= 0).sum(axis=1), flops=price)

        for step, model in subject:
            told = decode(model, asked, chain.parse)
            found = {"direct": dict(accuracy=chain.parse(told) == truth, **priced(told, asked))}
            if stepped.any():
                found["forced"] = dict(accuracy=answered(model, chain, forced) == truth)
                found["forced"]["all"] = by_model(model, batch, all_right)
                told = decode(model, prompt, chain.parse)
                said, place = chain.parse(told), np.arange(told.shape[1])
                mark = ((told == chain.mark(batch)) & (place >= cuts[:, :1])).argmax(axis=1)
                steps = (said >= 0) & (mark == cuts.max(axis=1)) & stepped
                same = ((told[:, : right.shape[1]] == right) | (right < 0)).all(axis=1)
                found["free"] = dict(accuracy=said == truth, steps=steps, chain=steps & same, **priced(told, prompt))
            for way, metrics in found.items():
                for metric, values in metrics.items():
                    yield dict(step=step, split=split, way=way, metric=metric, **rate(values))


def all_right(part: Batch, logits: Tensor) -> np.ndarray:
    """Whether each scored symbol of a sequence is the likeliest, bool `[sequence]`."""
    return ((logits.argmax(-1).cpu().numpy() == part.targets) | (part.targets < 0)).all(axis=1)
