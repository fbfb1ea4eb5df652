"""Which part of an induction circuit is born when, and since when is it causal?

    probelab reproduce circuit                    two seeds of each task
    probelab reproduce circuit --preset full      the report card: six seeds of each

The tasks of `induction` (repeats, 4 heads a layer) and of `abrupt` (classification, one head a layer), with checkpoints
dense enough to tell the order of what happens within some percent of a step. Three parts, each dated three ways:

                    does it                      works, given the others       causal in the net itself
    previous token  layer 0 looks one back       the trained net can use it    layer 0's heads move the answer
    match           layer 1 looks at the source  the same, given layer 0       layer 1's patterns move it
    copy                                         told where to look, it says   layer 1's values move it

Causal: denoising, on pairs that differ in where the answer stands (previous token, match) or in what it is (copy).
Price of measuring: 32 to 64 pairs for each intervention at 120 to 160 checkpoints a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab import figures
from probelab.claims import Claim, Estimate, median, of_row
from probelab.curves import across, onset, order, over_seeds
from probelab.measures import Circuit, Classify, Edges, Faithful, Heads, InContext, Patching, Ready
from probelab.rows import ends, pick, tidy
from probelab.studies import abrupt, induction
from probelab.studies._scores import Quantity
from probelab.studies.induction import best_heads
from probelab.study import Arm, Preset, Study

REPEATS, CLASSES = "repeats", "classification"
WHERE, WHAT = ("match", "item"), ("copy", "label")  # kinds of pairs of the two tasks
DOES, WORKS, CAUSAL = "does it", "works, given the others", "causal in the net itself"
KINDS = {name: {"kind": name} for name in (DOES, WORKS, CAUSAL)}
PREVIOUS, MATCH, COPY, ANSWER = "previous token", "match", "copy", "answer"


def causes(where: str, what: str, n: int) -> tuple[Patching, ...]:
    """What each part does to the answer's log-probability; and each head, where the place of the answer differs."""
    whole: dict[str, Any] = dict(by=(), metric="log_prob", n=n)
    return (
        Patching(site="z", kind=where, **whole),
        Patching(site="pattern", kind=where, **whole),
        Patching(site="v", kind=what, **whole),
        Patching(site="z", by=("head",), kind=where, metric="log_prob", n=n),
    )


