"""The figures of dials and arms show what was planted: cells, paths, panels and races, and what never happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probelab.figures import multiples, phase_diagram, plane, plotted, race, save
from probelab.figures._place import sides
from probelab.figures._style import tint
from probelab.rows import tidy

STEPS = (0, 1, 10, 100, 1000, 10000)
SEEDS = (100, 101, 102)
P, K = (0.0, 0.5, 1.0), (0, 64, 1024)
ICL, IWL = {"split": "icl", "metric": "accuracy"}, {"split": "iwl", "metric": "accuracy"}
SERIES = {"ICL": {"split": "icl"}, "IWL": {"split": "iwl"}}


def csv(figure, folder: Path) -> pd.DataFrame:
    """What a figure's CSV holds, read back."""
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def accuracy(p: float, k: int, seed: int, split: str) -> float:
    return 0.1 + 0.3 * p + (k / 4096 if split == "icl" else 0.4 - k / 4096) + 0.01 * (seed - 100) ** 2


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    """Three seeds in every cell but one, which no run has."""
    cells = [(p, k, s, split) for p in P for k in K for s in SEEDS for split in ("icl", "iwl") if (p, k) != (0.5, 0)]
    return tidy(
        {"run": f"{c[:3]}", "seed": c[2], "step": 10000, "split": c[3], "metric": "accuracy", "value": accuracy(*c)}
        | {"task.p": c[0], "task.classes": c[1]}
        for c in cells
    )


@pytest.fixture(scope="module")
def dates() -> pd.DataFrame:
    """An onset at 100 * 10^p * (1 + k / 1024) steps, but never at p = 0, and not said at (1, 0)."""
    rows = [{"task.p": p, "task.classes": k, "value": 100 * 10**p * (1 + k / 1024)} for p in P for k in K]
    table = pd.DataFrame(rows)
    table.loc[table["task.p"] == 0, "value"] = np.nan
    return table[~((table["task.p"] == 1) & (table["task.classes"] == 0))]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Two arms: one learns in context, the other in weights."""
    found = []
    for arm, dial in (("bursty", 1.0), ("flat", 0.0)):
        for seed in SEEDS:
            for i, step in enumerate(STEPS):
                place = dict(run=f"{arm}{seed}", arm=arm, seed=seed, step=step, sequences=32 * step, metric="accuracy")
                grown = i / 5 + 0.01 * (seed - 101)
                for split, value in (("icl", 0.5 + dial * grown / 2), ("iwl", 0.1 + (1 - dial) * grown)):
                    found.append({**place, "split": split, "value": value, "task.p": dial})
    return tidy(found)


def band(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and range: stands in for the curve, which another room owns."""
    keys = ["arm", "task.p", "step", "sequences", "split", "metric"]
    return rows.groupby(keys, sort=False)["value"].agg(value="median", lo="min", hi="max").reset_index()


@pytest.fixture(scope="module")
def onsets() -> pd.DataFrame:
    """Arm "slow" (2 of 3), "quick" (all), "stuck" (none), "odd" (begun, too few, unfinished)."""
    planted = {
        "slow": [(900, "switched"), (np.nan, "flat"), (1100, "switched")],
        "quick": [(200, "switched"), (150, "switched"), (170, "switched")],
        "stuck": [(np.nan, "drift")] * 3,
        "odd": [(np.nan, "begun"), (np.nan, "too few"), (np.nan, "unfinished")],
    }
    return tidy(
        dict(run=f"{arm}{seed}", arm=arm, seed=seed, metric="loss", value=t, lo=0.9 * t, hi=1.2 * t)
        | dict(status=status, since=10, last=10000)
        for arm, dated in planted.items()
        for seed, (t, status) in zip(SEEDS, dated, strict=True)
    )


@pytest.fixture(scope="module")
def medians() -> pd.DataFrame:
    """As `curves.across` gives them: NaN where half never switched, infinite where the interval leaves the record."""
    shown = {"slow": (1100, 900, np.inf), "quick": (170, 150, 200), "stuck": (np.nan, 10000, np.inf)}
    shown["odd"] = (np.nan, 10, np.inf)
    return tidy(
        dict(arm=arm, metric="loss", value=v, lo=lo, hi=hi, n=3, last=10000.0, level=0.75)
        for arm, (v, lo, hi) in shown.items()
    )


