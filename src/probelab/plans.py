"""What was asked for, on disk: `plans/<study>-<digest>.json`, for who watches a sweep or tidies up after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from probelab.planner import price
from probelab.spec import digest
from probelab.storage import at_hand, noted, read, write_json
from probelab.study import Job, Study, label


class Plan(NamedTuple):
    """A sweep: what it asks of each run by its name, which runs were missing when it began, and their price."""

    study: str
    runs: dict[str, dict[str, Any]]
    missing: tuple[str, ...]
    minutes: float
    maps: dict[str, dict[str, Any]]
    began: float  # seconds, as files are dated


def record(out: Path, study: Study, jobs: Sequence[Job], missing: Sequence[Job], minutes: float) -> None:
    """Write down what is about to be executed: one run each in `jobs`, of which `missing` take so many minutes.

    Each set of runs has a file, so that a smaller preset does not hide that a larger one was asked for before.
    """
    runs = {
        job.spec.name: {
            "steps": job.steps,
            "keep": list(job.keep),
            "measures": [label(measure) for measure in job.measures],
            "arrays": [label(measure) for measure in job.measures if hasattr(measure, "arrays")],
            "work": price(job),
        }
        for job in jobs
    }
    told = {"study": study.name, "runs": runs, "missing": [job.spec.name for job in missing], "minutes": minutes}
    maps = {title: dict(of) for title, of in study.maps.items()}
    write_json(out / "plans" / f"{study.name}-{digest(runs, 4)}.json", {**told, "maps": maps})


def plans(out: Path) -> list[Plan]:
    """Every plan of a results folder, the last begun last. One that cannot be read is left out."""
    found = []
    for path in (out / "plans").glob("*.json"):
        try:
            told = json.loads(read(path))
            found.append(Plan(**{**told, "missing": tuple(told["missing"])}, began=path.stat().st_mtime))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda plan: plan.began)


def taken(path: Path, asked: dict[str, Any]) -> int:
    """How many of the measures asked of a run have all their rows and arrays."""
    without = {name for name in asked["arrays"] if not (path / "arrays" / f"{name}.safetensors").exists()}
    return sum(
        name not in without and has_rows(path / "rows" / f"{name}.parquet", asked["keep"]) for name in asked["measures"]
    )


def has_rows(path: Path, steps: Sequence[int]) -> bool:
    """Does a file of rows have every step? One without any rows has them all."""
    try:
        with at_hand(path) as file:
            there = set(pq.ParquetFile(file).read(columns=["step"])["step"].to_pylist())
    except (OSError, ValueError, pa.ArrowException, KeyError):
        return False
    return not there or there.issuperset(steps)


def trained(path: Path) -> int:
    """The steps that a run was trained in full, 0 if it is still on its way."""
    return int(noted(path / "done").get("steps", 0))


def whole(path: Path, asked: dict[str, Any]) -> bool:
    """Is all there that a plan asks of a run? A run that had to stop has nothing more to give."""
    enough = trained(path) >= asked["steps"] or bool(noted(path / "stopped"))
    return enough and (bool(noted(path / "stopped")) or taken(path, asked) == len(asked["measures"]))
