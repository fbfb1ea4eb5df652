"""The heat map of interventions: every number of every checkpoint is in it, in its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probelab.figures import patching, plotted


def rows(**more: object) -> pd.DataFrame:
    """Effects of two heads in two layers at four positions and three steps, each number another one."""
    cells = [
        dict(step=step, metric="effect", layer=layer, head=head, pos=pos, value=step - 10 * layer - 3 * head + pos / 8)
        for step in (0, 10, 20)
        for layer in (0, 1)
        for head in (0, 1)
        for pos in range(4)
    ]
    return pd.DataFrame(cells).assign(**more)


def test_every_number_of_every_checkpoint_is_in_its_place():
    figure, want = patching(rows()), rows()
    table = plotted(figure)
    name = "L" + want["layer"].astype(str) + "H" + want["head"].astype(str)
    keyed = dict(
        zip(zip(want["step"].astype(str), name, want["pos"].astype(str), strict=True), want["value"], strict=True)
    )
    found = {(str(r.frame), r.y, str(r.x)): r.z for r in table.itertuples()}
    assert found == pytest.approx(keyed)
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == np.abs(want["value"]).max()
    assert list(figure.data[0].y) == ["L1H1", "L1H0", "L0H1", "L0H0"]  # Plotly draws the last on top
    assert figure.data[0].z == figure.frames[-1].data[0].z and figure.layout.sliders[0].active == 2


def test_parts_may_be_told_by_roles_or_by_layer_and_head_alone():
    by_role = rows().assign(role=[f"r{pos}" for pos in rows()["pos"]]).drop(columns="pos")
    assert set(plotted(patching(by_role))["x"]) == {"r0", "r1", "r2", "r3"}
    alone = rows()[rows()["pos"] == 1].drop(columns="pos")
    assert set(plotted(patching(alone))["y"]) == {"L0", "L1"} and list(patching(alone).data[0].x) == ["0", "1"]
    assert [frame.name for frame in patching(rows(), most=2).frames] == ["0", "20"]


def test_two_values_at_one_place_are_refused():
    with pytest.raises(ValueError, match="2 values at"):
        patching(pd.concat([rows(run="a"), rows(run="b")]))
    with pytest.raises(ValueError, match="did you mean 'effect'"):
        patching(rows(), "efect")