def test_a_cell_holds_and_says_the_median_of_its_seeds(grid: pd.DataFrame, tmp_path: Path):
    figure = phase_diagram(grid, "accuracy", "task.p", "task.classes", facets=SERIES, zmin=0.2, zmax=0.9)
    table = csv(figure, tmp_path).set_index(["panel", "x", "y"])
    for split, panel in (("icl", "ICL"), ("iwl", "IWL")):
        for p in P:
            for k in K:
                z, n = table.loc[(panel, p, k), ["z", "n"]]
                assert np.isnan(z) and n == 0 if (p, k) == (0.5, 0) else (z, n) == (accuracy(p, k, 101, split), 3)
    assert len(table) == 2 * len(P) * len(K) and set(table["x_dial"]) == {"task.p"}
    axes = figure.layout.xaxis, figure.layout.yaxis
    assert [axis.type for axis in axes] == ["category"] * 2 and list(figure.data[0].y) == ["0", "64", "1024"]
    words = dict(zip(zip(figure.data[1].x, figure.data[1].y, strict=True), figure.data[1].text, strict=True))
    assert words["1", "1024"] == f"{accuracy(1, 1024, 101, 'icl'):.2f}" and "not run" in words["0.5", "0"]
    colours = figure.layout.coloraxis
    assert (colours.cmin, colours.cmax, colours.colorbar.title.text) == (0.2, 0.9, "accuracy")


def test_contours_are_there_when_given_and_lie_at_their_steps(grid: pd.DataFrame, dates: pd.DataFrame):
    draw = {"table": grid[grid["split"] == "icl"], "metric": "accuracy", "x": "task.p", "y": "task.classes"}
    bare, lined = phase_diagram(**draw), phase_diagram(**draw, contour=dates, levels=[500, 1500])
    assert not bare.layout.shapes and not bare.layout.annotations and "onset" not in plotted(bare)
    assert {s.name for s in lined.layout.shapes} == {"onset at 500", "onset at 1.5k"}
    assert [a.text for a in lined.layout.annotations] == ["<b>500</b>", "<b>1.5k</b>"]
    step = plotted(lined).set_index(["x", "y"])["onset"]
    assert step["1", "64"] == 1000 * (1 + 64 / 1024) and np.isnan(step["0", "64"]) and np.isnan(step["1", "0"])
    height = np.log10(step.unstack("y").reindex(index=["0", "0.5", "1"], columns=["0", "64", "1024"]).to_numpy(float))
    for line in lined.layout.shapes:  # an end lies between two cells, where the log of the step is the level's
        for x, y in ((line.x0, line.y0), (line.x1, line.y1)):
            (i, u), (j, v) = ((int(part), part % 1) for part in (x, y))
            there = height[i + 1, j] if u else height[i, j + 1]
            level = np.log10(500 if line.name == "onset at 500" else 1500)
            assert height[i, j] + (u or v) * (there - height[i, j]) == pytest.approx(level)
    words = dict(zip(zip(lined.data[1].x, lined.data[1].y, strict=True), lined.data[1].text, strict=True))
    assert {at for at, word in words.items() if "never" in word} == {("0", "0"), ("0", "64"), ("0", "1024"), ("1", "0")}
    one = phase_diagram(grid, "accuracy", "task.p", "task.classes", facets=SERIES, contour={"IWL": dates})
    assert {s.xref for s in one.layout.shapes} == {"x2"}, "in its own panel alone"
    never = phase_diagram(**draw, contour=dates.assign(value=np.nan))
    assert not never.layout.shapes and never.data[1].text[-1].endswith("never")


