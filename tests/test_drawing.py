"""Figures drawn from the rows of a study alone, by name: what was planted is what is plotted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probelab.drawing import DRAWN, draw_from_rows
from probelab.figures import FIGURES
from probelab.rows import save_rows
from probelab.storage import RunError

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
    with pytest.raises(RunError, match="several sweeps .z denoise, q denoise"):
        drawn(tmp_path / "two", effects("z") + effects("q"), "patching", "effect")


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
