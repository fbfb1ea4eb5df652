"""A live sweep in the terminal, read off its files alone: who watches may sit anywhere, and disturbs nothing.

plans/<study>-<digest>.json    what is to be done, and its price
runs/<run>/live.json           where training is
runs/<run>/train.parquet       the loss, once trained; before that, up to the last anchor in resume/
runs/<run>/rows/               what has been measured
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from probelab.curves import fit_onset
from probelab.listing import names
from probelab.plans import Plan, plans, taken, trained
from probelab.rows import load_rows, pick
from probelab.runs import load_arrays, steps_in
from probelab.sinks import Sink, TensorBoard, WandB
from probelab.storage import RunError, noted, reach, remote

QUIET = 60.0  # seconds without a sign of life after which a run is said to rest
BINS, POINTS = 16, 500  # a decade, to date a loss; of a run's loss, sent to a sink
ENDED = ("done", "stopped")
ORDER = ("training", "measuring", "resting", "stopped", "done", "waiting")


@dataclass
class Seen:
    """A run as it was last seen: `share` of its work is done; `onsets` by the name of their curve."""

    name: str
    state: str = "waiting"
    step: int = 0
    steps: int = 0
    share: float = 0.0
    loss: float = np.nan
    onsets: dict[str, float] = field(default_factory=dict)
    sign: float = 0.0  # when it last gave one, as files are dated
    stage: tuple = ()  # what its onsets were dated from


def watched(
    out: Path,
    every: float = 2.0,
    once: bool = False,
    tensorboard: Path | None = None,
    wandb: str | None = None,
    online: bool = False,
) -> None:
    """Show a sweep until all of it is done, or Ctrl-C; `once`: as it is now."""
    if every <= 0:
        raise ValueError(f"--every {every:g} is out of range: above 0 seconds")
    if online and wandb is None:
        raise ValueError("--online says where --wandb sends: give both")
    watch, console, live = Watch(out), Console(), None
    sinks: list[Sink] = []
    if tensorboard is not None:
        sinks.append(TensorBoard(tensorboard))
    if wandb is not None:
        sinks.append(WandB(wandb, Path() if remote(out) else out, online))
    try:
        with (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext() as live
        ):
            told = None
            while True:
                watch.look()
                for sink in sinks:
                    watch.send(sink)
                if live:
                    live.update(watch.picture(console.height), refresh=True)
                elif not once and watch.news() != told:
                    told = watch.news()
                    console.print(watch.summary(), soft_wrap=True)
                if once or watch.finished:
                    break
                time.sleep(every)
    except KeyboardInterrupt:
        pass
    finally:
        for sink in sinks:
            sink.close()
    if once or live:
        console.print(watch.picture(1000 if once else console.height))
    elif not watch.finished:
        console.print(watch.summary(), soft_wrap=True)


class Watch:
    """What is known of a sweep: the plan last begun, and any other whose runs give signs of life."""

    def __init__(self, out: Path):
        reach(out)
        self.out = out
        self.seen: dict[str, Seen] = {}
        self.sent: dict[tuple[int, str], set[int | str]] = {}
        self.plans = self.begun()
        if not self.plans:
            raise RunError(f"no sweep was begun in {out}: `probelab runs {out}` lists what is there")

    def begun(self) -> list[Plan]:
        """The plans to watch."""
        every = plans(self.out)
        live = {path.parent.name for path in (self.out / "runs").glob("*/live.json") if age(path) < QUIET}
        return [plan for plan in every if plan is every[-1] or live.intersection(plan.runs)]

    def look(self) -> None:
        """See what has changed on disk since the last look."""
        self.plans = self.begun() or self.plans
        there = set(names(self.out / "runs"))
        for plan in self.plans:
            for name, asked in plan.runs.items():
                seen = self.seen.setdefault(name, Seen(name))
                if name in there and (seen.state not in ENDED or seen.steps < asked["steps"]):
                    self.see(seen, self.out / "runs" / name, asked, plan.maps)
                elif name not in there:
                    seen.steps = asked["steps"]

    def see(self, seen: Seen, path: Path, asked: dict[str, Any], maps: Mapping[str, Mapping[str, Any]]) -> None:
        """Read what a run folder says of itself."""
        live, stopped, length = noted(path / "live.json"), noted(path / "stopped"), trained(path)
        kept = steps_in(path / "checkpoints")
        seen.steps = asked["steps"]
        seen.step = min(max(length, live.get("step", 0), stopped.get("step", 0), *kept, 0), seen.steps)
        over = bool(stopped) or length >= seen.steps
        measures = len(asked["measures"])
        have = taken(path, asked) if over else 0
        units = seen.steps + measures * len(asked["keep"])
        seen.share = (seen.step + have * len(asked["keep"])) / max(units, 1)
        seen.sign = max([path.stat().st_mtime, *(f.stat().st_mtime for f in latest(path))], default=0.0)
        seen.loss = live.get("loss", seen.loss)
        seen.state = "training" if time.time() - seen.sign < QUIET else "resting"
        if over and have >= measures or stopped:
            seen.state, seen.share = "stopped" if stopped else "done", 1.0
        elif over and seen.state == "training":
            seen.state = "measuring"
        anchors = steps_in(path / "resume")
        stage = (over, have, max(anchors, default=0))
        if stage != seen.stage:
            seen.stage = stage
            losses = loss_of(path, anchors)
            seen.loss = float(np.mean(losses[-20:])) if over and len(losses) else seen.loss
            seen.onsets = onsets(path, losses, maps if over and have else {})

    @property
    def finished(self) -> bool:
        """Is there nothing left to wait for?"""
        return all(seen.state in ENDED for seen in self.seen.values())

    def left(self) -> float:
        """Seconds until all is done, at the pace since the sweep was begun; by its price, while that says little."""
        total = 0.0
        for plan in self.plans:
            work = {name: plan.runs[name]["work"] for name in plan.missing}
            done = sum(part * self.seen[name].share for name, part in work.items())
            rest, spent = sum(work.values()) - done, time.time() - plan.began
            pace = done / spent if done > 0.02 * sum(work.values()) else sum(work.values()) / (plan.minutes * 60 or 1)
            total += rest / pace if rest else 0.0
        return total

    def news(self) -> tuple:
        """What is worth another line where there is no terminal: a run in another state, or a twentieth more done."""
        states = Counter(seen.state for seen in self.seen.values())
        return tuple(sorted(states.items())), int(20 * sum(seen.share for seen in self.seen.values()) / len(self.seen))

    def summary(self) -> str:
        """The whole sweep in a line."""
        states = Counter(seen.state for seen in self.seen.values())
        names = ", ".join(dict.fromkeys(plan.study for plan in self.plans))
        price = sum(plan.minutes for plan in self.plans)
        told = ", ".join(f"{states[state]} {state}" for state in ORDER if states[state])
        share = sum(seen.share for seen in self.seen.values()) / max(len(self.seen), 1)
        rest = "all is done" if self.finished else f"about {spoken(self.left())} left of a price of {price:.2g} min"
        return f"{names}: {share:.0%} of {len(self.seen)} runs ({told}); {rest}{self.dated()}{self.silence()}"

    def dated(self) -> str:
        """The onsets so far: of each curve, in how many runs, and their median."""
        found: dict[str, list[float]] = {}
        for seen in self.seen.values():
            for name, step in seen.onsets.items():
                found.setdefault(name, []).append(step)
        parts = [f"{name} in {len(steps)} runs, median step {np.median(steps):.4g}" for name, steps in found.items()]
        return f"; onsets so far: {'; '.join(parts)}" if parts else ""

    def silence(self) -> str:
        """A warning, if nothing has given a sign of life for long."""
        last = max([plan.began for plan in self.plans] + [seen.sign for seen in self.seen.values()])
        quiet = time.time() - last
        if self.finished or quiet < QUIET:
            return ""
        return f"; no sign of life for {spoken(quiet)}: is it still running? The same command continues it"

    def picture(self, height: int) -> Group:
        """A table of runs, those at work first, as many as fit, above the summary."""
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        for column in ("run", "state"):
            table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=3 if column == "run" else None)
        for column in ("progress", "step", "loss", "onsets"):
            table.add_column(column, no_wrap=column != "onsets", ratio=2 if column == "onsets" else None)
        called = apart(list(self.seen))
        rows = sorted(self.seen.values(), key=lambda seen: (ORDER.index(seen.state), -seen.sign, seen.name))
        shown = rows[: max(height - 6, 3)]
        for seen in shown:
            onset = "; ".join(f"{name} {step:.4g}" for name, step in seen.onsets.items())
            loss = "" if np.isnan(seen.loss) else f"{seen.loss:.3f}"
            bar = ProgressBar(total=1.0, completed=seen.share, width=20)
            table.add_row(called[seen.name], seen.state, bar, f"{seen.step}/{seen.steps or '?'}", loss, onset)
        more = [Text(f"... and {len(rows) - len(shown)} more")] if len(rows) > len(shown) else []
        return Group(table, *more, Text(self.summary()))

    def send(self, sink: Sink) -> None:
        """Give a sink what it has not been given yet: where training is, then each loss and each measure once."""
        for seen in self.seen.values():
            path, had = self.out / "runs" / seen.name, self.sent.setdefault((id(sink), seen.name), set())
            if seen.state == "training" and seen.step and not np.isnan(seen.loss) and seen.step not in had:
                had.add(seen.step)
                sink.write(seen.name, seen.step, {"live/loss": seen.loss})
            if seen.state in ENDED and "all" not in had:
                had.add("all")
                for step, values in numbers(path).items():
                    sink.write(seen.name, step, values)


def apart(runs: list[str]) -> dict[str, str]:
    """Runs by what tells them apart: what all have in common is left out, and the digest."""
    parts = {run: run.split("-")[:-1] for run in runs}
    common = set.intersection(*map(set, parts.values())) if len(runs) > 1 else set()
    return {run: " ".join(part for part in split if part not in common) or run for run, split in parts.items()}


def age(path: Path) -> float:
    """Seconds since a file was written."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return np.inf


