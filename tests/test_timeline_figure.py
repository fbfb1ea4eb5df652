"""Kinds of onset side by side: each mark where its row is, bars from first to last, never a lane or a seed left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.drawing import draw_from_rows
from probelab.figures import _style as style
from probelab.figures import plotted, save, timeline
from probelab.rows import save_rows, tidy
from probelab.storage import RunError

KINDS = {"decodable": {"metric": "accuracy"}, "used": {"metric": "excess"}}
SEEDS = (100, 101, 102)
PLANTED = {  # layer -> metric -> its date
    0: {"accuracy": 200, "excess": 800},
    1: {"accuracy": 100, "excess": np.nan},
    2: {"accuracy": np.nan, "excess": np.nan},
}


def onsets(seeds: tuple[int, ...] = SEEDS, layers: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """Later seeds switch a tenth later; what has no date is a drift until step 1000."""
    return tidy(
        dict(run=f"run {seed}", seed=seed, layer=layer, metric=metric, value=t, lo=0.9 * t, hi=1.3 * t)
        | dict(status="drift" if np.isnan(t) else "switched", since=1.0, last=1000.0)
        for seed in seeds
        for layer in layers
        for metric, t in ((metric, t * (1 + (seed - 101) / 10)) for metric, t in PLANTED[layer].items())
    )


def medians(**more: Any) -> pd.DataFrame:
    """As `curves.across` gives them."""
    rows = [
        dict(layer=layer, metric=metric, value=t, lo=1000.0 if np.isnan(t) else 0.8 * t, last=1000.0, n=3, level=0.75)
        | dict(hi=np.inf if np.isnan(t) else 1.2 * t)
        for layer, dates in PLANTED.items()
        for metric, t in dates.items()
    ]
    return tidy(rows).assign(**more)


def gaps(**more: Any) -> pd.DataFrame:
    """As `curves.order` gives them."""
    found = [(0, 0.602, 0.5, 0.7, 0.03125), (1, np.inf, 0.9, np.inf, 0.0004), (2, np.nan, np.nan, np.nan, np.nan)]
    rows = [dict(layer=k, value=v, lo=lo, hi=hi, p=p, level=0.95 if p > 0 else 0.0) for k, v, lo, hi, p in found]
    return pd.DataFrame(rows).assign(**({"first": "accuracy", "second": "excess"} | more))


def csv(figure: Any, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def lanes(figure: Any) -> list[str]:
    return [text.replace("<b>", "").split("</b>")[0] for text in figure.layout.yaxis.ticktext]


def bars(figure: Any) -> list[tuple]:
    return [(s.x0, s.x1, s.fillcolor) for s in figure.layout.shapes if s.xref == "x"]


def test_marks_lie_where_their_rows_do_one_kind_below_the_other(tmp_path: Path):
    figure = timeline(onsets((101,)), KINDS)
    drawn = csv(figure, tmp_path)
    dated = drawn.query("role == 'onset'").set_index(["component", "kind"])
    want = {("L0", "decodable"): 200, ("L0", "used"): 800, ("L1", "decodable"): 100}
    assert dict(dated["x"]) == want
    assert np.allclose(dated["x_lo"], 0.9 * dated["x"]) and np.allclose(dated["x_hi"], 1.3 * dated["x"])
    assert dated.loc[("L0", "decodable"), "y"] < dated.loc[("L0", "used"), "y"], "axes count downwards"
    looks = {trace.meta["kind"]: trace.marker for trace in figure.data if trace.meta["role"] == "onset"}
    legend = {trace.name: trace.marker for trace in figure.data if trace.showlegend}
    for kind in KINDS:
        assert (looks[kind].color, looks[kind].symbol) == (legend[kind].color, legend[kind].symbol)
    assert legend["decodable"].symbol != legend["used"].symbol, "told apart without colour, too"


def test_what_never_switched_is_an_open_arrow_at_its_last_step():
    rows = onsets((101,))
    rows.loc[(rows["layer"] == 2) & (rows["metric"] == "accuracy"), "status"] = "begun"
    rows.loc[(rows["layer"] == 0) & (rows["metric"] == "excess"), "status"] = "too few"
    figure = timeline(rows, KINDS)
    drawn = plotted(figure)
    never = drawn.query("role == 'never'")
    assert set(zip(never["component"], never["kind"], strict=True)) == {("L1", "used"), ("L2", "used")}
    assert set(never["x"]) == {1000}
    assert list(drawn.query("role == 'begun'")["x"]) == [1]
    assert not len(drawn.query("component == 'L0' and kind == 'used'")), "it could not be judged"
    arrows = [t.marker.symbol for t in figure.data if t.meta["role"] in ("never", "begun")]
    assert sorted(arrows) == ["triangle-left-open", "triangle-right-open", "triangle-right-open"]
    assert {"no date by the last step", "under way at the first step"} <= {t.name for t in figure.data if t.showlegend}


def test_bars_go_from_the_first_mark_to_the_last_and_are_paler_where_one_is_none():
    blue, orange = style.COLOURS[:2]
    figure = timeline(onsets((101,)), KINDS, order=["L0", "L1", "L2"])
    assert bars(figure) == [
        (200, 800, style.tint(blue, 0.3)),
        (100, 1000, style.tint(blue, 0.12)),
        (1000, 1000, style.tint(blue, 0.12)),
    ]
    swapped = {"decodable": {"metric": "excess"}, "used": {"metric": "accuracy"}}
    assert bars(timeline(onsets((101,), (0,)), swapped)) == [(200, 800, style.tint(orange, 0.3))], "that of the first"
    assert not bars(timeline(onsets((101,), (0,)), {"used": {"metric": "excess"}}))
    marks = {t.meta["kind"]: t.y[0] for t in figure.data if t.meta.get("component") == "L0"}
    tall = next((s.y0, s.y1) for s in figure.layout.shapes if s.x0 == 200)
    assert tall == (marks["decodable"], marks["used"])


def test_lanes_stand_by_the_first_kind_then_the_next_or_as_told():
    rows = onsets((101,))
    rows.loc[rows["layer"] == 2, "value"] = [np.nan, 900.0]
    rows.loc[(rows["layer"] == 2) & (rows["metric"] == "excess"), "status"] = "switched"
    assert lanes(timeline(rows, KINDS)) == ["L1", "L0", "L2"]
    assert lanes(timeline(rows, dict(reversed(KINDS.items())))) == ["L0", "L2", "L1"]
    late = pd.concat([rows, rows.query("layer == 2").assign(layer=3, value=[np.nan, 500.0])])
    assert lanes(timeline(late, KINDS)) == ["L1", "L0", "L3", "L2"], "neither has a first date: by the second"
    assert lanes(timeline(rows, KINDS, order=["L2", "L7", "L0"])) == ["L2", "L7", "L0"]
    assert lanes(timeline(rows.query("layer == 0"), by="seed")) == ["seed 101"]


def test_medians_stand_over_their_seeds_with_counts_of_those_that_switched(tmp_path: Path):
    figure = timeline(onsets(), KINDS, medians=medians())
    drawn = csv(figure, tmp_path)
    middle = drawn.query("role == 'median'").set_index(["component", "kind"])
    assert dict(middle["x"]) == {("L0", "decodable"): 200, ("L0", "used"): 800, ("L1", "decodable"): 100}
    assert np.allclose(middle["x_lo"], 0.8 * middle["x"]) and np.allclose(middle["x_hi"], 1.2 * middle["x"])
    later = drawn.query("role == 'later'")
    assert set(zip(later["component"], later["kind"], strict=True)) == {
        ("L1", "used"),
        ("L2", "decodable"),
        ("L2", "used"),
    }
    seeds = drawn.query("role == 'onset' and component == 'L0' and kind == 'used'").set_index("seed")["x"]
    assert dict(seeds) == pytest.approx({100: 720, 101: 800, 102: 880})
    assert len(drawn.query("role == 'never'")) == 3 * len(SEEDS)
    heights = drawn[drawn["component"] == "L0"].groupby("kind")["y"].nunique()
    assert set(heights) == {1}, "a kind has one line"
    assert bars(figure)[1][:2] == (200, 800), "between the medians"
    counts = dict(zip(lanes(figure), figure.layout.yaxis.ticktext, strict=True))
    blue, orange = (f"<span style='color:{ink}'>" for ink in style.COLOURS[:2])
    assert counts["L1"].endswith(f"switched: {blue}3 of 3</span>, {orange}0 of 3</span>")
    assert "median over seeds with its 75 % interval" in figure.layout.title.text


def test_gaps_are_written_beside_their_lanes():
    figure = timeline(onsets(), KINDS, medians=medians(), gaps=gaps())
    notes = {note.text: (note.y, note.yref) for note in figure.layout.annotations}
    assert lanes(figure) == ["L1", "L0", "L2"]
    assert notes == {
        "decodable to used,<br>decades (95 %)": (1, "y domain"),  # metrics by the names of their kinds
        "beyond the record (+0.90 to +∞), p < .001": (0, "y"),
        "+0.60 (+0.50 to +0.70), p = .031": (1, "y"),
        "no pair tells an order": (2, "y"),
    }
    both = pd.concat([gaps(), gaps(first="excess", second="accuracy").assign(value=-0.25, p=1.0).query("layer == 0")])
    figure = timeline(onsets(), KINDS, medians=medians(), gaps=both, order=["L0"])
    texts = [note.text for note in figure.layout.annotations]
    assert texts == [
        "gap,<br>decades (95 %)",
        "decodable to used: +0.60 (+0.50 to +0.70), p = .031<br>used to decodable: −0.25 (+0.50 to +0.70), p = 1.000",
    ]
    assert figure.layout.margin.r > max(style.widest(text) for text in texts)


def test_long_names_have_room(tmp_path: Path):
    named = onsets().assign(target=lambda t: "the place of the earlier occurrence, " + t["layer"].astype(str))
    middle = medians(target=lambda t: "the place of the earlier occurrence, " + t["layer"].astype(str))
    figure = timeline(named, KINDS, by="target", medians=middle)
    texts = figure.layout.yaxis.ticktext
    inner = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert all(text.count("<br>") == 2 for text in texts), "two lines of a name, one of counts"
    assert inner / len(texts) >= 18 * 3 and figure.layout.margin.l > max(map(style.widest, texts))
    first, second = (save(figure, tmp_path / which, "timeline", images=()) for which in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_errors_say_what_to_choose():
    with pytest.raises(ValueError, match="3 values at component L0, kind decodable: .*differ in run.*median first"):
        timeline(onsets(), KINDS)
    with pytest.raises(ValueError, match="2 values at component L0, seed 100, kind .*: they differ in direction"):
        timeline(pd.concat([onsets().assign(direction=way) for way in ("rise", "fall")]), KINDS, medians=medians())
    with pytest.raises(ValueError, match="no metric 'acuracy'; did you mean 'accuracy'"):
        timeline(onsets(), {"decodable": {"metric": "acuracy"}})
    with pytest.raises(ValueError, match="no column in this table 'lane'"):
        timeline(onsets(), KINDS, by="lane")
    with pytest.raises(ValueError, match="no column in this table 'kind'"):
        timeline(onsets(), "kind")
    with pytest.raises(ValueError, match="no column in this table 'p'"):
        timeline(onsets((101,)), KINDS, gaps=gaps().drop(columns="p"))


STEPS = np.unique(np.logspace(0, 3, 25).astype(int))


def measured(seeds: tuple[int, ...], measures: tuple[str, ...] = ("probe", "use")) -> pd.DataFrame:
    """What is used rises at step 100, what is decodable at step 40."""
    told = {"probe": ("accuracy", 40), "use": ("interchange_excess", 100)}
    place = dict(arm="a", layer=0, site="resid_post", target="copy")
    return tidy(
        dict(run=f"run {seed}", seed=seed, measure=measure, metric=told[measure][0], step=step, **place)
        | dict(value=1 / (1 + (told[measure][1] * (1 + (seed - 100) / 20) / step) ** 6) + 1e-3 * (step % 3))
        for seed in seeds
        for measure in measures
        for step in STEPS
    )


def test_it_is_drawn_from_the_rows_of_a_study(tmp_path: Path):
    def drawn(rows: pd.DataFrame) -> pd.DataFrame:
        save_rows(tmp_path / "figures" / "planted" / "rows.parquet", rows)
        return pd.read_csv(draw_from_rows("planted", "timeline", None, tmp_path)[1])

    middle = drawn(measured(SEEDS)).query("role == 'median'").set_index("kind")["x"]
    assert middle["decodable"] == pytest.approx(42, rel=0.05) and middle["used"] == pytest.approx(105, rel=0.05)
    one = drawn(measured((100,))).query("role == 'onset'").set_index("kind")["x"]
    assert one["decodable"] == pytest.approx(40, rel=0.05) and one["used"] == pytest.approx(100, rel=0.05)
    with pytest.raises(RunError, match="a timeline needs interchange_excess .*: measure use"):
        drawn(measured(SEEDS, ("probe",)))
    with pytest.raises(RunError, match="several arms .a, b"):
        drawn(pd.concat([measured((100,)), measured((101,)).assign(arm="b")]))