def test_dials_that_are_words_and_tables_without_seeds_draw(grid: pd.DataFrame):
    words = grid[grid["seed"] == 100].drop(columns=["seed", "run"]).assign(kind="zipf")
    chosen = words[(words["split"] == "icl") & (words["task.p"] == 1)]
    table = plotted(phase_diagram(chosen, "accuracy", "kind", "task.classes"))
    assert list(table["z"]) == [accuracy(1, k, 100, "icl") for k in K] and set(table["x"]) == {"zipf"}


def test_the_plane_holds_every_path_with_its_steps(rows: pd.DataFrame, tmp_path: Path):
    figure = plane(rows, IWL, ICL, band=band(rows), x_lines={"chance": 0.1}, y_lines={"even": 0.5})
    table = csv(figure, tmp_path)
    for role, planted, keys in (("seed", rows, ["arm", "seed"]), ("median", band(rows), ["arm"])):
        for key, seen in table[table["role"] == role].groupby(keys):
            here = planted[(planted[keys] == list(key)).all(axis=1)]
            assert list(seen["step"]) == list(STEPS)
            assert list(seen["x"]) == list(here[here["split"] == "iwl"]["value"])
            assert list(seen["y"]) == list(here[here["split"] == "icl"]["value"])
    median = table[(table["role"] == "median") & (table["arm"] == "flat")]
    low = band(rows).query("arm == 'flat' and split == 'iwl'")["lo"]
    assert list(median["x_lo"]) == list(low)
    assert set(table.loc[table["role"] == "median", "trace"]) == {"bursty", "flat"}
    rules = table[table["role"] == "line"]
    assert set(rules.loc[rules["axis"] == "x", "x"]) == {0.1} and set(rules.loc[rules["axis"] == "y", "y"]) == {0.5}
    heads = [t for t in figure.data if t.marker.symbol == "arrow"]
    assert [t.meta["role"] for t in heads] == ["median"] * 2
    assert all(np.flatnonzero(t.marker.size).tolist() == [len(STEPS) - 1] for t in heads)
    assert [t.marker.angle for t in heads] == pytest.approx([0, 90], abs=0.01)  # in context: up; in weights: right
    stops = [t for t in figure.data if "text" in (t.mode or "")]
    assert [t for t in stops[1].text if t] and set(stops[1].text) <= {"1", "10", "100", "1k", "10k", ""}
    assert all(np.all(np.diff(t.marker.size) > 0) for t in stops), "marks grow"


def test_chosen_steps_are_labelled_at_their_nearest_checkpoints(rows: pd.DataFrame):
    figure = plane(rows[(rows["seed"] == 100) & (rows["arm"] == "flat")], IWL, ICL, steps=[40, 1300, 10**6])
    stops = [t for t in figure.data if "text" in (t.mode or "")]
    assert [list(t.text) for t in stops] == [["100", "1k"]]
    assert "flat (1 seed)" in [t.name for t in figure.data]


def test_labels_do_not_cover_one_another_nor_the_path():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [300.0, 0.0]])
    way = np.array([[x, 0.0] for x in range(0, 400, 4)])
    found = sides(points, ["100", "1k", "10k"], way)
    assert "middle right" not in found and "middle left" not in found[1:] and found[0] != found[1]
    crowd = np.array([[x, y] for x in range(-60, 60, 4) for y in range(-60, 60, 4)], float)
    assert sides(points[:1], ["100"], crowd) == [""]


