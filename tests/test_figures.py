"""Figures show what was planted, every number of it, in files that need no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probelab.figures
from probelab.figures import FIGURES, dynamics, heads, pattern, phases, plotted, save
from probelab.figures._axis import Axis
from probelab.rows import tidy

STEPS = np.array([0, 1, 3, 10, 30, 100, 300, 1000])
SEEDS = (100, 101, 102, 103)
SWITCH = {100: 60.0, 101: 80.0, 102: 90.0}  # seed 103 never switches
RULES = {"uniform": 0.21, "bigram": 0.01}


def rising(t: float) -> np.ndarray:
    return STEPS**4 / (STEPS**4 + t**4)


def row(seed: int, step: int, metric: str, value: float, **more: object) -> dict:
    place = dict(run=f"run-{seed}", arm="two layers", seed=seed, step=step, sequences=64 * step, tokens=6400 * step)
    return dict(place, metric=metric, value=value, lo=np.nan, hi=np.nan, **more)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Four seeds near uniform, then unigram (from step 10); three of them near bigram in the end."""
    rng, found = np.random.default_rng(0), []
    for seed in SEEDS:
        first, last = rising(10), rising(SWITCH.get(seed, 1e9))
        distances = {"uniform": first + last, "unigram": 1 - first + last, "bigram": 2.1 - first - last}
        for i, step in enumerate(STEPS):
            found += [row(seed, step, "kl", d[i] + 0.01 * rng.random(), strategy=s) for s, d in distances.items()]
            found.append(row(seed, step, "kl_truth", 0.2 - 0.19 * last[i] + 0.001 * rng.random()))
    return tidy(found)


@pytest.fixture(scope="module")
def onsets() -> pd.DataFrame:
    """Dated falls of the last distance and of the loss; one run is censored."""
    found = []
    for metric, strategy in (("kl", "bigram"), ("kl_truth", None)):
        for seed in SEEDS:
            t = SWITCH.get(seed, np.nan)
            date = dict(value=t, lo=0.9 * t, hi=1.2 * t, start=0.2, end=0.01, last=1000)
            status = dict(direction="fall", status="switched" if seed in SWITCH else "flat", strategy=strategy)
            found.append(dict(arm="two layers", seed=seed, metric=metric, measure="onset", **date, **status))
    return tidy(found)


