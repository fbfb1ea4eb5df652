"""A metric over training: every seed, the median with its band, chance and oracle lines, dated onsets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import curves, levels, reach, select, where

INNER = 400  # pixels of height between the margins


def dynamics(
    table: pd.DataFrame,
    *,
    metric: str,
    x: str = "step",
    by: str = "arm",
    onsets: pd.DataFrame | None = None,
    band: pd.DataFrame | None = None,
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw `metric` against `x` (step, sequences or tokens), one colour for each value of the column `by`.

    table   rows: seed, step (and x), metric, value; one value for each (by, seed, x)
    band    the same without seed, with lo and hi: what `curves.over_seeds` gives
    onsets  onset rows: value, lo, hi (steps), start, end, status, last; what never switched is crossed where it ended
    lines   chance and oracles: label -> level, or rows with `strategy` and a constant value

    Step 0 has no place on a logarithm: it is drawn before the first step, and the axis is broken there.
    """
    table = select(table, metric, x, by, "step")
    axis, rules, inks = Axis.of(table, x, log_x), levels(lines), style.inks(table[by].unique())
    seeds = {key: int(n) for key, n in table.groupby(by, sort=False)["seed"].nunique().items()}
    many = max(seeds.values(), default=0) > 1
    thin, drawn = curves(table, [by, "seed"], x), [table["value"], list(rules.values())]
    thick = [] if band is None else curves(select(band, metric, x, by, "lo", "hi"), [by], x)
    figure = go.Figure()
    figure.update_layout(meta={"zero": axis.zero, "metric": metric, "x_unit": x})
    for coords, rows in thin:
        key = coords[by]
        figure.add_trace(
            marks.line(axis.place(rows[x]), rows["value"], inks[key], "seed", coords, legendgroup=str(key))
        )
    for coords, rows in thick:
        key = coords[by]
        figure.add_traces(marks.median(rows, axis, inks.get(key, style.INK), coords, legendgroup=str(key)))
        drawn += [rows["lo"], rows["hi"]]
    for key, ink in inks.items():  # one entry in the legend, whatever was drawn
        name = (f"{key} ({seeds[key]} seed{'s' * (seeds[key] != 1)})" if many else str(key)).strip()
        look = dict(line=dict(color=ink, width=3 if thick else 1.5), legendgroup=str(key), showlegend=name != "")
        figure.add_trace(marks.line([None], [None], ink, "key", {}, name=name, **look))
    if onsets is not None:
        dated = select(onsets, metric, by, "seed", "status", "last")
        dated = dated.loc[dated["seed"].isin(table["seed"])]
        for key, ink in inks.items():
            _onsets(figure, where(dated, by, key), where(table, by, key), axis, {by: key}, ink)
    span = reach(drawn)
    notes = ["thin: every seed" if thick else "every seed"] if many else []
    if band is not None:
        rate = style.rate(band)
        notes += [f"thick: their median with its {rate} band" if many else f"band: {rate} interval"]
    notes += ["dashed: chance and ideal observers"] if rules else []
    title, right = title or f"{style.called(metric).split(',')[0]} over training", style.room(rules)
    style.dress(figure, title, "; ".join(notes), INNER, legend=_legend(figure, right), right=right)
    marks.rule(figure, rules, axis, span, INNER)
    axis.mark_break(figure)
    figure.update_xaxes(axis.layout())
    figure.update_yaxes(range=span, title_text=y_title or style.called(metric))
    return figure


def _legend(figure: go.Figure, right: int) -> int:
    """How many lines the legend takes, an arm's entries one below the other."""
    names: dict[str, list[str]] = {}
    for trace in figure.to_dict()["data"]:
        if trace["showlegend"]:
            names.setdefault(trace["legendgroup"], []).append(trace["name"])
    widest = [max(own, key=style.width) for own in names.values()]
    return style.legend_lines(widest, right) * max(map(len, names.values()), default=0)


def _onsets(figure: go.Figure, dated: pd.DataFrame, table: pd.DataFrame, axis: Axis, coords: dict, ink: str) -> None:
    """Marks at the middle of each seed's change, and a cross where a seed ended that never switched."""
    key = next(iter(coords.values()))
    switched = where(dated, "status", "switched")
    never = dated.loc[~dated["seed"].isin(switched["seed"])].drop_duplicates("seed")
    for i, (seed, one) in enumerate(switched.groupby("seed", sort=False)):
        look = dict(name="onset (95 %)", legendgroup=str(key), showlegend=i == 0)
        middle = (one["start"] + one["end"]) / 2
        figure.add_trace(
            marks.mark(axis.dates(one, table), middle, "white", ink, "onset", {**coords, "seed": seed}, **look)
        )
    for i, (seed, one) in enumerate(never.groupby("seed", sort=False)):
        curve = where(table, "seed", seed).sort_values("step")
        look = dict(name=f"never switched ({len(never)})", legendgroup=str(key), showlegend=i == 0)
        height = np.interp(one["last"].to_numpy(float), curve["step"].to_numpy(float), curve["value"].to_numpy(float))
        figure.add_trace(marks.cross(axis.convert(one["last"], table), height, ink, {**coords, "seed": seed}, **look))
