"""Any figure of a run or a study, from the rows that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from probelab.curves import across, onset, order, over_seeds
from probelab.figures import FIGURES, save
from probelab.picking import by_size, chosen_of, first_seed, labels, of_seeds, one_split, one_sweep, rows_in, whole
from probelab.rows import ends, load_rows, pick
from probelab.runs import Folder, load_arrays
from probelab.storage import RunError, home, located, reach
from synthetic_tasks.task import choose

NEEDED = {  # the measure of a figure, where its metric is not chosen
    **{figure: figure for figure in ("lens", "attribution", "patching", "edges")},
    **{"causal": "patching", "probes": "probe", "heads": "heads", "phases": "strategy"},
}


def draw_from_rows(
    what: str,
    figure: str,
    metric: str | None = None,
    out: str | Path | None = None,
    png: bool = False,
    where: Sequence[str] = (),
) -> list[Path]:
    """Draw a figure of a run folder or of a reproduced study, and return the files written.

    where  rows to draw, as "column=value"; where a run was measured several times with one measure, the dials that
           tell these measurements apart are columns, too: "patching.metric=log_prob"
    """
    choose("figure", figure, FIGURES)
    study, images = home(out) / "figures" / what, ("png",) if png else ()
    name = "-".join(filter(None, (figure, metric, *(text.replace("/", "_") for text in where))))
    if (study / "rows.parquet").exists():
        rows = chosen_of(load_rows(study / "rows.parquet"), where)
        return save(DRAWN[figure](rows, metric, None), study, name, images)
    folder = opened(what, out)
    rows = chosen_of(rows_in(folder), where)
    if not len(rows) and figure != "pattern":
        raise RunError(f"{folder.path} has no rows yet: run `probelab measure {folder.path} loss` first")
    needed = NEEDED.get(figure)
    if needed and metric is None and not (rows["measure"] == needed).any():
        raise RunError(f"{figure} draws what {needed} finds: run `probelab measure {folder.path} {needed}` first")
    made = DRAWN[figure](rows.assign(arm=folder.spec.task.name), metric, folder)
    return save(made, home(out) / "figures" / folder.name, name, images)


def opened(what: str, out: str | Path | None) -> Folder:
    """A run by its path, or by its name among the results."""
    reach(located(what))
    inside = located(what) if "://" in what else home(out) / "runs" / what
    if not located(what).exists() and not inside.exists():
        known = sorted(path.parent.name for path in (home(out) / "figures").glob("*/rows.parquet"))
        if not known:
            raise RunError(f"{what!r} is no run folder, and no study has been reproduced in {home(out)}")
        choose("run folder or reproduced study", what, known)
    return Folder(inside if inside.exists() else what)


def draw_dynamics(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = whole(rows, metric or "loss")
    band = of_seeds(chosen, "arm", "metric")
    band = band if {"lo", "hi"} <= set(band) else None
    return FIGURES["dynamics"](chosen, metric=metric or "loss", band=band, title=metric or "loss")


def draw_phases(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = whole(rows, metric or "kl", "strategy")
    return FIGURES["phases"](
        chosen,
        metric=metric or "kl",
        band=over_seeds(chosen, by=("arm", "metric", "strategy")),
        title="distance to each strategy",
    )


def draw_heads(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = whole(rows, metric or "prefix_matching", "layer", "head")
    median = over_seeds(chosen, by=("arm", "metric", "layer", "head"))
    return FIGURES["heads"](median, metric or "prefix_matching", title=metric or "prefix_matching")


def draw_pattern(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    if folder is None:
        raise RunError("a pattern is drawn for one run: name its folder instead of a study")
    found = sorted((folder.path / "arrays").glob("patterns-*.safetensors"))
    if not found:
        raise RunError(f"{folder.path} has no patterns yet: run `probelab measure {folder.path} patterns` first")
    arrays, about = load_arrays(found[0])
    return FIGURES["pattern"](
        arrays["pattern"],
        about["steps"],
        tokens=arrays["tokens"].tolist(),
        title=f"attention of {folder.spec.task.name}, seed {folder.spec.seed}",
    )


def draw_multiples(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = whole(rows, metric or "accuracy")
    return FIGURES["multiples"](
        chosen, "split", band=over_seeds(chosen, by=("arm", "split", "metric")), title=metric or "accuracy"
    )


def draw_plane(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = whole(rows, metric or "accuracy")
    icl = "icl" if "icl" in set(chosen["split"]) else "icl2"
    both = pick(chosen, split=["iwl", icl])
    return FIGURES["plane"](
        both,
        {"split": "iwl"},
        {"split": icl},
        band=over_seeds(both, by=("arm", "split", "metric")),
        title=metric or "accuracy",
    )


def draw_race(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = one_split(whole(rows, metric or "loss"))
    dated = onset(chosen, by=("arm", "run", "metric"))
    return FIGURES["race"](dated, medians=across(dated, by=("arm", "metric")), title=f"onset of {metric or 'loss'}")


def draw_phase_diagram(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = one_split(whole(rows, metric or "loss"))
    dials = [name for name in map(str, chosen) if name.startswith("task.") and chosen[name].nunique() > 1]
    pairs = list(combinations([name for name in dials if name != "task.world"], 2))
    if not pairs:
        raise RunError(f"a phase diagram needs two dials of the task that differ, and here is {dials or 'none'}")
    x, y = max(pairs, key=lambda two: len(chosen[[*two]].drop_duplicates()))
    cells = ends(chosen)
    others = [name for name in dials if name not in (x, y, "task.world")]
    cells = cells[(cells[others] == cells[others].mode().iloc[0]).all(axis=1)] if others else cells
    return FIGURES["phase_diagram"](cells.drop_duplicates("run"), metric or "loss", x, y, title=metric or "loss")


def draw_against(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    """Where every run ended, against the dial that has most values; whatever else differs makes the series."""
    chosen = ends(one_split(whole(rows, metric or "accuracy")), by=("arm", "run"))
    told = [c for c in map(str, chosen) if c.startswith(("task.", "model.")) or c in ("way", "estimator")]
    told = [c for c in told if c != "task.world" and chosen[c].nunique() > 1]
    dials = [c for c in told if "." in c]
    if not dials:
        raise RunError("this figure needs a dial of the task or the model that differs between runs, and here is none")
    x = max(dials, key=lambda dial: chosen[dial].nunique())
    others = [c for c in told if c != x]
    chosen = chosen.drop_duplicates(["run", *others]).drop(columns=["step", "sequences", "tokens"], errors="ignore")
    parts = [[f"{c.split('.')[-1]} {value}" for value in chosen[c]] for c in others]
    chosen = chosen.assign(arm=[", ".join(part) for part in zip(*parts, strict=True)] if parts else "")
    medians = over_seeds(chosen, by=("arm", "metric", x))
    return FIGURES["against"](chosen, x=x, metric=metric or "accuracy", medians=medians)


def draw_lens(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen = pick(rows, metric=[f"lens_{metric or 'loss'}", f"tuned_{metric or 'loss'}"])
    whole = pick(chosen, pos=None)
    told = [column for column in ("layer", "target", "pos") if column in chosen]
    medians = of_seeds(whole if len(whole) else chosen, "arm", "metric", *told)
    return FIGURES["lens"](medians, metric or "loss", by="arm" if len(whole) else "pos")


def draw_attribution(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen, seed = first_seed(pick(rows, metric=["attribution", "logit_difference"], pos=None))
    return FIGURES["attribution"](chosen, title=f"Direct logit attribution over training{seed}")


def draw_patching(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen, parts = one_sweep(rows, metric or "effect")
    chosen, ranks = by_size(chosen)
    title, unit = labels(chosen, metric or "effect", ranks)
    return FIGURES["patching"](of_seeds(chosen, "arm", "metric", *parts), metric or "effect", title=title, z_title=unit)


def draw_causal(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen, parts = one_sweep(rows, metric or "effect")
    chosen, ranks = by_size(chosen)
    title, unit = labels(chosen, metric or "effect", ranks)
    dated = onset(chosen, by=("arm", "run", "metric", *parts))
    if len(dated) == len(dated.drop_duplicates(["arm", *parts])):
        return FIGURES["causal"](chosen, metric=metric or "effect", onsets=dated, title=title, y_title=unit)
    keys = ("arm", "metric", *parts)
    band, medians = over_seeds(chosen, by=keys), across(dated, by=keys)
    return FIGURES["causal"](chosen, metric=metric or "effect", band=band, onsets=medians, title=title, y_title=unit)


def draw_timeline(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    kinds = {"decodable": metric or "accuracy", "used": "interchange_excess"}
    found = pick(rows, measure=["probe", "use"], metric=list(kinds.values()), pos=None)
    for measure, name in zip(("probe", "use"), kinds.values(), strict=True):
        if not (found["metric"] == name).any():
            raise RunError(f"a timeline needs {name} at all positions: measure {measure} with pooled=true first")
    if (arms := found["arm"].unique()).size > 1:
        raise RunError(f"these rows hold several arms ({', '.join(arms)}): draw one with lab.figures.timeline(rows)")
    parts = ["layer", *(c for c in ("target", "site") if found[c].nunique() > 1)]
    dated = onset(found, by=("run", "metric", *parts))
    drawn = {kind: {"metric": name} for kind, name in kinds.items()}
    if dated["run"].nunique() == 1:
        return FIGURES["timeline"](dated, drawn)
    medians, gaps = across(dated, by=("metric", *parts)), order(dated, *kinds.values(), by=parts)
    return FIGURES["timeline"](dated, drawn, medians=medians, gaps=gaps)


def draw_probes(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    found, title = pick(rows, measure="probe"), ""
    if not len(pooled := pick(found, pos=None)):
        title = f"Linear probes at position {found['pos'].max()} over training"
    found = pooled if len(pooled) else pick(found, pos=found["pos"].max())
    told = [column for column in ("layer", "target", "site", "pos") if column in found]
    panels = "target" if found["target"].nunique() > 1 else "arm"
    medians = of_seeds(found, "arm", "metric", *told)
    return FIGURES["probes"](medians, metrics=[metric] if metric else [], panels=panels, title=title)


def draw_edges(rows: pd.DataFrame, metric: str | None, folder: Folder | None) -> go.Figure:
    chosen, seed = first_seed(pick(rows, metric=metric or "edge_effect"))
    title = (metric or "edge_effect").replace("_", " ").capitalize()
    return FIGURES["edges"](chosen, metric or "edge_effect", title=f"{title} over training{seed}")


DRAWN: dict[str, Callable[[pd.DataFrame, str | None, Folder | None], go.Figure]] = {
    "dynamics": draw_dynamics,
    "phases": draw_phases,
    "heads": draw_heads,
    "pattern": draw_pattern,
    "multiples": draw_multiples,
    "plane": draw_plane,
    "race": draw_race,
    "phase_diagram": draw_phase_diagram,
    "lens": draw_lens,
    "attribution": draw_attribution,
    "patching": draw_patching,
    "edges": draw_edges,
    "causal": draw_causal,
    "timeline": draw_timeline,
    "probes": draw_probes,
    "against": draw_against,
}
