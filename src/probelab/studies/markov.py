"""Edelman et al. 2024: on in-context Markov chains a transformer passes through uniform, then unigram, then bigram.

    probelab reproduce markov                   six seeds, contexts of 64, a higher learning rate: about 5 minutes
    probelab reproduce markov --preset full     the published context of 100, learning rate and dropout

Price of measuring: 1,024 sequences for the distances and 256 for the heads, at about 55 checkpoints a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab import figures
from probelab.claims import Claim, Estimate, median, of_row, share
from probelab.curves import across, onset, order, over_seeds, phases
from probelab.measures import Heads, Patterns, Strategy
from probelab.rows import pick, tidy
from probelab.spec import Optimizer, Spec, Transformer
from probelab.study import Arm, Preset, Study
from synthetic_tasks import Markov

TWO, ONE, STOCHASTIC = "two layers", "one layer", "doubly stochastic"
PHASES = ("uniform", "unigram", "bigram")


def arms(length: int, lr: float, dropout: float, steps: int, one: int, stochastic: int) -> dict[str, Arm]:
    """The three arms; `one` and `stochastic` are the steps of the controls, which need fewer."""
    model = Transformer(
        layers=2, heads=1, d_model=16, positions="relative", biases=False, dropout=dropout, init="edelman2024"
    )
    optimizer = Optimizer(lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    chain = Markov(states=2, length=length)

    def arm(task: Markov, layers: int, steps: int) -> Arm:
        return Arm(Spec(task, replace(model, layers=layers), optimizer, batch=64), steps)

    doubly = Markov(states=2, length=length, variant="doubly_stochastic")
    return {TWO: arm(chain, 2, steps), ONE: arm(chain, 1, one), STOCHASTIC: arm(doubly, 2, stochastic)}


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """When the nearest strategy changes, when the loss falls for the last time, and which arm is earlier."""
    distances = pick(table, metric="kl", pos=None)
    dated = []
    for arm, rows in distances.groupby("arm", sort=False):
        # on doubly stochastic chains the unigram strategy is the uniform one
        path = ("uniform", "bigram") if str(arm).startswith(STOCHASTIC) else PHASES
        switches = phases(rows, path, by=("run",))
        dated += [switches, across(switches, by=("arm", "strategy"))]
        truth = pick(table, metric="kl_truth", pos=None, arm=arm)
        for run, part in truth.groupby("run"):
            entered = pick(switches, run=run, strategy="unigram")["value"] if "unigram" in path else pd.Series([np.nan])
            start = float(entered.iloc[0]) * 3 if len(entered) and np.isfinite(entered.iloc[0]) else None
            dated.append(onset(part, "kl_truth", by=("run",), between=(start, None)))
    found = pd.concat(dated, ignore_index=True)
    present = set(found["arm"].dropna())
    if {TWO, STOCHASTIC} <= present:
        last = pick(found, measure="phases", strategy="bigram")
        found = pd.concat([found, order(last, {"arm": STOCHASTIC}, {"arm": TWO}, pair_by="seed")], ignore_index=True)
    return tidy(found)


def switches(table: pd.DataFrame, strategy: str, arm: str = TWO) -> pd.Series:
    """Step of the switch to a strategy, by run; NaN where it never came."""
    return pick(table, measure="phases", arm=arm, strategy=strategy).set_index("run")["value"].sort_index()


def last(table: pd.DataFrame, metric: str, arm: str = TWO, **where: Any) -> pd.Series:
    """A metric at the end of training, by run."""
    rows = pick(table, metric=metric, arm=arm, pos=None, measure=["strategy", "heads"], **where)
    return rows.sort_values("step").groupby("run")["value"].last()


def in_order(table: pd.DataFrame) -> Estimate:
    """Share of runs in which unigram and then bigram was the nearest strategy, neither jumped over."""
    passed = pick(table, measure="phases", arm=TWO)
    return share((passed["status"] == "switched").groupby(passed["run"]).all())


def abruptness(table: pd.DataFrame) -> Estimate:
    """Steps in which the last fall of the loss does its middle 80 %, over the steps of the unigram plateau."""
    fall = pick(table, measure="onset", metric="kl_truth", arm=TWO).set_index("run").sort_index()
    plateau = switches(table, "bigram") - switches(table, "unigram")
    ratio = (fall["t90"] - fall["t10"]) / plateau
    return median(ratio.fillna(np.inf))


def oracle(name: str) -> Any:
    """KL of an oracle to the truth, over the seeds' own test sequences."""
    return lambda table: median(last(table, "kl_truth_oracle", strategy=name))