def test_multiples_hold_every_number_in_the_panel_of_its_dial(rows: pd.DataFrame, tmp_path: Path):
    gone = rows[~((rows["task.p"] == 0) & (rows["split"] == "iwl"))]
    lines = {"even": 0.5, "IWL": 0.1}
    figure = multiples(gone, SERIES, "task.p", metric="accuracy", band=band(gone), lines=lines)
    table = csv(figure, tmp_path)
    for role, planted, keys in (
        ("seed", gone, ["task.p", "split", "seed"]),
        ("median", band(gone), ["task.p", "split"]),
    ):
        for key, here in planted.groupby(keys):
            named = dict(zip(keys, key, strict=True))
            named["series"] = named.pop("split").upper()
            seen = table[(table["role"] == role) & (table[list(named)] == list(named.values())).all(axis=1)]
            assert list(seen["x"]) == list(STEPS) and list(seen["y"]) == list(here["value"])
            assert role == "seed" or list(seen["y_hi"]) == list(here["hi"])
    assert not ((table["task.p"] == 0) & (table["series"] == "IWL")).any()
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:2] == ["p = 0", "p = 1"], "in the order of the dial, not of the rows"
    assert titles.count("even") == titles.count("chance, IWL") == 1, "rules are labelled once"
    colour = {t.name: t.line.color for t in figure.data if t.showlegend}
    rules = {t.meta["strategy"]: t.line.color for t in figure.data if t.meta["role"] == "line"}
    thin = {(t.meta["series"], t.line.color) for t in figure.data if t.meta["role"] == "seed"}
    assert thin == {(name, tint(colour[name], 0.5)) for name in SERIES}
    assert rules["chance, IWL"] == colour["IWL"] != rules["even"]
    medians = {(t.xaxis, t.meta["series"]): t.line.color for t in figure.data if t.meta["role"] == "median"}
    assert medians == {("x", "ICL"): colour["ICL"], ("x2", "ICL"): colour["ICL"], ("x2", "IWL"): colour["IWL"]}


def test_multiples_of_a_column_fill_a_grid_with_one_axis(rows: pd.DataFrame):
    many = pd.concat([rows.assign(dial=k) for k in (16, 2, 4, 8, 1)])
    figure = multiples(many[many["arm"] == "flat"], "split", "dial", metric="accuracy", columns=3)
    assert [a.text for a in figure.layout.annotations][:5] == [f"dial = {k}" for k in (1, 2, 4, 8, 16)]
    assert {t.name for t in figure.data if t.showlegend} == {"icl", "iwl"}
    names = [f"xaxis{i}" for i in ("", 2, 3, 4, 5, 6)]
    assert [figure.layout[n].showticklabels for n in names[:5]] == [False, False, True, True, True]
    assert figure.layout.xaxis6.visible is False
    assert len({figure.layout[n].range for n in names[:5]}) == 1


def test_the_race_shows_every_seed_and_never_drops_one(onsets: pd.DataFrame, medians: pd.DataFrame, tmp_path: Path):
    figure = race(onsets, metric="loss", medians=medians, published={"quick": 160, "absent": 5})
    table = csv(figure, tmp_path)
    dated = table[table["role"] == "onset"]
    want = onsets[onsets["status"] == "switched"].sort_values(["arm", "seed"])
    seen = dated.sort_values(["arm", "seed"])
    assert list(seen["seed"]) == list(want["seed"]) and list(seen["x"]) == list(want["value"])
    assert np.allclose(seen[["x_lo", "x_hi"]], want[["lo", "hi"]])
    never = table[table["role"] == "never"]
    assert sorted(zip(never["arm"], never["seed"], strict=True)) == [
        ("odd", 102),
        ("slow", 101),
        ("stuck", 100),
        ("stuck", 101),
        ("stuck", 102),
    ]
    assert set(never["x"]) == {10000}
    open_marks = [t.marker.symbol for t in figure.data if t.meta["role"] in ("never", "begun", "later")]
    assert len(open_marks) == 8 and all(symbol.endswith("-open") for symbol in open_marks)
    assert list(table[table["role"] == "begun"]["x"]) == [10]
    middle = table[table["role"] == "median"].set_index("arm")
    assert list(middle.loc["slow", ["x", "x_lo", "x_hi"]]) == [1100, 900, np.inf] and middle.loc["quick", "x"] == 170
    assert set(table[table["role"] == "later"]["arm"]) == {"stuck", "odd"}
    assert list(table[table["role"] == "published"]["x"]) == [160]
    assert "median over seeds (75 %)" in [t.name for t in figure.data], "three seeds hold no 95 %"


