"""Attention patterns of one sequence over training, to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probelab.measures._contract import Named, Row, needs_heads
from probelab.subject import Subject
from synthetic_tasks.task import require

DRAWN = 16  # sequences to choose from


@dataclass(frozen=True)
class Patterns:
    """Arrays, no rows: `pattern` (step, layer, head, query, key), `tokens` (pos,) and `steps` (step,).

    Patterns are float16, right to three decimals. Where layers have fewer heads than the widest, NaN fills the rest.

    shown  which of 16 sequences; None: the one whose tokens vary most, as a constant one shows nothing
    split  where it comes from; training never sees it
    """

    shown: int | None = None
    split: str = "train"

    name = "patterns"
    version = 1

    def __post_init__(self) -> None:
        fits = self.shown is None or 0 <= self.shown < DRAWN
        require(fits, "shown", self.shown, f"the number of a sequence, 0 to {DRAWN - 1}, or None")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        yield from ()

    def arrays(self, subject: Subject) -> dict[str, Named]:
        needs_heads(self.name, subject)
        spec = subject.spec.model
        drawn = subject.batch(DRAWN, self.split)
        shown = varied(drawn.tokens) if self.shown is None else self.shown
        batch = drawn[shown : shown + 1]
        heads, length = max(map(spec.heads_of, range(spec.layers))), batch.tokens.shape[1]
        patterns = np.full((len(subject.steps), spec.layers, heads, length, length), np.nan, np.float16)
        sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(spec.layers)]
        for k, (_, model) in enumerate(subject):
            cache = model.cache(batch, sites)
            for layer, site in enumerate(sites):
                patterns[k, layer, : spec.heads_of(layer)] = cache[site][0].cpu().numpy()
        return {
            "pattern": Named(("step", "layer", "head", "query", "key"), patterns),
            "tokens": Named(("pos",), batch.tokens[0]),
            "steps": Named(("step",), np.array(subject.steps)),
        }


def varied(tokens: np.ndarray) -> int:
    """The row of `tokens [sequence pos]` whose tokens have the highest entropy."""
    shares = [np.unique(row, return_counts=True)[1] / len(row) for row in tokens]
    return int(np.argmax([-(share * np.log(share)).sum() for share in shares]))