def one_layer_ratio(table: pd.DataFrame) -> pd.Series:
    """The least loss of each one-layer run, over that of the unigram strategy."""
    least = pick(table, metric="kl_truth", arm=ONE, measure="strategy", pos=None).groupby("run")["value"].min()
    return least / last(table, "kl_truth_oracle", ONE, strategy="unigram")


def earlier(table: pd.DataFrame) -> Estimate:
    """Decades by which the doubly stochastic arm switches earlier, paired by seed."""
    return of_row(pick(table, measure="order").iloc[0])


def published_length(table: pd.DataFrame) -> bool:
    """Are the contexts of the published length?"""
    return bool((table["tokens"].dropna() == 100 * table["sequences"].dropna()).all())


SOURCE = "Edelman et al. 2024"
AT_100 = (("contexts of 100 tokens, as published", published_length),)
CLAIMS = (
    Claim(
        "uniform",
        "The uniform strategy is .21 nats from the truth.",
        SOURCE,
        oracle("uniform"),
        (0.19, 0.23),
        ".21",
        "nats",
        preconditions=AT_100,
    ),
    Claim(
        "unigram",
        "The unigram strategy is .093 nats from the truth.",
        SOURCE,
        oracle("unigram"),
        (0.08, 0.105),
        ".093",
        "nats",
        preconditions=AT_100,
    ),
    Claim(
        "bigram",
        "The bigram strategy is .010 nats from the truth.",
        SOURCE,
        oracle("bigram"),
        (0.005, 0.015),
        ".010",
        "nats",
        preconditions=AT_100,
    ),
    Claim(
        "order",
        "Training passes uniform, unigram and bigram in this order (share of seeds).",
        SOURCE,
        in_order,
        (0.5, 1.0),
        "all runs",
    ),
    Claim(
        "abrupt",
        "The last switch is abrupt: its middle 80 % take at most a third of the unigram plateau.",
        SOURCE,
        abruptness,
        (0.0, 1 / 3),
        "about .2",
    ),
    Claim(
        "final",
        "After it the model is within .03 nats of the truth.",
        SOURCE,
        lambda t: median(last(t, "kl_truth")),
        (0.0, 0.03),
        ".018",
        "nats",
    ),
    Claim(
        "previous",
        "Then the first layer looks one token back: at least half of its attention.",
        SOURCE,
        lambda t: median(last(t, "previous_token", layer=0)),
        (0.5, 1.0),
        "concentrated on offset 1",
    ),
    Claim(
        "one layer",
        "One layer never beats the unigram strategy: its least loss is at least .95 of unigram's.",
        SOURCE,
        lambda t: median(one_layer_ratio(t)),
        (0.95, np.inf),
        "never",
        preconditions=(("it got within 10 % of unigram", lambda t: bool(one_layer_ratio(t).median() <= 1.1)),),
    ),
    Claim(
        "doubly stochastic",
        "On doubly stochastic chains, where unigrams say nothing, the switch comes earlier (decades).",
        SOURCE,
        earlier,
        (0.0, np.inf),
        "converges faster",
        "decades",
    ),
)


