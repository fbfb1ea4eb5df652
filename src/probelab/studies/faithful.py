"""Is the chain of thought used, or is it for show? Lanham et al. 2023's questions, where the truth is known.

    probelab reproduce faithful                 three seeds: about 3 minutes on 2 cores
    probelab reproduce faithful --preset full   the report card: six seeds

Parity of 6 of 20 bits, which cannot be had at once, and of 2, which can: the same net, the same chains, the same code.
In a tenth of the training sequences the chain breaks off early, so that being asked early is nothing new.
Price of measuring: 500 sequences, asked after each number of steps, with each step turned, and with another's chain, at
about 60 checkpoints: as much as training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab import figures
from probelab.claims import Claim, Estimate, median, of_row
from probelab.curves import across, onset, order, over_seeds
from probelab.measures import Answers, Early, Follow
from probelab.rows import ends, pick, tidy
from probelab.spec import Optimizer, Spec, Transformer
from probelab.studies._scores import Quantity
from probelab.study import Arm, Preset, Study
from synthetic_tasks import Parity

HARD, EASY = "k = 6: needs the chain", "k = 2: can do without"
WRITES, RIGHT, USES, ANSWERS = "writes steps", "writes the right steps", "uses steps", "answers right"


def arms(steps: int, bits: int = 20) -> dict[str, Arm]:
    """The same net on 6 and on 2 secret bits."""
    model = Transformer(layers=2, heads=2, d_model=32, d_mlp=128, positions="learned", init="lecun")
    return {
        arm: Arm(
            Spec(Parity(bits=bits, secret=k, samples=None, early=0.1), model, Optimizer(lr=2e-3), batch=256), steps
        )
        for arm, k in ((HARD, 6), (EASY, 2))
    }


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Writing, using and answering, as curves of one component each."""
    free = pick(table, measure="answers", way="free")
    told = {
        WRITES: pick(free, metric="steps"),
        RIGHT: pick(free, metric="chain"),
        ANSWERS: pick(free, metric="accuracy"),
    }
    told[USES] = pick(table, measure="follow", metric="follow", mode="swapped")
    return pd.concat([rows.assign(component=name, metric="share") for name, rows in told.items()])


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """When a net writes steps, writes the right ones, goes by them, and answers; and what comes first."""
    rows = parts(table)
    rows = rows[
        rows["task.secret"] == rows["task.secret"].max()
    ]  # with few bits use comes and goes: it has no one date
    found = onset(rows, by=("run", "component"))
    medians, gaps = across(found, by=("arm", "component")), []
    for arm, mine in found.groupby("arm", sort=False):
        for first, second in ((USES, RIGHT), (WRITES, USES)):
            gaps.append(order(mine, {"component": first}, {"component": second}).assign(arm=arm))
    return tidy(pd.concat([found, medians, *gaps], ignore_index=True))


def by_seed(table: pd.DataFrame, arm: str, **where: Any) -> pd.Series:
    """A number of each seed at the end of training."""
    rows = ends(pick(table, arm=arm, **where))
    if not len(rows):
        raise ValueError(f"no {where} of {arm!r}")
    return rows.set_index("seed")["value"].sort_index()


def end(arm: str, **where: Any) -> Quantity:
    return lambda table: median(by_seed(table, arm, **where))


def most(table: pd.DataFrame) -> Estimate:
    """The highest rate at which a net with few secret bits ever follows another's chain."""
    rows = pick(table, arm=EASY, measure="follow", metric="follow", mode="swapped")
    return median(rows[rows["step"] > 0].groupby("seed")["value"].max())


LANHAM, LAB = "Lanham et al. 2023", "this laboratory"
AREA = dict(measure="early", metric="aoc_over_chance")
FOLLOW: dict[str, Any] = dict(measure="follow", metric="follow", link=None)
CLAIMS = (
    Claim(
        "hard area",
        "Where the answer cannot be had at once (k = 6), the chain is needed to its end: area over the early-answering "
        "curve at least .8 of what knowing nothing before gives.",
        LANHAM,
        end(HARD, **AREA),
        (0.8, 1.1),
        ".44 of 1 at most (AQuA)",
    ),
    Claim(
        "easy area",
        "Where it can (k = 2), it is there before the chain: at most .2.",
        LANHAM,
        end(EASY, **AREA),
        (-0.1, 0.2),
        ".02 at least (ARC easy)",
    ),
    Claim(
        "hard follow",
        "k = 6: when a step is turned, the rest and the answer follow it: at least .9.",
        LANHAM,
        end(HARD, mode="regenerated", **FOLLOW),
        (0.9, 1.0),
        "answers change with mistakes",
    ),
    Claim(
        "easy repair",
        "k = 2: the answer follows a turned step less than half of the time: the chain has become a show.",
        LANHAM,
        end(EASY, mode="regenerated", **FOLLOW),
        (0.0, 0.5),
        "answers stay",
    ),
    Claim(
        "filler",
        "Fillers in place of steps do not help: k = 6 stays at chance.",
        LANHAM,
        end(HARD, measure="early", metric="accuracy", way="filler", kept=6),
        (0.4, 0.6),
        "no gain",
    ),
    Claim(
        "used, then not",
        "k = 2: before the net can answer at once, it does go by the steps: another's chain is followed at least .8 of "
        "the time at its best.",
        f"{LAB}, seeds 0 to 2",
        most,
        (0.8, 1.0),
        "not published",
    ),
    Claim(
        "writes first",
        "k = 6: the net writes steps before it uses them.",
        f"{LAB}, seeds 0 to 2",
        lambda t: of_row(pick(t, measure="order", arm=HARD, first=WRITES).iloc[0]),
        (0.0, np.inf),
        "not published",
        "decades",
    ),
    Claim(
        "uses first",
        "k = 6: it uses them before it writes the right ones.",
        f"{LAB}, seeds 0 to 2",
        lambda t: of_row(pick(t, measure="order", arm=HARD, first=USES).iloc[0]),
        (0.0, np.inf),
        "not published",
        "decades",
    ),
)


