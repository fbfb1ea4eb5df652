"""The graph of edges shows what was planted, every number of it; edges run through no box that they do not end at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probelab.figures import plotted, save
from probelab.figures._style import tint
from probelab.figures.edges import HIGH, LOWERS, PALE, RAISES, WIDE, edges, planned, way
from probelab.paths import edges as graph
from probelab.rows import tidy
from probelab.spec import Transformer

STEPS = (0, 10, 1000)
NAMES = [edge.names for edge in graph(Transformer(layers=2, heads=(2, 1), d_mlp=8))]
MANY = [edge.names for edge in graph(Transformer(layers=3, heads=(4, 2, 1), d_mlp=8))]


def planted(**more: object) -> pd.DataFrame:
    """Edge k has the effect k at the end, every second one below 0."""
    found = []
    for i, step in enumerate(STEPS):
        for k, (sender, receiver) in enumerate(NAMES):
            effect = dict(value=(-1) ** k * k * i / 2, lo=-1.0 - k, hi=1.0 + k, n=8)
            found.append(dict(step=step, sender=sender, receiver=receiver, metric="edge_effect", **effect, **more))
        found.append(dict(step=step, metric="all_edges", value=9.0, lo=8.0, hi=10.0, n=8, **more))
    return tidy(found)


def test_every_number_is_in_the_files(tmp_path: Path):
    files = save(edges(planted()), tmp_path, "edges", images=())
    table, rows = pd.read_csv(files[1]), planted().dropna(subset="sender")
    assert [file.name for file in files] == ["edges.html", "edges.csv"] and set(table["metric"]) == {"edge_effect"}
    keys = ["frame", "sender", "receiver"]
    found = table.set_index(keys)[["value", "value_lo", "value_hi"]].sort_index()
    there = rows.rename(columns={"step": "frame", "lo": "value_lo", "hi": "value_hi"}).astype({"frame": int})
    expected = there.set_index(keys)[["value", "value_lo", "value_hi"]].sort_index()
    pd.testing.assert_frame_equal(found, expected)
    page = files[0].read_text()
    own = page[page.rindex("Plotly.newPlot") :]
    assert "http" not in own and save(edges(planted()), tmp_path / "b", "edges", images=())[0].read_text() == page


def test_width_and_colour_are_the_effect_on_one_scale():
    figure = edges(planted().iloc[::-1], floor=0.1)
    wires = {spot.name: line.line for line, spot in zip(figure.data[::2], figure.data[1::2], strict=True)}
    largest = len(NAMES) - 1
    for k, (sender, receiver) in enumerate(NAMES):
        line = wires[f"{sender} to {receiver}"]
        assert line.width == pytest.approx(0.7 if k <= 0.1 * largest else 0.7 + 10.3 * k / largest)
        ink = PALE if k <= 0.1 * largest else tint(LOWERS if k % 2 else RAISES, 0.3 + 0.6 * k / largest)
        assert line.color == ink
    assert figure.data[-1].name == " to ".join(NAMES[-1]), "the strongest lies on top"
    middle = {frame.name: frame.data for frame in figure.frames}["10"]
    assert middle[-2].line.width == pytest.approx(0.7 + 10.3 / 2) and len(middle) == 2 * len(NAMES)
    assert all(part.line.color == PALE for part in figure.frames[0].data[::2])


def test_an_edge_touches_no_box_but_its_own():
    plan = planned([part for names in MANY for part in names])
    assert set(plan.spots) == {"embed", "logits", *(f"0.{h}" for h in range(4)), "1.0", "1.1", "2.0"} | {
        f"mlp {layer}" for layer in range(3)
    }
    for sender, receiver in MANY:
        x, y = way(plan, sender, receiver)
        assert (np.diff(x) >= 0).all() and x.min() >= 0 and x.max() <= plan.width
        for name, (across, up) in plan.spots.items():
            inside = (abs(x - across) < WIDE / 2 - 0.1) & (abs(y - up) < HIGH / 2)
            assert not inside.any(), f"{sender} to {receiver} runs through {name}"


def test_boxes_do_not_overlap():
    plan = planned([part for names in MANY for part in names])
    spots = np.array(list(plan.spots.values()))
    apart = np.abs(spots[:, None] - spots[None])
    assert ((apart[..., 0] >= WIDE) | (apart[..., 1] >= HIGH) | np.eye(len(spots), dtype=bool)).all()
    assert (spots >= [WIDE / 2, HIGH / 2]).all() and (spots <= [plan.width, plan.height]).all()


def test_many_checkpoints_are_thinned_and_a_slider_names_the_step():
    many = pd.concat([planted().assign(step=step) for step in range(0, 50)]).drop_duplicates(
        ["step", "sender", "receiver"]
    )
    figure = edges(many, most=5)
    assert [frame.name for frame in figure.frames] == ["0", "12", "24", "37", "49"]
    assert [stop.label for stop in figure.layout.sliders[0].steps] == [frame.name for frame in figure.frames]
    assert figure.layout.sliders[0].active == 4


def test_attention_only_and_one_edge_and_nothing_at_all():
    few = planted()
    few = few[few["sender"].isin(["embed", "0.1"]) & few["receiver"].isin(["1.0 k", "logits"])]
    figure = edges(few)
    assert set(plotted(figure)["sender"]) == {"embed", "0.1"} and len(figure.data) == 2 * 4
    still = edges(few.assign(value=0.0))
    assert all(line.line.color == PALE for line in still.data[::2])


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="2 values at sender embed, receiver 0.0 q, step 0: they differ in run"):
        edges(pd.concat([planted(run="a"), planted(run="b")]))
    with pytest.raises(ValueError, match="no column in this table 'sender'"):
        edges(planted().drop(columns="sender"))
    with pytest.raises(ValueError, match="floor = 1.0 is out of range"):
        edges(planted(), floor=1.0)
