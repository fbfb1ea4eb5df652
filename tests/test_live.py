"""Curves that move while a model trains show what is measured afterwards, and change nothing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny import KEEP, SPEC, STEPS, train, weights

import probelab as lab
from probelab.rows import pick

SERIES = {name: {"metric": "kl", "strategy": name} for name in ("unigram", "bigram")}


def live() -> lab.LiveScores:
    return lab.LiveScores(lab.Strategy(n=32), SERIES, "how far", lines={"the truth": 0.0}, every=4)


def grown(out: Path, watch: lab.LiveScores, steps: int = STEPS) -> lab.Run:
    return lab.train(SPEC, steps=steps, keep=(*KEEP[:-1], steps), out=out, progress=False, watch=watch)


def test_scores_are_those_of_the_kept_steps(tmp_path: Path) -> None:
    curve = live()
    run = grown(tmp_path / "live", curve)
    plain = train(tmp_path / "plain")
    rows = lab.measure(plain, lab.Strategy(n=32))
    for trace, (name, of) in zip(curve.figure.data, SERIES.items(), strict=False):
        expected = pick(rows, **of).sort_values("step")
        assert trace.name == name and trace.x == tuple(expected["step"]) == KEEP
        assert trace.y == tuple(expected["value"])
    assert curve.figure.data[-1].x == (4, 8, 12), "the loss, averaged"
    pd.testing.assert_frame_equal(lab.measure(run, lab.Strategy(n=32)), rows)
    assert weights(run) == weights(plain), "looking does not change the run"


def test_steps_that_were_trained_before_are_drawn_again(tmp_path: Path) -> None:
    train(tmp_path)
    curve = live()
    grown(tmp_path, curve, 2 * STEPS)
    assert curve.figure.data[0].x == (0, 1, 5, 24) and curve.figure.data[-1].x[-1] == 24


def test_a_series_is_one_row_a_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'all'.*not one: name more coordinates"):
        grown(tmp_path, lab.LiveScores(lab.Strategy(n=32), {"all": {"metric": "kl"}}))