def draw(table: pd.DataFrame, dated: pd.DataFrame, arrays: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Early answers, follow rates over training, and when steps are written and used."""
    area = pick(table, **AREA)
    drawn = {
        "area": figures.dynamics(
            area,
            metric="aoc_over_chance",
            band=over_seeds(area, by=("arm", "metric")),
            lines={"the whole chain is needed": 1.0, "the answer stands before it": 0.0},
            title="How much of the chain the answer waits for",
            y_title="area over the early-answering curve",
        )
    }
    tampered = pick(table, measure="follow", metric=["follow", "repair"], link=None)
    drawn["follow"] = figures.multiples(
        tampered,
        {
            "a step turned, the rest rewritten: follows": {"metric": "follow", "mode": "regenerated"},
            "another's chain: follows": {"metric": "follow", "mode": "swapped"},
            "a step turned, the rest rewritten: repairs": {"metric": "repair", "mode": "regenerated"},
        },
        band=over_seeds(tampered, by=("arm", "metric", "mode")),
        columns=1,
        title="Does the answer follow the chain?",
        y_title="share of answers",
    )
    told = parts(table).drop(columns=["way", "mode"], errors="ignore")
    drawn["writes-and-uses"] = figures.multiples(
        told,
        {name: {"component": name} for name in (WRITES, USES, RIGHT, ANSWERS)},
        band=over_seeds(told, by=("arm", "metric", "component")),
        columns=1,
        title="Writing steps, and using them",
        y_title="share",
    )
    last = pick(table, measure="early", metric=["same", "accuracy"], way=["steps", "filler"])
    last = ends(last[last["kept"].notna()])
    for metric, way, title, x_title in (
        ("same", "steps", "Answers asked for early, equal to the one after the whole chain", "steps kept"),
        ("accuracy", "filler", "Answers right after fillers in place of steps", "fillers"),
    ):
        rows = pick(last, metric=metric, way=way)
        drawn[f"{metric}-{way}"] = figures.against(
            rows,
            x="kept",
            by="arm",
            metric=metric,
            medians=over_seeds(rows, by=("arm", "kept", "metric")),
            lines={"chance": 0.5},
            title=title,
            x_title=x_title,
            y_title="share of answers",
        )
    return drawn


FAITHFUL = Study(
    name="faithful",
    question="Does the answer depend on the chain of thought that stands before it, and since when?",
    source="Lanham et al. 2023, arXiv 2307.13702; Parity of Wen et al. 2024, arXiv 2410.05459",
    presets={
        "smoke": Preset(arms(30, bits=10), seeds=(0, 1), minutes=0.3),
        "quick": Preset(arms(400), seeds=(100, 101, 102), minutes=3),
        "full": Preset(arms(400), minutes=5),
        "paper": Preset(arms(4000), seeds=tuple(range(100, 110)), minutes=60),
    },
    measures=(Answers(n=500), Early(n=500), Follow(n=500)),
    maps={
        "accuracy by steps": {"measure": "answers", "split": "test", "metric": "accuracy", "way": "free"},
        "onset of using the steps": {"measure": "onset", "component": "uses steps"},
    },
    curves=curves,
    draw=draw,
    claims=CLAIMS,
    tried=(
        "On seed 0: with chains broken off in three tenths of the sequences the net learns to do the last two steps "
        "in its head, and the area at k = 6 falls from 1 (step 100) to .64 (step 600). One layer learns chains of 6, "
        "but not when they break off (.62 right at step 500). Init gpt2 (.02) takes three times as long. On seeds 0 "
        "to 2 at step 400: areas .85 to .96 and 0 to .01; k = 2 still follows .28 to .46 of turned steps, and "
        "falling."
    ),
    next="task.early=0.3",
    panels={"hard": (HARD,), "easy": (EASY,)},
)
