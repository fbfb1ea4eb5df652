"""The command line: studies, reproduce, grid, verify, draw, tasks, generate, train, measure, runs, watch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from probelab.storage import home, located, remote

INTERRUPTED = 130  # the exit code of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A laboratory for how abilities emerge in transformers. Start with: probelab reproduce markov",
)

PLACE = {"parser": located, "metavar": "DIR|URL"}
Out = Annotated[Path | None, typer.Option(help="Where results go (default: $PROBELAB_RUNS, else ./runs).", **PLACE)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Turn a dial: task.length=100; several values make a grid: task.length=50,100."),
]
Folder = Annotated[Path | None, typer.Argument(help="Of results (default: $PROBELAB_RUNS, else ./runs).", **PLACE)]
Jobs = Annotated[int | None, typer.Option(help="Worker processes (default: the number of cores).")]
Stack = Annotated[int | None, typer.Option(help="Models trained as one (default: as many as pays).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and its price.")]
Memory = Annotated[str, typer.Option(help="Activations held at a time while measuring.")]
On = Annotated[str, typer.Option(help="local, or ray: the nodes of a Ray cluster.")]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster; else the one Ray finds or starts.")]
Gpus = Annotated[float, typer.Option(help="On ray with cuda: the share of a GPU for each stack.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda where there is a GPU.")]


@app.command()
def studies() -> None:
    """List the studies: question, price, claims."""
    from probelab.studies import STUDIES

    for name, study in STUDIES.items():
        prices = ", ".join(f"{preset} ~{p.minutes:g} min" for preset, p in study.presets.items())
        print(f"{name}: {study.question}\n  source: {study.source}\n  price on 2 cores: {prices}")
        print("".join(f"  claim: {claim.sentence}\n" for claim in study.claims))


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="A study, see `probelab studies`.")],
    preset: Annotated[str, typer.Option(help="smoke, quick, full or paper: how much is run.")] = "quick",
    panel: Annotated[str | None, typer.Option(help="Only a part of the study.")] = None,
    seeds: Annotated[str | None, typer.Option(help="For example 100-105; seeds 0-9 chose the settings.")] = None,
    settings: Set = None,
    jobs: Jobs = None,
    stack: Stack = None,
    device: Device = "cpu",
    memory: Memory = "2GiB",
    on: On = "local",
    address: Address = None,
    gpus: Gpus = 1.0,
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Train, measure, draw and verify a study. The same command continues what was interrupted."""
    from probelab.conduct import conclude, make
    from probelab.grids import price, told
    from probelab.planner import merged
    from probelab.plans import record

    chosen, plan, bar_reason = planned(study, preset, panel, seeds, settings)
    workers = cores() if jobs is None else positive("--jobs", jobs)
    where: dict[str, Any] = {"memory": size(memory), "device": device, "on": on, "address": address, "gpus": gpus}
    minutes = price(chosen, preset, merged(plan))
    print(f"{chosen.name}, preset {preset}\n{told(settings)}price: about {minutes:.2g} minutes on 2 cores", flush=True)
    stacked = None if stack is None else positive("--stack", stack)
    where |= {"begin": lambda runs, missing: record(home(out), chosen, runs, missing, price(chosen, preset, missing))}
    if make(plan, home(out) / "runs", workers, stacked, dry_run, title=chosen.name, **where):
        show(chosen, conclude(chosen, plan, home(out), bar_reason), home(out))


