"""Measuring: only what is missing is measured, and neither the order nor the number of goes changes a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.measures import Heads, Loss, Named, Norms, Patterns, Strategy
from probelab.record import arrays, arrays_of, measure, recorded
from probelab.rows import RESERVED
from probelab.runs import load_arrays
from probelab.storage import RunError
from probelab.subject import Run, Subject
from tests.tiny import KEEP, content, snapshot, train


@dataclass(frozen=True)
class Count:
    """Which steps were looked at, one row and one array slice each."""

    scale: float = 1.0

    name = "count"
    version = 1
    looked: Any = None

    def __call__(self, subject: Subject) -> Iterator[dict[str, Any]]:
        for step, model in subject:
            LOOKED.append(step)
            yield dict(step=step, metric="total", value=self.scale * float(model["embed.W_E"].sum()))
            if step > 1:
                yield dict(step=step, metric="first", value=float(model["embed.W_E"][0, 0]), layer=0)

    def arrays(self, subject: Subject) -> dict[str, Named]:
        embeddings = np.stack([model["embed.W_E"].numpy() for _, model in subject])
        return {"W_E": Named(("vocab", "step", "d"), embeddings.swapaxes(0, 1)), "two": Named(("x",), np.arange(2))}


LOOKED: list[int] = []


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    LOOKED.clear()
    yield train(tmp_path)


def test_only_what_is_missing_is_measured(run: Run) -> None:
    first = measure(run, Count(), [0, 5])
    assert LOOKED == [0, 5] and first["step"].unique().tolist() == [0, 5]
    before = snapshot(run.path)
    measure(run, Count(), [5])
    assert LOOKED == [0, 5] and snapshot(run.path) == before
    whole = measure(run, Count())
    assert LOOKED == [0, 5, 1, 12] and whole["step"].unique().tolist() == list(KEEP)
    assert measure(run, Count(), [12, 0, 12])["step"].unique().tolist() == [0, 12]
    measure(run, Count(scale=2.0), [0])
    assert LOOKED[4:] == [0], "other dials are another measure"


@pytest.mark.parametrize("what", [Count(), Loss(n=32), Strategy(n=32), Heads(n=32), Norms(), Patterns()])
def test_rows_do_not_depend_on_the_number_of_goes(tmp_path: Path, what: Any) -> None:
    once, twice = train(tmp_path / "once"), train(tmp_path / "twice")
    whole = measure(once, what)
    for steps in ([5], [12, 0], None):
        parts = measure(twice, what, steps)
    pd.testing.assert_frame_equal(whole, parts)
    assert content(recorded(once, what)) == content(recorded(twice, what))
    if hasattr(what, "arrays"):
        assert content(arrays_of(once, what)) == content(arrays_of(twice, what))


def test_what_was_deleted_is_measured_again(run: Run) -> None:
    measure(run, Count())
    before = {path: content(path) for path in (recorded(run, Count()), arrays_of(run, Count()))}
    for path in before:
        path.unlink()
        measure(run, Count())
        assert {path: content(path) for path in before} == before


def test_rows_outlive_their_checkpoint(run: Run) -> None:
    rows, named = measure(run, Count()), arrays(run, Count())
    run.checkpoint(5).unlink()
    pd.testing.assert_frame_equal(measure(run, Count(), KEEP), rows)
    assert np.array_equal(arrays(run, Count(), KEEP)["W_E"].array, named["W_E"].array)
    before = snapshot(run.path)
    with pytest.raises(RunError, match="no checkpoint at step 5; the nearest is 1"):
        measure(run, Loss(n=8), KEEP)
    assert {k: v for k, v in snapshot(run.path).items() if "/" in k} == {k: v for k, v in before.items() if "/" in k}


def test_rows_have_their_coordinates(run: Run) -> None:
    rows = measure(run, Count())
    assert set(rows) - set(RESERVED) == {"layer"} and (rows["run"] == run.name).all()
    assert (rows["measure"] == "count").all() and rows["sequences"].tolist() == (rows["step"] * 16).tolist()
    assert not {"time", "path", "host"} & set(rows) and str(run.path) not in rows.to_csv()


def test_arrays_have_axes(run: Run) -> None:
    named = arrays(run, Count(), [5, 0])
    assert named["W_E"].axes == ("vocab", "step", "d") and named["W_E"].array.shape == (2, 2, 16)
    assert np.array_equal(named["W_E"].array[:, 1], run.model(5)["embed.W_E"].numpy())
    arrays(run, Count(), [1])
    found, about = load_arrays(arrays_of(run, Count()))
    assert about["steps"] == [0, 1, 5] and about["axes"]["two"] == ["x"] and found["two"].tolist() == [0, 1]
    assert np.array_equal(found["W_E"][:, 2], run.model(5)["embed.W_E"].numpy())
    with pytest.raises(ValueError, match="the measure loss gives rows, no arrays"):
        arrays(run, Loss(n=8))


@dataclass(frozen=True)
class Silent:
    name = "silent"
    version = 1

    def __call__(self, subject: Subject) -> Iterator[dict[str, Any]]:
        yield dict(step=subject.steps[0], metric="m", value=1.0)


def test_what_is_no_measure(run: Run) -> None:
    before = snapshot(run.path)
    for what in (3, len, object):
        with pytest.raises(ValueError, match="is no measure"):
            measure(run, what)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no measure 'los'; did you mean 'loss'"):
        measure(run, "los")
    with pytest.raises(RunError, match="nothing to measure"):
        measure(run, "loss", [])
    assert snapshot(run.path) == before
    with pytest.raises(ValueError, match="silent gave no row at step 1"):
        measure(run, Silent())
    assert measure(run, Loss(n=8)).equals(measure(run, Loss(n=8))) and len(measure(run, Norms)) > 0


def test_one_measurer_at_a_time(run: Run) -> None:
    rows = measure(run, Count(), [0])
    before = snapshot(run.path)
    with run.lock("rows"):
        with pytest.raises(RunError, match="another process is writing"):
            measure(run, Count())
        pd.testing.assert_frame_equal(measure(run, Count(), [0]), rows)  # reading needs no lock
    assert snapshot(run.path) == before
