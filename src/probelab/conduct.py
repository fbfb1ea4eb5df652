"""Conduct a study: execute what is missing, gather the rows, draw, verify. Doing it twice changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import pandas as pd

from probelab.claims import Judged, card, judge
from probelab.figures import save
from probelab.measures import MEASURES
from probelab.optim import LANE
from probelab.record import absent, arrays, read_arrays, recorded
from probelab.rows import join_dials, load_rows, save_rows, tidy
from probelab.runs import Folder, RunError, write
from probelab.spec import Transformer
from probelab.study import Job, Study
from probelab.subject import MEMORY, Run
from probelab.train import check_stack
from probelab.work import Report, check_jobs, finished, job_to_json, work
from synthetic_tasks import TASKS


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
    stack: int = 1,
    memory: int = MEMORY,
    device: str = "cpu",
    report: Report | None = None,
) -> None:
    """Run every job that is not finished, long before short, on `workers` single-threaded processes of this machine."""
    report = report or (lambda kind, done: None)
    check_jobs(jobs, device)
    missing = [job for job in merged(jobs) if not finished(job, root)]
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


def merged(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that ask for the same run as one: settings may make two arms equal, and a run has one writer."""
    runs: dict[str, Job] = {}
    for job in jobs:
        first = runs.setdefault(job.spec.name, job)
        more = tuple(m for m in job.measures if m not in first.measures)
        runs[job.spec.name] = replace(
            first,
            steps=max(first.steps, job.steps),
            keep=tuple(sorted({*first.keep, *job.keep})),
            measures=first.measures + more,
        )
    return list(runs.values())


def stacked(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Jobs in stacks of at most `size` that can be trained as one."""
    stacks: list[list[Job]] = []
    for job in jobs:
        for group in stacks:
            if len(group) < size and stackable(group[0], job):
                group.append(job)
                break
        else:
            stacks.append([job])
    return stacks


def stackable(first: Job, second: Job) -> bool:
    """Would training both as one leave the bits that each leaves alone?"""
    model, batch = first.spec.model, first.spec.batch
    widths = []
    if isinstance(model, Transformer):
        widths = [model.heads_of(layer) * model.head_size(layer) for layer in range(model.layers)]
    if any(size % LANE for size in (batch, model.d_model, model.d_mlp, *widths)):
        return False  # kernels then depend on the size of the stack, in the last bit
    if (first.steps, first.keep) != (second.steps, second.keep):
        return False
    if first.spec.edits != second.spec.edits:
        return False  # what one clamp reads, all members compute: another attention path
    try:
        check_stack([first.spec, second.spec])
    except ValueError:
        return False
    return True


def in_processes(stacks: list[list[Job]], root: Path, workers: int, memory: int, device: str, report: Report) -> None:
    """Hand stacks to worker processes one at a time, until all are done or one fails."""
    queue = [
        json.dumps({"jobs": [job_to_json(job) for job in group], "root": str(root), "memory": memory, "device": device})
        for group in reversed(stacks)
    ]
    messages: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[str]] = []
    listeners: list[Thread] = []

    def start(number: int) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "probelab.work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        processes.append(process)
        listeners.append(Thread(target=listen, args=(number, process), daemon=True))
        listeners[-1].start()

    def listen(number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as answers:
            for line in answers:
                messages.put((number, json.loads(line)))
        messages.put((number, {"kind": "gone"}))

    def give(number: int) -> bool:
        if not queue:
            return False
        stdin = processes[number].stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # it died: its message "gone" is on the way
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
                with suppress(BrokenPipeError):
                    process.stdin.close()
        for process, listener in zip(processes, listeners, strict=True):
            process.wait()
            listener.join()


def gather(jobs: Sequence[Job], root: Path) -> pd.DataFrame:
    """Every row of the jobs' measures at their kept steps, with the arm and the dials as columns."""
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
