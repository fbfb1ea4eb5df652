"""Numbers of seeds against a dial: each where its row is, none left out, medians joined where x is a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probelab.curves import across, over_seeds
from probelab.drawing import draw_from_rows
from probelab.figures import against, plotted, save
from probelab.rows import save_rows
from probelab.storage import RunError

SEEDS = (100, 101, 102, 103)
BUDGET = 50_000.0
DIRECT = {1: 6_000, 2: 40_000, 4: 10**6}  # k -> samples; with a chain, 1000 k
CONDITIONS = ("local", "wrong local", "all observed")


def solved() -> pd.DataFrame:
    """Samples to solve by k, later seeds a tenth later, unless that is beyond the budget."""
    found = [
        dict(arm=arm, run=f"{arm} {k} {seed}", seed=seed, metric="samples", last=BUDGET)
        | {"task.k": k, "value": (1000 * k if arm == "chain" else DIRECT[k]) * (1 + (seed - 100) / 10)}
        for arm in ("direct", "chain")
        for k in DIRECT
        for seed in SEEDS
    ]
    rows = pd.DataFrame(found)
    rows["value"] = rows["value"].where(rows["value"] <= BUDGET)
    return rows.assign(status=np.where(rows["value"].isna(), "flat", "switched"), since=0.0)


def of_solved(rows: pd.DataFrame) -> pd.DataFrame:
    return across(rows.assign(lo=rows["value"], hi=rows["value"]), by=("arm", "task.k", "metric"))


def errors() -> pd.DataFrame:
    """Each number another one."""
    return pd.DataFrame(
        dict(estimator=name, condition=where, seed=seed, run=f"{where} {seed}", metric="error")
        | dict(value=0.1 * (i + 1) + 0.01 * j + 0.001 * (seed - 100))
        for i, name in enumerate(("direct", "scaffolded"))
        for j, where in enumerate(CONDITIONS)
        for seed in SEEDS
    )


def of_errors() -> pd.DataFrame:
    return over_seeds(errors(), by=("estimator", "condition", "metric"))


def csv(figure: Any, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def role(figure: Any, *roles: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta["role"] in roles]


def legend(figure: Any) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend]


def test_every_number_of_the_tables_is_plotted_at_its_x(tmp_path: Path):
    rows = solved()
    middle = of_solved(rows)
    drawn = csv(against(rows, x="task.k", metric="samples", medians=middle, log_x=True, log_y=True), tmp_path)
    keys = ["arm", "task.k", "seed"]
    seen = drawn.query("role in ['seed', 'never']").rename(columns={"x": "task.k"}).set_index(keys).sort_index()
    want = rows.set_index(keys).sort_index()
    assert list(seen.index) == list(want.index), "x is the dial itself, wherever the mark stands"
    assert np.allclose(seen["y"], want["value"].fillna(BUDGET))
    assert list(seen["role"]) == list(np.where(want["value"].isna(), "never", "seed"))
    seen = drawn.query("role in ['median', 'later']").rename(columns={"x": "task.k"}).set_index(keys[:2]).sort_index()
    want = middle.set_index(keys[:2]).sort_index()
    assert np.allclose(seen["y"], want["value"].fillna(BUDGET)) and np.allclose(seen["y_lo"], want["lo"])
    assert np.allclose(seen["y_hi"], want["hi"]), "infinite where the interval has no end"
    assert list(seen["role"]) == list(np.where(want["value"].isna(), "later", "median"))
    assert set(drawn["x_dial"]) == {"task.k"} and set(drawn["metric"]) == {"samples"}


def test_what_lies_beyond_the_budget_is_an_open_triangle_and_is_counted():
    rows = solved()
    figure: Any = against(rows, x="task.k", metric="samples", medians=of_solved(rows), log_y=True)
    assert int(rows["value"].isna().sum()) == 5 and "not by the end (5 of 24)" in legend(figure)
    (marks,) = role(figure, "never")
    assert set(marks.y) == {BUDGET} and marks.marker.symbol == "triangle-up-open"
    assert [text for text in marks.text if text] == ["4"], "four lie on one another: once"
    assert sorted(marks.hovertext) == [" (1 of 4 seeds)"] + [" (4 of 4 seeds)"] * 4
    (later,) = role(figure, "later")
    assert list(later.y) == [BUDGET] and later.marker.symbol == "triangle-up-open"


def test_an_interval_without_an_end_goes_to_the_budget_and_has_an_arrow_there():
    rows = solved()
    middle = of_solved(rows)
    figure: Any = against(rows, x="task.k", metric="samples", medians=middle)
    want = middle.query("arm == 'direct' and `task.k` < 4")
    median = next(trace for trace in role(figure, "median") if trace.name == "direct")
    values, lo, hi = (want[c].to_numpy(float) for c in ("value", "lo", "hi"))
    assert np.isinf(hi[1]) and np.isfinite(hi[0])
    assert np.allclose(median.error_y.array, [hi[0] - values[0], BUDGET - values[1]])
    assert np.allclose(median.error_y.arrayminus, values - lo)
    arrows = [t for t in role(figure, "key") if t.name == "direct" and t.marker.symbol == "triangle-up-open"]
    heights = np.concatenate([np.asarray(t.y, float) for t in arrows])
    assert list(heights[np.isfinite(heights)]) == [BUDGET]


def test_a_seed_that_was_there_from_the_beginning_or_was_too_short_is_none_of_those():
    rows = solved().query("arm == 'chain' and `task.k` == 1").assign(last=BUDGET, since=500.0)
    rows["status"] = ["begun", "too few", "switched", "flat"]
    rows.loc[rows["status"] != "switched", "value"] = np.nan
    drawn = plotted(against(rows, x="task.k")).dropna(subset="y")
    assert dict(zip(drawn["role"], drawn["y"], strict=True)) == {"begun": 500, "seed": 1200, "never": BUDGET}
    figure: Any = against(rows, x="task.k")
    assert role(figure, "begun")[0].marker.symbol == "triangle-down-open"
    assert legend(figure) == ["chain (3 seeds)", "there from the beginning (1 of 3)", "not by the end (1 of 3)"]


def test_without_a_last_step_a_missing_value_is_missing():
    rows = solved().drop(columns=["last", "status", "since"])
    assert not role(against(rows, x="task.k"), "never")
    assert plotted(against(rows, x="task.k"))["y"].count() == 19


def test_medians_are_joined_along_numbers_in_their_order_and_broken_where_one_is_beyond():
    rows = solved()
    middle = of_solved(rows).iloc[::-1]
    joined = {t.legendgroup: t for t in role(against(rows, x="task.k", medians=middle), "key") if t.mode == "lines"}
    assert set(joined) == {"direct", "chain"}
    assert all(np.all(np.diff(line.x) > 0) for line in joined.values())
    of_chain = middle.query("arm == 'chain'").sort_values("task.k")["value"]
    assert np.allclose(joined["chain"].y, of_chain)
    assert list(np.isnan(np.asarray(joined["direct"].y, float))) == [False, False, True]
    named = rows.assign(k="k = " + rows["task.k"].astype(str)), middle.assign(k="k = " + middle["task.k"].astype(str))
    assert not [t for t in role(against(named[0], x="k", medians=named[1]), "key") if t.mode == "lines"]
    assert not [t for t in role(against(rows, x="task.k"), "key") if t.mode == "lines"], "seeds are not joined"


def pixels(figure: Any, xs: Any) -> np.ndarray:
    """Where they are, from the left end of the axis."""
    axis = figure.layout.xaxis
    xs = np.log10(np.asarray(xs, float)) if axis.type == "log" else np.asarray(xs, float)
    inner = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    return (xs - axis.range[0]) / (axis.range[1] - axis.range[0]) * inner


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("series", [1, 2, 8])
def test_series_that_share_an_x_stand_side_by_side_within_the_figure(series: int, log: bool):
    rows = pd.concat([solved().query("arm == 'chain'").assign(arm=f"series {k}") for k in range(series)])
    figure: Any = against(rows, x="task.k", medians=of_solved(rows), log_x=log)
    placed = np.array([pixels(figure, trace.x) for trace in role(figure, "median")])
    dots = np.array([np.unique(pixels(figure, trace.x).round(6)) for trace in role(figure, "seed")])
    assert np.all(np.diff(placed, axis=0) > 9), "told apart"
    assert np.allclose(placed.mean(axis=0), pixels(figure, list(DIRECT))), "around their x"
    groups = np.sort(np.r_[placed, dots], axis=0)
    assert np.all(groups[0, 1:] - groups[-1, :-1] > 20), "and from the next"
    inner = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    assert dots.min() > 10 and placed.max() < inner - 10


def test_many_series_at_many_numbers_stand_closer():
    one = errors().query("estimator == 'direct' and condition == 'local'")
    rows = pd.concat([one.assign(arm=f"series {k}", size=100 * j) for k in range(8) for j in range(1, 13)])
    figure: Any = against(rows, x="size", medians=over_seeds(rows, by=("arm", "size")))
    placed = np.array([pixels(figure, trace.x) for trace in role(figure, "median")])
    assert np.all(placed[0, 1:] > placed[-1, :-1] + 10) and np.all(np.diff(placed, axis=0) > 2)


def test_series_with_an_x_of_their_own_stand_at_it():
    rows = solved()
    rows["flops"] = rows["task.k"] * np.where(rows["arm"] == "chain", 1e6, 1.5e5)
    middle = over_seeds(rows, by=("arm", "metric", "flops")).assign(last=BUDGET)
    figure: Any = against(rows, x="flops", medians=middle, log_x=True)
    for trace in role(figure, "median", "later"):
        assert np.allclose(np.asarray(trace.x, float), trace.customdata[:, 0])


def test_names_have_their_series_side_by_side_in_the_order_of_the_rows(tmp_path: Path):
    figure: Any = against(errors(), x="condition", by="estimator", metric="error", medians=of_errors())
    drawn = csv(figure, tmp_path)
    keys = ["estimator", "condition"]
    seen = drawn.query("role == 'median'").rename(columns={"x": "condition"}).set_index(keys).sort_index()
    want = of_errors().set_index(keys).sort_index()
    assert list(seen.index) == list(want.index)
    assert np.allclose(seen[["y", "y_lo", "y_hi"]], want[["value", "lo", "hi"]])
    seen = drawn.query("role == 'seed'").rename(columns={"x": "condition"}).set_index([*keys, "seed"]).sort_index()
    assert np.allclose(seen["y"], errors().set_index([*keys, "seed"]).sort_index()["value"])
    assert list(figure.layout.xaxis.ticktext) == ["local", "wrong local", "all observed"]
    places = {(t.meta["estimator"], t.meta["x"]): t.x[0] for t in role(figure, "median")}
    for i, where in enumerate(CONDITIONS):
        assert i - 0.5 < places["direct", where] < i < places["scaffolded", where] < i + 0.5


def test_levels_are_lines_across_and_strokes_across_one_x(tmp_path: Path):
    marginal = {where: 0.15 + 0.01 * i for i, where in enumerate(CONDITIONS)}
    given: dict[str, Any] = dict(x="condition", by="estimator", lines={"chance": 0.3}, strokes={"marginal": marginal})
    figure: Any = against(errors(), **given)
    drawn = csv(figure, tmp_path)
    level = drawn.query("role == 'level'")
    assert dict(zip(level["x"], level["y"], strict=True)) == marginal and set(level["strategy"]) == {"marginal"}
    assert list(drawn.query("role == 'line'")["y"]) == [0.3, 0.3]
    assert "marginal" in legend(figure) and "chance" in {note.text for note in figure.layout.annotations}
    slot = (pixels(figure, [1]) - pixels(figure, [0]))[0]
    assert {0.7 * slot < t.marker.size * 1.4 < slot for t in role(figure, "level")} == {True}
    at_numbers = against(solved(), x="task.k", strokes={"theory": {2: 100.0, 4.0: 200.0}})
    level = plotted(at_numbers).query("role == 'level'")
    assert dict(zip(level["x"], level["y"], strict=True)) == {2: 100, 4: 200}


def test_all_that_is_drawn_is_within_a_logarithm():
    figure: Any = against(solved(), x="task.k", medians=of_solved(solved()), lines={"ideal": 20.0}, log_y=True)
    low, high = figure.layout.yaxis.range
    assert low < np.log10(20) and np.log10(BUDGET) < high < 5.2
    assert figure.layout.yaxis.title.text == "value (log scale)"
    note = next(note for note in figure.layout.annotations if note.text == "ideal")
    assert note.y == pytest.approx(np.log10(20), abs=0.1), "annotations on a logarithm count decades"


def test_long_names_have_room_and_looks_differ():
    long = {name: f"{name}, an estimator with a long name" for name in ("direct", "scaffolded")}
    rows = errors().assign(condition=lambda t: t["condition"] + " variables in a long description of a condition")
    rows = pd.concat([rows.assign(estimator=rows["estimator"].map(long) + f" {k}") for k in range(4)])
    figure: Any = against(rows, x="condition", by="estimator", medians=over_seeds(rows, by=("estimator", "condition")))
    ticks = figure.layout.xaxis.ticktext
    assert all(text.count("<br>") >= 1 for text in ticks)
    assert figure.layout.margin.b >= 60 + 15 * max(text.count("<br>") for text in ticks)
    assert figure.layout.margin.t > 64 + 20 * 4, "room for a legend of eight names"
    looks = {(t.marker.color, t.marker.symbol) for t in role(figure, "median")}
    assert len(looks) == 8


def test_errors_say_what_to_choose():
    with pytest.raises(ValueError, match="no column in this table 'task.kk'; did you mean 'task.k'"):
        against(solved(), x="task.kk")
    with pytest.raises(ValueError, match="no column in this table 'series'"):
        against(solved(), x="task.k", by="series")
    with pytest.raises(ValueError, match="no metric in this table 'sample'; did you mean 'samples'"):
        against(solved(), x="task.k", metric="sample")
    with pytest.raises(ValueError, match="2 values at arm direct, task.k 1, seed 100: they differ in split"):
        against(pd.concat([solved().assign(split=split) for split in ("iid", "ood")]), x="task.k")
    with pytest.raises(ValueError, match="2 values at arm direct, task.k 1, seed all: .*take their median first"):
        against(solved(), x="task.k", medians=pd.concat([of_solved(solved())] * 2))
    with pytest.raises(ValueError, match="no row has a value of task.k"):
        against(solved().assign(**{"task.k": np.nan}), x="task.k")
    with pytest.raises(ValueError, match="no row has a value of task.k"):
        against(solved().iloc[:0], x="task.k")
    with pytest.raises(ValueError, match="no column in this table 'last'"):
        against(solved(), x="task.k", medians=of_solved(solved()).drop(columns="last"))
    with pytest.raises(
        ValueError, match="log_x = True, but task.k holds 0, and .* leave such rows out, or log_x = False"
    ):
        against(solved().assign(**{"task.k": lambda t: t["task.k"] - 1}), x="task.k", log_x=True)
    with pytest.raises(ValueError, match="log_y = True, but samples holds -1,"):
        against(solved(), x="task.k", metric="samples", lines={"chance": -1.0}, log_y=True)
    with pytest.raises(ValueError, match="log_x = True, but condition holds names, as 'local': leave log_x out"):
        against(errors(), x="condition", by="estimator", log_x=True)
    with pytest.raises(ValueError, match="no task.k '3' known: 1, 2, 4"):
        against(solved(), x="task.k", strokes={"theory": {3: 0.1}})
    with pytest.raises(ValueError, match="no condition 'wrong'; did you mean 'wrong local'"):
        against(errors(), x="condition", by="estimator", strokes={"marginal": {"wrong": 0.1}})


def test_files_are_the_same_twice_and_little_draws(tmp_path: Path):
    rows = solved()
    few = [rows, rows.iloc[:1], rows.assign(value=np.nan), rows.assign(value=np.nan).drop(columns="last")]
    few += [rows.query("arm == 'chain'").drop(columns=["arm", "run"]), errors().assign(arm=errors()["estimator"])]
    for some in few:
        x = "task.k" if "task.k" in some else "condition"
        first, second = (save(against(some, x=x), tmp_path / which, "against", images=()) for which in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_it_is_drawn_from_the_rows_of_a_study(tmp_path: Path):
    def drawn(rows: pd.DataFrame) -> pd.DataFrame:
        save_rows(tmp_path / "figures" / "planted" / "rows.parquet", rows)
        return pd.read_csv(draw_from_rows("planted", "against", None, tmp_path)[1])

    ended = [
        dict(arm=f"{chain} {k}", run=f"{chain} {k} {seed}", seed=seed, metric="accuracy", split="test", step=step)
        | {"task.k": k, "task.chain": chain, "value": (step > 0) * (k + (chain == "tree") / 2 + 0.01 * (seed - 101))}
        for chain in ("none", "tree")
        for k in (2, 3, 4)
        for seed in (100, 101, 102)
        for step in (0, 10)
    ]
    rows = pd.DataFrame(ended)
    found = drawn(rows).query("role == 'median'").set_index(["arm", "x"])["y"]
    assert dict(found) == pytest.approx(
        {(f"chain {chain}", k): k + (chain == "tree") / 2 for chain in ("none", "tree") for k in (2, 3, 4)}
    )
    one = drawn(rows.query("`task.chain` == 'tree'")).query("role == 'median'")
    assert list(one["y"]) == pytest.approx([2.5, 3.5, 4.5])
    with pytest.raises(RunError, match="needs a dial of the task or the model that differs"):
        drawn(rows.query("arm == 'tree 2'"))
