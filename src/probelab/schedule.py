"""Which steps are kept: dense early and even in log step, where transitions live."""

from __future__ import annotations

import math

from synthetic_tasks.task import require


def kept(steps: int, per_decade: int = 16, every: int | None = None) -> tuple[int, ...]:
    """Steps 0, 1, 2, ... in log spacing up to and including `steps`; with `every`, no gap is wider than that.

    Sixteen a decade places a switch to within 15 % of its step.
    """
    require(isinstance(steps, int) and steps >= 0, "steps", steps, "a whole number, 0 or more")
    require(per_decade >= 1, "per_decade", per_decade, "at least 1")
    require(every is None or every >= 1, "every", every, "at least 1, or None")
    decades = math.log10(max(steps, 1))
    grid = {round(10 ** (k / per_decade)) for k in range(math.ceil(decades * per_decade) + 1)}
    if every:
        grid |= set(range(0, steps, every))
    return tuple(sorted(step for step in grid | {0, steps} if step <= steps))


def anchors(steps: int, count: int = 8) -> tuple[int, ...]:
    """The steps at which the optimiser's state is kept, from which training can be continued exactly."""
    stride = max(1, math.ceil(steps / count))
    return tuple(sorted({*range(stride, steps, stride), steps}))
