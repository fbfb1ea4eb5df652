"""Curves of probes: every number of each metric in its panel, its controls beside it, chance at its level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.drawing import draw_from_rows
from probelab.figures import _style as style
from probelab.figures import plotted, probes, save
from probelab.rows import pick, save_rows, tidy

STEPS = (0, 1, 10, 100, 1000)
RIDGE = ("accuracy", "selectivity")
LOGISTIC = (*RIDGE, "log_loss", "v_information", "compression")
CONTROLS = {
    "accuracy": ("accuracy_control", "accuracy_shuffled", "accuracy_untrained"),
    "selectivity": ("selectivity_untrained",),
    "log_loss": ("log_loss_untrained",),
    "v_information": ("v_information_untrained",),
    "compression": ("compression_control", "compression_untrained"),
}
UNDRAWN = ("accuracy_control_untrained", "accuracy_shuffled_untrained", "compression_control_untrained")


def table(metrics: tuple[str, ...] = RIDGE, layers: int = 3, **more: Any) -> pd.DataFrame:
    """Each number another one; no interval of compression, as the measure has none."""
    place = dict(run="one", arm="a", seed=100, measure="probe", target="copy", site="resid_post", **more)
    named = [name for metric in metrics for name in (metric, *CONTROLS[metric])] + list(UNDRAWN)
    found = [
        dict(place, step=step, sequences=64 * step, layer=layer, metric=metric, value=k + layer / 10 + i / 100)
        for k, metric in enumerate(named)
        for layer in range(layers)
        for i, step in enumerate(STEPS)
    ]
    rows = tidy(found + [dict(place, step=step, layer=pd.NA, metric="chance", value=0.25) for step in STEPS])
    known = ~rows["metric"].str.startswith("compression")
    return rows.assign(lo=(rows["value"] - 0.01).where(known), hi=(rows["value"] + 0.02).where(known), n=64)


def titles(figure: Any) -> list[str]:
    """Of the panels that have one, from top to bottom."""
    axes = [axis for axis in figure.select_yaxes() if axis.title.text]
    return [axis.title.text for axis in sorted(axes, key=lambda axis: -axis.domain[0])]


def csv(figure: Any, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def panel_of(figure: Any, metric: str) -> str:
    return next(t.yaxis or "y" for t in figure.data if (t.meta or {}).get("metric") == metric)


def test_every_number_is_in_the_panel_of_its_metric(tmp_path: Path):
    rows = table(LOGISTIC)
    figure = probes(rows)
    drawn = csv(figure, tmp_path)
    for metric in LOGISTIC:
        for name in (metric, *CONTROLS[metric]):
            assert panel_of(figure, name) == panel_of(figure, metric)
            for layer in range(3):
                seen = drawn.query(f"metric == '{name}' and layer == 'layer {layer}'")
                want = pick(rows, metric=name, layer=layer)
                assert list(seen["x"]) == list(STEPS) and np.allclose(seen["y"], want["value"]), (name, layer)
                if name == metric:
                    assert np.allclose(seen["y_lo"], want["lo"].astype(float), equal_nan=True)
                    assert np.allclose(seen["y_hi"], want["hi"].astype(float), equal_nan=True)
    assert not set(UNDRAWN) & set(drawn["metric"].dropna())
    assert len({panel_of(figure, metric) for metric in LOGISTIC}) == 5


def test_panels_are_those_there_are_rows_of_or_those_asked_for():
    assert titles(probes(table())) == ["accuracy", "selectivity"]
    names = ["accuracy", "selectivity", "log loss, nats", "V-information, nats", "compression (MDL)"]
    assert titles(probes(table(LOGISTIC))) == names
    assert titles(probes(table(("accuracy",)))) == ["accuracy"]
    asked = probes(table(LOGISTIC), metrics=["compression", "accuracy"])
    assert titles(asked) == ["compression (MDL)", "accuracy"]
    assert not {"log_loss", "selectivity"} & set(plotted(asked)["metric"].dropna())


def test_levels_that_tell_nothing_are_ruled_where_they_are():
    rules = plotted(probes(table(LOGISTIC), lines={"1 of 2": 0.5})).query("role == 'line'")
    levels = rules.groupby("strategy")["y"].unique()
    want = {"chance": 0.25, "1 of 2": 0.5, "as the control": 0, "nothing": 0, "no shorter": 1}
    assert {name: list(y) for name, y in levels.items()} == {name: [y] for name, y in want.items()}
    figure = probes(table(LOGISTIC))
    place = {t.meta["strategy"]: t.yaxis for t in figure.data if t.meta["role"] == "line"}
    inside = {"chance": "accuracy", "as the control": "selectivity", "nothing": "v_information"}
    inside["no shorter"] = "compression"
    assert place == {name: panel_of(figure, metric) for name, metric in inside.items()}


def test_each_value_has_its_own_chance_where_they_differ():
    two = pd.concat([table(layers=1), table(layers=1).assign(target="colour")])
    two.loc[(two["metric"] == "chance") & (two["target"] == "colour"), "value"] = 0.5
    rules = plotted(probes(two, by="target")).query("role == 'line'").groupby("strategy")["y"].first()
    assert (rules["chance, copy"], rules["chance, colour"]) == (0.25, 0.5)
    assert set(plotted(probes(two.assign(value=0.5), by="target"))["strategy"].dropna()) >= {"chance"}


def test_layers_have_the_colours_of_their_depth_and_controls_the_dashes_of_the_legend():
    figure = probes(table(LOGISTIC).iloc[::-1])
    drawn = {(t.meta["layer"], t.meta["metric"]): t.line for t in figure.data if "layer" in t.meta}
    assert {layer: drawn[layer, "accuracy"].color for layer in ("layer 0", "layer 1", "layer 2")} == {
        "layer 0": style.DEPTHS[0],
        "layer 1": style.DEPTHS[4],
        "layer 2": style.DEPTHS[-1],
    }
    assert {line.color for (layer, _), line in drawn.items() if layer == "layer 1"} == {style.DEPTHS[4]}
    legend = {t.name: t.line for t in figure.data if t.showlegend}
    assert list(legend) == ["layer 0", "layer 1", "layer 2", "control task", "shuffled labels", "untrained model"]
    for name, metric in (("control task", "accuracy_control"), ("untrained model", "log_loss_untrained")):
        assert drawn["layer 1", metric].dash == legend[name].dash != drawn["layer 1", "accuracy"].dash
    assert drawn["layer 1", "compression_control"].dash == legend["control task"].dash
    bare = probes(table().query("metric in ['accuracy', 'selectivity']"))
    assert [t.name for t in bare.data if t.showlegend] == ["layer 0", "layer 1", "layer 2"]


def test_onsets_are_marked_on_the_curve_of_their_metric():
    place = dict(arm="a", last=1000.0, lo=20.0, hi=80.0)
    dated = [
        dict(place, metric="accuracy", layer=1, value=31.6),
        dict(place, metric="selectivity", layer=2, value=np.nan),
    ]
    figure = probes(table(), onsets=pd.DataFrame(dated))
    drawn = plotted(figure)
    mark = drawn.query("role == 'onset'").iloc[0]
    assert (mark["metric"], mark["layer"], mark["x"]) == ("accuracy", "layer 1", 31.6)
    assert mark["y"] == pytest.approx(0.1 + 0.025, abs=1e-4), "half way, to the eye, from step 10 to step 100"
    never = drawn.query("role == 'never'").iloc[0]
    assert (never["metric"], never["layer"], never["x"]) == ("selectivity", "layer 2", 1000)


def test_arms_stand_side_by_side_on_the_same_scale():
    both = pd.concat([table(), table().assign(arm="b", value=lambda t: t["value"] + 5)])
    figure: Any = probes(both)
    assert {"a", "b"} <= {note.text for note in figure.layout.annotations}
    assert len(list(figure.select_yaxes())) == 4 and titles(figure) == ["accuracy", "selectivity"]
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range != figure.layout.yaxis3.range
    assert figure.layout.yaxis.range[1] > 8, "of both arms"
    place = {(t.meta["arm"], t.meta["metric"]): t.yaxis for t in figure.data if t.meta["role"] == "probe"}
    want = {("a", "accuracy"): "y", ("b", "accuracy"): "y2", ("a", "selectivity"): "y3", ("b", "selectivity"): "y4"}
    assert place == want


def test_errors_say_what_to_choose():
    with pytest.raises(ValueError, match="no metric of a probe in this table 'acuracy'; did you mean 'accuracy'"):
        probes(table(), metrics=["acuracy"])
    with pytest.raises(ValueError, match="'compression' known: accuracy, selectivity"):
        probes(table(), metrics=["compression"])
    with pytest.raises(ValueError, match="no metric of a probe in this table 'accuracy'"):
        probes(table().assign(metric="loss"))
    with pytest.raises(ValueError, match="2 values at arm a, metric accuracy.*differ in target"):
        probes(pd.concat([table(), table().assign(target="colour")]))
    with pytest.raises(ValueError, match="no column in this table 'site_'; did you mean 'site'"):
        probes(table(), by="site_")
    twice = pd.DataFrame([dict(metric="accuracy", layer=1, value=v, lo=v, hi=v, last=9.0, arm="a") for v in (3, 4)])
    with pytest.raises(ValueError, match="2 values at arm a, layer layer 1, metric accuracy"):
        probes(table(), onsets=twice)


def test_files_are_the_same_twice_and_what_is_missing_draws(tmp_path: Path):
    rows = table(LOGISTIC)
    for some in (rows, rows.drop(columns=["arm", "seed", "run"]), rows.assign(value=np.nan, lo=np.nan, hi=np.nan)):
        first, second = (save(probes(some), tmp_path / which, "probes", images=()) for which in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_it_is_drawn_from_the_rows_of_a_study(tmp_path: Path):
    def drawn(rows: pd.DataFrame, metric: str | None = None) -> pd.DataFrame:
        save_rows(tmp_path / "figures" / "planted" / "rows.parquet", rows)
        return pd.read_csv(draw_from_rows("planted", "probes", metric, tmp_path)[1])

    several = [table(LOGISTIC).assign(run=f"run {k}", seed=k, value=lambda t, k=k: t["value"] + k) for k in range(3)]
    middle = drawn(pd.concat(several)).query("role == 'probe' and metric == 'accuracy' and layer == 'layer 2'")
    assert np.allclose(middle["y"], 1 + 0.2 + np.arange(5) / 100), "the median of three runs"
    assert np.allclose(middle["y_lo"], middle["y"] - 1)
    assert set(drawn(table(LOGISTIC), "log_loss")["metric"].dropna()) == {"log_loss", "log_loss_untrained"}
    places = pd.concat([table().assign(pos=3), table().assign(pos=7, value=9.0)])
    assert set(drawn(places).query("role == 'probe'")["y"]) == {9}, "no probe is pooled: that of the last position"
    pooled = drawn(pd.concat([places, table().assign(value=8.0)]))
    assert set(pooled.query("role == 'probe'")["y"]) == {8}
