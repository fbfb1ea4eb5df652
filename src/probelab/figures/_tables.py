"""Reading tables of rows: the rows of a metric, the curves in them, levels to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from probelab.rows import pick
from synthetic_tasks.task import choose

PARTS = ("layer", "head", "neuron", "sender", "receiver", "pos", "role", "key")  # what tells components apart,
SETTINGS = ("site", "target")  # and what does so where it differs


def select(table: pd.DataFrame, metric: str | None, *columns: str) -> pd.DataFrame:
    """The rows of a metric. A table without `arm` or `seed` is one arm, one seed; any other missing column raises."""
    table = table.assign(**{name: blank for name, blank in (("arm", ""), ("seed", 0)) if name not in table})
    for column in (*columns, "value", *(["metric"] if metric else [])):
        choose("column in this table", column, list(table.columns))
    if metric:
        choose("metric in this table", metric, list(table["metric"].unique()))
        table = where(table, "metric", metric)
    return table


def where(table: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """The rows with a value in a column."""
    return table.loc[table[column] == value]


def matching(table: pd.DataFrame, coords: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these coordinates."""
    return table.loc[np.logical_and.reduce([table[column] == value for column, value in coords.items()])]


def curves(table: pd.DataFrame, keys: list[str], x: str) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """One curve for each combination of keys, in order of appearance, sorted by x; two values at one place raise."""
    places = [*keys, x]
    twice = table.loc[table.duplicated(places, keep=False)]
    if len(twice):
        here = twice.iloc[0]
        same = twice.loc[(twice[places] == here[places]).all(axis=1)]
        free = [
            c
            for c in same.columns
            if c not in {*places, "value", "lo", "hi", "n"} and same[c].nunique(dropna=False) > 1
        ]
        place = ", ".join(f"{k} {here[k]}" for k in places)
        raise ValueError(
            f"{len(same)} values at {place}: they differ in {', '.join(free) or 'value alone'}; "
            "a curve has one value a place: keep some of the rows (probelab draw: --set column=value), "
            "or take their median first"
        )
    groups = [rows.sort_values(x) for _, rows in table.groupby(keys, sort=False, dropna=False)]
    return [({key: rows[key].iloc[0] for key in keys}, rows) for rows in groups]


def part(column: str, value: Any) -> str:
    """L0 of a layer, H1 of a head, a word as it is, else the column and its number."""
    if value is None or pd.isna(value):
        return ""
    if column in ("layer", "head"):
        return f"{column[0].upper()}{int(value)}"
    said = value if isinstance(value, str) else f"{column} {value:g}"
    return f" to {said}" if column == "receiver" else f" {said}"


def told(table: pd.DataFrame, by: str) -> list[str]:
    """The columns that tell components apart: `by`, or for "component", if it is no column, what a part is told by."""
    if by != "component" or (by in table and table[by].notna().any()):
        return [choose("column in this table", by, list(table.columns))]
    found = [column for column in PARTS if column in table and table[column].notna().any()]
    found += [column for column in SETTINGS if column in table and table[column].nunique() > 1]
    if not found:
        raise ValueError(f"no column tells components apart: name one as by, of {', '.join(table.columns)}")
    return found


def components(table: pd.DataFrame, by: str, columns: list[str]) -> pd.DataFrame:
    """The rows of components, which the column `by` names: L1H0, L0 mlp_out, layer 1."""
    for column in columns:
        choose("column in this table", column, list(table.columns))
    table = table.dropna(subset=columns, how="all")
    if columns == [by]:
        names = [value if isinstance(value, str) else f"{by} {value:g}" for value in table[by]]
    else:
        names = ["".join(map(part, columns, values)).strip() for values in table[columns].itertuples(index=False)]
    return table.assign(**{by: names})


def several(table: pd.DataFrame, series: Mapping[str, Mapping[str, Any]] | str, column: str = "series") -> pd.DataFrame:
    """The rows of some series, name -> coordinates or a column whose values are names; `column` names them."""
    if isinstance(series, str):
        table = select(table, None, series).dropna(subset=series)
        return table.assign(**{column: table[series].astype(str)})
    return pd.concat(
        [pick(table, **of).assign(**{column: str(name)}) for name, of in series.items()], ignore_index=True
    )


def levels(lines: Mapping[str, float] | pd.DataFrame | None) -> dict[str, float]:
    """Chance and oracle lines: label -> level, or rows whose `strategy` names them, constant over training."""
    if lines is None:
        return {}
    if isinstance(lines, pd.DataFrame):
        rows = select(lines, None, "strategy").drop_duplicates(["strategy", "value"])
        several = rows.loc[rows["strategy"].duplicated(), "strategy"]
        if len(several):
            raise ValueError(f"lines: {several.iloc[0]!r} has several levels; a line has one: take their median first")
        lines = dict(zip(rows["strategy"], rows["value"], strict=True))
    return {str(name): float(level) for name, level in lines.items()}


def reach(values: Iterable[Any], above: float = 0.06) -> tuple[float, float]:
    """A vertical range with some air around all that is drawn (`above` is a share of its height)."""
    drawn = np.concatenate([np.ravel(np.asarray(v, float)) for v in values])
    drawn = drawn[np.isfinite(drawn)]
    low, high = (float(drawn.min()), float(drawn.max())) if len(drawn) else (0.0, 1.0)
    height = high - low or 1.0
    return low - 0.06 * height, high + above * height
