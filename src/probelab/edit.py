"""Reading and editing the forward pass: every named site goes through a tape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probelab.clamps import Clamp
from synthetic_tasks import Batch
from synthetic_tasks.task import choose

Facts = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What an edit may look at: the batch's facts as tensors, and the sites passed so far."""

    facts: Facts = field(default_factory=dict)
    sites: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """Replace what a site holds by `f(value, context)`; members that are not listed get their value back.

    `f` sees one member at a time, so `value` has just the axes of its site. Sites that it `reads` are passed even where
    a faster way would leave them out.
    """

    site: str
    f: Callable[[Tensor, Context], Tensor]
    members: tuple[int, ...] | None = None
    reads: tuple[str, ...] = ()

    def __call__(self, value: Tensor, facts: Facts | Sequence[Facts], sites: dict[str, Tensor]) -> Tensor:
        """`value` and `sites` are `[member ...]`; what `f` gets is one member's. Facts are everybody's, or one each."""
        changed = list(value.unbind(0))
        for member in range(len(value)) if self.members is None else self.members:
            mine = facts if isinstance(facts, dict) else facts[member]
            context = Context(mine, {site: held[member] for site, held in sites.items()})
            changed[member] = self.f(value[member], context)
        return torch.stack(changed)


def clamping(clamps: Iterable[Clamp], members: tuple[int, ...] | None = None) -> list[Edit]:
    """What clamps do, as edits of these members (of all, if None)."""
    return [Edit(site, f, members, clamp.reads) for clamp in clamps for site, f in clamp.changes().items()]


def facts_of(batch: Batch, device: torch.device | str = "cpu") -> Facts:
    """The facts of a batch as tensors."""
    return {name: torch.from_numpy(np.asarray(fact)).to(device) for name, fact in batch.facts.items()}


class Tape:
    """Takes note of the sites it was asked for, and edits those it was told to, as the forward pass goes by."""

    def __init__(
        self,
        record: Iterable[str] = (),
        edits: Iterable[Edit] = (),
        facts: Facts | Sequence[Facts] | None = None,
        known: Iterable[str] = (),
    ):
        self.record = set(record)
        self.edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(edit.site, []).append(edit)
        self.read = {site for lot in self.edits.values() for edit in lot for site in edit.reads}
        if known:
            for site in [*self.record, *self.edits, *self.read]:
                choose("site", site, list(known))
        self.sites: dict[str, Tensor] = {}
        self.facts = facts or {}
        self.listening = bool(self.record or self.edits)

    def __call__(self, site: str, value: Tensor) -> Tensor:
        """The value to go on with."""
        if not self.listening:
            return value
        for edit in self.edits.get(site, ()):
            value = edit(value, self.facts, self.sites)
        if self.edits or site in self.record:
            self.sites[site] = value
        return value

    def wants(self, *sites: str) -> bool:
        """Is any of these sites recorded, edited or read? What nobody asks for need not be computed."""
        return self.listening and any(site in self.record or site in self.edits or site in self.read for site in sites)

    def keeps(self, site: str) -> bool:
        """Is what this site holds put on the tape? With any edit everything is, as edits may look at it."""
        return bool(self.edits) or site in self.record

    def recorded(self) -> dict[str, Any]:
        """Only the sites that were asked for."""
        return {site: value for site, value in self.sites.items() if site in self.record}


SILENT = Tape()
