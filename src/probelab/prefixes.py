"""Two inputs in one pass: what both begin with is computed once, and nothing behind the position that is read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synthetic_tasks import Batch


class Rows:
    """Rows of `first` and `second`, one behind the other, that a causal model read at `read [batch]` must compute.

    Packed, they are `[member 1 row ...]`. Spread, `[member batch pos ...]`, positions behind the one read hold what
    that one does. Where a stream begins as its token alone (`words`), the first layer reads each token once.
    """

    def __init__(self, first: Batch, second: Batch, read: Tensor, words: bool = False):
        batch, length = first.tokens.shape
        alike = first.tokens == second.tokens
        if first.vectors is not None and second.vectors is not None:
            alike &= (first.vectors == second.vectors).all(-1)
        shared = torch.from_numpy(np.stack([np.zeros_like(alike), np.logical_and.accumulate(alike, 1)])).to(read.device)
        own = torch.arange(2 * batch * length, device=read.device).view(2, batch, length)
        own = own.where(~shared, own[:1])
        where = own.gather(2, torch.minimum(torch.arange(length, device=read.device), read[:, None]).expand_as(own))
        self.rows, index = where.unique(return_inverse=True)
        self.index = index.flatten(0, 1)  # the row of each position, `[2 * batch pos]`
        self.words = None
        if words and first.vectors is None:
            tokens = np.stack([first.tokens, second.tokens]).ravel()[self.rows.cpu().numpy()]
            _, one, word = np.unique(tokens, return_index=True, return_inverse=True)
            self.words = torch.from_numpy(one).to(read.device), torch.from_numpy(word).to(read.device)[self.index]

    def read_by(self, layer: int) -> tuple[Tensor | None, Tensor]:
        """The packed rows that a layer reads (None: all), and which of them each position has, `[2*batch pos]`."""
        return (None, self.index) if layer or self.words is None else self.words

    def pack(self, value: Tensor) -> Tensor:
        """Of `[member 2*batch pos ...]` the rows that matter."""
        return value.flatten(1, 2).index_select(1, self.rows).unsqueeze(1)

    def last(self, value: Tensor) -> Tensor:
        """Of packed rows those that are read, `[member 2*batch 1 ...]`."""
        return value.squeeze(1).index_select(1, self.index[:, -1]).unsqueeze(2)

    def spread(self, value: Tensor, half: slice = slice(None)) -> Tensor:
        """Packed or not: `[member 2*batch pos ...]`, or one half of it."""
        return value[:, half] if value.shape[1] > 1 else spread(value, self.index[half])


def spread(value: Tensor, index: Tensor) -> Tensor:
    """Rows `[member 1 row ...]` at `index [batch pos]`: `[member batch pos ...]`."""
    return value.squeeze(1).index_select(1, index.flatten()).unflatten(1, index.shape)