@app.command()
def grid(
    task: Annotated[str, typer.Argument(help="A task, see `probelab tasks`.")],
    settings: Set = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each run.")] = 1000,
    measure: Annotated[list[str] | None, typer.Option(help="loss, or others of `probelab measure`.")] = None,
    seeds: Annotated[str, typer.Option(help="For example 0-5.")] = "0-2",
    jobs: Jobs = None,
    stack: Stack = None,
    device: Device = "cpu",
    memory: Memory = "2GiB",
    on: On = "local",
    address: Address = None,
    gpus: Gpus = 1.0,
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Every combination of a task's dials, `--set task.zipf=0,1 --set task.p_bursty=0,.5`, and its phase diagrams."""
    from probelab.grids import asked

    study: Any = asked(task, measure or [], positive("--steps", steps))
    how: dict[str, Any] = dict(jobs=jobs, stack=stack, device=device, memory=memory, out=out, dry_run=dry_run)
    reproduce(study, "grid", seeds=seeds, settings=settings, on=on, address=address, gpus=gpus, **how)


@app.command()
def verify(
    study: Annotated[str, typer.Argument(help="A study, see `probelab studies`.")],
    preset: Annotated[str, typer.Option(help="smoke, quick, full or paper.")] = "quick",
    panel: Annotated[str | None, typer.Option(help="Only a part of the study.")] = None,
    seeds: Annotated[str | None, typer.Option(help="For example 100-105.")] = None,
    settings: Set = None,
    out: Out = None,
) -> None:
    """The report card again, from the rows that are there."""
    from probelab.conduct import conclude

    chosen, plan, bar_reason = planned(study, preset, panel, seeds, settings)
    show(chosen, conclude(chosen, plan, home(out), bar_reason, images=False), home(out))


@app.command()
def draw(
    what: Annotated[str, typer.Argument(help="A run folder, or a study that was reproduced.")],
    figure: Annotated[
        str,
        typer.Argument(
            help="dynamics, phases, heads, pattern, multiples, plane, race, phase_diagram, against; "
            "causal, patching, edges, timeline, probes, lens or attribution."
        ),
    ],
    metric: Annotated[str | None, typer.Option(help="Which metric, where the figure asks for one.")] = None,
    where: Annotated[
        list[str] | None, typer.Option("--set", help="Only rows with this: site=z, patching.metric=log_prob")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also as PNG, if a browser is found.")] = False,
    out: Out = None,
) -> None:
    """Draw any figure from rows alone."""
    from probelab.drawing import draw_from_rows

    for path in draw_from_rows(what, figure, metric, out, png, where or ()):
        print(path)


@app.command()
def tasks(task: Annotated[str | None, typer.Argument(help="One task; all, if left out.")] = None) -> None:
    """The gallery: an annotated sample of each task, its dials, its presets."""
    from synthetic_tasks import describe, gallery

    print(describe(task) if task else gallery())


@app.command()
def generate(
    task: Annotated[str, typer.Argument(help="A task, see `probelab tasks`.")],
    n: Annotated[int, typer.Option("--n", help="Sequences in each split.")],
    out: Annotated[Path, typer.Option(help="The folder of the dataset.", parser=located, metavar="DIR")],
    preset: Annotated[str | None, typer.Option(help="Dials as a paper sets them.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Turn a dial: zipf=1.0")] = None,
    world: Annotated[int, typer.Option(help="The seed of what is fixed in the task.")] = 0,
    split: Annotated[str, typer.Option(help="One or more splits: train,icl")] = "train",
    seed: Annotated[int, typer.Option(help="The seed of the stream of sequences.")] = 0,
    format: Annotated[str, typer.Option(help="parquet, jsonl or npz.")] = "parquet",
) -> None:
    """Write a dataset with its card. The same command continues, and gives the same bytes."""
    from probelab.errands import generated

    if remote(out):
        raise ValueError(f"--out {out}: a dataset is written to a folder of this machine")
    generated(task, n, out, preset, settings or [], world, split, seed, format)
    print(f"{out}/README.md says what was asked and what was measured")


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task, see `probelab tasks`.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1000,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Turn a dial of the task: states=3")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Turn a dial of the model: layers=2, or kind=lstm")] = None,
    optimizer: Annotated[list[str] | None, typer.Option(help="Turn a dial of the optimiser: lr=2e-3")] = None,
    clamp: Annotated[list[str] | None, typer.Option(help="Overwritten in every step: match:layer=1:head=3")] = None,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 64,
    seed: Annotated[int, typer.Option(help="World, data and init at once.")] = 0,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Train one model on a task and say where the run lies."""
    from probelab.errands import trained

    trained(
        task,
        positive("--steps", steps),
        settings or [],
        model or [],
        optimizer or [],
        clamp or [],
        batch,
        seed,
        device,
        out,
    )


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(help="A run folder.", **PLACE)],
    what: Annotated[
        str,
        typer.Argument(
            help="loss, strategy, icl, heads, norms, patterns, classify, circuit, mixture, sparsity; patching, edges, "
            "faithful, ready; probe, use, lens, attribution, composition; answers, early, follow, reasoning, backpatch."
        ),
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Turn a dial of the measure: n=4096, by=head,position")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Only at these kept steps: 0,100,1000")] = None,
    memory: Memory = "2GiB",
) -> None:
    """Measure a run at its checkpoints and print the last rows."""
    from probelab.errands import measured

    measured(run, what, settings or [], steps, size(memory))


@app.command()
def runs(
    folder: Folder = None,
    prune: Annotated[bool, typer.Option("--prune", help="Say what no report needs, ask, and delete it.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="With --prune: measured weights, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do not ask.")] = False,
) -> None:
    """What is there: spec, steps, size, state."""
    from probelab.listing import listed
    from probelab.pruning import spared

    if weights and not prune:
        raise ValueError("--weights says what --prune deletes: give both")
    if prune:
        spared(home(folder), weights, lambda question: yes or typer.confirm(question))
        return
    print(*listed(home(folder)), sep="\n")


@app.command()
def watch(
    folder: Folder = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Write what is seen to event files in this folder.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Log what is seen to this project of Weights & Biases.")] = None,
    online: Annotated[bool, typer.Option("--online", help="With --wandb: send it; else it stays here.")] = False,
) -> None:
    """Watch a sweep from another terminal: progress, loss, onsets so far, time left. Ends when all is done."""
    from probelab.watching import watched

    watched(home(folder), every, once, tensorboard, wandb, online)


def planned(
    study: Any, preset: str, panel: str | None, seeds: str | None, settings: list[str] | None
) -> tuple[Any, Any, str]:
    """A study (or its name), its jobs, and why its claims would not be judged."""
    from probelab.conduct import barred
    from probelab.grids import gridded
    from probelab.studies import STUDIES
    from probelab.study import parse_range, parse_settings, plan
    from synthetic_tasks.task import choose_from

    chosen = choose_from("study", study, STUDIES) if isinstance(study, str) else study
    wanted, turned = parse_range("--seeds", seeds) if seeds else None, parse_settings(settings or [])
    jobs = plan(chosen, preset, wanted, turned, panel)
    return gridded(chosen, turned), jobs, barred(chosen, preset, [job.seed for job in jobs], bool(settings))


def show(study: Any, outcome: Any, out: Path) -> None:
    """Verdicts, where the figures lie, and what to try next."""
    from probelab.claims import number

    for claim, estimate, verdict, reason in outcome.judged:
        interval = f"{number(estimate.value)} ({number(estimate.lo)} to {number(estimate.hi)}) {claim.unit}".strip()
        print(f"{verdict:>9}  {claim.sentence}  [{interval}, n = {estimate.n}]" + (f"  {reason}" if reason else ""))
    print("".join(f"{sentence}\n" for sentence in outcome.stopped), end="")
    print(f"report card: {out / 'figures' / study.name / 'report.md'}")
    for path in outcome.files:
        if path.suffix in (".html", ".png"):
            print(f"figure: {path}")
    if not any(path.suffix == ".png" for path in outcome.files):
        print("no PNG: install Chrome or Chromium (Debian: apt install chromium) and run the same command again")
    if study.claims:
        print(f"try next: probelab reproduce {study.name} --set {study.next} --seeds 0-2")


def positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} {value} is out of range: at least 1")
    return value


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def size(text: str) -> int:
    """`2GiB` in bytes."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    for unit, factor in units.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            return max(1, int(float(number) * factor))
    raise ValueError(f"--memory {text!r} is not a size like 2GiB or 512MiB")


def main(arguments: list[str] | None = None) -> None:
    """The command, with a user's mistake told in one line instead of a traceback."""
    try:
        app(arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"probelab: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as exit:
        if exit.code == INTERRUPTED:
            print("\nprobelab: interrupted; the same command continues where it was", file=sys.stderr)
        raise
