"""One function that executes a list of runs: in this process, in a worker (`python -m probelab.work`), on a cluster.

A worker reads one JSON line per stack of jobs from its standard input and answers with JSON lines of progress. It ends
when its parent does, because its input then closes. Nothing but JSON crosses, and a cluster speaks the same way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probelab.kinds import build
from probelab.locks import Busy
from probelab.measures import MEASURES, Measure
from probelab.record import complete, measure
from probelab.runs import Folder
from probelab.spec import from_json, to_json
from probelab.storage import RunError, located, passing, remote, told
from probelab.study import Job, describe
from probelab.subject import MEMORY, Run
from probelab.train import check, grow

Report = Callable[[str, int], None]  # ("train" or "measure", units of work just done)
Message = dict[str, Any]  # what a worker says: its "kind", and more
ASKED = 32  # questions to a distant store at a time
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def work(
    jobs: Sequence[Job], root: Path, memory: int = MEMORY, device: str = "cpu", report: Report | None = None
) -> None:
    """Grow the runs of `jobs` together as one stack, then measure each; skip what is there already."""
    report = report or (lambda kind, done: None)
    check_jobs(jobs, device)
    folders = [Folder.create(job.spec, root) for job in jobs]
    keep = sorted({step for job in jobs for step in job.keep})
    grow(folders, jobs[0].steps, keep, device, lambda done: report("train", done * len(jobs)))
    for job, folder in zip(jobs, folders, strict=True):
        run = Run(folder.path, type(job.spec.task))
        steps = [step for step in job.keep if step in set(run.steps)]
        for asked in job.measures:
            measure(run, asked, steps, memory, device)
            report("measure", len(job.keep))


@dataclass(frozen=True, eq=False)
class Order:
    """A stack of runs to make under `root`, as one piece of work."""

    jobs: tuple[Job, ...]
    root: Path
    memory: int = MEMORY
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The name of its first run, and how many more there are."""
        more = len(self.jobs) - 1
        return self.jobs[0].spec.name + (f" and {more} more" if more else "")

    @property
    def text(self) -> str:
        """One line of JSON."""
        jobs = [job_to_json(job) for job in self.jobs]
        root = self.root if remote(self.root) else self.root.absolute()  # a worker may stand in another folder
        return json.dumps({"jobs": jobs, "root": str(root), "memory": self.memory, "device": self.device})

    @classmethod
    def read(cls, text: str) -> Order:
        """The order that `text` says."""
        said = json.loads(text)
        return cls(tuple(map(job_from_json, said["jobs"])), located(said["root"]), said["memory"], said["device"])


def obey(order: Order, report: Report) -> Message:
    """Carry out an order and say how it ended: finished, busy (others write), or failed in a way that may pass."""
    try:
        with told(f"work in {order.root}") if remote(order.root) else nullcontext():
            work(order.jobs, order.root, order.memory, order.device, report)
    except Busy as error:
        return {"kind": "busy", "text": str(error)}
    except (RunError, OSError) as error:
        if not passing(error):
            raise
        return {"kind": "failed", "text": str(error)}
    return {"kind": "finished"}


def answer(order: Order, report: Report) -> Message:
    """The same in a worker: also a lasting error is a message."""
    try:
        return obey(order, report)
    except (ValueError, OSError) as error:
        return {"kind": "error", "text": str(error)}


def check_jobs(jobs: Sequence[Job], device: str = "cpu") -> None:
    """Refuse jobs that cannot be done, before anything is written."""
    for job in jobs:
        check(job.spec, job.steps, job.keep, device)


def unfinished(jobs: Sequence[Job], root: Path) -> list[Job]:
    """The jobs of which not all is on disk. A distant store is asked about many at a time, each takes a journey."""
    if not remote(root):
        return [job for job in jobs if not finished(job, root)]
    with told(f"read {root}"), ThreadPoolExecutor(ASKED) as pool:
        there = list(pool.map(lambda job: finished(job, root), jobs))
    return [job for job, done in zip(jobs, there, strict=True) if not done]


def finished(job: Job, root: Path) -> bool:
    """Is everything a job asks for on disk?"""
    path = located(root) / job.spec.name
    if not (path / "spec.json").exists():
        return False
    folder = Folder(path, type(job.spec.task))
    steps = {*folder.steps, *folder.note("pruned").get("steps", ())}  # measured, then deleted to free the disk
    keep = [step for step in job.keep if step in steps] if folder.stopped else job.keep
    trained = bool(folder.stopped) or (folder.length >= job.steps and steps.issuperset(keep))
    if not trained or not (path / "train.parquet").exists():
        return False
    return all(complete(folder, asked, keep) for asked in job.measures)


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as JSON-ready data."""
    return {
        "arm": job.arm,
        "spec": to_json(job.spec),
        "steps": job.steps,
        "keep": list(job.keep),
        "measures": [describe(m) for m in job.measures],
        "seed": job.seed,
    }


def job_from_json(data: dict[str, Any]) -> Job:
    """The job that `job_to_json` described."""
    return Job(
        data["arm"],
        from_json(data["spec"]),
        data["steps"],
        tuple(data["keep"]),
        tuple(measure_from_json(m) for m in data["measures"]),
        data["seed"],
    )


def measure_from_json(data: dict[str, Any]) -> Measure:
    """The measure that `describe` described."""
    dials = {key: value for key, value in data.items() if key not in ("name", "version")}
    return build(f"the measure {data['name']}", MEASURES[data["name"]], dials)


class Gathered:
    """Reports gathered, so that a parent is woken a few times a second and not at every step."""

    def __init__(self, send: Report, seconds: float = 0.25) -> None:
        self.send, self.seconds = send, seconds
        self.waiting: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.last = time.monotonic()

    def __call__(self, kind: str, done: int) -> None:
        self.waiting[kind] += done
        self.total[kind] += done
        if time.monotonic() - self.last >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        for kind, done in self.waiting.items():
            self.send(kind, done)
        self.waiting.clear()
        self.last = time.monotonic()


def main() -> None:
    """The worker: read stacks of jobs until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes our input
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    stacks: list[str] = []
    arrived = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            with arrived:
                stacks.append(line)
                arrived.notify()
        os._exit(0)  # the parent closed our input, or died: whatever is half done is continued next time

    def say(**message: Any) -> None:
        try:
            print(json.dumps(message), file=answers, flush=True)
        except BrokenPipeError:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: bool(stacks))
            order = Order.read(stacks.pop(0))
        gathered = Gathered(lambda kind, done: say(kind=kind, done=done))
        ended = answer(order, gathered)
        gathered.flush()
        say(**ended)


if __name__ == "__main__":
    main()
