"""Thousands of run folders at once: a line for each, or all their rows as one table, read where they lie.

A run is opened (`lab.open`) to be computed with; here nothing is built from its spec: ten thousand take seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from probelab.plans import noted
from probelab.rows import tidy, with_dials
from probelab.runs import FORMAT, RunError, home
from probelab.spec import columns, digest
from synthetic_tasks import TASKS


def listed(out: Path) -> Iterator[str]:
    """A line for each run: its steps, checkpoints, size and state."""
    paths = folders(out)
    if not paths:
        yield f"no runs in {out}"
    for path in paths:
        try:
            described(path)
        except RunError as error:
            yield f"{path.name}  cannot be opened: {error}"
            continue
        kept = [int(name[:-12]) for name in names(path / "checkpoints") if name.endswith(".safetensors")]
        length, stopped = noted(path / "done").get("steps", 0), noted(path / "stopped")
        state = "done" if length else "unfinished"
        state = f"stopped at {stopped['step']}: {stopped['reason']}" if stopped else state
        steps = length or max(kept, default=0)
        yield f"{path.name}  {steps} steps  {len(kept)} checkpoints  {weight(path) / 1e6:.1f} MB  {state}"


def rows(out: str | Path | None = None, measure: str | None = None, dials: bool = True) -> pd.DataFrame:
    """The rows of every run under a results folder (default: where results go), of one measure or of all.

    dials  join the dials of the runs as columns (`task.zipf`, `model.layers`)

    Errors: there are none; a run that cannot be read.
    """
    paths = folders(home(out))
    files = [path / "rows" / name for path in paths for name in sorted(names(path / "rows")) if wanted(name, measure)]
    if not files:
        raise RunError(
            f"no rows{f' of {measure}' if measure else ''} in {home(out)}: reproduce a study, or measure runs"
        )
    try:
        found = duckdb.connect().execute(
            "from read_parquet($files, union_by_name = true)", parameters={"files": [*map(str, files)]}
        )
        table = found.df()
    except duckdb.Error as error:
        raise RunError(f"the rows in {home(out)} cannot be read: {str(error).splitlines()[0]}") from error
    table = tidy(table)
    if not dials:
        return table
    have = {file.parent.parent for file in files}
    return with_dials(table, {path.name: columns(described(path)) for path in paths if path in have})


def wanted(name: str, measure: str | None) -> bool:
    """Is this a file of the rows of a measure?"""
    stem, _, ending = name.rpartition(".")
    return ending == "parquet" and not name.startswith(".") and measure in (None, stem.rpartition("-")[0])


def folders(out: Path) -> list[Path]:
    """The folders of runs directly under a results folder, or under its `runs/`."""
    inside = out / "runs" if (out / "runs").is_dir() else out
    return [inside / name for name in sorted(names(inside)) if os.access(inside / name / "spec.json", os.F_OK)]


def names(folder: Path) -> list[str]:
    """What lies in a folder; nothing, if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def described(path: Path) -> dict[str, Any]:
    """The spec of a run as it is written, or why it cannot be opened."""
    try:
        told = json.loads((path / "spec.json").read_text())
        version, spec = told["format"], told["spec"]
        task = spec["task"]
        made = TASKS[task["name"]].version if task["name"] in TASKS else task["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a run folder: it has no readable spec.json") from error
    if version != FORMAT:
        raise RunError(f"{path} was written in format {version}, this version reads format {FORMAT}")
    if told.get("digest") != digest(spec):
        raise RunError(f"{path}/spec.json was altered, or written by another version")
    if made != task["version"]:
        raise RunError(f"{path} was made by version {task['version']} of {task['name']}, this is version {made}")
    return spec


def weight(folder: str | Path) -> int:
    """The bytes of all files in a folder."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total
