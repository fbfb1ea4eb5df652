"""Reading and editing the forward pass: every named site goes through a tape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from synthetic_tasks.task import choose


@dataclass(frozen=True)
class Context:
    """What an edit may look at: the batch's facts as tensors, and the sites passed so far."""

    facts: dict[str, Tensor] = field(default_factory=dict)
    sites: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """Replace what a site holds by `f(value, context)`; members that are not listed get their value back.

    `f` sees one member at a time, so `value` has just the axes of its site.
    """

    site: str
    f: Callable[[Tensor, Context], Tensor]
    members: tuple[int, ...] | None = None

    def __call__(self, value: Tensor, facts: dict[str, Tensor], sites: dict[str, Tensor]) -> Tensor:
        """`value` and `sites` are `[member ...]`; what `f` gets is one member's."""
        changed = list(value.unbind(0))
        for member in range(len(value)) if self.members is None else self.members:
            context = Context(facts, {site: held[member] for site, held in sites.items()})
            changed[member] = self.f(value[member], context)
        return torch.stack(changed)


class Tape:
    """Takes note of the sites it was asked for, and edits those it was told to, as the forward pass goes by."""

    def __init__(
        self,
        record: Iterable[str] = (),
        edits: Iterable[Edit] = (),
        facts: dict[str, Tensor] | None = None,
        known: Iterable[str] = (),
    ):
        self.record = set(record)
        self.edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(edit.site, []).append(edit)
        if known:
            for site in [*self.record, *self.edits]:
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
        """Is any of these sites recorded or edited? What nobody asks for need not be computed."""
        return self.listening and any(site in self.record or site in self.edits for site in sites)

    def recorded(self) -> dict[str, Any]:
        """Only the sites that were asked for."""
        return {site: value for site, value in self.sites.items() if site in self.record}


SILENT = Tape()