def over_seeds(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Median and range: stands in for the curve, which another room owns."""
    groups = rows.groupby([*keys, "arm", "metric", "step", "sequences", "tokens"], sort=False, dropna=False)["value"]
    return groups.agg(value="median", lo="min", hi="max").reset_index()


@pytest.fixture(scope="module")
def drawn(rows: pd.DataFrame, onsets: pd.DataFrame) -> dict:
    """One figure of each kind."""
    kl, truth = rows[rows["metric"] == "kl"], rows[rows["metric"] == "kl_truth"]
    scores = tidy(row(100, s, "previous_token", 0.001 * s * (h + 1), layer=1, head=h) for s in STEPS for h in range(11))
    dated = pd.DataFrame([dict(metric="previous_token", layer=1, head=10, value=50, lo=40, hi=70, status="switched")])
    return {
        "dynamics": dynamics(rows, metric="kl_truth", band=over_seeds(truth), onsets=onsets, lines=RULES),
        "phases": phases(rows, band=over_seeds(kl, "strategy"), switches=onsets, lines={"a floor": 0.05}),
        "heads": heads(scores, "previous_token", onsets=dated.assign(arm="two layers")),
        "pattern": pattern(weights(), [0, 10, 20], tokens=list("abcde")),
    }


def weights() -> np.ndarray:
    """Causal attention `[step layer head q k]`."""
    scores = np.tril(np.random.default_rng(0).random((3, 2, 4, 5, 5)))
    return scores / scores.sum(-1, keepdims=True)


def test_the_table_is_the_folder():
    folder = Path(probelab.figures.__file__).parent
    assert set(FIGURES) == {file.stem for file in folder.glob("[!_]*.py")}
    assert all(draw.__name__ == name for name, draw in FIGURES.items())


class References(HTMLParser):
    """What a page fetches: every address in a tag's attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value) for key, value in attrs if key in ("src", "href", "data", "srcset", "action")]


@pytest.mark.parametrize("name", ["dynamics", "phases", "heads", "pattern"])
def test_files_need_no_network_and_are_the_same_twice(drawn: dict, name: str, tmp_path: Path):
    first = save(drawn[name], tmp_path / "a", name, images=())
    second = save(drawn[name], tmp_path / "b", name, images=())
    assert [p.name for p in first] == [f"{name}.html", f"{name}.csv"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    page = first[0].read_text()
    assert References(page).found == []
    assert "MathJax.js" not in page and "Plotly.newPlot" in page and "plotly.js v" in page
    own = page[page.rindex("Plotly.newPlot") :]  # plotly.js itself names addresses it uses for maps alone
    assert not re.search(r"https?:|//[a-z]+\.", own)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"{name}.csv", f"{name}.html"]


def test_a_planted_reference_is_found():
    page = '<html><script src="https://cdn.example/x.js"></script><link href="y.css"></html>'
    assert References(page).found == [("script", "https://cdn.example/x.js"), ("link", "y.css")]


def csv(figure, folder: Path) -> pd.DataFrame:
    return pd.read_csv(save(figure, folder, "figure", images=())[1])


def test_dynamics_csv_holds_every_number_that_was_planted(drawn: dict, rows: pd.DataFrame, tmp_path: Path):
    table = csv(drawn["dynamics"], tmp_path)
    assert set(table["metric"]) == {"kl_truth"} and set(table["x_unit"]) == {"step"}
    planted = rows[rows["metric"] == "kl_truth"]
    for seed in SEEDS:
        seen, want = table[(table["role"] == "seed") & (table["seed"] == seed)], planted[planted["seed"] == seed]
        assert list(seen["x"]) == list(want["step"])  # step 0 too, though it is drawn elsewhere
        assert list(seen["y"]) == list(want["value"])
    median, want = table[table["role"] == "median"], over_seeds(planted)
    assert list(median["y_lo"]) == list(want["lo"]) and list(median["y_hi"]) == list(want["hi"])


def test_onsets_lie_where_they_were_planted_and_the_censored_run_at_its_end(drawn: dict, rows: pd.DataFrame):
    table = plotted(drawn["dynamics"])
    marks = table[table["role"] == "onset"].set_index("seed")
    assert dict(marks["x"]) == SWITCH
    assert np.allclose(marks["x_lo"], 0.9 * marks["x"]) and np.allclose(marks["x_hi"], 1.2 * marks["x"])
    assert np.allclose(marks["y"], 0.105)  # half way from start to end
    bars = [t for t in drawn["dynamics"].data if t.meta["role"] == "onset"]
    ends = [(t.x[0] - t.error_x.arrayminus[0], t.x[0] + t.error_x.array[0]) for t in bars]
    assert np.allclose(ends, marks[["x_lo", "x_hi"]])  # what the table says is what the bar spans
    never = table[table["role"] == "never"]
    end = rows[(rows["metric"] == "kl_truth") & (rows["seed"] == 103) & (rows["step"] == 1000)]
    assert list(never["seed"]) == [103] and list(never["x"]) == [1000] and list(never["y"]) == list(end["value"])


def test_onsets_follow_the_axis(rows: pd.DataFrame, onsets: pd.DataFrame):
    table = plotted(dynamics(rows, metric="kl_truth", x="sequences", onsets=onsets, log_x=False))
    assert np.allclose(table.loc[table["role"] == "onset", "x"], 64 * np.array(list(SWITCH.values())))


def test_rules_are_labelled_where_they_are_and_labels_do_not_touch(rows: pd.DataFrame):
    levels = {"unigram": 0.09, "unigram, smoothed": 0.0901, **RULES}
    figure = dynamics(rows, metric="kl_truth", lines=levels)
    table = plotted(figure)
    drawn = table[table["role"] == "line"].groupby("strategy")["y"].unique()
    assert {name: list(y) for name, y in drawn.items()} == {name: [y] for name, y in levels.items()}
    labels = {a.text: a.y for a in figure.layout.annotations}
    assert all(labels[name] == pytest.approx(levels[name]) for name in ("uniform", "unigram", "bigram"))
    assert labels["unigram, smoothed"] - labels["unigram"] > 0.005
    as_rows = pd.DataFrame([dict(strategy=k, value=v, step=s) for k, v in levels.items() for s in STEPS])
    assert dynamics(rows, metric="kl_truth", lines=as_rows).to_json() == figure.to_json()
    with pytest.raises(ValueError, match="'unigram' has several levels"):
        dynamics(rows, metric="kl_truth", lines=as_rows.assign(value=np.arange(len(as_rows))))


def test_zero_stands_left_of_the_first_step_on_a_log_axis_only(rows: pd.DataFrame):
    log, linear = (dynamics(rows, metric="kl_truth", log_x=log_x) for log_x in (True, False))
    assert 0 < log.data[0].x[0] < 1 == log.data[0].x[1]
    assert log.layout.xaxis.ticktext[0] == "0" and log.layout.xaxis.tickvals[0] == log.data[0].x[0]
    assert [a.text for a in log.layout.annotations] == ["//"]
    assert linear.data[0].x[0] == 0 and not linear.layout.annotations
    without = dynamics(rows[rows["step"] > 0], metric="kl_truth")
    assert without.data[0].x[0] == 1 and not without.layout.annotations


def test_phases_show_every_seed_its_nearest_strategy_and_its_switch(drawn: dict, rows: pd.DataFrame, tmp_path: Path):
    table = csv(drawn["phases"], tmp_path)
    thin = table[table["role"] == "seed"].astype({"y": float})
    planted = rows[rows["metric"] == "kl"].merge(
        thin, left_on=["seed", "strategy", "step"], right_on=["seed", "strategy", "x"]
    )
    assert len(planted) == len(thin) == len(SEEDS) * 3 * len(STEPS)
    assert (planted["value"] == planted["y"]).all()
    nearest = table[table["role"] == "nearest"].pivot(index="y", columns="x", values="text")
    assert list(nearest.loc["seed 100"]) == ["uniform"] * 3 + [nearest.loc["seed 100", 10], "unigram"] + ["bigram"] * 3
    assert list(nearest.loc["seed 103"])[-3:] == ["unigram"] * 3
    switches = table[table["role"] == "switch"]
    assert dict(zip(switches["y"], switches["x"], strict=True)) == {f"seed {s}": t for s, t in SWITCH.items()}
    assert set(switches["trace"]) == {"reaches bigram"}
    never = table[table["role"] == "never"]
    assert list(never["y"]) == ["seed 103"] and list(never["x"]) == [1000]
    texts = [a.text for a in drawn["phases"].layout.annotations]
    assert [t for t in texts if t.startswith("<b>")] == ["<b>uniform</b>", "<b>unigram</b>", "<b>bigram</b>"]
    assert "a floor" in texts


def test_phases_take_a_panel_for_each_arm(rows: pd.DataFrame, onsets: pd.DataFrame):
    both = pd.concat([rows, rows.assign(arm="one layer")])
    figure = phases(both, switches=pd.concat([onsets, onsets.assign(arm="one layer")]))
    table = plotted(figure)
    assert set(table["arm"].dropna()) == {"two layers", "one layer"}
    named = [t.name for t in figure.data if t.showlegend]
    assert len(named) == len(set(named)) == 5  # three distances, one switch, one that never came


def test_heads_round_trip_with_the_onset_on_its_head(drawn: dict, tmp_path: Path):
    table = csv(drawn["heads"], tmp_path)
    score = table[table["role"] == "score"].set_index(["y", "x"])["z"]
    assert all(score[f"L1H{h}", s] == 0.001 * s * (h + 1) for s in STEPS for h in range(11))
    mark = table[table["role"] == "onset"].iloc[0]
    assert (mark["y"], mark["x"], mark["x_lo"], mark["x_hi"]) == ("L1H10", 50, 40, 70)
    assert list(drawn["heads"].data[0].y) == [f"L1H{h}" for h in range(10, -1, -1)]  # drawn upwards: head 0 on top


def test_pattern_holds_every_weight_once_for_each_checkpoint(drawn: dict, tmp_path: Path):
    table, want = csv(drawn["pattern"], tmp_path), weights()
    assert len(table) == 3 * 2 * 4 * 15  # what lies ahead is left out
    seen = np.zeros_like(want)
    at = [table[c].to_numpy() for c in ("layer", "head", "y", "x")]
    seen[(table["frame"].to_numpy() // 10, *at)] = table["z"]
    assert np.allclose(seen, want, atol=0.00051)
    slider = drawn["pattern"].layout.sliders[0]
    assert [s.label for s in slider.steps] == [f.name for f in drawn["pattern"].frames] == ["0", "10", "20"]
    assert [s.args[0][0] for s in slider.steps] == ["0", "10", "20"]
    assert drawn["pattern"].data[0].z == drawn["pattern"].frames[slider.active].data[0].z


def test_of_many_checkpoints_a_pattern_draws_the_first_the_last_and_some_between():
    many = np.tril(np.arange(1, 41)[:, None, None, None, None] / 40 * np.ones((1, 1, 1, 4, 4)))
    figure = pattern(many, range(0, 80, 2), most=5)
    assert [frame.name for frame in figure.frames] == ["0", "20", "40", "58", "78"]
    shown = plotted(figure).groupby("frame")["z"].max()
    assert shown["78"] == 1 and shown["0"] == 0.025, "each checkpoint with its own weights"


def test_a_pattern_that_looks_ahead_is_drawn_whole():
    assert len(plotted(pattern(np.full((1, 1, 1, 5, 5), 0.2), [7]))) == 25


WRONG = {
    r"no metric in this table 'kl_thruth'; did you mean 'kl_truth'\?": lambda rows: dynamics(rows, metric="kl_thruth"),
    "3 values at arm two layers, seed 100, step 0: they differ in strategy": lambda rows: dynamics(rows, metric="kl"),
    "no column in this table 'token'; did you mean 'tokens'": lambda rows: dynamics(rows, metric="kl", x="token"),
    "no horizontal axis 'value'.* known: step, seq": lambda rows: dynamics(rows, metric="kl_truth", x="value"),
    "they differ in run, seed; .* take their median first": lambda rows: phases(rows, band=rows),
    "no column in this table 'strategy'": lambda rows: phases(rows.drop(columns="strategy")),
    "no column in this table 'layer'": lambda rows: heads(rows, "kl"),
    r"shape of weights = \(2, 3, 4\)": lambda _: pattern(np.ones((2, 3, 4)), [0, 1]),
    "number of steps = 2 .* one for each of the 3": lambda _: pattern(weights(), [0, 1]),
    "number of tokens = 2 .* one for each of the 5": lambda _: pattern(weights(), [0, 1, 2], tokens="ab"),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_say_what_to_choose(rows: pd.DataFrame, message: str):
    with pytest.raises(ValueError, match=message):
        WRONG[message](rows)


def test_a_bare_table_of_one_run_draws(rows: pd.DataFrame):
    bare = rows[(rows["seed"] == 100) & (rows["metric"] == "kl_truth")][["step", "metric", "value"]]
    table = plotted(dynamics(bare, metric="kl_truth"))
    assert list(table["y"]) == list(bare["value"])


def test_a_single_run_says_nothing_of_seeds_and_several_count_them(rows: pd.DataFrame):
    def said(table: pd.DataFrame, **more) -> list[str]:
        figure = dynamics(table, metric="kl_truth", **more)
        return [figure.layout.title.text, *(trace.name for trace in figure.data if trace.showlegend)]

    alone = rows[rows["seed"] == 100]
    assert not any("seed" in text for text in said(alone, lines=RULES)) and said(alone)[1:] == ["two layers"]
    assert "band: 95 % interval" in said(alone, band=alone.assign(lo=0.0, hi=1.0))[0]
    assert said(rows)[1:] == ["two layers (4 seeds)"] and "every seed" in said(rows)[0]
    assert said(pd.concat([rows, alone.assign(arm="one layer")]))[1:] == ["two layers (4 seeds)", "one layer (1 seed)"]
    assert said(alone.drop(columns="arm"))[1:] == [], "a name for nothing to tell apart"
    few = over_seeds(rows[rows["metric"] == "kl_truth"]).assign(level=0.875)
    assert "median with its 88 % band" in said(rows, band=few)[0]


def browser() -> str | None:
    try:
        from choreographer.browsers import Chromium
    except ImportError:
        return None
    return Chromium.find_browser(skip_local=False)


@pytest.mark.skipif(browser() is None, reason="pictures need kaleido and a browser")
def test_pictures_where_there_is_a_browser(drawn: dict, tmp_path: Path):
    paths = save(drawn["phases"], tmp_path, "phases")
    assert [p.suffix for p in paths] == [".html", ".csv", ".png", ".svg"]
    png = paths[2].read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20]) == 1800  # 900 wide, at twice the pixels
    assert b"optimiser step" in paths[3].read_bytes()


def test_without_a_browser_a_line_says_how_to_get_one(drawn: dict, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    paths = save(drawn["heads"], tmp_path, "heads")
    assert [p.suffix for p in paths] == [".html", ".csv"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("no PNG or SVG") and "apt install chromium" in said


def test_a_full_disk_leaves_the_last_figure(drawn: dict, tmp_path: Path, monkeypatch):
    path = save(drawn["heads"], tmp_path, "heads", images=())[0]
    before = path.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        save(drawn["heads"].update_layout(title_text="new"), tmp_path, "heads", images=())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "first, last", [(210, 290), (210, 450), (233, 1000), (1040, 1090), (30, 1000), (2000, 600_000), (1, 1e6)]
)
@pytest.mark.parametrize("narrow", [False, True])
def test_a_logarithm_has_labels_that_part_it(first: float, last: float, narrow: bool):
    """Two at least, from one end to the other, and no more than can be read."""
    ticks = np.array(Axis("step", True, first, last, None).layout(narrow)["tickvals"])
    assert 2 <= len(ticks) <= 9 and ticks.min() >= first and ticks.max() <= last
    apart = np.diff(np.log([first, *ticks, last])) / np.log(last / first)
    assert apart.max() < 0.7 and np.diff(ticks).min() > 0
