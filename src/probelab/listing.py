"""Thousands of run folders at once: a line for each, or all their rows as one table, read where they lie.

A run is opened (`lab.open`) to be computed with; here nothing is built from its spec: ten thousand take seconds.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pandas as pd
import pyarrow as pa
from pyarrow import ArrowException, BufferReader, concat_tables
from pyarrow.parquet import read_table

from probelab.kinds import hashed, written
from probelab.rows import tidy, with_asked, with_dials
from probelab.runs import FORMAT
from probelab.spec import columns
from probelab.storage import RunError, below, contents, home, parsed, reach, remote
from synthetic_tasks import TASKS


def listed(out: Path) -> Iterator[str]:
    """A line for each run: its steps, checkpoints, size and state."""
    shelf = shelf_of(out)
    if not shelf.paths:
        yield f"no runs in {out}"
    notes = {
        name: dict(zip(paths, map(parsed, contents([path / name for path in paths])), strict=True))
        for name in ("done", "stopped")
        if (paths := [path for path in shelf.paths if shelf.has(path, name)])
    }
    for path, text in zip(shelf.paths, contents([path / "spec.json" for path in shelf.paths]), strict=True):
        try:
            described(path, text)
        except RunError as error:
            yield f"{path.name}  cannot be opened: {error}"
            continue
        kept = [int(name[:-12]) for name in shelf.names(path, "checkpoints") if name.endswith(".safetensors")]
        length, stopped = (notes.get(name, {}).get(path, {}) for name in ("done", "stopped"))
        state = "done" if length else "unfinished"
        state = f"stopped at {stopped['step']}: {stopped['reason']}" if stopped else state
        steps = length.get("steps", 0) or max(kept, default=0)
        yield f"{path.name}  {steps} steps  {len(kept)} checkpoints  {shelf.weight(path) / 1e6:.1f} MB  {state}"


def rows(out: str | Path | None = None, measure: str | None = None, dials: bool = True) -> pd.DataFrame:
    """The rows of every run under a results folder (default: where results go), of one measure or of all.

    dials  join the dials of the runs as columns (`task.zipf`, `model.layers`), and those that tell measurements with
           one measure apart (`patching.metric`)

    Errors: there are none; a run that cannot be read.
    """
    shelf = shelf_of(home(out))
    files = [
        path / "rows" / name
        for path in shelf.paths
        for name in sorted(shelf.names(path, "rows"))
        if wanted(name, measure)
    ]
    if not files:
        raise RunError(
            f"no rows{f' of {measure}' if measure else ''} in {home(out)}: reproduce a study, or measure runs"
        )
    try:
        table = fetched(files) if remote(files[0]) else in_place(files)
    except (duckdb.Error, ArrowException) as error:
        raise RunError(f"the rows in {home(out)} cannot be read: {str(error).splitlines()[0]}") from error
    if not dials:
        return tidy(table.drop(columns="asked"))
    one = {path.stem: path.with_suffix(".json") for path in files}  # measured alike, named alike
    table = tidy(with_asked(table, dict(zip(one, map(parsed, contents([*one.values()])), strict=True))))
    have = sorted({file.parent.parent for file in files})
    texts = contents([path / "spec.json" for path in have])
    specs = zip(have, texts, strict=True)
    return with_dials(table, {path.name: columns(described(path, text)) for path, text in specs})


def in_place(files: list[Path]) -> pd.DataFrame:
    """Parquet files as one table; the column `asked` has their names."""
    query = (
        "select * exclude filename, parse_filename(filename, true) as asked "
        "from read_parquet($files, union_by_name = true, filename = true)"
    )
    return duckdb.connect().execute(query, parameters={"files": [*map(str, files)]}).df()


def fetched(files: list[Path]) -> pd.DataFrame:
    """The same of a URL: many small files are fetched side by side, which DuckDB does not do over fsspec."""
    tables = [
        (table := read_table(BufferReader(data))).append_column("asked", pa.repeat(path.stem, len(table)))
        for path, data in zip(files, contents(files), strict=True)
    ]
    return concat_tables(tables, promote_options="permissive").to_pandas()


def wanted(name: str, measure: str | None) -> bool:
    """Is this a file of the rows of a measure?"""
    stem, _, ending = name.rpartition(".")
    return ending == "parquet" and not name.startswith(".") and measure in (None, stem.rpartition("-")[0])


class Shelf(Protocol):
    """The run folders directly under a results folder, or under its `runs/`, and what lies in them."""

    paths: list[Path]

    def has(self, path: Path, name: str) -> bool:
        """Is there a file of this name in a run folder?"""
        ...

    def names(self, path: Path, room: str) -> list[str]:
        """The files in a folder of a run folder; none, if it is not there."""
        ...

    def weight(self, path: Path) -> int:
        """The bytes of all files in a run folder."""
        ...


def shelf_of(out: Path) -> Shelf:
    """What lies here is looked at when it is asked for; what lies at a URL is listed at once."""
    reach(out)
    return Distant(out) if remote(out) else Near(out)


class Near:
    """Run folders of this machine."""

    def __init__(self, out: Path) -> None:
        inside = out / "runs" if (out / "runs").is_dir() else out
        self.paths = [inside / name for name in sorted(names(inside)) if self.has(inside / name, "spec.json")]

    def has(self, path: Path, name: str) -> bool:
        return os.access(path / name, os.F_OK)

    def names(self, path: Path, room: str) -> list[str]:
        return names(path / room)

    def weight(self, path: Path) -> int:
        return weight(path)


class Distant:
    """Run folders at a URL."""

    def __init__(self, out: Path) -> None:
        inside = out / "runs" if (out / "runs").is_dir() else out
        self.found: dict[str, dict[str, int]] = defaultdict(dict)  # by run: bytes of each file by its name there
        for name, held in below(inside).items():
            run, _, rest = name.partition("/")
            self.found[run][rest] = held
        self.paths = [inside / run for run, files in sorted(self.found.items()) if "spec.json" in files]

    def has(self, path: Path, name: str) -> bool:
        return name in self.found[path.name]

    def names(self, path: Path, room: str) -> list[str]:
        return [name.removeprefix(f"{room}/") for name in self.found[path.name] if name.startswith(f"{room}/")]

    def weight(self, path: Path) -> int:
        return sum(self.found[path.name].values())


def names(folder: Path) -> list[str]:
    """What lies in a folder; nothing, if it is not there."""
    try:
        if remote(folder):
            return [path.name for path in folder.iterdir()]
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def described(path: Path, text: bytes) -> dict[str, Any]:
    """The spec of a run as it is written, or why it cannot be opened."""
    try:
        told = json.loads(text)
        version, spec = told["format"], told["spec"]
        task = spec["task"]
        made = TASKS[task["name"]].version if task["name"] in TASKS else task["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a run folder: it has no readable spec.json") from error
    if version != FORMAT:
        raise RunError(f"{path} was written in format {version}, this version reads format {FORMAT}")
    if told.get("digest") != hashed(written(spec)):
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
