"""Does the answer follow the chain? One step turned wrong, or the whole chain of another sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from probelab.measures._chain import answered, chain_of, rate
from probelab.measures._contract import Row
from probelab.subject import Subject
from synthetic_tasks import stream
from synthetic_tasks.task import require

MODES = ("pinned", "regenerated", "swapped")


@dataclass(frozen=True)
class Follow:
    """What becomes of the answer when the chain is tampered with; means with 95 % intervals over sequences.

    pinned       one step has another value, the others stay, and the answer is asked for
    regenerated  the text is cut behind the wrong step, and the model goes on by itself (Lanham's "adding mistakes")
    swapped      all steps are those of another sequence, and the answer is asked for

    Only tampering that matters is counted: where the chain, if it is followed, leads to another answer than before.
    `link` is the step that was turned, 0 the first; rows without it are of all steps together.

    follow  share of answers that are what the text implies: 1 for a model that *uses* its steps, 0 if they are for show
    repair  share of answers that stay what they ought to be
    change  share of answers that differ from the model's own without tampering

    n      sequences that training never sees
    split  where they come from (None: the task's last one); its rows must have steps
    """

    n: int = 500
    split: str | None = None

    name = "follow"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 2, "n", self.n, "at least two sequences, one to swap with")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        chain, split = chain_of(self.name, subject), self.split or subject.task.splits[-1]
        batch = subject.batch(self.n, split)
        places, asked = batch.facts["places"], chain.ask(batch)
        if not (places >= 0).any():
            raise ValueError(f"follow needs steps, and {subject.task.name!r} writes none on {split}: measure answers")
        rng = stream("follow", subject.task.name, subject.task.world, subject.spec.data)
        truth, lots, begun = chain.implied(asked), [], {0: asked}
        for link in range(places.shape[1]):
            wrong, there = chain.corrupt(batch, link, rng), places[:, link] >= 0
            begun[link + 1] = chain.cut(batch, link + 1)
            lots.append(("pinned", link, chain.ask(wrong), there, 0))
            lots.append(("regenerated", link, chain.cut(wrong, link + 1), there, link + 1))
        donors = (np.arange(len(batch)) + rng.integers(1, len(batch), len(batch))) % len(batch)
        lots.append(("swapped", -1, chain.swap(batch, donors), np.ones(len(batch), bool), 0))
        lots = [(mode, link, texts, chain.implied(texts), there, own) for mode, link, texts, there, own in lots]
        for step, model in subject:
            before = {own: answered(model, chain, texts) for own, texts in begun.items()}
            found: dict[str, list[np.ndarray]] = {mode: [] for mode in MODES}
            for mode, link, texts, implied, there, own in lots:
                said = answered(model, chain, texts)
                matters = there & (implied >= 0) & (implied != truth)
                seen = np.stack([said == implied, said == truth, said != before[own]])[:, matters]
                found[mode].append(seen)
                if link >= 0:
                    yield from rates(seen, step=step, split=split, mode=mode, link=link)
            for mode, parts in found.items():
                yield from rates(np.concatenate(parts, axis=1), step=step, split=split, mode=mode)


def rates(seen: np.ndarray, **where: Any) -> Iterator[Row]:
    """Rows of `seen [metric case]`, where there are cases."""
    for metric, values in zip(("follow", "repair", "change"), seen, strict=True):
        if len(values):
            yield dict(**where, metric=metric, **rate(values))