def test_arms_stand_by_their_median_or_as_told_with_their_counts(onsets: pd.DataFrame, medians: pd.DataFrame):
    def labels(**more) -> list[str]:
        return [text.split(">", 1)[1].replace("</b><br>", ": ") for text in race(onsets, **more).layout.yaxis.ticktext]

    assert labels(medians=medians) == [
        "quick: 3 of 3 switched",
        "slow: 2 of 3 switched",
        "stuck: 0 of 3 switched",
        "odd: 1 of 2 switched, 1 unjudged",
    ]
    assert labels(order=["stuck", "absent", "quick"]) == [
        "stuck: 0 of 3 switched",
        "absent: no runs",
        "quick: 3 of 3 switched",
    ]


def test_the_curves_of_a_race_stand_above_it_on_the_same_axis(onsets: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path):
    curves = rows[rows["split"] == "icl"].assign(arm=lambda t: t["arm"].map({"bursty": "quick", "flat": "slow"}))
    figure = race(onsets, table=curves, band=band(curves), lines={"even": 0.5})
    table = csv(figure, tmp_path)
    seen = table[(table["role"] == "seed") & (table["arm"] == "quick") & (table["seed"] == 101)]
    want = curves[(curves["arm"] == "quick") & (curves["seed"] == 101)]
    assert list(seen["x"]) == list(STEPS) and list(seen["y"]) == list(want["value"])
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range and figure.layout.xaxis.matches == "x2"
    inks = {t.meta["arm"]: t.line.color for t in figure.data if t.meta["role"] == "median"}
    dots = {t.meta["arm"]: t.marker.color for t in figure.data if t.meta["role"] == "onset"}
    assert dots == inks, "an arm has one colour"


BLANK: dict[str, Callable] = {
    "phase_diagram": lambda grid, rows, onsets: phase_diagram(
        grid[grid["split"] == "icl"], "accuracy", "task.p", "task.classes"
    ),
    "plane": lambda grid, rows, onsets: plane(rows, IWL, ICL, band=band(rows)),
    "multiples": lambda grid, rows, onsets: multiples(rows, SERIES, metric="accuracy", band=band(rows)),
    "race": lambda grid, rows, onsets: race(onsets, table=rows[rows["split"] == "icl"]),
}


@pytest.mark.parametrize("name", BLANK)
def test_what_is_all_missing_and_a_single_seed_draw(
    name: str, grid: pd.DataFrame, rows: pd.DataFrame, onsets: pd.DataFrame, tmp_path: Path
):
    tables = grid, rows, onsets
    nothing = [table.assign(value=np.nan) for table in (grid, rows)]
    never = onsets.assign(value=np.nan, lo=np.nan, hi=np.nan, status="flat")
    for few in ((*nothing, never), [t[t["seed"] == 100] for t in tables], [t.drop(columns="run") for t in tables]):
        files = [save(BLANK[name](*few), tmp_path / part, name, images=()) for part in "ab"]
        assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
        page = files[0][0].read_text()
        assert not re.search(r"https?:|//[a-z]+\.", page[page.rindex("Plotly.newPlot") :]), "it needs no network"


WRONG: dict[str, Callable] = {
    "2 values at task.p 0.0, task.classes 0, run .*: they differ in split": lambda grid, rows, onsets: phase_diagram(
        grid, "accuracy", "task.p", "task.classes"
    ),
    "no split 'icll'; did you mean 'icl'": lambda grid, rows, onsets: plane(rows, IWL, {"split": "icll"}),
    "2 values at arm bursty, seed 100, step 0: they differ in split": lambda grid, rows, onsets: plane(
        rows, IWL, {"metric": "accuracy"}
    ),
    "no column in this table 'task.q'": lambda grid, rows, onsets: multiples(rows, SERIES, "task.q"),
    "they differ in run, seed; .* take their median first": lambda grid, rows, onsets: multiples(
        rows, SERIES, band=rows.assign(lo=0, hi=1)
    ),
    "2 values at arm slow, seed 100: they differ in direction": lambda grid, rows, onsets: race(
        pd.concat([onsets.assign(direction="rise"), onsets.assign(direction="fall")])
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_say_what_to_choose(message: str, grid: pd.DataFrame, rows: pd.DataFrame, onsets: pd.DataFrame):
    with pytest.raises(ValueError, match=message):
        WRONG[message](grid, rows, onsets)
