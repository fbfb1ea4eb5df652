"""Grids: a planted surface of onsets is found cell by cell, holes say why, and mistakes are told before work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probelab as lab
from probelab import conduct
from probelab.figures import plotted
from probelab.grids import DATED, apart, cells_of, gridded, of_task, phase_diagrams, price
from probelab.measures import Loss
from probelab.rows import pick
from probelab.schedule import kept
from probelab.studies import STUDIES
from probelab.study import parse_settings, plan
from synthetic_tasks import Markov
from tests.tiny import command

ZIPF, BURSTY, LAST = (0.0, 0.5, 1.0, 1.5), (0.0, 0.5, 1.0), 3000
SETTINGS = {"task.zipf": list(ZIPF), "task.p_bursty": list(BURSTY)}
JITTER = np.exp([-0.2, -0.1, -0.03, 0.03, 0.1, 0.2])  # of the onset, by seed
NEVER, ABSENT, STOPPED, EARLY = (1.5, 1.0), (0.0, 0.0), (1.5, 0.0), 37


def surface(zipf: float, bursty: float) -> float:
    """The planted step: its logarithm is a plane, so that lines of equal step are straight."""
    return 60 * 4**zipf * 3**bursty


def planted(of: str = "net", settings: dict = SETTINGS, **more: object) -> list[dict]:
    """The loss of six seeds in every cell but one: a switch at the planted step, or none, or an early stop."""
    steps, found = np.array(kept(LAST)), []
    for x in ZIPF:
        for y in BURSTY:
            for seed, jitter in enumerate(JITTER):
                at = LAST * 1e6 if (x, y) == NEVER else surface(x, y) * jitter
                rng = np.random.default_rng([seed, int(10 * x), int(10 * y)])
                loss = 1 - 0.9 / (1 + (at / np.maximum(steps, 1e-9)) ** 6) + 0.01 * rng.standard_normal(len(steps))
                seen = steps <= (EARLY if (x, y) == STOPPED else LAST)
                arm = f"{of}, task.zipf={x}, task.p_bursty={y}"
                place = dict(arm=arm, run=f"{arm} {seed}", seed=seed, measure="loss", metric="loss", split="train")
                if (x, y) != ABSENT:
                    curve = zip(steps[seen], loss[seen], strict=True)
                    found += [place | more | dict(step=int(step), value=value) for step, value in curve]
    return found


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.DataFrame(planted())


@pytest.fixture(scope="module")
def drawn(rows: pd.DataFrame) -> dict:
    return phase_diagrams(rows, of_task(Markov()).curves(rows), SETTINGS, {})


def cells(figure) -> pd.DataFrame:
    """What a phase diagram plots, by its dials."""
    table = plotted(figure)
    return table.assign(x=table["x"].astype(float), y=table["y"].astype(float)).set_index(["x", "y"])


def test_a_planted_surface_of_onsets_is_found_cell_by_cell(drawn: dict) -> None:
    found = cells(drawn["phases-onset-of-loss-train"])
    assert len(found) == len(ZIPF) * len(BURSTY) and set(found["x_dial"]) == {"task.zipf"}
    for x in ZIPF:
        for y in BURSTY:
            cell = found.loc[(x, y)]
            if (x, y) == NEVER:
                assert np.isnan(cell["z"]) and cell["text"] == "none by 3k" and cell["n"] == 6
            elif (x, y) == ABSENT:
                assert np.isnan(cell["z"]) and cell["text"] == "not run" and cell["n"] == 0
            elif (x, y) == STOPPED:
                assert np.isnan(cell["z"]) and cell["text"] == f"none by {EARLY}"
            else:
                truth = surface(x, y)
                assert cell["z"] == pytest.approx(truth, rel=0.1) and cell["n"] == 6
                assert cell["z_lo"] <= truth <= cell["z_hi"]
                assert cell["z_hi"] / cell["z_lo"] == pytest.approx(JITTER[-1] / JITTER[0], rel=0.2)


def test_its_contour_passes_where_the_surface_has_that_step(drawn: dict) -> None:
    shapes = drawn["phases-onset-of-loss-train"].layout.shapes
    assert len({shape.name for shape in shapes}) >= 2
    for shape in shapes:
        level = {"k": 1e3}.get(shape.name[-1], 1) * float(shape.name.split()[-1].rstrip("k"))
        for x, y in ((shape.x0, shape.y0), (shape.x1, shape.y1)):
            assert surface(0.5 * x, 0.5 * y) == pytest.approx(level, rel=0.1), "an end of a line, in cells of .5"


def test_no_line_traces_the_noise(rows: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    flat = rows.assign(value=rng.standard_normal(len(rows)))
    level = {"level": {"measure": "loss", "metric": "loss"}}
    assert not phase_diagrams(flat, pd.DataFrame(), SETTINGS, level)["phases-level"].layout.shapes
    slope = flat.assign(value=flat["value"] + 9 * rows["arm"].str.contains("zipf=1"))
    assert phase_diagrams(slope, pd.DataFrame(), SETTINGS, level)["phases-level"].layout.shapes


def test_levels_stand_beside_the_onsets_and_runs_that_stopped_have_none(drawn: dict) -> None:
    found = cells(drawn["phases-loss-train"])
    assert found.loc[(0.5, 0.5), "z"] == pytest.approx(0.1, abs=0.02)
    assert found.loc[NEVER, "z"] == pytest.approx(1.0, abs=0.02)
    assert found.loc[STOPPED, "text"] == f"stopped at {EARLY}" and np.isnan(found.loc[STOPPED, "z"])
    assert found.loc[ABSENT, "text"] == "not run"


def test_a_cell_shows_its_interval_and_a_hole_its_reason(drawn: dict) -> None:
    figure = drawn["phases-onset-of-loss-train"]
    words = dict(zip(zip(figure.data[1].x, figure.data[1].y, strict=True), figure.data[1].text, strict=True))
    hover = figure.data[0].hovertext[1][2]
    assert "–" in words["1", "0.5"] and " to " in hover and "(6 seeds)" in hover
    assert "none by 3k" in words["1.5", "1"] and "not run" in words["0", "0"]
    ground = np.array(figure.data[2].z, float)
    assert np.isfinite(ground[2, 3]) and np.isnan(ground[0, 0]), "grey where it was run, white where it was not"


def test_a_third_dial_and_the_arms_of_a_study_make_panels() -> None:
    both = [row | {"arm": f"{row['arm']}, task.noise={eps}"} for eps in (0.0, 0.3) for row in planted()]
    other = [row | {"arm": row["arm"].replace("net", "LSTM"), "run": f"L {row['run']}"} for row in planted()]
    other = [row | {"arm": f"{row['arm']}, task.noise={eps}"} for eps in (0.0, 0.3) for row in other]
    rows = pd.DataFrame([row | {"run": row["arm"] + row["run"]} for row in both] + other)
    level = {"level": {"measure": "loss", "metric": "loss"}}
    figure = phase_diagrams(rows, pd.DataFrame(), SETTINGS | {"task.noise": [0.0, 0.3]}, level)["phases-level"]
    panels = plotted(figure)["panel"].unique().tolist()
    told = ["net; task.noise = 0.0", "net; task.noise = 0.3", "LSTM; task.noise = 0.0 (and 1 equal)"]
    assert panels == told, "panels of the same runs are one"
    tops = {figure.layout[axis].domain for axis in figure.layout if axis.startswith("yaxis")}
    assert len(tops) == 2, "four cells across are legible in two panels beside one another, not in three"


def test_one_dial_stands_against_the_arms(rows: pd.DataFrame) -> None:
    one = rows[rows["arm"].str.contains("p_bursty=0.5")].copy()
    one["arm"] = one["arm"].str.replace(", task.p_bursty=0.5", "")
    figure = phase_diagrams(one, pd.DataFrame(), {"task.zipf": list(ZIPF)}, {"a": {"metric": "loss"}})["phases-a"]
    assert plotted(figure)["y"].unique().tolist() == ["net"] and len(plotted(figure)) == len(ZIPF)


def test_cells_keep_the_order_in_which_words_were_given_and_sort_numbers() -> None:
    settings = parse_settings(["model.positions=rotary,sinusoidal,learned", "task.length=32,8,16"])
    arms = [
        f"a, model.positions={p}, task.length={n}" for p in ("learned", "sinusoidal", "rotary") for n in (8, 16, 32)
    ]
    place = cells_of(arms, settings)
    assert list(place["arm"]) == arms and set(place["of"]) == {"a"}
    assert list(place["model.positions"].cat.categories) == ["rotary", "sinusoidal", "learned"]
    made = {**settings, "steps": [5]}
    rows = pd.DataFrame([dict(arm=a, run=a, seed=0, step=5, metric="m", value=1.0) for a in arms])
    figure = phase_diagrams(rows, pd.DataFrame(), made, {"m": {"metric": "m"}})["phases-m"]
    assert list(figure.data[0].x) == ["rotary", "sinusoidal", "learned"] and list(figure.data[0].y) == ["8", "16", "32"]


def test_every_combination_is_an_arm_in_order_and_equal_ones_share_a_run() -> None:
    jobs = plan(STUDIES["markov"], "smoke", (0,), parse_settings(["task.length=8,16", "model.layers=1,2"]))
    arms = [job.arm for job in jobs]
    assert arms[:4] == [f"two layers, task.length={n}, model.layers={k}" for n in (8, 16) for k in (1, 2)]
    runs = conduct.merged(jobs)
    assert len(jobs) == 12 and len(runs) == 8, "one layer and two layers coincide in every cell"
    assert price(STUDIES["markov"], "smoke", runs) < price(
        STUDIES["markov"], "smoke", jobs + plan(STUDIES["markov"], "full")
    )


def test_shared_runs_are_set_apart_for_curves_and_figures() -> None:
    rows = pd.DataFrame({"arm": ["a", "b", "b"], "run": ["r", "r", "s"], "value": 1.0})
    assert list(apart(rows)["run"]) == ["a/r", "b/r", "s"] and list(rows["run"]) == ["r", "r", "s"]
    study = STUDIES["markov"]
    assert gridded(study, {"task.length": [8]}) is study


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=[1,2],[3,4]", [(1, 2), (3, 4)]),
        ('a="x,y",z', ["x,y", "z"]),
        ("a=true,false,true", [True, False]),
        ("a=0,false", [0, False]),
        ("a=1,1.0,2", [1.0, 2]),
        ("a=none,1", [None, 1]),
        ("a=-1e-3", [-0.001]),
    ],
)
def test_values_as_they_are_written(text: str, values: list) -> None:
    found = parse_settings([text])["a"]
    assert found == values and [type(v) is bool for v in found] == [type(v) is bool for v in values]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("grid", "markow"), "no task 'markow'; did you mean 'markov'"),
        (("grid", "markov", "--measure", "los"), "no measure 'los'; did you mean 'loss'"),
        (("grid", "markov", "--set", "length=8,16"), "no setting 'length'; did you mean 'task.length'"),
        (
            ("grid", "markov", "--set", "task.length=8,x"),
            "length = 'x' is out of range: it is of kind int (at task.length=x",
        ),
        (("grid", "markov", "--set", "task.states=2,1", "--set", "batch=4,8"), "(at task.states=1, batch=4)"),
        (("grid", "markov", "--set", "task.length=8,16]"), "a bracket is not closed, or was not opened"),
        (("grid", "markov", "--set", 'task.variant="a,b'), "a quote is not closed"),
        (("grid", "markov", "--steps", "0"), "--steps 0 is out of range"),
        (("grid", "markov", "--seeds", "x"), "--seeds 'x' is not a range"),
        (("reproduce", "skew", "--set", "task.zipf=0,1", "--set", "task.zipf=2"), "task.zipf was set before"),
    ],
)
def test_mistakes_are_told_before_work_starts(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = command(capsys, *arguments, "--out", tmp_path / "out")
    assert said.code == 2 and complaint in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_its_phase_diagrams_show(name: str) -> None:
    study, rows = STUDIES[name], lab.example(name)
    dated = study.curves(rows)
    assert study.maps
    for title, of in study.maps.items():
        of_dates = of.get("measure") in DATED
        found = pick(dated if of_dates else rows, **of)
        places = ["arm", "run"] if of_dates else ["arm", "run", "step"]
        assert len(found) and not found.duplicated(places).any(), f"{title}: one value at each place"


def test_a_grid_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = conduct.save
    monkeypatch.setattr(conduct, "save", lambda figure, folder, name, formats: honest(figure, folder, name, ()))
    grid = ("--set", "task.length=8,12", "--set", "batch=8,16", "--set", "model.d_model=16", "--set", "model.layers=1")
    arguments = ("grid", "markov", *grid, "--steps", 6, "--seeds", "0-1", "--jobs", 1, "--out", tmp_path)
    dry = command(capsys, *arguments, "--dry-run")
    assert "grid: task.length (2 values) x batch (2 values): 4 cells" in dry.out and "price: about" in dry.out
    assert not list(tmp_path.iterdir())
    said = command(capsys, *arguments)
    assert said.code == 0, said.err
    table = pd.read_csv(tmp_path / "figures/grid-markov/phases-loss-train.csv")
    assert len(table) == 4 and (table["n"] == 2).all() and set(table["x_dial"]) == {"task.length"}
    rows = lab.rows(tmp_path, "loss")
    assert set(rows["task.length"]) == {8, 12} and rows["run"].nunique() == 8
    ends = rows[(rows["step"] == 6) & (rows["metric"] == "loss")].groupby(["task.length", "batch"])["value"].median()
    for _, cell in table.iterrows():
        assert cell["z"] == pytest.approx(ends[cell["x"], cell["y"]])
    settings = {"task.length": [8, 12], "batch": [8, 16], "model.d_model": [16], "model.layers": [1]}
    again = lab.grid(Markov(), settings, [Loss()], steps=6, seeds=(0, 1), out=tmp_path, progress=False)
    assert set(again.rows["arm"]) == {f"markov, task.length={n}, batch={b}" for n in (8, 12) for b in (8, 16)}
