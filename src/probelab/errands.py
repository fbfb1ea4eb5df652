"""What the commands generate, train and measure do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from probelab import api
from probelab.kinds import build
from probelab.measures import MEASURES
from probelab.progress import bar
from probelab.record import arrays_of, recorded
from probelab.spec import Optimizer, Spec, Transformer, replace_all
from probelab.study import one, parse_clamp, parse_dials, parse_range, parse_settings
from synthetic_tasks import TASKS
from synthetic_tasks import generate as write_dataset
from synthetic_tasks.task import choose_from, turn
from synthetic_tasks.task import preset as by_paper


def generated(
    task: str,
    n: int,
    out: Path,
    preset: str | None,
    settings: list[str],
    world: int,
    split: str,
    seed: int,
    format: str,
) -> None:
    """Write a dataset, with a bar."""
    kind = choose_from("task", task, TASKS)
    dials = {name: one(name, values) for name, values in parse_settings(settings).items()}
    chosen = by_paper(kind, preset) if preset else kind()
    chosen = turn(chosen, **{"world": world, **dials})
    splits = tuple(split.split(","))
    with bar(f"generating {task}", n * len(splits)) as advance:
        reached = 0

        def progress(done: int, total: int) -> None:
            nonlocal reached
            advance(done - reached)
            reached = done

        write_dataset(chosen, out, splits, n, seed, format, progress=progress)


def trained(
    task: str,
    steps: int,
    settings: list[str],
    model: list[str],
    optimizer: list[str],
    clamp: list[str],
    batch: int,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Train one model on a task and say where the run lies."""
    spec = Spec(choose_from("task", task, TASKS)(), Transformer(), Optimizer(), batch=batch).seeded(seed)
    turned = {"task": settings, "model": model, "optimizer": optimizer}
    dials = {
        f"{room}.{dial}": one(dial, values)
        for room, texts in turned.items()
        for dial, values in parse_settings(texts).items()
    }
    spec = replace(replace_all(spec, dials), edits=tuple(map(parse_clamp, clamp)))
    run = api.train(spec, steps=steps, device=device, out=out)
    print(run.path)
    if run.stopped:
        step, reason = run.stopped["step"], run.stopped["reason"]
        raise ValueError(f"stopped at step {step}: {reason}; the last good checkpoint, of step {run.last}, is kept")
    print(f"next: probelab measure {run.path} loss")


def measured(path: Path, what: str, settings: list[str], steps: str | None, memory: int) -> None:
    """Measure a run at its checkpoints and print the last rows."""
    kind = choose_from("measure", what, MEASURES)
    asked = build(f"the measure {what}", kind, parse_dials(kind, settings))
    opened = api.open(path)
    rows = api.measure(opened, asked, parse_range("--steps", steps) if steps else None, memory)
    if len(rows):
        print(rows[rows["step"] == rows["step"].max()].drop(columns=["run"]).to_string(index=False, max_rows=40))
    print(recorded(opened, asked) if len(rows) else arrays_of(opened, asked))
