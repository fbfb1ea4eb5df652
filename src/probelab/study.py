"""A study: runs, measures, curves, figures and claims, as data in one Python file each (`probelab.studies`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from probelab.claims import Claim
from probelab.schedule import kept
from probelab.spec import Spec, digest, plain, replace_all
from synthetic_tasks.task import choose

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probelab.measures import Measure

Seeds = tuple[int, ...]
REPORT = tuple(range(100, 106))


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seeds."""

    spec: Spec
    steps: int
    per_decade: int = 16
    every: int | None = None


@dataclass(frozen=True)
class Preset:
    """What is run: which arms, how long, on which seeds. `minutes` is the price measured on two cores."""

    arms: Mapping[str, Arm]
    seeds: Seeds = REPORT
    minutes: float = 1.0


@dataclass(frozen=True)
class Study:
    """One published figure, or a family of them.

    measures  what is measured at every kept checkpoint of every run
    curves    rows -> rows: onsets, switches, orders
    draw      (rows, what `curves` gave, arrays by run and name) -> figures by name
    tried     which settings were tried on seeds 0-9
    panels    parts of the study that can be run alone: name -> arms
    """

    name: str
    question: str
    source: str
    presets: Mapping[str, Preset]
    measures: tuple[Measure, ...]
    curves: Callable[[pd.DataFrame], pd.DataFrame]
    draw: Callable[[pd.DataFrame, pd.DataFrame, Mapping[str, Any]], dict[str, go.Figure]]
    claims: tuple[Claim, ...]
    tried: str = ""
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run to grow and to measure."""

    arm: str
    spec: Spec
    steps: int
    keep: tuple[int, ...]
    measures: tuple[Measure, ...] = ()

    @property
    def work(self) -> int:
        """Price for ordering: steps times tokens times a rough model size."""
        model = self.spec.model
        return self.steps * self.spec.batch * self.spec.task.context * model.layers * model.d_model


def plan(
    study: Study,
    preset: str = "quick",
    seeds: Seeds | None = None,
    settings: Mapping[str, list[Any]] | None = None,
    panel: str | None = None,
) -> list[Job]:
    """The runs of a study. `settings` turn dials of every arm; several values of a dial make a grid of arms."""
    chosen = study.presets[choose(f"preset of the study {study.name}", preset, study.presets)]
    arms = dict(chosen.arms)
    if panel is not None:
        wanted = study.panels[choose(f"panel of the study {study.name}", panel, study.panels)]
        arms = {name: arm for name, arm in arms.items() if name in wanted}
    arms = grid(arms, settings or {})
    return [
        Job(name, arm.spec.seeded(seed), arm.steps, kept(arm.steps, arm.per_decade, arm.every), study.measures)
        for name, arm in arms.items()
        for seed in (seeds or chosen.seeds)
    ]


def grid(arms: Mapping[str, Arm], settings: Mapping[str, list[Any]]) -> dict[str, Arm]:
    """Every arm with every combination of the settings; a dial with one value does not change an arm's name."""
    spread = {}
    for name, arm in arms.items():
        for values in product(*settings.values()):
            turned = dict(zip(settings, values, strict=True))
            steps = turned.pop("steps", arm.steps)
            told = [f"{dial}={value}" for dial, value in zip(settings, values, strict=True) if len(settings[dial]) > 1]
            spec = replace_all(arm.spec, turned)
            spread[", ".join([name, *told])] = replace(arm, spec=spec, steps=steps)
    return spread


def parse_settings(texts: list[str]) -> dict[str, list[Any]]:
    """`["task.zipf=0,1.5"]` -> `{"task.zipf": [0, 1.5]}`; values are JSON where they can be, else text."""
    settings: dict[str, list[Any]] = {}
    for text in texts:
        dial, equals, values = text.partition("=")
        if not equals or not dial or not values:
            raise ValueError(f"--set {text!r} is not of the form dial=value, or dial=value,value,... for a grid")
        settings[dial] = [literal(value) for value in split_values(values)]
    return settings


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets: `1,2` is two values, `[1,2]` one."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def literal(text: str) -> Any:
    """A value as written at the command line."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def parse_seeds(text: str) -> Seeds:
    """`"100-105"` or `"0,1,7"`."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        raise ValueError(f"--seeds {text!r} is not a range like 100-105 or a list like 0,1,7") from None
    if not seeds:
        raise ValueError(f"--seeds {text!r} names no seed: the first of a range must not be above the last")
    return tuple(dict.fromkeys(seeds))


def describe(measure: Measure) -> dict[str, Any]:
    """A measure as JSON-ready data: its name, version and dials."""
    return {"name": measure.name, "version": measure.version, **plain(measure)}


def label(measure: Measure) -> str:
    """`<measure>-<digest>`: the stem of its files in a run folder."""
    return f"{measure.name}-{digest(describe(measure), 4)}"
