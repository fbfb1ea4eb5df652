"""The figures of lenses and attribution show what was planted, every number of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.figures import plotted, save
from probelab.figures._style import LEGEND, TITLE, legend_lines
from probelab.figures.attribution import attribution
from probelab.figures.lens import DEPTHS, lens
from probelab.rows import tidy

STEPS = (0, 1, 10, 100, 1000)
PARTS = [("embed", None, None), *(("head", layer, head) for layer in (0, 1) for head in range(4))]
PARTS += [("attn_bias", 1, None), ("mlp", 1, None), ("norm_bias", None, None)]


def row(step: int, metric: str, value: float, **more: object) -> dict:
    place = dict(run="one", arm="two layers", seed=100, step=step, sequences=64 * step, tokens=640 * step)
    return dict(place, metric=metric, value=value, lo=value - 0.1, hi=value + 0.2, n=64, **more)


@pytest.fixture(scope="module")
def parts() -> pd.DataFrame:
    """Head k of layer 1 grows to k, the others stay below a tenth; one row by source position."""
    found = []
    for i, step in enumerate(STEPS):
        values = [i / 4 * head if layer == 1 and head else 0.01 * k for k, (_, layer, head) in enumerate(PARTS)]
        for (component, layer, head), value in zip(PARTS, values, strict=True):
            found.append(row(step, "attribution", value, component=component, layer=layer, head=head))
        found.append(row(step, "attribution", 7.0, component="head", layer=1, head=1, pos=3))
        found.append(row(step, "logit_difference", sum(values)))
    return tidy(found)


@pytest.fixture(scope="module")
def lenses() -> pd.DataFrame:
    """Loss falls with depth and training; the tuned lens lies a half below."""
    return tidy(
        row(step, f"{name}_loss", 3 - layer * i / 4 - (0.5 if name == "tuned" else 0), layer=layer)
        for name in ("lens", "tuned")
        for layer in range(3)
        for i, step in enumerate(STEPS)
    )


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def csv(figure: Any, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def test_attribution_holds_every_number_and_the_sum(parts: pd.DataFrame, tmp_path: Path):
    table = csv(attribution(parts), tmp_path)
    sums, whole = (table[table["role"] == role] for role in ("component", "total"))
    assert len(sums) == len(PARTS) * len(STEPS) and len(whole) == len(STEPS)
    assert np.allclose(sums.groupby("x")["y"].sum(), whole.set_index("x")["y"])
    planted = parts[parts["pos"].isna()].sort_values(["metric", "step"])["value"]
    assert np.allclose(sorted(table["y"]), sorted(planted))
    assert np.allclose(table["y"] - table["y_lo"], 0.1) and np.allclose(table["y_hi"] - table["y"], 0.2)
    names = {"embedding", *(f"L{a}H{b}" for a in (0, 1) for b in range(4)), "attention bias 1", "MLP 1", "norm bias"}
    assert set(sums["series"]) == names and list(whole["x"]) == list(STEPS)


@pytest.mark.parametrize(("most", "coloured"), [(2, {"L1H2", "L1H3"}), (3, {"L1H1", "L1H2", "L1H3"}), (99, None)])
def test_the_largest_components_have_a_colour_and_a_band(parts: pd.DataFrame, most: int, coloured: set | None):
    figure = attribution(parts, most=most)
    legend = [trace.name for trace in traces(figure) if trace.showlegend]
    assert legend[0].startswith("logit difference") and ("others" in legend) == (coloured is not None)
    shown = set(legend[1:]) - {"others"}
    assert len(shown) == len(PARTS) if coloured is None else shown == coloured
    assert sum(trace.meta["role"] == "band" for trace in traces(figure)) == len(shown) + 1
    assert traces(figure)[-1].meta["role"] == "total", "the sum lies on top"


def test_the_legend_has_as_many_lines_as_a_browser_makes(parts: pd.DataFrame):
    figure: Any = attribution(parts, most=6)
    names = [trace.name for trace in traces(figure) if trace.showlegend]
    assert len(names) == 8 and legend_lines(names) == 2, "Chromium: 803 pixels, where there is room for 800"
    assert figure.layout.margin.t >= TITLE + 2 * LEGEND
    assert legend_lines(["logit difference (their sum)"] * 9) == 3, "columns of 195 pixels: four of them fit"
    assert legend_lines(["L0H0"] * 9) == 1 and legend_lines(["L0H0"] * 11) == 2, "77 pixels each"


def test_an_arm_has_a_panel(parts: pd.DataFrame, lenses: pd.DataFrame):
    for draw, rows in ((attribution, parts), (lens, lenses)):
        figure: Any = draw(pd.concat([rows, rows.assign(arm="one layer")]))
        assert {"two layers", "one layer"} <= {note.text for note in figure.layout.annotations}
        assert set(plotted(figure)["arm"]) == {"two layers", "one layer"}
        assert figure.layout.yaxis.range == figure.layout.yaxis2.range
        legend = [trace.name for trace in traces(figure) if trace.showlegend]
        assert len(legend) == len(set(legend))


def test_lens_holds_every_number(lenses: pd.DataFrame, tmp_path: Path):
    figure = lens(lenses, lines={"uniform": 3.2})
    table = csv(figure, tmp_path)
    for metric, layers in (("lens_loss", (0, 1, 2)), ("tuned_loss", (0, 1))):
        for layer in layers:
            seen = table[(table["metric"] == metric) & (table["layer"] == layer)]
            want = lenses[(lenses["metric"] == metric) & (lenses["layer"] == layer)]
            for column, planted in (("x", "step"), ("y", "value"), ("y_lo", "lo"), ("y_hi", "hi")):
                assert np.allclose(seen[column], want[planted].astype(float)), (metric, layer, column)
    assert len(table) == 5 * len(STEPS) + 2  # the last layer is the model, tuned or not; a rule has two ends
    inks = {trace.meta["layer"]: trace.line.color for trace in traces(figure) if trace.meta["role"] == "lens"}
    assert inks == {0: DEPTHS[0], 1: DEPTHS[4], 2: DEPTHS[-1]}
    dots = {trace.meta["metric"]: trace.line.dash for trace in traces(figure) if trace.meta["role"] == "lens"}
    assert dots == {"lens_loss": "solid", "tuned_loss": "dot"}
    assert [trace.name for trace in traces(figure) if trace.showlegend] == [
        "embedding",
        "after layer 0",
        "the model",
        "tuned lens",
    ]


def test_a_bare_table_of_one_run_draws(parts: pd.DataFrame, lenses: pd.DataFrame):
    left = ["run", "arm", "seed", "sequences", "tokens", "n"]
    alone = lenses[lenses["metric"] == "lens_loss"].drop(columns=left)
    assert list(plotted(lens(alone))["y"]) == list(alone["value"])
    assert len(plotted(attribution(parts.drop(columns=[*left, "pos"]).drop_duplicates(KEYS)))) == 65


KEYS = ["step", "metric", "component", "layer", "head"]


def test_errors_say_what_to_choose(parts: pd.DataFrame, lenses: pd.DataFrame):
    with pytest.raises(ValueError, match="no metric of a lens 'los'; did you mean 'loss'"):
        lens(lenses, "los")
    with pytest.raises(ValueError, match="no metric in this table 'lens_kl'"):
        lens(lenses, "kl")
    with pytest.raises(ValueError, match="no column in this table 'component'"):
        attribution(parts.drop(columns="component"))
    with pytest.raises(ValueError, match="2 values at arm two layers, series .*differ in seed"):
        attribution(pd.concat([parts, parts.assign(seed=101)]))


def test_files_are_the_same_twice(parts: pd.DataFrame, lenses: pd.DataFrame, tmp_path: Path):
    for figure in (attribution(parts), lens(lenses)):
        first, second = (save(figure, tmp_path / which, "figure", images=()) for which in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