def arms(repeats: int, classes: int, n: int = 64) -> dict[str, Arm]:
    """Both tasks, with their checkpoints and measures; `n` pairs."""
    one, two = induction.arms(repeats, 1)[induction.TWO], abrupt.arms(classes, 1)[abrupt.MANY]
    few = max(2, n // 2)
    found = (InContext(n=256), Heads(n=64), *causes("match", "copy", n), Edges(few, "match"))
    one = replace(one, every=10, measures=(*found, Faithful(few, "match", random=10, subsets=5)))
    found = (Classify(splits=("icl",), n=1000), Circuit(n=256), *causes("item", "label", n), Edges(few, "item"))
    two = replace(two, per_decade=16, every=20, measures=(*found, Faithful(few, "item", random=5, subsets=5)))
    return {REPEATS: one, CLASSES: two}


def named(rows: pd.DataFrame, component: str, kind: str) -> pd.DataFrame:
    """Rows of one curve a run, under the name of a part and of what is asked of it."""
    return rows.drop(columns=["layer", "head", "strategy"], errors="ignore").assign(component=component, kind=kind)


def does(table: pd.DataFrame) -> pd.DataFrame:
    """What each part does, and the answer itself: attention of the best head, what it copies, loss or accuracy."""
    found = []
    if "heads" in set(table["measure"]):
        found += [
            named(best_heads(table, "previous_token", 0), PREVIOUS, DOES),
            named(best_heads(table, "prefix_matching", 1), MATCH, DOES),
            named(pick(table, metric="copy", strategy=None), ANSWER, DOES),
        ]
    if "circuit" in set(table["measure"]):
        found += [
            named(pick(table, metric="label_to_item", layer=0), PREVIOUS, DOES),
            named(pick(table, metric="query_to_correct", layer=1), MATCH, DOES),
            named(pick(table, measure="classify", metric="accuracy"), ANSWER, DOES),
        ]
    return pd.concat(found)


def works(table: pd.DataFrame) -> pd.DataFrame:
    """The answer if the other parts were as in the trained net, nats."""
    rows = pick(table, measure="ready")
    told = (("looks", 0, PREVIOUS), ("looks", 1, MATCH), ("given", 1, COPY))
    return pd.concat([named(pick(rows, metric=metric, layer=layer), part, WORKS) for metric, layer, part in told])


def causal(table: pd.DataFrame) -> pd.DataFrame:
    """What each part moves in the net as it is, nats."""
    rows = pick(table, measure="patching", metric="effect", head=None)
    told = (("z", 0, WHERE, PREVIOUS), ("pattern", 1, WHERE, MATCH), ("v", 1, WHAT, COPY))
    return pd.concat(
        [
            named(rows[rows["pairs"].isin(kind) & (rows["site"] == site) & (rows["layer"] == layer)], part, CAUSAL)
            for site, layer, kind, part in told
        ]
    )


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """When each part is born, in each sense, and what comes before the answer; the birth of the circuit as a whole."""
    rows = pd.concat([does(table), works(table), causal(table)])
    whole = pick(table, measure="faithful", metric="effect", edges="circuit")
    rows = pd.concat([rows, named(whole, "circuit of direct edges", CAUSAL)])
    found = onset(rows, by=("run", "component", "kind"))
    medians, gaps = across(found, by=("arm", "component", "kind")), []
    for arm, mine in found.groupby("arm", sort=False):
        answer = {"component": ANSWER, "kind": DOES}
        named_once = mine[["component", "kind"]].drop_duplicates().itertuples(index=False)
        several = [{"component": component, "kind": kind} for component, kind in named_once]
        pairs = [(first, answer) for first in several if first != answer]
        pairs.append(({"component": PREVIOUS, "kind": DOES}, {"component": MATCH, "kind": DOES}))
        gaps += [order(mine, *pair).assign(arm=arm, component=pair[0]["component"]) for pair in pairs]
    return tidy(pd.concat([found, medians, *gaps], ignore_index=True))


def gap(arm: str, component: str, kind: str, second: str = f"{ANSWER} {DOES}") -> Quantity:
    """Decades from an onset to another, paired within seed."""
    return lambda t: of_row(pick(t, measure="order", arm=arm, first=f"{component} {kind}", second=second).iloc[0])


def at_the_end(arm: str, metric: str, **where: Any) -> Quantity:
    """What the measure faithful finds at the end of training, a median over seeds."""

    def quantity(table: pd.DataFrame) -> Estimate:
        rows = ends(pick(table, arm=arm, measure="faithful", metric=metric, **where))
        return median(rows.set_index("seed")["value"].sort_index())

    return quantity


ELHAGE, SINGH, OLSSON = "Elhage et al. 2021", "Singh et al. 2024", "Olsson et al. 2022"
WITHIN, FIRST, LAST = (-0.02, 0.02), (0.0, np.inf), (-np.inf, 0.0)
CLAIMS = (
    Claim(
        "three edges",
        "Classification: the embedding to the values of layer 0, its head to the keys of layer 1, and that one to the "
        "logits are the circuit: at most 5 edges.",
        ELHAGE,
        at_the_end(CLASSES, "circuit_size"),
        (3, 5),
        "3",
    ),
    Claim(
        "faithful",
        "Classification: these edges give the answer, from .9 to 1.1 of the effect of all.",
        ELHAGE,
        at_the_end(CLASSES, "faithfulness", edges="circuit"),
        (0.9, 1.1),
        "the circuit",
    ),
    Claim(
        "complete",
        "Repeats, of several heads: without its circuit the net tells nothing: at most .1 of the effect.",
        ELHAGE,
        at_the_end(REPEATS, "faithfulness", edges="complement"),
        (-0.1, 0.1),
        "the circuit",
    ),
    Claim(
        "previous first",
        "Classification: layer 0 looks where the trained net needs it before the answer comes.",
        SINGH,
        gap(CLASSES, PREVIOUS, WORKS),
        FIRST,
        "smoothly, beforehand",
        "decades",
    ),
    Claim(
        "match first",
        "Classification: so does layer 1, given layer 0.",
        SINGH,
        gap(CLASSES, MATCH, WORKS),
        FIRST,
        "smoothly, beforehand",
        "decades",
    ),
    Claim(
        "copy first",
        "Classification: told where to look, the net answers before it does so by itself.",
        SINGH,
        gap(CLASSES, COPY, WORKS),
        FIRST,
        "smoothly, beforehand",
        "decades",
    ),
    Claim(
        "match with loss",
        "Repeats: layer 1 looks at the source when the copy loss falls: within .02 decades.",
        OLSSON,
        gap(REPEATS, MATCH, DOES),
        WITHIN,
        "in the same window",
        "decades",
    ),
    Claim(
        "previous with loss",
        "Repeats: layer 0 looks one back when the copy loss falls: within .02 decades.",
        OLSSON,
        gap(REPEATS, PREVIOUS, DOES),
        WITHIN,
        "in the same window",
        "decades",
    ),
    Claim(
        "causal with loss",
        "Repeats: layer 0's heads move the answer when the copy loss falls: within .02 decades.",
        OLSSON,
        gap(REPEATS, PREVIOUS, CAUSAL),
        WITHIN,
        "in the same window",
        "decades",
    ),
    Claim(
        "sharpens",
        "Repeats: layer 0 sharpens on: the trained net can use where it looks only after the copy loss has fallen.",
        "this laboratory, seeds 0 to 3",
        gap(REPEATS, PREVIOUS, WORKS),
        LAST,
        "not published",
        "decades",
    ),
)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """What each head moves, nats; heads by their effect at the end, as their numbers mean nothing across seeds."""
    rows = pick(table, measure="patching", metric="effect", site="z")
    rows = rows[rows["head"].notna()]
    end = ends(rows)
    end["rank"] = end.groupby(["run", "layer"])["value"].rank(ascending=False, method="first")
    rows = rows.merge(end[["run", "layer", "head", "rank"]], on=["run", "layer", "head"])
    several = rows.groupby("arm")["head"].transform("nunique") > 1
    place = np.where(several, ", head " + rows["rank"].astype(int).astype(str), "")
    component = "layer " + rows["layer"].astype(str) + place
    return rows.assign(component=component).drop(columns=["layer", "head", "rank"])


def draw(table: pd.DataFrame, dated: pd.DataFrame, arrays: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Births of the parts in each task, what each head is worth over training, readiness, and the circuit's edges."""
    drawn, lanes = {}, [PREVIOUS, MATCH, COPY, ANSWER]
    parts = dated[dated["component"].isin(lanes)]
    for arm in table["arm"].unique():
        onsets, medians, gaps = (pick(parts, arm=arm, measure=of) for of in ("onset", "across", "order"))
        short = arm.split(",")[0]
        drawn[f"births-{arm}"] = figures.timeline(
            onsets, KINDS, medians=medians, order=lanes, title=f"Births of the parts of an induction circuit: {short}"
        )
        first = pick(table, arm=arm, measure="edges", seed=int(table["seed"].min()))
        drawn[f"edges-{arm}"] = figures.edges(first, title=f"What carries where to look: {short}, first seed")
    late = table[table["step"] >= table["step"].max() / 20]  # before that nothing happens
    heads = ranked(late)
    drawn["causal"] = figures.causal(
        heads,
        by="component",
        band=over_seeds(heads, by=("arm", "component", "metric")),
        onsets=across(onset(heads, by=("run", "component")), by=("arm", "component")),
        title="What each head moves, on pairs that differ in where the answer stands",
        y_title="change of the answer's log-probability (nats)",
    )
    ready = pick(late, measure="ready", metric=["model", "given", "looks"]).drop(columns="head", errors="ignore")
    drawn["ready"] = figures.multiples(
        ready,
        {
            "the net itself": {"metric": "model"},
            "told where both layers look": {"metric": "given", "layer": 1},
            "trained net, layer 0 looking as here": {"metric": "looks", "layer": 0},
            "trained net, layer 1 looking as here": {"metric": "looks", "layer": 1},
        },
        band=over_seeds(ready, by=("arm", "metric", "layer")),
        columns=1,
        title="One part as it is, the others as in the trained net",
        y_title="log-probability of the answer (nats)",
    )
    whole = pick(late, measure="faithful", metric="effect").drop(columns=["layer", "head"], errors="ignore")
    drawn["faithful"] = figures.multiples(
        whole,
        {
            "all edges": {"edges": "all"},
            "the circuit found at the end": {"edges": "circuit"},
            "all edges but the circuit": {"edges": "complement"},
            "as many at random": {"edges": "random"},
        },
        band=over_seeds(whole, by=("arm", "metric", "edges")),
        columns=1,
        title="Since when does the circuit of the trained net do the work?",
        y_title="effect (logits)",
    )
    return drawn


CIRCUIT = Study(
    name="circuit",
    question="Which part of an induction circuit is born first, and since when is each causal?",
    source="Olsson et al. 2022, arXiv 2209.11895; Reddy 2023, arXiv 2312.03002; Singh et al. 2024, arXiv 2404.07129",
    presets={
        "smoke": Preset(arms(30, 30, n=8), seeds=(0, 1), minutes=0.3),
        "quick": Preset(arms(700, 1700), seeds=(100, 101), minutes=4),
        "full": Preset(arms(1000, 2500), minutes=16),
        "paper": Preset(arms(10_000, 150_000), seeds=tuple(range(100, 110)), minutes=1000),
    },
    measures=(Ready(n=64),),
    maps={
        "onset of the answer": {"measure": "onset", "component": "answer", "kind": "does it"},
        "onset of the match": {"measure": "onset", "component": "match", "kind": "does it"},
    },
    curves=curves,
    draw=draw,
    claims=CLAIMS,
    tried=(
        "On seeds 0 to 3, with 100 (repeats) and 150 checkpoints a decade, then as now. Onsets of logit differences "
        "come late, as these grow long after the answer is right: log-probabilities are dated. Onsets of single heads "
        "of repeats are unsure, as heads share the work and hand it over: layers are dated. What layer 1 raises (the "
        "score `copying`) drifts from step 150 on in three of four seeds, and is not dated."
    ),
    next="task.p_novel=0.5",
    panels={REPEATS: (REPEATS,), CLASSES: (CLASSES,)},
)
