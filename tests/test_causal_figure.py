"""Causal curves: every number of every component, marks where the onsets were planted, names for the largest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.drawing import draw_from_rows
from probelab.figures import _style as style
from probelab.figures import causal, plotted, save
from probelab.rows import pick, save_rows, tidy

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
HEADS = [(layer, head) for layer in (0, 1) for head in range(4)]
SEEDS = (100, 101, 102)


def height(layer: int, head: int) -> float:
    """What a head comes to: the greatest is L1H3 with -1.6, then L1H2 with 0.6, L1H1 with -0.3; layer 0 has little."""
    return (-1) ** head * (0.3 * head + 0.7 * (head == 3)) if layer else 0.01 * (head + 1)


def effect(layer: int, head: int, seed: int) -> np.ndarray:
    """A rise at step 100, the higher the later the seed."""
    return height(layer, head) * (1 + (seed - 101) / 10) / (1 + (100 / np.maximum(STEPS, 1e-9)) ** 2)


def table(seeds: tuple[int, ...] = SEEDS, **more: Any) -> pd.DataFrame:
    place = dict(arm="two layers", measure="patching", metric="effect", site="z", change="denoise", **more)
    return tidy(
        dict(run=f"run {seed}", seed=seed, layer=layer, head=head, step=step, sequences=64 * step, **place)
        | dict(value=value, lo=value - 0.1, hi=value + 0.2)
        for seed in seeds
        for layer, head in HEADS
        for step, value in zip(STEPS, effect(layer, head, seed), strict=True)
    )


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Stands in for `curves.over_seeds`."""
    found = rows.groupby(["arm", "metric", "layer", "head", "step"], sort=False)["value"]
    return found.agg(value="median", lo="min", hi="max", n="count").reset_index().assign(level=0.75)


def onsets(rows: pd.DataFrame, **more: Any) -> pd.DataFrame:
    """Step 90 + 10 * head of each head and seed in layer 1; layer 0 never switched, and its last head drifts."""
    found = rows.drop_duplicates(["seed", "layer", "head"])[["arm", "run", "seed", "layer", "head", "metric"]]
    date = (90.0 + 10 * found["head"]).where(found["layer"] == 1).astype(float)
    status = np.where(found["layer"] == 1, "switched", np.where(found["head"] == 3, "drift", "flat"))
    return found.assign(value=date, lo=0.8 * date, hi=1.5 * date, last=1024.0, since=1.0, status=status, **more)


def role(figure: Any, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta["role"] == name]


