"""Figures drawn from the rows of a study alone, by name: what was planted is what is plotted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probelab as lab
from probelab.drawing import DRAWN, draw_from_rows
from probelab.figures import FIGURES
from probelab.rows import save_rows
from probelab.storage import RunError
from synthetic_tasks import Repeats

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def drawn(out: Path, rows: list[dict], figure: str, metric: str = "accuracy") -> pd.DataFrame:
    """What a figure of a study with these rows plots."""
    save_rows(out / "figures" / "planted" / "rows.parquet", pd.DataFrame(rows))
    page, table = draw_from_rows("planted", figure, metric, out)
    assert page.suffix == ".html" and page.read_text().startswith("<!doctype html>")
    return pd.read_csv(table)


def accuracies(splits: tuple[str, ...] = ("icl", "iwl"), **arms: dict) -> list[dict]:
    """Accuracy rises at step 100 in each arm, to .9 on the first split and to .4 on the others; dials are given."""
    rise = 1 / (1 + (100 / np.maximum(STEPS, 1e-9)) ** 4)
    return [
        dict(arm=arm, run=f"{arm} {seed}", seed=seed, measure="classify", metric="accuracy", split=split, step=step)
        | dict(value=y * (0.4 if k else 0.9), **dials)
        for arm, dials in (arms or {"a": {}}).items()
        for seed in (100, 101)
        for k, split in enumerate(splits)
        for step, y in zip(STEPS, rise, strict=True)
    ]


def test_every_figure_can_be_asked_for():
    assert set(DRAWN) == set(FIGURES)


def test_multiples_has_a_curve_for_each_split(tmp_path: Path):
    found = drawn(tmp_path, accuracies(), "multiples")
    ends = found[found["x"] == 4096]
    assert sorted({round(float(y), 2) for y in ends["y"].dropna()}) == [0.4, 0.9]


@pytest.mark.parametrize("icl", ["icl", "icl2"])
def test_plane_has_icl_against_iwl(icl: str, tmp_path: Path):
    found = drawn(tmp_path, accuracies((icl, "iwl")), "plane").dropna(subset=["x", "y"])
    assert found["x"].max() == pytest.approx(0.4, abs=0.01) and found["y"].max() == pytest.approx(0.9, abs=0.01)


def test_race_has_the_onset(tmp_path: Path):
    found = drawn(tmp_path, accuracies(("train",)), "race")
    assert found["x"].dropna().between(80, 125).any()


def test_phase_diagram_has_a_cell_for_each_pair_of_dials(tmp_path: Path):
    dials = {f"{p} {k}": {"task.p_bursty": p, "task.classes": k} for p in (0.0, 0.9) for k in (64, 1024)}
    found = drawn(tmp_path, accuracies(("train",), **dials), "phase_diagram")
    assert len(found) == 4 and (found["n"] == 2).all(), "four cells of two seeds"
    assert found["z"].to_numpy() == pytest.approx(0.9, abs=0.01)
    with pytest.raises(RunError, match="needs two dials of the task that differ"):
        drawn(tmp_path / "one", accuracies(("train",)), "phase_diagram")


def effects(site: str) -> list[dict]:
    """What patching finds: a number for each head, step and seed."""
    return [
        dict(arm="a", run=f"a {seed}", seed=seed, measure="patching", metric="effect", site=site, change="denoise")
        | dict(step=step, layer=layer, head=head, value=step + layer + head / 2)
        for seed in (100, 101)
        for step in (0, 10)
        for layer in (0, 1)
        for head in (0, 1)
    ]


def test_patching_has_the_medians_of_one_sweep(tmp_path: Path):
    found = drawn(tmp_path, effects("z"), "patching", "effect")
    assert sorted(found["z"]) == [0, 0.5, 1, 1.5, 10, 10.5, 11, 11.5]
    with pytest.raises(RunError, match="several sweeps; choose one with --set column=value, of site = q . z$"):
        drawn(tmp_path / "two", effects("z") + effects("q"), "patching", "effect")
    one = draw_from_rows("planted", "patching", "effect", tmp_path / "two", where=["site=q"])[1]
    assert sorted(pd.read_csv(one)["z"]) == [0, 0.5, 1, 1.5, 10, 10.5, 11, 11.5]
    for where, message in (("site=v", "no site among these rows 'v' known: q, z"), ("sight=z", "did you mean 'site'")):
        with pytest.raises(ValueError, match=message):
            draw_from_rows("planted", "patching", "effect", tmp_path / "two", where=[where])


def test_heads_of_several_seeds_are_compared_by_their_size(tmp_path: Path):
    """Seed 101 has the large head of layer 0 where seed 100 has the small one: a median by number shows neither."""
    rows = [row | ({"head": 1 - row["head"]} if row["seed"] == 101 else {}) for row in effects("z")]
    found = drawn(tmp_path, rows, "patching", "effect")
    assert sorted(found["z"]) == [0, 0.5, 1, 1.5, 10, 10.5, 11, 11.5]
    page = (tmp_path / "figures" / "planted" / "patching-effect.html").read_text()
    assert "heads by effect" in page


def test_measurements_of_a_run_are_told_apart_by_their_dials(tmp_path: Path):
    run = lab.train(Repeats(tokens=8, length=8), steps=2, batch=4, out=tmp_path)
    for metric in ("logit_difference", "log_prob"):
        lab.measure(run, lab.measures.Patching(by=("head",), n=4, metric=metric))
    with pytest.raises(RunError, match="of patching.metric = log_prob . logit_difference"):
        draw_from_rows(run.name, "patching", None, tmp_path)
    drawn = pd.read_csv(draw_from_rows(run.name, "patching", None, tmp_path, where=["patching.metric=log_prob"])[1])
    rows = lab.rows(tmp_path, "patching")
    assert set(rows["patching.metric"]) == {"logit_difference", "log_prob"} and "patching.n" not in rows
    wanted = rows[(rows["patching.metric"] == "log_prob") & (rows["metric"] == "effect")]
    assert sorted(drawn["z"]) == pytest.approx(sorted(wanted["value"]), abs=1e-3)
    assert "patching.metric" not in lab.rows(tmp_path, "patching", dials=False)


def test_lens_has_a_panel_for_each_position_unless_they_are_pooled(tmp_path: Path):
    places = [(layer, pos) for layer in (0, 1) for pos in (1, 3)]
    rows = [
        dict(arm="a", run=f"a {seed}", seed=seed, measure="lens", metric="lens_accuracy", target="bridge")
        | dict(step=step, layer=layer, pos=pos, value=step / 100 + layer / 10 + pos)
        for seed in (100, 101)
        for step in (0, 10)
        for layer, pos in places
    ]
    found = drawn(tmp_path, rows, "lens")
    assert {(layer, pos): set(part["y"].round(3)) for (layer, pos), part in found.groupby(["layer", "pos"])} == {
        (layer, pos): {round(layer / 10 + pos, 3), round(layer / 10 + pos + 0.1, 3)} for layer, pos in places
    }
    pooled = [row | dict(pos=None, value=20.0) for row in rows if row["pos"] == 1]
    assert drawn(tmp_path / "both", rows + pooled, "lens")["y"].min() == 20


@pytest.mark.parametrize("figure, measure", [("causal", "patching"), ("probes", "probe"), ("edges", "edges")])
def test_what_was_not_measured_is_named(tmp_path: Path, figure: str, measure: str):
    run = lab.train(Repeats(tokens=8, length=8), steps=1, batch=4, out=tmp_path)
    lab.measure(run, "loss")
    with pytest.raises(
        RunError, match=f"{figure} draws what {measure} finds: run `probelab measure .* {measure}` first"
    ):
        draw_from_rows(run.name, figure, None, tmp_path)
