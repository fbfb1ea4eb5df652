"""Measuring a run: rows and arrays beside their spec in the run's folder, only what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probelab.measures import MEASURES, Measure, Named
from probelab.rows import coordinates, load_rows, progress_of, save_rows, tidy
from probelab.runs import Folder, load_arrays, save_arrays
from probelab.storage import RunError, write_json
from probelab.study import describe, label
from probelab.subject import MEMORY, Run, Subject
from synthetic_tasks.task import choose_from


def measure(
    run: Run,
    what: str | Measure | type,
    steps: Sequence[int] | None = None,
    memory: int = MEMORY,
    device: str = "cpu",
) -> pd.DataFrame:
    """The rows of a measure at `steps` (all kept steps, if None), measured now or read from the run's folder."""
    asked, wanted = chosen(what), steps_of(run, steps)
    if not complete(run, asked, wanted):
        with run.lock("rows"):
            take_rows(run, asked, wanted, memory, device)
            if hasattr(asked, "arrays"):
                take_arrays(run, asked, wanted, memory, device)
    rows = load_rows(recorded(run, asked))
    return rows[rows["step"].isin(wanted)].reset_index(drop=True)


def arrays(
    run: Run,
    what: str | Measure | type,
    steps: Sequence[int] | None = None,
    memory: int = MEMORY,
    device: str = "cpu",
) -> dict[str, Named]:
    """The arrays of a measure at `steps`, with their axes: computed now or read from the run's folder."""
    asked, wanted = chosen(what), steps_of(run, steps)
    if not hasattr(asked, "arrays"):
        raise ValueError(f"the measure {asked.name} gives rows, no arrays: lab.measure(run, ...)")
    if not set(wanted) <= set(read_arrays(run, asked)[1]):
        with run.lock("rows"):
            take_arrays(run, asked, wanted, memory, device)
    named, have = read_arrays(run, asked)
    return {name: at_steps(item, [have.index(step) for step in wanted]) for name, item in named.items()}


def chosen(what: str | Measure | type) -> Measure:
    """A measure by its name, by its class, or as it is."""
    kind: Any = choose_from("measure", what, MEASURES) if isinstance(what, str) else what
    asked: Any = kind() if isinstance(kind, type) else kind
    if not all((is_dataclass(asked), callable(asked), hasattr(asked, "name"), hasattr(asked, "version"))):
        raise ValueError(f"{what!r} is no measure: that is a callable frozen dataclass with `name` and `version`")
    return asked


def steps_of(run: Run, steps: Sequence[int] | None) -> list[int]:
    """The steps asked for, in order; all kept ones if None."""
    wanted = run.steps if steps is None else sorted(set(steps))
    if not wanted:
        raise RunError(f"there is nothing to measure: {run.name} keeps no checkpoint, or no step was asked for")
    return wanted


def take_rows(run: Run, asked: Measure, wanted: Sequence[int], memory: int, device: str) -> None:
    """Measure at the steps that have no rows yet, and add them to the file."""
    path = recorded(run, asked)
    have = load_rows(path) if path.exists() else None
    missing = list(wanted) if have is None else [] if not len(have) else absent(wanted, have["step"])
    if not missing:
        return
    run.check_kept(*missing)
    both = rows_of(asked, Subject(run, missing, memory, device))
    if have is not None:
        both = pd.concat([have, both], ignore_index=True)
    write_json(path.with_suffix(".json"), describe(asked))
    save_rows(path, tidy(both).sort_values("step", kind="stable", ignore_index=True))


def rows_of(asked: Measure, subject: Subject) -> pd.DataFrame:
    """What a measure yields on a run, with the coordinates of the run: rows at every step, or none at all."""
    rows = pd.DataFrame(list(asked(subject)))
    if not len(rows):
        return rows.assign(step=[], metric=[], value=[])
    if silent := absent(subject.steps, rows["step"]):
        raise ValueError(f"the measure {asked.name} gave no row at step {silent[0]}: a value that is not there is NaN")
    rows = rows.assign(measure=asked.name, **coordinates(subject.run))
    return tidy(progress_of(subject.run, rows))


def take_arrays(run: Run, asked: Any, wanted: Sequence[int], memory: int, device: str) -> None:
    """Compute the arrays at the steps that have none yet, and put them between the others."""
    named, have = read_arrays(run, asked)
    missing = absent(wanted, have)
    if not missing:
        return
    run.check_kept(*missing)
    fresh: dict[str, Named] = asked.arrays(Subject(run, missing, memory, device))
    if have:
        both = {name: joined(named[name], item) for name, item in fresh.items()}
        order = np.argsort([*have, *missing]).tolist()
        fresh = {name: at_steps(item, order) for name, item in both.items()}
    about = {
        "digest": run.spec.digest,
        "steps": sorted([*have, *missing]),
        "axes": {name: list(item.axes) for name, item in fresh.items()},
        "measure": describe(asked),
    }
    save_arrays(arrays_of(run, asked), {name: np.asarray(item.array) for name, item in fresh.items()}, about)


def read_arrays(folder: Folder, asked: Measure) -> tuple[dict[str, Named], list[int]]:
    """What was recorded, and at which steps."""
    path = arrays_of(folder, asked)
    if not path.exists():
        return {}, []
    found, about = load_arrays(path)
    return {name: Named(tuple(about["axes"][name]), array) for name, array in found.items()}, about["steps"]


def joined(first: Named, second: Named) -> Named:
    """Two arrays, one after the other in step."""
    if "step" not in first.axes:
        return second
    return Named(first.axes, np.concatenate([first.array, second.array], first.axes.index("step")))


def at_steps(item: Named, which: list[int]) -> Named:
    """Some of the steps of an array."""
    return Named(item.axes, item.array.take(which, item.axes.index("step"))) if "step" in item.axes else item


def absent(wanted: Sequence[int], have: Any) -> list[int]:
    """The steps that are wanted and not there."""
    there = set(have)
    return [step for step in wanted if step not in there]


def complete(folder: Folder, asked: Measure, steps: Sequence[int]) -> bool:
    """Has a measure been taken at all these steps?"""
    if not recorded(folder, asked).exists():
        return False
    rows = load_rows(recorded(folder, asked))
    if len(rows) and absent(steps, rows["step"]):
        return False
    return not hasattr(asked, "arrays") or not absent(steps, read_arrays(folder, asked)[1])


def recorded(folder: Folder, asked: Measure) -> Path:
    """Where the rows of a measure lie in a run folder."""
    return folder.path / "rows" / f"{label(asked)}.parquet"


def arrays_of(folder: Folder, asked: Measure) -> Path:
    """Where the arrays of a measure lie in a run folder."""
    return folder.path / "arrays" / f"{label(asked)}.safetensors"
