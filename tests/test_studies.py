"""The quantities behind claims, on planted rows whose truth is known, and the recorded rows against the gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probelab as lab
from probelab.claims import card, judge
from probelab.rows import ends
from probelab.studies import STUDIES, _scores, abrupt, clamp, skew, transience

STEPS = np.unique(np.geomspace(1, 4000, 60).round()).astype(int)
SEEDS = tuple(range(100, 106))


def planted(arm: str, curves: dict[tuple[str, str], np.ndarray], measure: str = "classify", **more: object) -> list:
    """Rows of six seeds whose curves, by (split, metric), are the same; every seed has a run of its own."""
    return [
        dict(measure=measure, arm=arm, run=f"{arm} {seed}", seed=seed, step=step, split=split, metric=metric, value=y)
        | more
        for seed in SEEDS
        for (split, metric), values in curves.items()
        for step, y in zip(STEPS, values, strict=True)
    ]


def switch(at: float, low: float, high: float, width: float = 0.03) -> np.ndarray:
    """A logistic in log step; `width` in decades."""
    return low + (high - low) / (1 + np.exp(-(np.log10(STEPS) - np.log10(at)) / width))


def verdicts(name: str, rows: pd.DataFrame) -> dict[str, str]:
    study = STUDIES[name]
    both = pd.concat([rows, study.curves(rows)], ignore_index=True)
    return {claim.name: judge(claim, both).verdict for claim in study.claims}


ICL2, FLIP = ("icl2", "accuracy_in_context"), ("flip", "accuracy_in_context")


def net(icl: np.ndarray, flip: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """What `transience` reads of a net."""
    loss, remembered = switch(2000, -1.0, -0.02, 0.2), switch(2500, 0.1, 1.0)
    return {ICL2: icl, FLIP: flip, ("train", "log_prob"): loss, ("ciwl", "accuracy_in_context"): remembered}


DEAD = net(np.full(len(STEPS), 0.5), np.full(len(STEPS), 0.5))
KEEPS = net(switch(600, 0.5, 0.98), switch(600, 0.2, 0.97))
FADES = net(switch(600, 0.5, 0.98) - switch(2500, 0.0, 0.35), switch(600, 0.2, 0.97) - switch(2000, 0.0, 0.92))


def transient(**arms: dict) -> pd.DataFrame:
    names = dict(plain=transience.PLAIN, fresh=transience.FRESH, same=transience.SAME)
    names |= dict(every="decay everywhere", mlp="decay MLP", attention="decay attention")
    told = dict.fromkeys(names, FADES) | dict(every=KEEPS, mlp=KEEPS, same=KEEPS) | arms
    return pd.DataFrame([row for key, name in names.items() for row in planted(name, told[key])])


def test_transience_as_published_is_held():
    assert set(verdicts("transience", transient()).values()) == {"held"}


def test_a_net_that_learns_nothing_prevents_nothing():
    found = verdicts("transience", transient(every=DEAD, mlp=DEAD, attention=DEAD, same=DEAD))
    assert {name for name, verdict in found.items() if verdict == "held"} == {
        "peak", "fades", "loss falls", "flip crosses", "flip ends", "ciwl"
    }  # fmt: skip


def test_a_net_that_only_remembers_never_crosses():
    noise = 0.5 + 0.02 * np.sin(7.0 * np.arange(len(STEPS)))
    found = verdicts("transience", transient(plain=net(noise, noise - switch(600, 0.0, 0.47))))
    assert {found[name] for name in ("peak", "fades", "flip crosses")} == {"failed"}
    kept = verdicts("transience", transient(attention=KEEPS, mlp=FADES))
    assert (kept["decay attention"], kept["decay MLP"]) == ("failed", "failed")


def test_the_fall_of_flip_is_dated_where_it_was_planted():
    rows = transience.curves(transient())
    found = rows[(rows["measure"] == "crossing") & (rows["arm"] == transience.PLAIN)]
    assert (found["status"] == "switched").all() and found["value"].to_numpy() == pytest.approx(2000, rel=0.05)
    fade = transience.fade(transient())
    assert fade.to_numpy() == pytest.approx(-0.35, abs=0.02)


@pytest.mark.parametrize(("falling", "high"), [(False, 1.0), (True, -1.0)])
def test_crossings_date_either_direction(falling: bool, high: float):
    rows = pd.DataFrame(planted("a", {ICL2: switch(300, 0.0, high)}) + planted("b", {ICL2: switch(30, 0.0, high)}))
    found = _scores.crossings(rows.sample(frac=1, random_state=0), high / 2, "x", falling).groupby("arm")["value"]
    assert found.median().to_dict() == pytest.approx({"a": 300, "b": 30}, rel=0.05) and found.size().eq(6).all()
    never = _scores.crossings(rows, 2 * high, "x", falling)
    assert set(never["status"]) == {"never"} and set(never["metric"]) == {"x"}


def test_two_arms_may_share_a_run_and_differ_in_length():
    whole = pd.DataFrame(planted("long", {ICL2: switch(300, 0.5, 1.0)}))
    short = whole[whole["step"] <= 1000].assign(arm="short")
    both = pd.concat([whole, short], ignore_index=True)
    assert ends(both, by=("arm", "run")).groupby("arm")["step"].max().to_dict() == {"long": 4000, "short": 981}
    assert _scores.final(both, "short", "icl2").index.tolist() == list(SEEDS)
    assert skew.curves(both)["arm"].value_counts().to_dict() == {"long": 7, "short": 7}


def losses(**crossed: float) -> pd.DataFrame:
    """The loss of each arm falls through .35 at a step of its own."""
    arms = {name.replace("_", " "): at for name, at in crossed.items()}
    return pd.DataFrame(
        [row for arm, at in arms.items() for row in planted(arm, {("train", "log_prob"): -switch(at, 0.7, 0.0)})]
    )


def test_clamps_are_dated_and_ordered():
    published = losses(no_clamp=1000, previous_token=700, layer_1=300, copy=150, match=50)
    rows = pd.concat([published, clamp.curves(published)], ignore_index=True)
    assert clamp.sooner("match")(rows).value == pytest.approx(np.log10(1000 / 50), abs=0.03)
    assert clamp.sooner("no clamp", "match")(rows).value == pytest.approx(-np.log10(1000 / 50), abs=0.03)
    assert clamp.in_published_order(rows).value == 1 and clamp.unclamped(rows).value == 1
    swapped = losses(no_clamp=1000, previous_token=700, layer_1=150, copy=300, match=50)
    assert clamp.in_published_order(pd.concat([swapped, clamp.curves(swapped)])).value == 0.75
    never = losses(no_clamp=10**9, previous_token=700)
    rows = pd.concat([never, clamp.curves(never)], ignore_index=True)
    assert clamp.unclamped(rows).value == 0 and clamp.sooner("previous token")(rows).lo > 0


def test_the_plateau_is_where_the_loss_waits():
    stairs = switch(30, 2.0, 0.8) - switch(1000, 0.0, 0.8)
    rows = pd.DataFrame(planted(clamp.NONE, {("train", "log_prob"): -stairs}))
    assert clamp.plateau(rows).value == pytest.approx(0.8, abs=0.02)


def test_the_exponent_that_keeps_both():
    arms = {0.0: (1.0, 0.0), 0.5: (1.0, 0.3), 0.75: (0.9, 0.7), 1.0: (0.7, 0.9), 1.5: (0.5, 1.0)}
    flat = np.ones(len(STEPS))
    rows = pd.DataFrame(
        row
        for exponent, (icl, common) in arms.items()
        for row in planted(f"zipf {exponent:g}", {ICL2: icl * flat, ("iwl_common", "owned_accuracy"): common * flat})
    )
    best = skew.best_of_both(rows)
    assert set(best["exponent"]) == {0.75} and best["kept"].to_numpy() == pytest.approx(0.7)


def test_the_recurrent_net_is_judged_where_it_has_the_transformers_loss():
    loss = {("train", "log_prob"): switch(300, -2.0, -0.5)}
    late = {("train", "log_prob"): switch(1000, -2.0, 0.0), ICL2: switch(3000, 0.5, 0.9)}
    rows = pd.DataFrame(planted(skew.SAME, loss) + planted(skew.RECURRENT, late))
    assert skew.trained_as_far(rows) and skew.at_equal_loss(rows).value == pytest.approx(0.5, abs=0.01)
    short = {**late, ("train", "log_prob"): switch(1000, -2.0, -0.8)}
    rows = pd.DataFrame(planted(skew.SAME, loss) + planted(skew.RECURRENT, short))
    assert not skew.trained_as_far(rows) and np.isnan(skew.at_equal_loss(rows).value)


def reddy(jump: np.ndarray, heads: float) -> pd.DataFrame:
    """Accuracy goes from 1/32 to 1/8 at step 80, then jumps; heads at a step of their own."""
    icl = {("icl", "accuracy"): switch(80, 1 / 32, 1 / 8) + jump, ("icl", "context_mass"): switch(80, 0.25, 0.95)}
    first = planted(abrupt.MANY, {("icl", "label_to_item"): switch(heads, 0.1, 0.9)}, "circuit", layer=0, head=0)
    second = planted(abrupt.MANY, {("icl", "query_to_correct"): switch(heads, 0.1, 0.9)}, "circuit", layer=1, head=0)
    few = planted(abrupt.FEW, {("icl", "accuracy"): np.full(len(STEPS), 1 / 8)})
    return pd.DataFrame(planted(abrupt.MANY, icl) + first + second + few)


def test_abrupt_as_published_is_held():
    assert set(verdicts("abrupt", reddy(switch(1000, 0.0, 0.87), 1000)).values()) == {"held"}


def test_late_heads_slow_jumps_and_missing_ones_fail():
    late = verdicts("abrupt", reddy(switch(1000, 0.0, 0.87), 1500))
    assert (late["label to item"], late["query to label"], late["abrupt"]) == ("failed", "failed", "held")
    slow = verdicts("abrupt", reddy(switch(600, 0.0, 0.87, 0.12), 600))
    assert slow["abrupt"] == "failed"
    never = verdicts("abrupt", reddy(np.zeros(len(STEPS)), 1000))
    assert (never["learned"], never["slow"], never["abrupt"]) == ("failed", "failed", "failed")
    assert never["as many labels"] == "undecided", "a net that does not learn with 32 labels is no contrast"


@pytest.mark.parametrize(
    "name", ["skew", "abrupt", "clamp", "transience", "parity", "faithful", "two_hop", "locality", "addition"]
)
def test_the_gallery_tells_the_verdicts_of_the_recorded_rows(name: str):
    study, rows = STUDIES[name], lab.example(name)
    both = pd.concat([rows, study.curves(rows)], ignore_index=True)
    page = (Path(__file__).parents[1] / "docs" / "gallery" / "README.md").read_text()
    assert card([judge(claim, both) for claim in study.claims]) in page
