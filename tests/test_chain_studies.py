"""The quantities behind the claims on chains of thought, on planted rows whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.claims import judge
from probelab.studies import STUDIES, addition, faithful, locality, parity, two_hop

STEPS = np.unique(np.geomspace(1, 2000, 40).round()).astype(int)
SEEDS = tuple(range(100, 106))


def planted(arm: str, values: Any, measure: str, metric: str, **more: Any) -> pd.DataFrame:
    """Rows of six seeds with one curve, or one value."""
    curve = np.broadcast_to(np.asarray(values, float), STEPS.shape)
    rows = [pd.DataFrame(dict(arm=arm, run=f"{arm} {s}", seed=s, step=STEPS, value=curve)) for s in SEEDS]
    return pd.concat(rows, ignore_index=True).assign(measure=measure, metric=metric, **more)


def rise(at: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """A logistic in log step, half way at a step."""
    return low + (high - low) / (1 + (at / STEPS) ** 12.0)


def verdicts(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    study = STUDIES[name]
    both = pd.concat([rows, study.curves(rows)], ignore_index=True)
    return {claim.name: judge(claim, both) for claim in study.claims}


def parities(solved: dict[tuple[str, int], float], loss: float = np.log(2)) -> pd.DataFrame:
    """Accuracy goes from a half to one, through .95 at a step; infinite: it stays at a half."""
    found = []
    for (way, k), step in solved.items():
        told = {"task.format": "left" if way == parity.CHAIN else "direct", "task.secret": k}
        told["way"] = "free" if way == parity.CHAIN else "direct"
        curve = rise(step / 9 ** (1 / 12), 0.5, 1.0) if np.isfinite(step) else np.full(len(STEPS), 0.5)
        found.append(planted(parity.name(way, k), curve, "answers", "accuracy", **told))
        found.append(planted(parity.name(way, k), loss, "loss", "loss", strategy=None, **told))
        found.append(
            planted(parity.name(way, k), rise(step, 1, 0.1), "sparsity", "attention_entropy", head=None, **told)
        )
    return pd.concat(found, ignore_index=True)


def test_parity_as_published_is_held_and_a_net_that_learns_nothing_is_no_contrast() -> None:
    chains = {(parity.CHAIN, k): 20.0 * k for k in (2, 4, 6, 8, 12)}
    at_once = {
        (parity.DIRECT, 1): 20.0,
        (parity.DIRECT, 2): 100.0,
        (parity.DIRECT, 3): 500.0,
        (parity.DIRECT, 6): np.inf,
    }
    found = verdicts("parity", parities(chains | at_once))
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(found, "held")
    assert found["linear"].estimate.value == pytest.approx(1, abs=0.05)
    assert found["exponential"].estimate.value == pytest.approx(np.log2(25) / 2, abs=0.1)
    assert found["soon"].estimate.value == pytest.approx(120, rel=0.05)
    dead = verdicts("parity", parities(chains | dict.fromkeys(at_once, np.inf)))
    assert dead["direct fails"].verdict == dead["direct loss"].verdict == "undecided"
    late = verdicts("parity", parities(chains | at_once | {(parity.CHAIN, 12): np.inf}))
    assert late["linear"].estimate.value == np.inf and late["linear"].verdict == "failed"


def chained(hard: dict[str, Any], easy: dict[str, Any]) -> pd.DataFrame:
    """Rows of `faithful` from the curves of both arms."""
    found = []
    for arm, k, told in ((faithful.HARD, 6, hard), (faithful.EASY, 2, easy)):
        secret = {"task.secret": k}
        for metric in ("steps", "chain", "accuracy"):
            found.append(planted(arm, told[metric], "answers", metric, way="free", **secret))
        for mode in ("regenerated", "swapped"):
            found.append(planted(arm, told[mode], "follow", "follow", mode=mode, link=None, **secret))
        found.append(planted(arm, told["area"], "early", "aoc_over_chance", way="steps", **secret))
        found.append(planted(arm, told["filler"], "early", "accuracy", way="filler", kept=6, **secret))
    return pd.concat(found, ignore_index=True)


def test_opposite_verdicts_on_a_chain_that_is_used_and_one_for_show() -> None:
    used = dict(steps=rise(20), chain=rise(200), accuracy=rise(300), swapped=rise(60), regenerated=rise(60))
    used |= dict(area=0.95, filler=0.5)
    show = dict(steps=rise(20), chain=rise(40), accuracy=rise(50), swapped=rise(20) - rise(100), regenerated=0.1)
    show |= dict(area=0.0, filler=1.0)
    found = verdicts("faithful", chained(used, show))
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(found, "held")
    assert found["uses first"].estimate.value == pytest.approx(np.log10(200 / 60), abs=0.03)
    turned = verdicts("faithful", chained(show, used))
    assert {name for name, one in turned.items() if one.verdict == "held"} <= {"used, then not", "writes first"}
    assert turned["hard area"].verdict == turned["easy area"].verdict == turned["filler"].verdict == "failed"


def hops(
    bridge: float, direct: float, known: float, inside: float = 0.1, said: float = 0.1, rescued: float = 0.4
) -> pd.DataFrame:
    found = [planted(two_hop.BRIDGE, 1.0, "follow", "follow", mode="pinned", link=None, split="ood")]
    for pos in two_hop.SPOTS:  # the bridge is at the second one, behind the last layer, or nowhere
        there = dict(layer=1, pos=pos)
        found.append(planted(two_hop.DIRECT, 0.4 + inside * (pos == 2), "probe", "accuracy", **there))
        found.append(planted(two_hop.DIRECT, 0.4, "probe", "accuracy_untrained", **there))
        for layer in (0, 1, 2):  # the lens finds it at the first one, in the middle, where it is lucky before training
            curve = rise(300, 0.05, 0.05 + said * (pos == 1 and layer == 1))
            there = dict(layer=layer, pos=pos, target="bridge")
            found.append(planted(two_hop.DIRECT, curve, "lens", "lens_accuracy", **there))
        found.append(planted(two_hop.DIRECT, rescued * (pos == 2), "backpatch", "rescued", layer=None, pos=pos))
    for arm, form, unseen in ((two_hop.BRIDGE, "bridge", bridge), (two_hop.DIRECT, "direct", direct)):
        for split, right in (("train", known), ("atomic", known), ("id", unseen), ("ood", unseen)):
            for way in ("direct", "free"):
                told = right if (way == "free") == (form == "bridge" and split != "atomic") else 0.5
                found.append(planted(arm, told, "answers", "accuracy", way=way, split=split, **{"task.format": form}))
    return pd.concat(found, ignore_index=True)


def test_who_answers_at_once_must_know_the_facts_to_fail() -> None:
    assert {one.verdict for one in verdicts("two_hop", hops(0.98, 0.03, 1.0)).values()} == {"held"}
    found = verdicts("two_hop", hops(0.98, 0.03, 0.6))
    assert (found["bridge"].verdict, found["direct ood"].verdict, found["direct id"].verdict) == (
        "held", "undecided", "undecided"
    )  # fmt: skip
    assert verdicts("two_hop", hops(0.98, 0.9, 1.0))["direct ood"].verdict == "failed"
    found = verdicts("two_hop", hops(0.98, 0.03, 1.0, inside=0.5, said=0.6, rescued=0.06))
    assert {name for name, one in found.items() if one.verdict == "failed"} == {"memory", "unsaid", "hopping too late"}
    assert found["unsaid"].estimate.value == pytest.approx(0.6, abs=0.01)
    assert found["memory"].estimate.value == pytest.approx(0.5) and found["hopping too late"].estimate.hi < 0.1


def nets(errors: dict[str, dict[str, float]], seen: float = 0.02) -> pd.DataFrame:
    """Rows of `locality`: errors on held-out pairs by condition and estimator; on control pairs `seen`."""
    found = []
    for arm, told in errors.items():
        for estimator, value in ({"marginal": 0.1} | told).items():
            shape = dict(estimator=estimator, distance=None, drawn=None)
            curve = value if estimator == "marginal" else 0.15 + (value - 0.15) * rise(600)
            found.append(planted(arm, curve, "reasoning", "error", split="held", **shape))
            other = 0.1 if estimator == "marginal" else seen
            found.append(planted(arm, other, "reasoning", "error", split="control", **shape))
        for metric, curve in (("separating", rise(100, 0.3, 0.8)), ("separating_chance", 0.4)):
            found.append(planted(arm, curve, "reasoning", metric, split="held", estimator="free"))
    return pd.concat(found, ignore_index=True)


def test_the_reasoning_gap_as_published_and_without() -> None:
    same = dict(direct=0.04, negative=0.04, free=0.04, scaffolded=0.04, forgetful=0.04)
    told = {arm: same for arm in STUDIES["locality"].presets["full"].arms}
    told[locality.LOCAL] = dict(direct=0.04, negative=0.04, free=0.02, scaffolded=0.01, forgetful=0.002)
    told[locality.WRONG] = dict.fromkeys(same, 0.09)
    told[locality.LINE] = dict(direct=0.1, negative=0.1, free=0.1, scaffolded=0.1, forgetful=0.001)
    told[locality.SEEN] = dict.fromkeys(same, 0.06)  # never as low as half of the marginal's
    found = verdicts("locality", nets(told))
    held = {name for name, one in found.items() if one.verdict == "held"}
    wanted = {"gap", "free gap", "negative", "wrong", "observed", "separating", "structure first"}
    assert wanted | {"forgetful", "interference", "locality", "sooner", "chain direct", "chain forgetful"} == held
    assert found["chain scaffold"].verdict == "failed" and found["sooner"].estimate.value == np.inf
    assert found["gap"].estimate.value == pytest.approx(4, rel=0.1)
    without = verdicts("locality", nets(told | dict.fromkeys((locality.LOCAL, locality.WRONG, locality.SEEN), same)))
    failed = {"gap", "free gap", "wrong", "forgetful", "interference", "locality"}
    assert failed | {"chain scaffold"} == {name for name, one in without.items() if one.verdict == "failed"}
    assert without["sooner"].estimate.value == pytest.approx(0, abs=1e-9)
    unlearned = verdicts("locality", nets(told, seen=0.09))
    assert unlearned["gap"].verdict == unlearned["observed"].verdict == "undecided"


def sums(needed: dict[str, float]) -> pd.DataFrame:
    """Rows of `addition`: at the end, accuracy goes from 0 to 1 with log N, through .9 at the N needed."""
    found = []
    for way, sizes in addition.GRID.items():
        scratchpad = way not in (addition.PLAIN, addition.REVERSE)
        told: dict[str, Any] = {"task.format": addition.SIMPLIFIED if way == addition.RANDOM else way, "way": "direct"}
        told["task.noise_carry"] = float(way == addition.RANDOM)
        for n in sizes:
            right = 1 / (1 + (needed[way] / n) ** 6 / 9)
            shape = dict(told, **{"task.samples": n})
            name = addition.name(way, n)
            found.append(planted(name, right * rise(100) * (not scratchpad), "answers", "accuracy", **shape))
            if scratchpad:
                found.append(planted(name, right * rise(100), "answers", "accuracy", **{**shape, "way": "free"}))
    return pd.concat(found, ignore_index=True)


PUBLISHED = {addition.PLAIN: 3500.0, addition.REVERSE: 1500.0, addition.SIMPLIFIED: 600.0, addition.DETAILED: 400.0}


def test_who_writes_more_needs_fewer_sums_and_who_never_adds_is_no_contrast() -> None:
    as_published = PUBLISHED | {addition.RANDOM: 2000.0}
    found = verdicts("addition", sums(as_published))
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(found, "held")
    assert found["reverse before plain"].estimate.value == pytest.approx(np.log2(3500 / 1500), abs=0.15)
    needed = addition.needs(addition.curves(sums(as_published)), addition.PLAIN)
    assert needed.index.tolist() == list(SEEDS) and needed.to_numpy() == pytest.approx(3500, rel=0.1)

    turned = as_published | {addition.REVERSE: 540.0, addition.DETAILED: 900.0, addition.RANDOM: 500.0}
    found = verdicts("addition", sums(turned))
    assert {name for name, one in found.items() if one.verdict == "held"} == {
        "reverse before plain", "random steps recover"
    }  # fmt: skip
    assert {one.verdict for one in found.values()} == {"held", "failed"}

    dead = verdicts("addition", sums(dict.fromkeys(as_published, np.inf)))
    assert {name: one.verdict for name, one in dead.items()} == dict.fromkeys(dead, "undecided") | {
        "random steps recover": "failed"
    }
    never = verdicts("addition", sums(as_published | {addition.PLAIN: np.inf, addition.DETAILED: np.inf}))
    assert (never["reverse before plain"].estimate.value, never["reverse before plain"].verdict) == (np.inf, "held")
    assert (never["detailed first"].estimate.value, never["detailed first"].verdict) == (-np.inf, "failed")
