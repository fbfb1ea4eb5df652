"""Whole runs on disk: what writing checkpoints costs, and what a second process brings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import Call, Line, race, ratio
from probelab.conduct import execute
from probelab.runs import Folder
from probelab.spec import Spec, Transformer
from probelab.study import Job
from probelab.train import grow
from synthetic_tasks import Markov

SPEC = Spec(Markov(states=2, length=64), Transformer(d_model=16, positions="relative"), batch=64)
STEPS, CHECKPOINTS, JOBS = 500, 100, 4
LONG = 2200  # steps of a run long enough that starting a worker (about 2 s) matters little


def checkpoints() -> list[Line]:
    """A run with checkpoints in it, against the same run with its first and last only."""
    every = range(0, STEPS + 1, STEPS // CHECKPOINTS)
    with TemporaryDirectory() as folder:
        fresh = fresh_folders(Path(folder))
        contestants: dict[str, Call] = {
            "with": lambda: grow([Folder.create(SPEC, next(fresh))], STEPS, every),
            "without": lambda: grow([Folder.create(SPEC, next(fresh))], STEPS),
        }
        seconds = race(contestants, rounds=5, warm=0)
    more = ratio(seconds["with"], seconds["without"]) - 1
    return [Line(f"{CHECKPOINTS} checkpoints in {STEPS} steps", "without", "under 3 % more time", f"{more:+.1%}")]


def processes() -> list[Line]:
    """The same runs on two worker processes and on one, start-up included; it needs two idle cores."""
    jobs = [Job("benchmark", SPEC.seeded(seed), LONG, (0, LONG), seed=seed) for seed in range(JOBS)]
    with TemporaryDirectory() as folder:
        fresh = fresh_folders(Path(folder))
        contestants: dict[str, Call] = {
            "one": lambda: execute(jobs, next(fresh), workers=1),
            "two": lambda: execute(jobs, next(fresh), workers=2),
        }
        seconds = race(contestants, rounds=2, warm=0)
    value = ratio(seconds["one"], seconds["two"])
    return [Line(f"{JOBS} runs of {LONG} steps on two processes", "one process", "1.8", f"{value:.2f}")]


def fresh_folders(root: Path) -> Iterator[Path]:
    """Folders that nothing was written to."""
    return (root / str(number) for number in count())
