"""A value or an onset over two dials as a heat map: intervals in the cells, contour lines, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _style as style
from probelab.figures._axis import short
from probelab.figures._contour import line, round_steps, round_values
from probelab.figures._tables import curves, select
from probelab.rows import pick

CELL = (44, 72)  # pixels: the least and the greatest height of a cell
INTERVAL = 62  # pixels of width in which an interval can be read
RIGHT, GAP, LETTER = 90, 56, 7  # pixels: the colour bar; between panels one above the other; a letter of a title
EMPTY = [[0, "#E9E9E9"], [1, "#E9E9E9"]]  # cells that were run and have no value; those that were not stay white


class Cells(NamedTuple):
    """What the cells of a panel hold: tables with a row for each value of one dial and a column for the other's."""

    value: pd.DataFrame
    n: pd.DataFrame
    lo: pd.DataFrame
    hi: pd.DataFrame
    why: pd.DataFrame  # there is no value, in words; "" where there is one


def phase_diagram(
    table: pd.DataFrame,
    metric: str | None,
    x: str,
    y: str,
    *,
    facets: Mapping[str, Mapping[str, Any]] | None = None,
    contour: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    levels: Sequence[float] | None = None,
    lines: bool = False,
    steps: bool = False,
    zmin: float | None = None,
    zmax: float | None = None,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
    z_title: str = "",
) -> go.Figure:
    """Draw `metric` over two dials, the columns `x` and `y`; a cell holds the median of its seeds, and says it.

    table    one value for each (x, y, run or seed): the rows of one step and split; or, one for each (x, y), what
             `curves.over_seeds` or `curves.across` gives: its intervals then stand in the cells. A column `why` says
             why a cell has no value; a cell of `across` without one says by when the onset had not come
    facets   panel -> coordinates of its rows: {"ICL": {"split": "icl"}, "IWL": {"split": "iwl", "metric": "accuracy"}}
    contour  onsets: x, y, value (steps; NaN: there was none): what `curves.across` gives; or such a table by panel
    levels   the steps at which contour lines run, or the values, where there is no `contour`
    lines    contour lines of the value itself, at round levels
    steps    the value is a step: colours and lines go by its logarithm
    """
    shared = {} if metric is None else {"metric": metric}
    panels = {name: _rows(table, {**shared, **of}, x, y) for name, of in (facets or {"": {}}).items()}
    grids = {name: _grid(rows, table, x, y) for name, rows in panels.items()}
    values = np.concatenate([cells.value.to_numpy(float).ravel() for cells in grids.values()])
    down, across = next(iter(grids.values())).value.shape
    medians, several, room = "level" in table, facets is not None, 900 - style.LEFT - RIGHT
    beside = min(max(int(room / across / INTERVAL), 1), len(panels)) if medians else len(panels)
    stories, wide = -(-len(panels) // beside), room / beside / across
    height = int(min(max(wide, CELL[0]), CELL[1]) * down)
    titles = [style.wrapped(name, max(int(wide * across / LETTER), 12)) if several else "" for name in panels]
    lift = 8 + 16 * max(title.count("<br>") + 1 for title in titles) if several else 0
    inner = height * stories + (GAP + lift) * (stories - 1)
    figure = make_subplots(
        stories,
        beside,
        shared_yaxes=True,
        horizontal_spacing=0.03 if beside > 1 else 0,
        vertical_spacing=(GAP + lift) / inner if stories > 1 else 0,
        subplot_titles=titles,
    )
    note = _note(table, values, medians, contour is not None, lines or levels is not None)
    z_title = z_title or style.called(metric or "value")
    heading = title or f"{z_title.split(',')[0]} over two dials"
    style.dress(figure, heading, note, inner, legend=0, lift=lift, right=RIGHT)
    colours = _colours(values, z_title, zmin, zmax, steps)
    figure.update_layout(coloraxis=colours, meta={"metric": metric, "x_dial": x, "y_dial": y})
    for number, (name, cells) in enumerate(grids.items()):
        row, col = number // beside + 1, number % beside + 1
        found = contour.get(name) if isinstance(contour, Mapping) else contour
        onset = None if found is None else _grid(_rows(found, {}, x, y), table, x, y).value
        lined = onset is not None or lines or (levels is not None and contour is None)
        words = _words(cells, onset, colours, wide, medians, lined, steps)
        meta = {"panel": name} if several else {}
        figure.add_traces([_map(cells, onset, meta, steps), words, _holes(cells)], rows=row, cols=col)
        if lined:
            _lines(figure, cells.value if onset is None else onset, levels, number, onset is not None, steps)
    for number in range(len(panels), stories * beside):
        for axes in (figure.update_xaxes, figure.update_yaxes):
            axes(visible=False, row=number // beside + 1, col=number % beside + 1)
    figure.update_xaxes(type="category", showline=False, ticks="", tickangle=0 if wide > 34 else -60)
    figure.update_yaxes(type="category", showline=False, ticks="", ticklabelstandoff=4)
    figure.update_xaxes(title_text=x_title or x, row=stories)
    figure.update_yaxes(title_text=y_title or y, col=1)
    return figure


def _rows(table: pd.DataFrame, of: dict[str, Any], x: str, y: str) -> pd.DataFrame:
    """The rows of a panel; a run that has two values in a cell raises."""
    rows = select(pick(table, **of), None, x, y).dropna(subset=[x, y])
    curves(rows, [x, y], "run" if "run" in rows else "seed")
    return rows


def _grid(rows: pd.DataFrame, table: pd.DataFrame, x: str, y: str) -> Cells:
    """Medians, of how many, their intervals, and why there is none, for every value that the dials have in a table."""
    across, down = (_order(table[dial]) for dial in (x, y))
    rows = rows.assign(**{dial: rows[dial].astype(object) for dial in (x, y)})
    groups: Any = rows.groupby([y, x])
    blank = dict(lo=np.nan, hi=np.nan, why="")
    found: Any = groups["value"].agg(["median", "count"]).astype(float).set_axis(["value", "n"], axis=1).assign(**blank)
    if "level" in rows:  # medians already, one a cell
        found[["n", "lo", "hi"]] = groups[["n", "lo", "hi"]].first().astype(float)
        found.loc[groups["level"].first().to_numpy(float) == 0, ["lo", "hi"]] = np.nan  # one seed has no interval
    if "level" in rows and "last" in rows:
        found["why"] = [f"none by {_step(last)}" if last > 0 else "" for last in groups["last"].first()]
    if "why" in rows:
        said = groups["why"].first().fillna("")
        found["why"] = said.where(said != "", found["why"])
    empty = found["value"].isna()
    found["why"] = found["why"].where(found["why"] != "", "no value").where(empty, "")
    names = [[_label(dial) for dial in dials] for dials in (down, across)]
    parts = {k: found[k].unstack(x).reindex(index=down, columns=across) for k in Cells._fields}
    filled = {**parts, "why": parts["why"].fillna("not run"), "n": parts["n"].fillna(0)}
    return Cells(**{k: pd.DataFrame(v.to_numpy(), names[0], names[1]) for k, v in filled.items()})


def _order(dial: pd.Series) -> list:
    """Its values: as their categories stand, else sorted."""
    there = list(dial.dropna().unique())
    return [v for v in dial.cat.categories if v in there] if hasattr(dial, "cat") else sorted(there)


def _label(dial: Any) -> str:
    """A dial's value as a category: 1024, 0.5, zipf."""
    number = isinstance(dial, (int, float, np.number)) and not isinstance(dial, bool)
    return f"{dial:.12g}" if number else str(dial)


def _map(cells: Cells, onset: pd.DataFrame | None, meta: dict, steps: bool) -> go.Heatmap:
    """The cells; each knows how many seeds it is the median of, its interval, and the step of its onset."""
    held = {"n": cells.n, "z_lo": cells.lo, "z_hi": cells.hi, "z": cells.value}
    held |= {} if onset is None else {"onset": onset}
    names = dict(x=cells.value.columns, y=cells.value.index, text=cells.why.to_numpy(str))
    z = cells.value.to_numpy(float)
    known = np.stack([part.to_numpy(float) for part in held.values()], axis=-1)
    hover = "%{x}, %{y}: %{hovertext}<extra></extra>"
    meta = {"role": "value", "columns": list(held), **meta}
    look = dict(xgap=2, ygap=2, coloraxis="coloraxis", name="median", hovertext=_hover(cells), hovertemplate=hover)
    return go.Heatmap(**names, z=np.log10(z) if steps else z, customdata=known, meta=meta, **look)


def _hover(cells: Cells) -> np.ndarray:
    """A cell in words: its value, its interval, its seeds, and why it has none."""
    parts = [cells.why if k == "why" else getattr(cells, k).astype(float) for k in Cells._fields]
    said = []
    for value, n, lo, hi, why in zip(*(part.to_numpy().ravel() for part in parts), strict=True):
        interval = "" if np.isnan(lo) or why else f" [{lo:.4g} to {hi:.4g}]".replace("inf", "beyond the record")
        said.append((why or f"{value:.4g}{interval}") + ("" if why == "not run" else f" ({n:.0f} seeds)"))
    return np.array(said).reshape(cells.value.shape)


def _holes(cells: Cells) -> go.Heatmap:
    """A grey ground for the cells that were run and have no value."""
    ground = np.where((cells.why != "") & (cells.why != "not run"), 0.0, np.nan)
    names = dict(x=cells.value.columns, y=cells.value.index, xgap=2, ygap=2)
    return go.Heatmap(**names, z=ground, colorscale=EMPTY, showscale=False, hoverinfo="skip", meta={"role": "key"})


def _words(
    cells: Cells, onset: pd.DataFrame | None, colours: dict, wide: float, medians: bool, lined: bool, steps: bool
) -> go.Scatter:
    """What a cell says: its number and interval, whether its onset never came, or why it is empty."""
    z = cells.value.to_numpy(float).ravel()
    small = np.abs(z[np.isfinite(z)]).max(initial=0) < 10
    close = 0 < np.ptp(z[np.isfinite(z)]) < 0.1 if np.isfinite(z).any() else False
    form = _step if steps else "{:.3f}".format if small and close else "{:.2f}".format if small else "{:.3g}".format
    never = np.zeros(len(z), bool) if onset is None else onset.isna().to_numpy().ravel()
    text = [form(value) if wide > 26 and np.isfinite(value) else "" for value in z]
    if medians and wide >= INTERVAL:
        ends = zip(*(part.to_numpy(float).ravel() for part in (cells.lo, cells.hi)), strict=True)
        said = ["" if np.isnan(lo) else f"<br>{_small(f'{form(lo)}–{form(hi)}')}" for lo, hi in ends]
        text = [word + interval if word else word for word, interval in zip(text, said, strict=True)]
    text = [word + ("<br>never" if n else "") for word, n in zip(text, never, strict=True)]
    why = cells.why.to_numpy(str).ravel()
    holes = ["–" if wide < INTERVAL else _small(style.wrapped(word, int(wide / 6))) for word in why]
    text = [word if np.isfinite(value) else hole for word, hole, value in zip(text, holes, z, strict=True)]
    shade = np.log10(z) if steps else z
    height = (shade - colours["cmin"]) / ((colours["cmax"] - colours["cmin"]) or 1)
    dark = height > 0.62 if colours["colorscale"] is style.LIGHT_TO_DARK else np.abs(height - 0.5) > 0.36
    font = dict(size=13 if wide > 44 else 10, color=np.where(dark, "white", style.INK))
    x, y = (labels.ravel() for labels in np.meshgrid(cells.value.columns, cells.value.index))
    raised = np.isfinite(z) & ~never & lined  # lines and their labels run through the middles
    look = dict(mode="text", textfont=font, hoverinfo="skip", showlegend=False, meta={"role": "key"})
    return go.Scatter(x=x, y=y, text=text, textposition=np.where(raised, "top center", "middle center"), **look)


def _small(text: str) -> str:
    return f"<span style='font-size:10px'>{text}</span>"


def _step(value: float) -> str:
    """A step in three figures: 312, 1.23k; infinite where an interval leaves the record."""
    return short(float(f"{value:.3g}")) if np.isfinite(value) else "∞"


def _lines(
    figure: go.Figure, grid: pd.DataFrame, levels: Sequence[float] | None, number: int, onset: bool, steps: bool
) -> None:
    """The contour lines of a panel: of onsets, or of the value itself."""
    z, logs = grid.to_numpy(float), onset or steps
    found = (round_steps if logs else round_values)(z) if levels is None else levels
    for level in found:
        heights = np.log10(z / level) if logs else z - level
        line(figure, heights, "onset" if logs else "value", short(level) if logs else f"{level:g}", number)


def _colours(values: np.ndarray, title: str, low: float | None, high: float | None, steps: bool) -> dict:
    """The colour axis; steps go by their logarithm, and their bar by round steps."""
    if not steps:
        return style.colours(values, title, low, high)
    known = values[np.isfinite(values)]
    known = known if len(known) else np.ones(1)
    ends = [float(np.log10(end)) for end in (low or known.min(), high or known.max())]
    pad = 0.0 if ends[1] > ends[0] else 0.5
    ticks = round_steps(10.0 ** np.array([ends[0] - 1e-9 - pad, ends[1] + 1e-9 + pad]))
    bar = style.bar(title) | dict(tickvals=np.log10(ticks), ticktext=[short(tick) for tick in ticks])
    return dict(colorscale=style.LIGHT_TO_DARK, cmin=ends[0] - pad, cmax=ends[1] + pad, colorbar=bar)


def _note(table: pd.DataFrame, values: np.ndarray, medians: bool, onsets: bool, lines: bool) -> str:
    """What stands below the title."""
    known = medians and (table["level"] > 0).any()
    note = f"median over seeds{f' with its interval ({style.rate(table)})' if known else ''}"
    note += "; grey or white: no value, and why" if np.isnan(values).any() else ""
    note += "; lines: the step of the onset; never: there was none" if onsets else ""
    return note + ("; lines: where the value is the same" if lines and not onsets else "")
