"""Conduct a study: execute what is missing, gather the rows, draw, verify. Doing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from probelab.claims import Judged, card, judge
from probelab.dispatch import Here, Place, Processes, dispatch
from probelab.figures import save
from probelab.measures import MEASURES
from probelab.planner import merged, planned
from probelab.progress import bar
from probelab.record import absent, arrays, read_arrays, recorded
from probelab.rows import join_dials, load_rows, save_rows, tidy
from probelab.runs import Folder
from probelab.storage import RunError, check, reach, write
from probelab.study import Job, Study
from probelab.subject import MEMORY, Run
from probelab.work import Order, Report, check_jobs, unfinished
from synthetic_tasks import TASKS
from synthetic_tasks.task import choose

if TYPE_CHECKING:
    from probelab.cluster import Cluster


class Outcome(NamedTuple):
    """What a study left: its rows, its dated rows, the figures' files, the report card, and which runs had to stop."""

    rows: pd.DataFrame
    dated: pd.DataFrame
    files: list[Path]
    judged: list[Judged]
    stopped: list[str]


def execute(
    jobs: Sequence[Job],
    root: Path,
    workers: int = 1,
    stack: int | None = None,
    memory: int = MEMORY,
    device: str = "cpu",
    report: Report | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Run every job that is not finished, long before short.

    In this process, on `workers` single-threaded processes of this machine, or on a Ray `cluster`: the results are the
    same. `stack` members are trained as one (None: as many as pays). What was interrupted continues where it was.
    """
    check_jobs(jobs, "cpu" if cluster else device)
    if missing := unfinished(merged(jobs), root):
        finish(missing, root, workers, stack, memory, device, report or (lambda kind, done: None), cluster)


def finish(
    missing: Sequence[Job],
    root: Path,
    workers: int,
    stack: int | None,
    memory: int,
    device: str,
    report: Report,
    cluster: Cluster | None,
) -> None:
    """Run jobs, each of a run of its own, of which not all is on disk."""
    check(root)
    own = [type(part).__name__ for job in missing for part in (job.spec.task, *job.measures) if not ships(part)]
    if own:  # they live in this process only
        if cluster:
            raise ValueError(f"{own[0]} does not ship with probelab: nodes of a cluster cannot know it")
        workers = 1
    if str(root).startswith("memory://"):  # it is this process's memory
        workers = 1
    stacks = planned(missing, stack, device, cluster.places(device) if cluster else workers)
    orders = [Order(tuple(group), root, memory, device) for group in stacks]
    place: Place = Here(report)
    if cluster:
        place = cluster.place(orders)
    elif min(workers, len(orders)) > 1:
        place = Processes(min(workers, len(orders)))
    try:
        dispatch(orders, place, report)
    finally:
        place.close()


def make(
    jobs: Sequence[Job],
    root: Path,
    workers: int = 1,
    stack: int | None = None,
    dry_run: bool = False,
    memory: int = MEMORY,
    device: str = "cpu",
    on: str = "local",
    address: str | None = None,
    gpus: float = 1.0,
    title: str = "runs",
    begin: Callable[[Sequence[Job], Sequence[Job]], None] | None = None,
    quiet: bool = False,
) -> bool:
    """Say what there is to do, and do it with a bar (nothing and none if `quiet`) unless the run is dry; was it done?

    `begin` is told of all runs, and of those that are missing, before work starts.
    """
    check_on(on, address)
    runs = merged(jobs)
    check_jobs(runs, "cpu" if on == "ray" else device)
    missing = unfinished(runs, root)
    if not quiet:
        steps, checkpoints = sum(job.steps for job in jobs), sum(len(job.keep) for job in jobs)
        print(
            f"{len(jobs)} runs, {steps} steps, {checkpoints} checkpoints, {sum(map(measurements, jobs))} measurements; "
            f"{len(runs) - len(missing)} of {len(runs)} runs are there already",
            flush=True,
        )
    if dry_run:
        print("\n".join(f"  {'make' if job in missing else 'have'} {job.spec.name}" for job in runs))
    elif missing:
        shown = nullcontext(lambda done: None) if quiet else bar(title, sum(map(units, missing)))
        with joined(on, address, gpus) as cluster, shown as advance:
            if begin:
                begin(runs, missing)
            finish(missing, root, workers, stack, memory, device, lambda kind, done: advance(done), cluster)
    return not dry_run


def check_on(on: str, address: str | None) -> None:
    """Refuse a place to work that there is not."""
    choose("--on", on, ("local", "ray"))
    if on == "local" and address is not None:
        raise ValueError(f"--address {address} is that of a Ray cluster: it takes --on ray")


@contextmanager
def joined(on: str, address: str | None, gpus: float) -> Iterator[Cluster | None]:
    """The Ray cluster at an address, where one is asked for; Ray is an extra, and takes its time to load."""
    if on == "local":
        yield None
        return
    from probelab.cluster import Cluster

    cluster = Cluster(address, gpus)
    try:
        yield cluster
    finally:
        cluster.close()


def units(job: Job) -> int:
    """What a bar counts: steps, and measurements."""
    return job.steps + measurements(job)


def measurements(job: Job) -> int:
    """How many measures at checkpoints a job asks for."""
    return len(job.keep) * len(job.measures)


def ships(part: Any) -> bool:
    """Does a task or measure come with the library, so that a worker knows it by its name?"""
    return type(part) in TASKS.values() or type(part) in MEASURES.values()


def gather(jobs: Sequence[Job], root: Path) -> pd.DataFrame:
    """Every row of the jobs' measures at their kept steps, with the arm and the dials as columns."""
    reach(root)
    there = [job for job in jobs if (root / job.spec.name / "spec.json").exists()]
    if len(there) < len(jobs):
        raise RunError(
            f"{len(there)} of {len(jobs)} runs are in {root}: give `probelab reproduce` these settings first"
        )
    parts, folders = [], {}
    for job in jobs:
        folder = folders[job.spec.name] = Folder(root / job.spec.name, type(job.spec.task))
        for asked in job.measures:
            path = recorded(folder, asked)
            rows = load_rows(path) if path.exists() else None
            if rows is None or (len(rows) and not folder.stopped and absent(job.keep, rows["step"])):
                raise RunError(
                    f"{folder.name} has not been measured in full ({asked.name}): "
                    "give `probelab reproduce` these settings to continue"
                )
            parts.append(rows[rows["step"].isin(job.keep)].assign(arm=job.arm, seed=job.seed))
    return join_dials(tidy(pd.concat([part for part in parts if len(part)], ignore_index=True)), folders.values())


def conclude(study: Study, jobs: Sequence[Job], out: Path, barred: str = "", images: bool = True) -> Outcome:
    """From what is on disk: rows, curves, figures and report card, written to `figures/<study>/` and `report.md`."""
    root, folder = out / "runs", out / "figures" / study.name
    table = gather(jobs, root)
    dated = study.curves(table)
    figures = study.draw(table, dated, study_arrays(jobs, root))
    files = [
        path for name, figure in figures.items() for path in save(figure, folder, name, ("png",) if images else ())
    ]
    save_rows(folder / "rows.parquet", table)
    save_rows(folder / "dated.parquet", dated)
    judged = [judge(claim, pd.concat([table, dated], ignore_index=True), barred) for claim in study.claims]
    write(folder / "report.md", report_card(study, jobs, judged, stopped(jobs, root)).encode())
    reports = sorted((out / "figures").glob("*/report.md"))
    write(out / "report.md", "\n".join(path.read_text() for path in reports).encode())
    return Outcome(table, dated, files, judged, stopped(jobs, root))


def study_arrays(jobs: Sequence[Job], root: Path) -> dict[str, Any]:
    """The arrays of the first seed of every arm, by arm and name: what a picture with a slider shows."""
    found: dict[str, Any] = {}
    for arm, group in groupby(jobs, key=lambda job: job.arm):
        job = next(group)
        run = Run(root / job.spec.name, type(job.spec.task))
        for asked in job.measures:
            if steps := [step for step in read_arrays(run, asked)[1] if step in job.keep]:
                found[arm] = {**arrays(run, asked, steps), "steps": steps}
    return found


def stopped(jobs: Sequence[Job], root: Path) -> list[str]:
    """A sentence for each run whose loss did not stay finite."""
    folders = [Folder(root / job.spec.name, type(job.spec.task)) for job in merged(jobs)]
    return [f"{f.name} stopped at step {f.stopped['step']}: {f.stopped['reason']}" for f in folders if f.stopped]


def report_card(study: Study, jobs: Sequence[Job], judged: list[Judged], stopped: Sequence[str] = ()) -> str:
    """The study's page: question, what was run, and the claims with their verdicts."""
    seeds = sorted({job.seed for job in jobs})
    arms = {job.arm: job for job in jobs}
    ran = "".join(
        f"- {name}: {job.steps} steps of {job.spec.batch} sequences, {len(job.keep)} checkpoints, "
        f"seeds {seeds[0]} to {seeds[-1]}\n"
        for name, job in arms.items()
    )
    ran += "".join(f"- {sentence}\n" for sentence in stopped)
    return f"# {study.name}\n\n{study.question} ({study.source})\n\n{ran}\n{card(judged)}"


def barred(study: Study, preset: str, seeds: Sequence[int], altered: bool) -> str:
    """Why claims are not judged: dials that the study does not set, or the seeds that chose its settings."""
    if altered:
        return "not judged: dials were altered"
    if any(seed < 100 for seed in seeds):
        return "not judged: seeds below 100 chose the settings, those from 100 on report"
    if preset == "smoke":
        return "not judged: the smoke preset is too short"
    return ""
