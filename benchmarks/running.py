"""Whole runs on disk: what writing checkpoints costs, and what a second process brings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
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
SWEEP, SHORT = 24, 400
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


def ray() -> list[Line]:
    """A sweep as tasks of a Ray cluster that is this machine, and on as many local processes; two idle cores."""
    if find_spec("ray") is None:
        return [Line(f"{SWEEP} runs on Ray", "local processes", "at most 10 % more time", "not installed")]
    from probelab.cluster import Cluster

    jobs = [Job("benchmark", SPEC.seeded(seed), SHORT, (0, SHORT), seed=seed) for seed in range(SWEEP)]
    cluster = Cluster()
    places = cluster.places("cpu")
    with TemporaryDirectory() as folder:
        fresh = fresh_folders(Path(folder))
        contestants: dict[str, Call] = {
            "local": lambda: execute(jobs, next(fresh), workers=places),
            "ray": lambda: execute(jobs, next(fresh), cluster=cluster),
        }
        seconds = race(contestants, rounds=3, warm=0)
    cluster.close()
    more = ratio(seconds["ray"], seconds["local"]) - 1
    told = f"{places} local processes"
    return [Line(f"{SWEEP} runs of {SHORT} steps on Ray", told, "at most 10 % more time", f"{more:+.1%}")]


def fresh_folders(root: Path) -> Iterator[Path]:
    """Folders that nothing was written to."""
    return (root / str(number) for number in count())