def latest(path: Path) -> list[Path]:
    """The parts of a run folder that change while it is worked on."""
    parts = ("live.json", "train.parquet", "checkpoints", "rows", "arrays", "done", ".writer", "rows/.writer")
    return [path / part for part in parts if (path / part).exists()]


def loss_of(path: Path, anchors: list[int]) -> np.ndarray:
    """The loss of every step that is on disk."""
    try:
        if (path / "train.parquet").exists():
            return load_rows(path / "train.parquet")["loss"].to_numpy(float)
        if anchors:
            return load_arrays(path / "resume" / f"{anchors[-1]:06d}.safetensors")[0]["log"][:, 0]
    except RunError:
        pass  # it was replaced while we read: the next look sees it
    return np.zeros(0)


def onsets(path: Path, losses: np.ndarray, maps: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """When the training loss fell, and when each level of a phase diagram rose or fell, where that can be dated."""
    found = {"loss": fit_onset(*thinned(losses))}
    for title, of in maps.items():
        for file in (path / "rows").glob(f"{of.get('measure', '')}-*.parquet"):
            try:
                rows = pick(load_rows(file), **of)
                found[title] = fit_onset(rows["step"].to_numpy(float), rows["value"].to_numpy(float))
            except ValueError:
                continue  # other rows of that measure, or several curves
    return {name: date.t50 for name, date in found.items() if date.switched}


def thinned(losses: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Steps in log spacing and the mean loss up to each, since the one before."""
    if not len(losses):
        return np.zeros(0), np.zeros(0)
    ends = np.unique(np.geomspace(1, len(losses), int(bins * np.log10(len(losses)) + 2)).round().astype(int))
    parts = np.split(losses, ends[:-1])
    return ends.astype(float), np.array([part.mean() for part in parts])


def numbers(path: Path) -> dict[int, dict[str, float]]:
    """What a finished run has to show, by step and name: its loss, thinned, and every row of every measure."""
    found: dict[int, dict[str, float]] = {}
    losses = loss_of(path, [])
    steps, means = thinned(losses, max(int(POINTS / max(np.log10(max(len(losses), 10)), 1)), 1))
    for step, loss in zip(steps, means, strict=True):
        found.setdefault(int(step), {})["train/loss"] = float(loss)
    for file in sorted((path / "rows").glob("*.parquet")):
        rows = load_rows(file)
        if len(rows):
            for name, step, value in zip(tags(rows), rows["step"], rows["value"], strict=True):
                found.setdefault(int(step), {})[name] = float(value)
    return dict(sorted(found.items()))


def tags(rows: pd.DataFrame) -> pd.Series:
    """A name for each row: classify/icl2/accuracy, heads/train/prefix_matching/layer=0/head=1."""
    about = {"run", "seed", "world", "data", "init", "step", "sequences", "tokens", "value", "n", "lo", "hi"}
    name = rows["measure"].astype(str)
    for column in ("split", "metric"):
        if column in rows:
            name = name + ("/" + rows[column].astype(str)).where(rows[column].notna(), "")
    for column in [c for c in rows if c not in about | {"measure", "split", "metric"}]:
        name = name + (f"/{column}=" + rows[column].astype(str)).where(rows[column].notna(), "")
    return name


def spoken(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
