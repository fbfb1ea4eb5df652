"""A study: runs, measures, curves, figures and claims, as data in one Python file each (`probelab.studies`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from probelab.clamps import Clamp, clamp_of
from probelab.kinds import declared, plain
from probelab.schedule import kept
from probelab.spec import Spec, digest, replace_all, settable
from synthetic_tasks.task import choose

if TYPE_CHECKING:  # a worker needs none of these, and starts .6 s sooner without the statistics behind claims
    import pandas as pd
    import plotly.graph_objects as go

    from probelab.claims import Claim
    from probelab.measures import Measure

Seeds = tuple[int, ...]
REPORT = tuple(range(100, 106))


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seeds; `measures` are what is measured of them beside those of the study."""

    spec: Spec
    steps: int
    per_decade: int = 16
    every: int | None = None
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True)
class Preset:
    """What is run: which arms, how long, on which seeds. `minutes` is the price measured on two cores."""

    arms: Mapping[str, Arm]
    seeds: Seeds = REPORT
    minutes: float = 1.0


@dataclass(frozen=True)
class Study:
    """One published figure, or a family of them.

    measures  what is measured at every kept checkpoint of every run; an arm may add its own
    curves    rows -> rows: onsets, switches, orders
    draw      (rows, what `curves` gave, arrays by run and name) -> figures by name
    tried     which settings were tried on seeds 0-9
    next      a dial worth turning next
    panels    parts of the study that can be run alone: name -> arms
    maps      what the phase diagrams of a grid show: title -> coordinates of its rows, or of its dated ones
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
    next: str = "task.length=50,100"
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run to grow and to measure. `seed` pairs it with its likes in other arms, also where `data` was set alone."""

    arm: str
    spec: Spec
    steps: int
    keep: tuple[int, ...]
    measures: tuple[Measure, ...] = ()
    seed: int = 0


def plan(
    study: Study,
    preset: str = "quick",
    seeds: Seeds | None = None,
    settings: Mapping[str, list[Any]] | None = None,
    panel: str | None = None,
) -> list[Job]:
    """The runs of a study. `settings` turn dials of every arm; several values of a dial make a grid of arms.

    A seed is world, data and init at once; settings come after it, so that `init=3` may be set alone.
    """
    chosen = study.presets[choose(f"preset of the study {study.name}", preset, study.presets)]
    arms = dict(chosen.arms)
    if panel is not None:
        wanted = study.panels[choose(f"panel of the study {study.name}", panel, study.panels)]
        arms = {name: arm for name, arm in arms.items() if name in wanted}
    jobs = []
    for name, arm in arms.items():
        for told, turned in grid(settings or {}):
            dials = dict(turned)
            steps = dials.pop("steps", arm.steps)
            for dial in dials:
                if "." not in dial:
                    choose("setting", dial, ["steps", *settable(arm.spec)])
            keep, full = kept(steps, arm.per_decade, arm.every), ", ".join([name, *told])
            measures = (*study.measures, *arm.measures)
            try:
                specs = {seed: replace_all(arm.spec.seeded(seed), dials) for seed in seeds or chosen.seeds}
            except ValueError as error:
                raise ValueError(f"{error} (at {', '.join(told)})" if told else str(error)) from error
            jobs += [Job(full, spec, steps, keep, measures, seed) for seed, spec in specs.items()]
    return jobs


def grid(settings: Mapping[str, list[Any]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Every combination of the settings, and what it adds to the name of an arm: the dials that take several values."""
    for values in product(*settings.values()):
        turned = dict(zip(settings, values, strict=True))
        yield [f"{dial}={value}" for dial, value in turned.items() if len(settings[dial]) > 1], turned


def parse_settings(texts: list[str]) -> dict[str, list[Any]]:
    """`["task.zipf=0,1.5"]` -> `{"task.zipf": [0, 1.5]}`; values are JSON where they can be, else text."""
    settings: dict[str, list[Any]] = {}
    for text in texts:
        dial, equals, values = text.partition("=")
        parts = split_values(values)
        if not equals or not dial or not all(parts):
            raise ValueError(f"{text!r} is not of the form dial=value, or dial=value,value,... for a grid")
        if dial in settings:
            raise ValueError(f"{text!r}: {dial} was set before; several values make a grid: {dial}=1,2")
        values = [literal(value) for value in parts]
        settings[dial] = list({(isinstance(v, bool), v): v for v in values}.values())  # 0 is not false
    return settings


def parse_dials(kind: type, texts: list[str]) -> dict[str, Any]:
    """`["by=head,role", "n=64"]` -> the dials of a dataclass: several values where its dial is a tuple, else one."""
    several = {dial for dial, told in declared(kind).items() if "tuple" in str(told)}
    settings = parse_settings(texts)
    whole = (tuple, type(None))  # `layers=[0,1]` and `layers=none` are values already
    listed = {dial: tuple(v) for dial, v in settings.items() if dial in several and not isinstance(v[0], whole)}
    return {dial: one(dial, values) for dial, values in settings.items() if dial not in listed} | listed


def one(name: str, values: list[Any]) -> Any:
    """The only value of a dial, where a grid makes no sense."""
    if len(values) != 1:
        raise ValueError(
            f"{name} = {values!r}: this command takes one value for each dial; grids belong to `reproduce`"
        )
    return values[0]


def parse_clamp(text: str) -> Clamp:
    """`"match:layer=1:head=3"` -> `Match(layer=1, head=3)`."""
    name, *settings = text.split(":")
    parts = [setting.partition("=") for setting in settings]
    if not all(dial and value for dial, _, value in parts):
        raise ValueError(f"{text!r} is not of the form clamp:dial=value:dial=value")
    return clamp_of(name, **{dial: literal(value) for dial, _, value in parts})


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets and quotes: `1,2` is two values, `[1,2]` one, and so is `"a,b"`."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += ((letter == "[") - (letter == "]")) * (not quoted)
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    if quoted or depth:
        raise ValueError(f"{text!r}: a {'quote' if quoted else 'bracket'} is not closed, or was not opened")
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
    return text if isinstance(value, dict) else tupled(value)


def tupled(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(map(tupled, value)) if isinstance(value, list) else value


def parse_range(what: str, text: str, most: int = 100_000) -> Seeds:
    """`"100-105"` or `"0,1,7"`."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() if dash else True):
            raise ValueError(f"{what} {text!r} is not a range like 100-105 or a list like 0,1,7")
        span = range(int(first), int(last or first) + 1)
        if not span:
            raise ValueError(f"{what} {text!r}: the first of a range must not be above the last")
        if len(found) + len(span) > most:
            raise ValueError(f"{what} {text!r} names more than {most}")
        found += span
    return tuple(dict.fromkeys(found))


def describe(measure: Measure) -> dict[str, Any]:
    """A measure as JSON-ready data: its name, version and dials."""
    return {"name": measure.name, "version": measure.version, **plain(measure)}


def label(measure: Measure) -> str:
    """`<measure>-<digest>`: the stem of its files in a run folder."""
    return f"{measure.name}-{digest(describe(measure), 4)}"
