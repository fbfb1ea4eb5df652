"""Rows: reserved columns first, the same rows the same bytes, and a question that cannot be answered is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probelab.rows import RESERVED, coordinates, join_dials, load_rows, pick, progress_of, save_rows, tidy
from probelab.runs import Folder
from probelab.storage import RunError
from tests.tiny import SPEC

ROWS = [
    dict(value=0.5, metric="loss", step=0, zeta=1.0, run="a"),
    dict(value=0.4, metric="loss", step=10, pos=3, run="a"),
    dict(value=0.9, metric="copying", step=10, layer=1, head=0, run="a"),
]


def test_columns_have_an_order_and_whole_numbers_stay_whole() -> None:
    table = tidy(ROWS)
    assert list(table) == ["run", "step", "metric", "value", "head", "layer", "pos", "zeta"]
    assert [str(table[c].dtype) for c in ("step", "head", "pos", "value")] == ["Int64", "Int64", "Int64", "float64"]
    assert table["pos"].isna().tolist() == [True, False, True]
    pd.testing.assert_frame_equal(tidy(table), table)


@given(st.permutations(list(ROWS[0])))
def test_the_order_of_writing_does_not_matter(keys: list[str]) -> None:
    pd.testing.assert_frame_equal(tidy([{key: ROWS[0][key] for key in keys}]), tidy(ROWS[:1]))


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    save_rows(tmp_path / "a.parquet", tidy(ROWS))
    again = load_rows(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(again, tidy(ROWS))
    save_rows(tmp_path / "b.parquet", again)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    save_rows(tmp_path / "a.parquet", tidy(ROWS))
    whole = (tmp_path / "a.parquet").read_bytes()
    for data in (whole[:-9], whole[9:], b""):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(RunError, match=r"a\.parquet cannot be read .*Delete it and it is made again"):
            load_rows(tmp_path / "a.parquet")


def test_rows_say_which_run_and_how_far(tmp_path: Path) -> None:
    folder = Folder.create(SPEC.seeded(7), tmp_path)
    table = progress_of(folder, pd.DataFrame({"step": [0, 10]}).assign(**coordinates(folder)))
    assert set(table) <= set(RESERVED) and table["sequences"].tolist() == [0, 160]
    assert table["tokens"].tolist() == [0, 160 * SPEC.task.context] and (table["run"] == folder.name).all()
    assert (table[["seed", "world", "data", "init"]] == 7).all(axis=None)
    joined = join_dials(table, [folder])
    assert (joined["task.states"] == 2).all() and (joined["model.d_model"] == 16).all() and len(joined) == 2


def test_picking() -> None:
    table = tidy(ROWS)
    assert len(pick(table, metric="loss")) == 2 and len(pick(table, metric="loss", pos=None)) == 1
    assert pick(table, metric=["loss", "copying"], layer=1)["value"].tolist() == [0.9]
    assert len(pick(table, strategy=None)) == 3, "a coordinate that no row has is absent from all"
    assert len(pick(table, step=99)) == 0 and not np.any(pick(table, pos=3)["step"] != 10)
    with pytest.raises(ValueError, match="no metric 'los'; did you mean 'loss'"):
        pick(table, metric="los")
    with pytest.raises(ValueError, match="no column 'heads'; did you mean 'head'"):
        pick(table, heads=0)
