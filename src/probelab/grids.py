"""Grids: every combination of some dials' values is an arm; what that costs; and its phase diagrams.

--set task.zipf=0,1 --set task.p_bursty=0,.5        p_bursty
                                                      .5 |  zipf=0, p_bursty=.5   zipf=1, p_bursty=.5
two values and two values: four arms for each          0 |  zipf=0, p_bursty=0    zipf=1, p_bursty=0
of the study's; those that are equal share runs          +--------------------------------------------- zipf
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab import figures
from probelab.curves import across, onset, over_seeds
from probelab.measures import MEASURES, Loss, Measure
from probelab.planner import merged
from probelab.planner import price as seconds
from probelab.rows import ends, pick, tidy
from probelab.spec import Optimizer, Spec, Transformer
from probelab.study import Arm, Job, Preset, Study, grid, parse_settings, plan
from synthetic_tasks import TASKS, Task
from synthetic_tasks.task import choose_from

Settings = Mapping[str, list[Any]]
CORES = 2  # prices are those of two cores
DATED = ("onset", "crossing", "phases")  # measures of dated rows
SEEDS = (0, 1, 2)
MOST = 12  # phase diagrams of a measure whose study does not say which


def gridded(study: Study, settings: Settings) -> Study:
    """The study, drawing phase diagrams over the dials that take several values beside its own figures.

    Arms that are equal share their runs; to its curves and figures each arm then has runs of its own, as without a
    grid.
    """
    if all(len(values) == 1 for values in settings.values()):
        return study

    def curves(table: pd.DataFrame) -> pd.DataFrame:
        return study.curves(apart(table))

    def draw(table: pd.DataFrame, dated: pd.DataFrame, arrays: Mapping[str, Any]) -> dict[str, go.Figure]:
        own = apart(table)
        return {**study.draw(own, dated, arrays), **phase_diagrams(table, dated, settings, study.maps)}

    return replace(study, curves=curves, draw=draw)


def of_task(task: Task, measures: Sequence[Measure] = (), steps: int = 1000, seeds: Sequence[int] = SEEDS) -> Study:
    """A study without claims: a small transformer on one task, for grids over the dials of either.

    `measures` are taken at every kept checkpoint; the loss on unseen sequences, if none is named. Every curve of theirs
    that measure, metric and split tell apart is dated.
    """
    arm = Arm(Spec(task, Transformer(), Optimizer(), batch=64), steps)
    preset = Preset({task.name: arm}, tuple(seeds))

    def curves(table: pd.DataFrame) -> pd.DataFrame:
        found = [onset(pick(table, **of), by=("arm", "run", "metric")) for of in curves_of(table).values()]
        return tidy(pd.concat(found, ignore_index=True))

    def draw(table: pd.DataFrame, dated: pd.DataFrame, arrays: Mapping[str, Any]) -> dict[str, go.Figure]:
        drawn = {}
        for name, of in curves_of(table).items():
            rows, by = pick(table, **of), ("arm", "metric")
            band, title = over_seeds(rows, by=by), f"{task.name}: {name} over training"
            drawn[slug(name)] = figures.dynamics(rows, metric=of["metric"], band=band, title=title)
        return drawn

    study = Study(
        name=f"grid-{task.name}",
        question=f"What is learned where the dials of {task.name} are turned, and when?",
        source="a grid",
        presets={"grid": preset},
        measures=tuple(measures) or (Loss(),),
        curves=curves,
        draw=draw,
        claims=(),
    )
    minutes = sum(runs(study, "grid").values()) / CORES / 60
    return replace(study, presets={"grid": replace(preset, minutes=minutes)})


def asked(task: str, measures: Sequence[str], steps: int) -> Study:
    """The grid of a shipped task with measures by their names."""
    kinds = [choose_from("measure", name, MEASURES) for name in dict.fromkeys(measures)]
    return of_task(choose_from("task", task, TASKS)(), [kind() for kind in kinds], steps)


def price(study: Study, preset: str, jobs: Sequence[Job]) -> float:
    """Minutes on two cores for some jobs: the preset's price, by their share of its planned seconds."""
    asked = {job.spec.name: seconds(job) for job in jobs}
    return study.presets[preset].minutes * sum(asked.values()) / sum(runs(study, preset).values())


