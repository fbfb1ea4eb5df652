"""Conduct a study: execute what is missing, gather the rows, draw, verify. Doing it twice changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import pandas as pd

from probelab.claims import Judged, card, judge
from probelab.figures import save
from probelab.measures import MEASURES
from probelab.record import arrays, recorded
from probelab.rows import join_dials, load_rows, save_rows, tidy
from probelab.runs import Folder, RunError, write
from probelab.study import Job, Study
from probelab.subject import MEMORY, Run
from probelab.train import check_stack
from probelab.work import Report, finished, job_to_json, work
from synthetic_tasks import TASKS


class Outcome(NamedTuple):
    """What a study left: its rows, its dated rows, the figures' files, and the report card."""

    rows: pd.DataFrame
    dated: pd.DataFrame
    files: list[Path]
    judged: list[Judged]


def execute(
    jobs: Sequence[Job],
    root: Path,
    workers: int = 1,
    stack: int = 1,
    memory: int = MEMORY,
    device: str = "cpu",
    report: Report | None = None,
) -> None:
    """Run every job that is not finished, long before short, on `workers` single-threaded processes of this machine."""
    report = report or (lambda kind, done: None)
    missing = [job for job in jobs if not finished(job, root)]
    stacks = stacked(sorted(missing, key=lambda job: -job.work), stack)
    shipped = all(
        type(job.spec.task) in TASKS.values() and all(type(m) in MEASURES.values() for m in job.measures)
        for job in missing
    )
    workers = min(workers, len(stacks))
    if workers <= 1 or not shipped:  # a task or measure of the user's own lives in this process only
        for group in stacks:
            work(group, root, memory, device, report)
    else:
        in_processes(stacks, root, workers, memory, device, report)


def stacked(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Jobs in stacks of at most `size` that can be trained as one."""
    stacks: list[list[Job]] = []
    for job in jobs:
        for group in stacks:
            if len(group) < size and group[0].steps == job.steps and stackable(group[0], job):
                group.append(job)
                break
        else:
            stacks.append([job])
    return stacks


def stackable(first: Job, second: Job) -> bool:
    try:
        check_stack([first.spec, second.spec])
    except ValueError:
        return False
    return True


def in_processes(stacks: list[list[Job]], root: Path, workers: int, memory: int, device: str, report: Report) -> None:
    """Hand stacks to worker processes one at a time; a worker that dies gives its stack back once."""
    queue = [
        json.dumps({"jobs": [job_to_json(job) for job in group], "root": str(root), "memory": memory, "device": device})
        for group in reversed(stacks)
    ]
    messages: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[str]] = []

    def start(number: int) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "probelab.work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        processes.append(process)
        Thread(target=listen, args=(number, process), daemon=True).start()

    def listen(number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            messages.put((number, json.loads(line)))
        messages.put((number, {"kind": "gone"}))

    def give(number: int) -> bool:
        if not queue:
            return False
        stdin = processes[number].stdin
        assert stdin is not None
        stdin.write(queue.pop() + "\n")
        stdin.flush()
        return True

    try:
        for number in range(workers):
            start(number)
        busy = sum(give(number) for number in range(workers))
        errors = []
        while busy:
            number, message = messages.get()
            kind = message["kind"]
            if kind in ("train", "measure"):
                report(kind, message["done"])
                continue
            if kind == "gone":
                code = processes[number].wait()
                raise RunError(f"a worker ended unexpectedly (exit code {code}); the same command continues from there")
            if kind == "error":
                errors.append(message["text"])
            if errors or not give(number):
                busy -= 1
        if errors:
            raise RunError(errors[0])
    finally:
        for process in processes:
            if process.stdin:
                process.stdin.close()
        for process in processes:
            process.wait()


def gather(jobs: Sequence[Job], root: Path) -> pd.DataFrame:
    """Every row of the jobs' measures at their kept steps, with the arm and the dials as columns."""
    parts, folders = [], []
    for job in jobs:
        folder = Folder(root / job.spec.name, type(job.spec.task))
        folders.append(folder)
        for asked in job.measures:
            path = recorded(folder, asked)
            if not path.exists():
                raise RunError(
                    f"{folder.name} has no rows of the measure {asked.name}: "
                    "run `probelab reproduce` with the same settings first"
                )
            rows = load_rows(path)
            parts.append(rows[rows["step"].isin(job.keep)].assign(arm=job.arm))
    return join_dials(tidy(pd.concat(parts, ignore_index=True)), folders)


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
    write(folder / "report.md", report_card(study, jobs, judged).encode())
    reports = sorted((out / "figures").glob("*/report.md"))
    write(out / "report.md", "\n".join(path.read_text() for path in reports).encode())
    return Outcome(table, dated, files, judged)


def study_arrays(jobs: Sequence[Job], root: Path) -> dict[str, Any]:
    """The arrays of the first seed of every arm, by arm and name: what a picture with a slider shows."""
    found: dict[str, Any] = {}
    for arm, group in groupby(jobs, key=lambda job: job.arm):
        job = next(group)
        run = Run(root / job.spec.name, type(job.spec.task))
        steps = [step for step in job.keep if step in set(run.steps)]
        for asked in job.measures:
            if hasattr(asked, "arrays"):
                found[arm] = {**arrays(run, asked, steps), "steps": steps}
    return found


def report_card(study: Study, jobs: Sequence[Job], judged: list[Judged]) -> str:
    """The study's page: question, what was run, and the claims with their verdicts."""
    seeds = sorted({job.spec.seed for job in jobs})
    arms = {job.arm: job for job in jobs}
    ran = "".join(
        f"- {name}: {job.steps} steps of {job.spec.batch} sequences, {len(job.keep)} checkpoints, "
        f"seeds {seeds[0]} to {seeds[-1]}\n"
        for name, job in arms.items()
    )
    return f"# {study.name}\n\n{study.question} ({study.source})\n\n{ran}\n{card(judged)}"


def barred(study: Study, preset: str, seeds: Sequence[int], altered: bool) -> str:
    """Why claims are not judged: dials that the study does not set, or the seeds that chose its settings."""
    if altered:
        return "not judged: dials were altered"
    if any(seed < 100 for seed in seeds):
        return "not judged: seeds and worlds 0-9 chose the settings"
    if preset == "smoke":
        return "not judged: the smoke preset is too short"
    return ""
