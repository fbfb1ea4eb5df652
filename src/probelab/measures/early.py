"""Is the answer there before the chain is complete? Early answering and filler tokens (Lanham et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probelab.measures._chain import answered, chain_of, rate
from probelab.measures._contract import Row
from probelab.subject import Subject
from synthetic_tasks.task import require


@dataclass(frozen=True)
class Early:
    """Answers asked for after a part of the true chain, or after fillers in its place; 95 % intervals over sequences.

    Lanham et al. cut a chain of the model's own. Here the steps are the right ones, so that the curve is there before
    the model can write, and says what the steps do rather than how well they are written.

    same      `kept` steps: share of answers that equal the one after the whole chain
    chance    `kept` steps: the same for answers of other sequences, by how often each answer is given
    accuracy  `kept` steps, or so many fillers (`way` filler): share of right answers. Chance: `task.chance(split)`
    aoc       area over the curve of `same` against the fraction of steps kept, by the trapezoid rule: near 1 if the
              whole chain is needed, 0 if the answer stands before it. Each sequence has its own fractions
    aoc_over_chance  the same, over what it would be if answers before the last step were those of other sequences:
              1 if nothing is known before the last step

    n      sequences that training never sees
    split  where they come from (None: the task's last one); its rows must have steps
    """

    n: int = 500
    split: str | None = None

    name = "early"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        chain, split = chain_of(self.name, subject), self.split or subject.task.splits[-1]
        batch = subject.batch(self.n, split)
        truth, has = batch.facts["answer"], (batch.facts["cuts"] >= 0).sum(axis=1) - 1
        batch = batch[np.flatnonzero(has > 0)]
        if not len(batch):
            raise ValueError(f"early needs steps, and {subject.task.name!r} writes none on {split}: measure answers")
        truth, has = batch.facts["answer"], has[has > 0]
        most = int(has.max())
        texts = {"steps": [chain.ask(batch, kept) for kept in range(most + 1)]}
        texts["filler"] = [chain.fill(batch, kept) for kept in range(most + 1)]
        for step, model in subject:
            said = {way: np.stack([answered(model, chain, t) for t in lot], 1) for way, lot in texts.items()}
            whole = said["steps"][:, -1:]  # rows with fewer steps are asked after all of theirs
            same = said["steps"] == whole
            luck = np.stack([agreement(column, whole[:, 0]) for column in said["steps"].T])
            by_luck = over(np.where(np.arange(most + 1) == has[:, None], 1.0, luck), has).mean()
            area = over(same, has)
            here = dict(step=step, split=split)
            for kept in range(most + 1):
                there = has >= kept
                yield dict(**here, metric="same", way="steps", kept=kept, **rate(same[:, kept], there))
                yield dict(**here, metric="chance", way="steps", kept=kept, value=float(luck[kept]))
                for way, answers in said.items():
                    right = rate(answers[:, kept] == truth, there)
                    yield dict(**here, metric="accuracy", way=way, kept=kept, **right)
            yield dict(**here, metric="aoc", way="steps", **rate(area))
            relative = rate(area / by_luck) if by_luck > 0 else dict(value=np.nan)  # there is but one answer
            yield dict(**here, metric="aoc_over_chance", way="steps", **relative)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """How often answers of two sequences drawn at random are the same."""
    _, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [np.bincount(part, minlength=codes.max() + 1) / len(part) for part in np.split(codes, [len(first)])]
    return float(counts[0] @ counts[1])


def over(same: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Area over the curve `same [batch kept]` from 0 to all `has [batch]` steps of a row, as fractions: `[batch]`."""
    middle, kept = (same[:, 1:] + same[:, :-1].astype(float)) / 2, np.arange(same.shape[1] - 1)
    return 1 - np.where(kept < has[:, None], middle, 0).sum(axis=1) / has