def runs(study: Study, preset: str) -> dict[str, float]:
    """Seconds that each run of a preset takes, as planned, dials not turned, by its name: arms may share a run."""
    return {job.spec.name: seconds(job) for job in merged(plan(study, preset))}


def told(settings: Sequence[str] | None) -> str:
    """The grid that texts like `task.zipf=0,1` make, as a line: `grid: task.zipf (2 values): 2 cells`."""
    several = {dial: len(values) for dial, values in parse_settings(list(settings or [])).items() if len(values) > 1}
    dials = " x ".join(f"{dial} ({count} values)" for dial, count in several.items())
    return f"grid: {dials}: {prod(several.values())} cells\n" if several else ""


def apart(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a name of its own for a run in each arm that shares it."""
    shared = table.groupby("run")["arm"].transform("nunique") > 1
    return table.assign(run=table["run"].where(~shared, table["arm"] + "/" + table["run"])) if shared.any() else table


def phase_diagrams(
    table: pd.DataFrame, dated: pd.DataFrame, settings: Settings, maps: Mapping[str, Mapping[str, Any]]
) -> dict[str, go.Figure]:
    """A phase diagram for each map, over the first two dials; further dials and the study's arms make panels.

    maps  title -> coordinates of its rows: of dated ones, if its measure is one of `DATED`, else of a level, which is
          read at the end of training. All that measure, metric and split tell apart, if none is given

    With one dial the arms stand on the other axis.
    """
    place = cells_of(list(table["arm"].unique()), settings)
    dials = [dial for dial in settings if dial in place]
    x, y = [*dials, "of"][:2]
    rest = [column for column in ("of", *dials[2:]) if column != y and place[column].nunique() > 1]
    place["panel"] = panels(place, [x, y], rest, table)
    found = {}
    for title, of in (maps or curves_of(table) | onsets_of(dated)).items():
        steps = of.get("measure") in DATED
        cells = dates_of(pick(dated, **of)) if steps else levels_of(pick(table, **of), place)
        cells = place.dropna(subset=["panel"]).merge(cells, on="arm", how="left")
        cells = cells[cells.groupby("panel")["n"].transform("count") > 0]  # not those of arms without such a curve
        if not len(cells):
            continue
        names = list(cells["panel"].unique())
        found[f"phases-{slug(title)}"] = figures.phase_diagram(
            cells.assign(metric=of.get("metric", "step"), why=cells["why"].fillna("not run")),
            of.get("metric", "step"),
            x,
            y,
            facets={name: {"panel": name} for name in names} if len(names) > 1 else None,
            lines=beyond_noise(cells),
            steps=steps,
            title=title if steps else f"{title}, at the end of training",
            y_title="arm" if y == "of" else "",
            z_title="step" if steps else "",
        )
    return found


def beyond_noise(cells: pd.DataFrame) -> bool:
    """Do cells differ by more than what they are uncertain of? Else a contour line would trace the noise."""
    known = cells[cells["value"].notna()]
    widths = (known["hi"] - known["lo"]).replace(np.inf, np.nan).dropna()
    return len(known) > 1 and bool(np.ptp(known["value"]) > (widths.median() if len(widths) else 0))


def cells_of(arms: Sequence[str], settings: Settings) -> pd.DataFrame:
    """Where each arm of a grid lies: `arm`, `of` (the study's arm), and a column for each dial with several values.

    Dials that hold anything but numbers are categories, in the order in which they were given.
    """
    found = []
    for told, turned in grid(settings):
        ending = "".join(f", {part}" for part in told)
        several = {dial: value for dial, value in turned.items() if len(settings[dial]) > 1}
        found += [{"arm": arm, "of": arm.removesuffix(ending), **several} for arm in arms if arm.endswith(ending)]
    place = pd.DataFrame(found)
    for dial in [dial for dial in settings if dial in place]:
        values = settings[dial]
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            place[dial] = pd.Categorical(place[dial].map(str), list(map(str, values)), ordered=True)
    order = {arm: number for number, arm in enumerate(arms)}
    return place.sort_values("arm", key=lambda column: column.map(order), ignore_index=True)


def panels(place: pd.DataFrame, axes: list[str], rest: list[str], table: pd.DataFrame) -> list[str | None]:
    """The panel of each arm, named by what is on no axis; None for those of panels that repeat the runs of another."""
    runs = table.groupby("arm")["run"].agg(frozenset)
    if not rest:
        return [""] * len(place)
    named: dict[Any, list[str]] = {}
    spots: dict[str, list[Any]] = {}
    words = [place[c].astype(str).map(lambda v, c=c: v if c == "of" else f"{c} = {v}") for c in rest]
    told = ["; ".join(parts) for parts in zip(*words, strict=True)]
    for name, spot, arm in zip(told, place[axes].astype(str).agg("|".join, axis=1), place["arm"], strict=True):
        spots.setdefault(name, []).append((spot, runs[arm]))
    for name, held in spots.items():
        named.setdefault(frozenset(held), []).append(name)
    spoken = {names[0]: names[0] + (f" (and {len(names) - 1} equal)" if names[1:] else "") for names in named.values()}
    return [spoken.get(name) for name in told]


def levels_of(rows: pd.DataFrame, place: pd.DataFrame) -> pd.DataFrame:
    """The median over the runs of each arm at the end of training, with its interval; runs that stopped have none."""
    last = ends(rows, by=("arm", "run")).merge(place, on="arm")
    alike = ["of", *(["steps"] if "steps" in place else [])]
    stopped = last["step"] < last.groupby(alike, observed=True)["step"].transform("max")
    cells = over_seeds(last[~stopped], by=("arm",)).drop(columns="step").assign(why="")
    gone = last[stopped & ~last["arm"].isin(cells["arm"])].groupby("arm", as_index=False)["step"].max()
    lost = pd.DataFrame({"arm": gone["arm"], "n": 0, "why": [f"stopped at {step}" for step in gone["step"]]})
    return pd.concat([cells, lost], ignore_index=True) if len(lost) else cells


def dates_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The median onset of each arm with its interval, and why there is none: `curves.across`."""
    if not len(rows):
        return pd.DataFrame(columns=["arm", "value", "lo", "hi", "n", "level", "last", "why"])
    cells = across(rows, by=("arm",))
    cells["why"] = np.where(cells["n"] == 0, "too few checkpoints", "")
    return cells[["arm", "value", "lo", "hi", "n", "level", "last", "why"]]


def curves_of(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The curves that measure, metric and split tell apart: name -> coordinates, at most `MOST`."""
    return told_apart(table[table["value"].notna()], ["arm", "run", "step"])


def onsets_of(dated: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The dates that measure, metric and split tell apart."""
    found = told_apart(dated[dated["status"].notna()], ["arm", "run"]) if len(dated) else {}
    return {f"onset of {name}": of for name, of in found.items()}


def told_apart(rows: pd.DataFrame, places: list[str]) -> dict[str, dict[str, Any]]:
    """Coordinates by measure, metric and split that leave one row at each place."""
    parts = [column for column in ("measure", "metric", "split") if column in rows and rows[column].notna().all()]
    groups = {keys: part for keys, part in rows.groupby(parts, sort=False) if not part.duplicated(places).any()}
    found = {" ".join(map(str, keys[1:])): dict(zip(parts, keys, strict=True)) for keys in groups}
    return dict(list(found.items())[:MOST])


def slug(name: str) -> str:
    """A name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
