"""The Python face of the laboratory: train, open, measure, and the recorded examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probelab.clamps import Clamp
from probelab.listing import rows
from probelab.measures._read import by_oracle, oracle_nats
from probelab.record import arrays, chosen, measure
from probelab.rows import join_dials, load_rows, tidy
from probelab.runs import Folder, run_folders
from probelab.schedule import kept
from probelab.spec import LSTM, RNN, Optimizer, Spec, Transformer
from probelab.storage import home, located, reach
from probelab.subject import MEMORY, Run, unseen
from probelab.train import check, grow
from synthetic_tasks import Batch, Task
from synthetic_tasks.task import choose, choose_from, require

if TYPE_CHECKING:
    from probelab.conduct import Outcome
    from probelab.study import Study

__all__ = [
    "arrays",
    "example",
    "grid",
    "measure",
    "open",
    "oracle_losses",
    "reproduce",
    "rows",
    "runs",
    "table",
    "train",
]
EXAMPLES = Path(__file__).parent / "examples"


def train(
    task: Task | Spec,
    model: Transformer | LSTM | RNN | None = None,
    steps: int = 1000,
    *,
    optimizer: Optimizer | None = None,
    batch: int = 64,
    edits: Sequence[Clamp] = (),
    seed: int | None = None,
    keep: Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    progress: bool | Callable[[int], None] = True,
    watch: Callable[[int, float], None] | None = None,
) -> Run:
    """Train one model and return its run; what is on disk already is not trained again.

    task      or a whole `lab.Spec`, which says model, optimizer, batch, edits and each seed itself
    edits     what every step overwrites while the rest learns, such as `(lab.Match(head=3),)`
    keep      steps whose weights are kept; sixteen a decade in log spacing, if None
    seed      world, data and init at once; if None, the task's own world, and 0 for the others
    progress  True shows a bar; a function is called with the number of steps just done
    watch     called with each step and its loss, such as `lab.LiveCurve`; also for the steps that were trained before.
              Its method `look`, if it has one as `lab.LiveScores` does, is called with the run and each step kept
    """
    if isinstance(task, Spec):
        spec = task
        alone = model is None and optimizer is None and not edits
        require(alone, "task", spec, "a task, where model, optimizer or edits are given beside it")
    else:
        spec = Spec(task, model or Transformer(), optimizer or Optimizer(), batch=batch, edits=tuple(edits))
    spec = spec if seed is None else spec.seeded(seed)
    steps_kept = kept(steps) if keep is None else tuple(keep)
    check(spec, steps, steps_kept, device)
    folder = Folder.create(spec, home(out) / "runs")
    run = Run(folder.path, type(spec.task))
    each = None if watch is None else watching(watch, run, steps_kept)
    if progress is True:
        from probelab.progress import bar

        with bar("training", steps) as advance:
            grow([folder], steps, steps_kept, device, advance, each)
    else:
        grow([folder], steps, steps_kept, device, progress or None, each)
    if watch is not None and hasattr(watch, "look") and run.checkpoint(steps).exists():
        watch.look(run, steps)
    return run


def watching(watch: Any, run: Run, steps: Sequence[int]) -> Callable[[int, list[float]], None]:
    """What training calls at each step: `watch`, after its look at the weights if they were kept then."""
    looks = set(steps) if hasattr(watch, "look") else set()

    def each(step: int, losses: list[float]) -> None:
        if step in looks and np.isfinite(losses[0]):
            watch.look(run, step)
        watch(step, losses[0])

    return each


def open(path: str | Path, task: type[Task] | None = None) -> Run:
    """The run in a folder; `task` is the class, where the task does not ship with the library."""
    reach(located(path))
    return Run(path, task)


def runs(out: str | Path | None = None) -> list[Run]:
    """Every run under a results folder."""
    return [Run(path) for path in run_folders(home(out))]


def table(some: Sequence[Run], what: Any, steps: Sequence[int] | None = None) -> pd.DataFrame:
    """The rows of a measure over several runs, with the runs' dials as columns."""
    return join_dials(tidy(pd.concat([measure(run, what, steps) for run in some], ignore_index=True)), some)


def reproduce(
    study: str | Study,
    preset: str = "quick",
    *,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
    panel: str | None = None,
    jobs: int = 1,
    stack: int | None = None,
    memory: int = MEMORY,
    device: str = "cpu",
    on: str = "local",
    address: str | None = None,
    gpus: float = 1.0,
    out: str | Path | None = None,
    images: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train, measure, draw and verify a study; what is on disk already is not made again.

    settings  dial -> its values, `{"task.zipf": [0, 1]}`: every combination is an arm, and phase diagrams are drawn
    jobs      worker processes
    stack     models trained as one; as many as pays, if None
    memory    bytes of activations held at a time while measuring
    on        local, or ray: the nodes of the cluster at `address`, `gpus` of a GPU for each stack
    out       a folder or a URL
    progress  say what there is to do, and show a bar
    """
    from probelab.conduct import barred, conclude, make
    from probelab.grids import gridded, price
    from probelab.plans import record
    from probelab.studies import STUDIES
    from probelab.study import plan

    whole = choose_from("study", study, STUDIES) if isinstance(study, str) else study
    turned = {dial: list(values) for dial, values in (settings or {}).items()}
    asked = plan(whole, preset, None if seeds is None else tuple(seeds), turned, panel)
    make(
        asked,
        home(out) / "runs",
        jobs,
        stack,
        memory=memory,
        device=device,
        on=on,
        address=address,
        gpus=gpus,
        title=whole.name,
        begin=lambda runs, missing: record(home(out), whole, runs, missing, price(whole, preset, missing)),
        quiet=not progress,
    )
    why = barred(whole, preset, [job.seed for job in asked], bool(turned))
    return conclude(gridded(whole, turned), asked, home(out), why, images)


def grid(
    task: Task,
    settings: Mapping[str, Sequence[Any]],
    measures: Sequence[Any] = (),
    *,
    steps: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    **more: Any,
) -> Outcome:
    """Every combination of dials of a task and a small transformer, with phase diagrams: `probelab grid`.

        lab.grid(Classification(), {"task.zipf": [0, 1], "task.p_bursty": [0, 0.5, 1]}, ["classify"])

    `more` is what `reproduce` takes: jobs, on, out, images, progress, ...
    """
    from probelab.grids import of_task

    study = of_task(task, [chosen(what) for what in measures], steps, seeds)
    return reproduce(study, "grid", settings=settings, **more)


def oracle_losses(task: Task, n: int = 1024, split: str = "train") -> dict[str, float]:
    """The loss of every strategy that the task knows, in nats per scored token: lines to draw beside a curve."""
    found = by_oracle(task, unseen(task, 0, split, n, "look"), lambda part, logs: scored(part, oracle_nats(part, logs)))
    return {name: float(losses[:, 0].sum() / losses[:, 1].sum()) for name, losses in found.items()}


def scored(part: Batch, losses: np.ndarray) -> np.ndarray:
    """Summed loss and scored tokens of each sequence, `[sequence 2]`."""
    return np.stack([losses.sum(1), (part.targets >= 0).sum(1)], 1)


def example(name: str) -> pd.DataFrame:
    """The rows of a recorded study that ship with the package. `reproduce` never reads them."""
    known = sorted(path.stem for path in EXAMPLES.glob("*.parquet"))
    rows = load_rows(EXAMPLES / f"{choose('recorded example', name, known)}.parquet")
    seeds = f"seeds {rows['seed'].min()} to {rows['seed'].max()}"
    print(f"recorded: {rows['run'].nunique()} runs of the study {name}, {seeds}")
    return rows