def csv(figure: Any, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def labels(figure: Any) -> dict[str, Any]:
    """Text -> annotation, but for what stands inside the panel."""
    return {note.text: note for note in figure.layout.annotations if note.text not in ("//", "no effect")}


def test_the_table_holds_every_number_of_every_component(tmp_path: Path):
    rows = table((100,))
    drawn = csv(causal(rows), tmp_path)
    assert set(drawn["component"]) == {f"L{layer}H{head}" for layer, head in HEADS}
    for layer, head in HEADS:
        seen, want = drawn[drawn["component"] == f"L{layer}H{head}"], pick(rows, layer=layer, head=head)
        for column, planted in (("x", "step"), ("y", "value"), ("y_lo", "lo"), ("y_hi", "hi")):
            assert np.allclose(seen[column], want[planted].astype(float)), (layer, head, column)


@pytest.mark.parametrize(("most", "named"), [(1, ["L1H3"]), (3, ["L1H1", "L1H2", "L1H3"]), (99, None)])
def test_those_that_reach_furthest_have_colour_name_and_band(most: int, named: list[str] | None):
    figure = causal(table((100,)), most=most)
    named = named or [f"L{layer}H{head}" for layer, head in HEADS]
    shown = {trace.meta["component"]: trace for trace in role(figure, "component")}
    assert (
        {name for name, trace in shown.items() if trace.line.color != style.PALE} == set(named) == set(labels(figure))
    )
    assert len(role(figure, "band")) == len(named) and len(shown) == len(HEADS)
    inks = [shown[name].line.color + str(shown[name].line.dash) for name in named]
    assert len(set(inks)) == len(named), "no two look alike"
    others = [trace.name for trace in role(figure, "key")]
    assert others == ([f"{len(HEADS) - most} others"] if most < len(HEADS) else [])
    grey = [i for i, trace in enumerate(figure.data) if trace.line.color == style.PALE and trace.meta["role"] != "key"]
    assert grey == list(range(len(grey))), "what has no name lies below all else"


def test_labels_stand_at_the_ends_of_their_curves_and_do_not_touch():
    figure = causal(table((100,)), most=8)
    span, found = figure.layout.yaxis.range, labels(figure)
    line = 15 * (span[1] - span[0]) / 400
    assert found["L1H3"].y == pytest.approx(effect(1, 3, 100)[-1])
    heights = sorted(note.y for note in found.values())
    assert np.diff(heights).min() > 0.999 * line, "eight names, some of curves that end together"
    assert span[0] < heights[0] and heights[-1] < span[1]
    same = table((100,)).assign(value=1.0, lo=1.0, hi=1.0)
    figure = causal(same, most=8)
    assert max(note.y for note in labels(figure).values()) <= figure.layout.yaxis.range[1], "not into the legend"
    ink = {trace.meta["component"]: trace.line.color for trace in role(figure, "component")}
    assert {name: note.font.color for name, note in found.items()} == ink


def test_onsets_lie_on_their_curves_with_their_intervals(tmp_path: Path):
    rows = table((100,))
    figure = causal(rows, onsets=onsets(rows), most=5)
    marks = csv(figure, tmp_path).query("role == 'onset'").set_index("component")
    assert dict(marks["x"]) == {"L1H1": 100, "L1H2": 110, "L1H3": 120}
    assert np.allclose(marks["x_lo"], 0.8 * marks["x"]) and np.allclose(marks["x_hi"], 1.5 * marks["x"])
    for name, mark in marks.iterrows():
        around = effect(1, int(str(name)[-1]), 100)[7:9]  # steps 64 and 128
        assert mark["y"] == pytest.approx(np.interp(np.log(mark["x"]), np.log([64, 128]), around))
    never = csv(figure, tmp_path).query("role in ['never', 'undated']").set_index("component")
    assert dict(never["x"]) == {"L0H3": 1024, "L0H2": 1024}, "of those that are named; what is grey has no mark"
    assert dict(never["role"]) == {"L0H3": "undated", "L0H2": "never"}, "a drift is a change"
    assert never.loc["L0H3", "y"] == pytest.approx(effect(0, 3, 100)[-1])
    assert [trace.name for trace in role(figure, "key") if trace.showlegend] == [
        "onset (95 %)",
        "changes, no date (drift, or under way at the end)",
        "no date by the last step",
        "3 others",
    ]
    linear = causal(rows, onsets=onsets(rows), x="sequences", log_x=False)
    at = plotted(linear).query("role == 'onset' and component == 'L1H3'").iloc[0]
    assert (at["x"], at["y"]) == (64 * 120, pytest.approx(np.interp(120, [64, 128], effect(1, 3, 100)[7:9])))


def test_a_median_beyond_the_record_ends_in_an_arrow_and_what_is_unjudged_has_no_mark(tmp_path: Path):
    rows = table((100,))
    beyond = onsets(rows).drop(columns=["status", "seed", "run"]).assign(hi=np.inf, level=0.75)
    figure = causal(rows, onsets=beyond)
    marks = csv(figure, tmp_path).query("role == 'onset'")
    assert np.isinf(marks["x_hi"]).all() and (marks["x_lo"] < marks["x"]).all()
    arrows = [trace for trace in role(figure, "key") if not trace.showlegend]
    assert [list(trace.x) for trace in arrows] == [[1024]] * 3
    assert "onset (75 %)" in [trace.name for trace in figure.data]
    unjudged = onsets(rows).assign(status="too few", value=np.nan)
    assert not {"onset", "never", "undated"} & set(plotted(causal(rows, onsets=unjudged))["role"])
    begun = onsets(rows).assign(status="begun", value=np.nan)
    assert not {"onset", "never", "undated"} & set(plotted(causal(rows, onsets=begun))["role"])


def test_seeds_are_thin_and_medians_thick_with_either_kind_of_onset(tmp_path: Path):
    rows = table()
    across = onsets(rows).query("seed == 101").drop(columns=["status", "seed", "run"]).assign(level=0.75)
    figure = causal(rows, band=medians(rows), onsets=across, most=3)
    drawn = csv(figure, tmp_path)
    thin, thick = drawn.query("role == 'seed'"), drawn.query("role == 'component'")
    assert len(thin) == 3 * len(SEEDS) * len(STEPS), "the seeds of those that are named"
    assert len(thick) == len(HEADS) * len(STEPS)
    for (name, seed), seen in thin.groupby(["component", "seed"]):
        assert np.allclose(seen["y"], effect(int(str(name)[1]), int(str(name)[3]), int(seed)))
    assert np.allclose(thick.query("component == 'L1H3'")["y_lo"], effect(1, 3, 102))
    marks = drawn.query("role == 'onset'").set_index("component")
    middle = np.interp(np.log(120), np.log([64, 128]), effect(1, 3, 101)[7:9])
    assert marks.loc["L1H3", "y"] == pytest.approx(middle), "on the median"
    assert "75 % interval" in figure.layout.title.text and "thin: every seed" in figure.layout.title.text
    own = csv(causal(rows, band=medians(rows), onsets=onsets(rows), most=3), tmp_path).query("role == 'onset'")
    assert len(own) == 3 * len(SEEDS)
    last = own.query("component == 'L1H3' and seed == 102").iloc[0]
    assert last["y"] == pytest.approx(np.interp(np.log(120), np.log([64, 128]), effect(1, 3, 102)[7:9]))
    bare = plotted(causal(rows))
    assert len(bare) == len(rows) and set(bare["role"]) == {"seed"}


def test_medians_of_less_than_half_of_the_seeds_are_left_out():
    rows = medians(table())
    rows.loc[rows["step"] == 0, ["n", "value"]] = 1, 99.0
    rows.loc[rows["step"] == 1, "n"] = 2
    drawn = plotted(causal(table(), band=rows)).query("role == 'component'").dropna(subset="y")
    assert 0 not in set(drawn["x"]) and 1 in set(drawn["x"]) and drawn["y"].max() < 2


def test_curves_and_bands_are_parted_where_nothing_is_known():
    """A point between two gaps is a dot, as a line of one point would not be seen."""
    rows = medians(table())
    rows.loc[rows["step"].isin([2, 8]), ["value", "lo", "hi"]] = np.nan
    figure = causal(table(), band=rows)
    curve, band = role(figure, "component")[0], role(figure, "band")[0]
    known = np.isfinite(np.asarray(curve.y, float))
    assert list(np.asarray(curve.x)[~known]) == [2, 8] and not curve.connectgaps
    assert list(np.asarray(curve.x)[np.asarray(curve.marker.size) > 0]) == [4]
    stretches = np.split(np.asarray(band.x), np.flatnonzero(np.isnan(np.asarray(band.x, float))))
    around = [sorted(set(part[~np.isnan(part)])) for part in stretches]
    assert around[1] == [4] and max(around[0]) < 2 and min(around[2]) == 16


def test_arms_and_seeds_have_panels_with_the_same_axes(tmp_path: Path):
    rows = table()
    figure = causal(rows, panels="seed", onsets=onsets(rows))
    assert {"seed 100", "seed 101", "seed 102"} <= {note.text for note in figure.layout.annotations}
    marks = [(t.meta["seed"], t.meta["component"], t.yaxis) for t in role(figure, "onset")]
    assert sorted(marks) == sorted(
        (seed, f"L1H{head}", f"y{panel}")
        for seed, panel in zip(SEEDS, ("", "2", "3"), strict=True)
        for head in (1, 2, 3)
    )
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range == figure.layout.yaxis3.range
    both = pd.concat([table((100,)), table((100,)).assign(arm="one layer", value=0.0)])
    figure = causal(both, most=2)
    ends = [(note.text, note.yref) for note in figure.layout.annotations if note.text.startswith("L")]
    assert sorted(ends) == [("L1H2", "y"), ("L1H2", "y2"), ("L1H3", "y"), ("L1H3", "y2")]
    zero = [(shape.y0, shape.y1, shape.yref) for shape in figure.layout.shapes]
    assert zero == [(0, 0, "y"), (0, 0, "y2")]
    assert [note.text for note in figure.layout.annotations].count("no effect") == 2


def test_components_are_told_by_what_tells_them():
    rows = table((100,))
    by_role = rows.query("layer == 1").assign(role="answer", head=pd.NA)
    by_role = by_role.drop_duplicates("step")
    assert set(plotted(causal(by_role))["component"]) == {"L1 answer"}
    site = pd.concat([rows, by_role.assign(site="mlp_out", role=pd.NA)])
    assert {"L0H0 z", "L1 mlp_out"} <= set(plotted(causal(site))["component"])
    positions = rows.query("head == 0").drop(columns="head").assign(pos=3)
    assert set(plotted(causal(positions))["component"]) == {"L0 pos 3", "L1 pos 3"}
    edges = by_role.drop(columns=["layer", "head", "role"]).assign(sender="0.1", receiver="1.0 k")
    assert set(plotted(causal(edges))["component"]) == {"0.1 to 1.0 k"}
    parts = rows.assign(part=np.where(rows["layer"] == 0, "previous token", "copy")).query("head == 1")
    assert set(plotted(causal(parts, by="part"))["part"]) == {"previous token", "copy"}
    assert set(plotted(causal(parts, by="layer"))["layer"]) == {"layer 0", "layer 1"}


def test_long_names_are_broken_and_lines_are_named_beside_them():
    rows = table((100,)).assign(
        component=lambda t: "the head that looks at the token before, number " + t["head"].astype(str)
    )
    figure = causal(rows.query("layer == 1"), lines={"all of it": 1.2})
    found = labels(figure)
    assert "all of it" in found and found["all of it"].y == pytest.approx(1.2)
    widest = max(len(line) for text in found for line in text.split("<br>"))
    assert widest <= 22 and figure.layout.margin.r >= 7 * widest


def test_errors_say_what_to_choose():
    rows = table()
    with pytest.raises(ValueError, match="no metric in this table 'efect'; did you mean 'effect'"):
        causal(rows, metric="efect")
    with pytest.raises(ValueError, match="no column in this table 'heads'; did you mean 'head'"):
        causal(rows, by="heads")
    with pytest.raises(ValueError, match="no column tells components apart: name one as by, of arm, run"):
        causal(rows[["arm", "run", "step", "metric", "value"]])
    with pytest.raises(ValueError, match="2 values at arm two layers, component L0H0, seed 100.*differ in change"):
        causal(pd.concat([rows, rows.assign(change="noise")]))
    with pytest.raises(ValueError, match="they differ in run, seed; .* take their median first"):
        causal(rows, band=rows)
    with pytest.raises(ValueError, match="onsets: 24 rows, and none is of a curve"):
        causal(rows, band=medians(rows), onsets=onsets(rows).assign(arm="another"))
    with pytest.raises(ValueError, match="no column in this table 'head'"):
        causal(rows, onsets=onsets(rows).drop(columns="head"))


def test_files_are_the_same_twice_and_what_is_missing_draws(tmp_path: Path):
    rows = table((100,))
    for some in (rows, rows.drop(columns=["lo", "hi", "arm", "seed"]), rows.assign(value=np.nan, lo=np.nan, hi=np.nan)):
        first, second = (save(causal(some), tmp_path / which, "causal", images=()) for which in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_it_is_drawn_from_the_rows_of_a_study(tmp_path: Path):
    out = tmp_path / "figures" / "planted"
    save_rows(out / "rows.parquet", pd.concat([table(), table().assign(measure="faithful", layer=pd.NA, head=pd.NA)]))
    drawn = pd.read_csv(draw_from_rows("planted", "causal", None, tmp_path)[1])
    end = drawn.query("role == 'component' and x == 1024").set_index("component")["y"]
    largest = max((effect(1, head, 101)[-1] for _, head in HEADS), key=abs)
    assert end["L1H0"] == pytest.approx(largest) and len(end) == len(HEADS), "of several seeds: heads by their size"
    assert set(drawn.query("role in ['onset', 'never', 'undated']")["component"]) <= set(end.index) and "x_lo" in drawn
    save_rows(out / "rows.parquet", table((100,)))
    alone = pd.read_csv(draw_from_rows("planted", "causal", "effect", tmp_path)[1])
    assert "seed" not in set(alone["role"]) and np.allclose(
        alone.query("component == 'L1H3' and role == 'component'")["y"], effect(1, 3, 100)
    )
