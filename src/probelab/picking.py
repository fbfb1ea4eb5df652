"""Which rows a figure is drawn of: measurements told apart by their dials, one sweep of several, many seeds as one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from probelab.curves import over_seeds
from probelab.figures._tables import PARTS
from probelab.rows import ends, load_rows, pick, tidy, with_asked
from probelab.runs import Folder
from probelab.storage import RunError, read
from synthetic_tasks.task import choose, require

SETTINGS = ("site", "change", "target", "pairs", "arm")  # what tells sweeps apart, beside dials


def rows_in(folder: Folder) -> pd.DataFrame:
    """All rows of a run, with the dials that they were measured with."""
    found = sorted((folder.path / "rows").glob("*.parquet"))
    if not found:
        return pd.DataFrame()
    table = pd.concat([load_rows(path).assign(asked=path.stem) for path in found], ignore_index=True)
    asked = {path.stem: json.loads(read(path.with_suffix(".json"))) for path in found}
    return tidy(with_asked(table, asked, every=True))


def chosen_of(rows: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    """The rows with these values; a dial of one measure chooses among its rows alone."""
    for text in where:
        name, is_set, value = text.partition("=")
        choose("column of these rows", name, [c for c in sorted(map(str, rows)) if rows[c].nunique(dropna=False) > 1])
        require(bool(is_set), "--set", text, "column=value, such as site=z")
        there = rows[name].astype(str)
        others = rows["measure"] != name.split(".")[0] if "." in name and "measure" in rows else False
        choose(f"{name} among these rows", value, sorted(there[rows[name].notna()].unique()))
        rows = rows[(there == value) | others]
    return rows


def of_seeds(rows: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Medians over seeds; a single run keeps its own rows, with their intervals over sequences."""
    return over_seeds(rows, by=by) if rows.groupby("arm")["run"].nunique().max() > 1 else rows


def first_seed(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the first seed, where there are several, and what to say of it: no head is the same in two seeds."""
    if rows.groupby("arm")["run"].nunique().max() < 2:
        return rows, ""
    return pick(rows, seed=(seed := int(rows["seed"].min()))), f", seed {seed}"


def by_size(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Heads of several seeds by their size at the end in their layer, 0 the largest, and what to say of it.

    Their numbers mean nothing across seeds, and a median over them would be of unlike parts.
    """
    if rows.groupby("arm")["run"].nunique().max() < 2 or "head" not in rows or rows["head"].isna().all():
        return rows, ""
    layers = ["arm", "run", "layer"]
    size = ends(rows, ("arm", "run")).groupby([*layers, "head"])["value"].agg(lambda effect: effect.abs().sum())
    rank = size.groupby(layers).rank(ascending=False, method="first").sub(1).rename("rank").reset_index()
    ranked = rows.merge(rank, on=[*layers, "head"])
    return ranked.assign(head=ranked["rank"].astype("Int64")).drop(columns="rank"), "heads by effect"


def labels(rows: pd.DataFrame, metric: str, ranks: str) -> tuple[str, str]:
    """Of a sweep: the title, and what the values are, where the rows tell."""
    change, site, pairs = (
        " and ".join(map(str, rows[c].dropna().unique())) if c in rows else "" for c in ("change", "site", "pairs")
    )
    title = f"{metric.capitalize()} over training: {change} {site}{f', {pairs} pairs' if pairs else ''}"
    asked = rows["patching.metric"].iloc[0] if "patching.metric" in rows else ""
    units = {
        "logit_difference": "logit difference",
        "log_prob": "log-probability, nats",
        "rank": "rank",
        "kl": "KL, nats",
    }
    unit = f"change of the {units[asked]}" if metric == "effect" and asked in units else ""
    return f"{title}; {ranks}" if ranks else title, unit


def one_sweep(rows: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of one sweep over components, and the columns that tell these apart."""
    chosen = pick(rows, **({"measure": "patching"} if metric in ("effect", "recovery") else {}), metric=metric)
    parts = [column for column in PARTS if column in chosen and chosen[column].notna().any()]
    dials = [c for c in map(str, chosen) if c in SETTINGS or "." in c and c.split(".")[0] in set(chosen["measure"])]
    dials = [c for c in dials if chosen[c].notna().any()]
    sweeps = pd.concat([chosen[dials], chosen[parts].notna()], axis=1).drop_duplicates()
    twice = chosen.duplicated([column for column in ("arm", "run", "step", *parts) if column in chosen]).any()
    if len(sweeps) > 1 or twice:
        told = [c for c in dials if chosen[c].nunique(dropna=False) > 1 and c.split(".")[-1] not in SETTINGS[:2]]
        told = [c for c in dials if c in SETTINGS[:2] and chosen[c].nunique() > 1] + told
        listed = "; ".join(f"{c} = {' | '.join(sorted(chosen[c].dropna().astype(str).unique()))}" for c in told)
        raise RunError(f"these rows hold several sweeps; choose one with --set column=value, of {listed or 'an arm'}")
    return chosen, parts


def one_split(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the split that training sees, or of the first one."""
    splits = list(rows["split"].dropna().unique())
    return pick(rows, split="train" if "train" in splits else splits[0]) if len(splits) > 1 else rows


def whole(rows: pd.DataFrame, metric: str, *coordinates: str) -> pd.DataFrame:
    """Rows of a metric without a position, and without any free coordinate that the figure does not use."""
    chosen = pick(rows, metric=metric, pos=None)
    for column in ("layer", "head", "strategy", "site"):
        if column in chosen and column not in coordinates:
            chosen = pick(chosen, **{column: None}) if chosen[column].isna().any() else chosen
    return chosen
