"""What was found: rows, one number each with its coordinates, in Parquet; the same rows are the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from probelab.runs import Folder
from probelab.spec import flat
from probelab.storage import RunError, at_hand, write
from synthetic_tasks.task import choose

RESERVED = ("run arm seed world data init step sequences tokens split measure metric value n lo hi").split()
NUMBERS = {"value", "lo", "hi"}
WHOLE = {
    "seed",
    "world",
    "data",
    "init",
    "step",
    "sequences",
    "tokens",
    "n",
    "layer",
    "head",
    "pos",
    "key",
    "found_at",
    "trained_at",
    "sender_layer",
    "sender_head",
    "kept",
    "link",
    "distance",
    "drawn",
}


def tidy(rows: Iterable[dict[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Rows as a table: reserved columns first, whole numbers as nullable Int64, free coordinates after."""
    table = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    table = table[[c for c in RESERVED if c in table] + sorted(str(c) for c in table if c not in RESERVED)]
    for column in table:
        if column in WHOLE:
            table[column] = table[column].astype("Int64")
        elif column in NUMBERS:
            table[column] = table[column].astype("float64")
    return table


def save_rows(path: Path, table: pd.DataFrame) -> None:
    """Write rows as Parquet, whole or not at all."""
    buffer = io.BytesIO()
    tidy(table).to_parquet(buffer, index=False, compression="zstd")
    write(path, buffer.getvalue())


def load_rows(path: Path) -> pd.DataFrame:
    """Read rows written by `save_rows`."""
    with at_hand(path) as near:
        try:
            return pd.read_parquet(near)
        except (OSError, ValueError) as error:
            why = "it is truncated, or no Parquet file. Delete it and it is made again"
            raise RunError(f"{path} cannot be read ({str(error).splitlines()[0]}): {why}") from error


def coordinates(folder: Folder) -> dict[str, Any]:
    """The columns that say which run a row belongs to."""
    spec = folder.spec
    return {"run": folder.name, "seed": spec.seed, "world": spec.task.world, "data": spec.data, "init": spec.init}


def progress_of(folder: Folder, table: pd.DataFrame) -> pd.DataFrame:
    """Sequences and tokens seen, beside the step."""
    seen = table["step"].astype("Int64") * folder.spec.batch
    return table.assign(sequences=seen, tokens=seen * folder.spec.task.context)


def join_dials(table: pd.DataFrame, folders: Iterable[Folder]) -> pd.DataFrame:
    """The table with the dials of its runs as columns (`task.zipf`, `model.layers`)."""
    return with_dials(table, {folder.name: flat(folder.spec) for folder in folders})


def with_dials(table: pd.DataFrame, runs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table with these dials of runs, by their names, as columns."""
    described = pd.DataFrame([{"run": name, **dials} for name, dials in runs.items()])
    for dial in described:  # heads = 8 in one arm and (8, 1) in another: a column has one kind
        if described[dial].map(type).nunique() > 1 and described[dial].map(lambda x: isinstance(x, str)).any():
            described[dial] = described[dial].map(lambda x: x if isinstance(x, str) or pd.isna(x) else str(x))
    return table.merge(described, on="run", how="left")


def with_asked(table: pd.DataFrame, asked: Mapping[str, Mapping[str, Any]], every: bool = False) -> pd.DataFrame:
    """The table, whose column `asked` names measurements, with the dials that tell those of one measure apart.

    As columns `<measure>.<dial>`, such as `patching.metric`, in place of `asked`; all dials, if `every`.
    """
    known = {name: dials for name, dials in asked.items() if "name" in dials}
    described = pd.DataFrame({"asked": list(known)})
    for measure in dict.fromkeys(dials["name"] for dials in known.values()):
        mine = {name: dials for name, dials in known.items() if dials["name"] == measure}
        for dial in dict.fromkeys(dial for dials in mine.values() for dial in dials):
            values = {name: said(dials.get(dial)) for name, dials in mine.items()}
            if dial != "name" and (every or len(set(values.values())) > 1):
                described[f"{measure}.{dial}"] = described["asked"].map(values).convert_dtypes()
    return table.merge(described, on="asked", how="left").drop(columns="asked")


def said(value: Any) -> Any:
    """A dial as it is set on the command line: `head,position`, `none`."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else value if isinstance(value, (int, float, str)) else str(value)


def ends(table: pd.DataFrame, by: Sequence[str] = ("run",)) -> pd.DataFrame:
    """The rows of the last step of each run; `by` arm and run where arms may share a run and differ in length."""
    return table[table["step"] == table.groupby(list(by))["step"].transform("max")]


def pick(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Rows with these coordinates; None asks for rows without one: `pick(rows, metric="loss", pos=None)`."""
    for column, value in where.items():
        if column not in table:
            if value is None:
                continue
            choose("column", column, list(table.columns))
        have = table[column]
        if value is None:
            keep = have.isna()
        elif isinstance(value, (list, tuple, set)):
            keep = have.isin(list(value))
        else:
            if column in ("metric", "measure", "strategy", "arm", "split"):
                choose(column, value, sorted(have.dropna().astype(str).unique()))
            keep = have == value
        table = table[keep.fillna(False).astype(bool)]
    return table