def draw(table: pd.DataFrame, dated: pd.DataFrame, arrays: Mapping[str, Any]) -> dict[str, go.Figure]:
    """The phases, the loss of all arms, where heads look, and one seed's attention."""
    distances = pick(table, metric="kl", pos=None)
    two = pick(distances, arm=TWO) if TWO in set(distances["arm"]) else distances
    truth = pick(table, metric="kl_truth", pos=None)
    lines = pick(table, metric="kl_truth_oracle", pos=None, arm=truth["arm"].iloc[0])
    levels = {str(name): level for name, level in lines.groupby("strategy", sort=False)["value"].median().items()}
    back = pick(table, metric="previous_token")
    drawn = {
        "phases": figures.phases(
            two,
            band=over_seeds(two, by=("arm", "metric", "strategy")),
            switches=drawn_switches(dated, two["arm"].iloc[0]),
            title="A transformer learns to predict Markov chains in context: uniform, then unigram, then bigram",
            y_title="KL from each strategy to the model (nats)",
        ),
        "loss": figures.dynamics(
            truth,
            metric="kl_truth",
            band=over_seeds(truth, by=("arm", "metric")),
            onsets=pick(dated, measure="onset"),
            lines=levels,
            title="Distance to the true chain over training",
            y_title="KL from the truth to the model (nats)",
        ),
        "previous-token": figures.heads(
            over_seeds(back, by=("arm", "metric", "layer", "head")),
            "previous_token",
            title="Attention to the previous token (median over seeds)",
        ),
    }
    if TWO in arrays:
        found = arrays[TWO]
        drawn["pattern"] = figures.pattern(
            found["pattern"].array,
            found["steps"],
            tokens=found["tokens"].array.tolist(),
            title="Attention on one chain over training (two layers, first seed)",
        )
    return drawn


def drawn_switches(dated: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The switches of an arm as the figure wants them: a distance that falls reaches its strategy."""
    return pick(dated, measure="phases", arm=arm).assign(metric="kl", direction="fall")


MARKOV = Study(
    name="markov",
    question="Does a transformer pass through simpler strategies while it learns Markov chains, and when?",
    source="Edelman et al. 2024, arXiv 2402.11004",
    presets={
        "smoke": Preset(arms(16, 5e-3, 0.0, 40, 40, 40), seeds=(0, 1), minutes=0.2),
        "quick": Preset(arms(64, 2e-3, 0.1, 1000, 600, 1000), seeds=tuple(range(106, 112)), minutes=5),
        "full": Preset(arms(100, 5e-4, 0.1, 3000, 2000, 3000), minutes=15),
        "paper": Preset(arms(100, 5e-4, 0.1, 3000, 3000, 3000), seeds=tuple(range(100, 110)), minutes=30),
    },
    measures=(Strategy(n=1024), Heads(n=256), Patterns()),
    maps={
        "KL(truth || model)": {"measure": "strategy", "metric": "kl_truth", "pos": None},
        "switch to unigram": {"measure": "phases", "strategy": "unigram"},
        "switch to bigram": {"measure": "phases", "strategy": "bigram"},
    },
    curves=curves,
    draw=draw,
    claims=CLAIMS,
    tried=(
        "On seeds 0 to 5, contexts of 64 without dropout: learning rates 5e-4, 1e-3 and 2e-3 switch near steps 900, "
        "400 to 500 and 250 to 400; seed 3 finds another solution, without a previous-token head, and does not switch "
        "sharply at 1e-3 and 2e-3. Rotary positions switch gradually, at step 120 to 230. The published context, "
        "learning rate and dropout (preset full) switched sharply on seeds 0 to 2, at steps 1,813, 951 and 1,311 (61 "
        "to 116 thousand sequences). A first quick preset, without dropout, met the other solution in most of "
        "seeds 100 to 105 (5 of 6 passed the phases, median loss .041); with dropout .1 seeds 0 to 4 all switched, at "
        "steps 348 to 464, and the quick preset reports on fresh seeds, 106 to 111. One layer beat the unigram "
        "strategy on seed 0 already (.86 of its loss, contexts of 64); how, was not opened up."
    ),
    panels={"phases": (TWO,), "control": (TWO, ONE), "doubly-stochastic": (TWO, STOCHASTIC)},
)
