"""How much attention has settled: each head's most decided query (Wen et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probelab.composition import places
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import pooled
from probelab.subject import Model, Subject, chunks
from synthetic_tasks import Batch
from synthetic_tasks.task import require


@dataclass(frozen=True)
class Sparsity:
    """Metric `attention_entropy` of every `layer` and `head`: 1 if no query prefers any key, 0 if one looks at one key.

    The entropy of a query's pattern over the log of the number of keys that it may look at; the least of all queries of
    a sequence, the first two left out; mean with 95 % interval over sequences. Rows without a head: the least head
    of each sequence.

    n      sequences that training never sees
    split  where they come from
    """

    n: int = 256
    split: str = "train"

    name = "sparsity"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        batch = subject.batch(self.n, self.split)
        for step, model in subject:
            found = torch.cat([least_entropy(model, part) for part in chunks(batch, model.chunk(batch, True))]).numpy()
            here = dict(step=step, split=self.split, metric="attention_entropy")
            yield dict(**here, **pooled(found.min(axis=1), np.ones(len(found))).row())
            for k, (layer, head) in enumerate(places(model)):
                yield dict(**here, layer=layer, head=head, **pooled(found[:, k], np.ones(len(found))).row())


def least_entropy(model: Model, part: Batch) -> torch.Tensor:
    """Of each sequence and head the least entropy of a query, as a share of the greatest: float64 `[sequence head]`."""
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.spec.layers)]
    cache = model.cache(part, sites)
    patterns = torch.cat([cache[site] for site in sites], 1).double()
    keys = torch.arange(1, patterns.shape[-1] + 1, dtype=torch.float64, device=patterns.device)
    share = torch.special.entr(patterns).sum(-1) / keys.log()
    there = torch.from_numpy(part.tokens >= 0).to(patterns.device) if part.vectors is None else keys.new_ones(1).bool()
    return torch.where(there[:, None] & (keys > 2), share, torch.inf).amin(-1).cpu()
