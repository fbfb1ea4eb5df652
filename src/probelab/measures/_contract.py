"""What a measure is: a frozen dataclass that, called on a run's models, gives rows, and perhaps arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from probelab.subject import Subject

Row = dict[str, Any]


class Measure(Protocol):
    """Fields are the dials. A row holds at least step, metric and value; `version` grows when numbers change.

    A measure may also have `arrays(subject) -> dict[str, Named]`, for what is not a curve.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    def __call__(self, subject: Subject) -> Iterator[Row]: ...


class Named(NamedTuple):
    """An array and the names of its axes."""

    axes: tuple[str, ...]
    array: np.ndarray


def needs_heads(measure: str, subject: Subject) -> None:
    """Raise if the run's model has no attention heads."""
    if not hasattr(subject.spec.model, "heads_of"):
        kind = type(subject.spec.model).__name__
        raise ValueError(f"{measure} looks at attention heads, and {kind} has none: measure loss, strategy or icl")
