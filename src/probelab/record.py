"""Measuring a run: rows and arrays beside their spec in the run's folder, only what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from probelab.measures import MEASURES, Measure, Named
from probelab.rows import coordinates, load_rows, progress_of, save_rows, tidy
from probelab.runs import Folder, load_arrays, save_arrays, write_json
from probelab.study import describe, label
from probelab.subject import MEMORY, Run, Subject
from synthetic_tasks.task import choose_from


def measure(
    run: Run, what: str | Measure, steps: Sequence[int] | None = None, memory: int = MEMORY, device: str = "cpu"
) -> pd.DataFrame:
    """The rows of a measure at `steps` (all kept steps, if None), measured now or read from the run's folder."""
    asked: Measure = choose_from("measure", what, MEASURES)() if isinstance(what, str) else what
    wanted = tuple(run.steps if steps is None else steps)
    path = recorded(run, asked)
    have = load_rows(path) if path.exists() else pd.DataFrame()
    measured = set(have["step"]) if len(have) else set()
    missing = [step for step in wanted if step not in measured]
    if missing and not (path.exists() and not len(have)):
        fresh = rows_of(asked, Subject(run, missing, memory, device))
        have = tidy(pd.concat([have, fresh], ignore_index=True) if len(have) else fresh)
        have = have.sort_values("step", kind="stable", ignore_index=True)
        write_json(path.with_suffix(".json"), describe(asked))
        save_rows(path, have)
    if hasattr(asked, "arrays"):
        arrays(run, asked, wanted, memory, device)
    return have[have["step"].isin(wanted)].reset_index(drop=True)


def rows_of(asked: Measure, subject: Subject) -> pd.DataFrame:
    """What a measure yields on a run, with the coordinates of the run."""
    rows = pd.DataFrame(list(asked(subject)))
    if not len(rows):
        return rows.assign(step=[], metric=[], value=[])
    rows = rows.assign(measure=asked.name, **coordinates(subject.run))
    return tidy(progress_of(subject.run, rows))


def arrays(
    run: Run, what: str | Measure, steps: Sequence[int] | None = None, memory: int = MEMORY, device: str = "cpu"
) -> dict[str, Named]:
    """The arrays of a measure at `steps`, with their axes: computed now or read from the run's folder."""
    asked: Measure = choose_from("measure", what, MEASURES)() if isinstance(what, str) else what
    wanted = list(run.steps if steps is None else steps)
    path = arrays_of(run, asked)
    if path.exists():
        found, about = load_arrays(path)
        if about["steps"] == wanted:
            return {name: Named(tuple(about["axes"][name]), array) for name, array in found.items()}
    named = asked.arrays(Subject(run, wanted, memory, device))  # pyright: ignore[reportAttributeAccessIssue]
    about = {
        "digest": run.spec.digest,
        "steps": wanted,
        "axes": {name: list(item.axes) for name, item in named.items()},
        "measure": describe(asked),
    }
    save_arrays(path, {name: np.asarray(item.array) for name, item in named.items()}, about)
    return named


def recorded(folder: Folder, asked: Measure) -> Path:
    """Where the rows of a measure lie in a run folder."""
    return folder.path / "rows" / f"{label(asked)}.parquet"


def complete(folder: Folder, asked: Measure, steps: Sequence[int]) -> bool:
    """Has a measure been taken at all these steps?"""
    if not recorded(folder, asked).exists():
        return False
    rows, stacked = load_rows(recorded(folder, asked)), arrays_of(folder, asked)
    if len(rows) and not set(steps) <= set(rows["step"]):
        return False
    return not hasattr(asked, "arrays") or (stacked.exists() and load_arrays(stacked)[1]["steps"] == list(steps))


def arrays_of(folder: Folder, asked: Measure) -> Path:
    """Where the arrays of a measure lie in a run folder."""
    return folder.path / "arrays" / f"{label(asked)}.safetensors"
