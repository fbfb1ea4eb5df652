"""The command line: what each command prints and leaves, its help, its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import probelab as lab
from probelab import conduct
from probelab.cli import app, size
from probelab.figures import FIGURES
from probelab.measures import MEASURES
from probelab.studies import STUDIES
from synthetic_tasks import TASKS
from tests.tiny import SPEC, Said, command, snapshot, train, weights

Probelab = Callable[..., Said]
COMMANDS = [found.name or found.callback.__name__ for found in app.registered_commands if found.callback]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def probelab(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probelab:
    """The command in an empty folder, where results go, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBELAB_RUNS", ".")
    return lambda *arguments: command(capsys, *arguments)


def test_the_commands_are_those_of_the_design() -> None:
    assert COMMANDS == "studies reproduce grid verify draw tasks generate train measure runs watch".split()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_one_can_learn_from(probelab: Probelab, name: str) -> None:
    said = probelab(name, "--help")
    assert said.code == 0 and name in said.out and not said.err
    assert name in probelab("--help").out


def test_help_is_quick_because_it_loads_nothing() -> None:
    code = """
import sys
from probelab.cli import main
try:
    main(["--help"])
except SystemExit:
    slow = {"torch", "pandas", "numpy", "plotly", "scipy", "safetensors", "transformer_lens"} & set(sys.modules)
    sys.exit(f"--help loads {slow}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_facade_has_its_names_whatever_was_imported_before() -> None:
    code = """
import probelab.train, probelab.runs, probelab.api, probelab as lab
assert lab.train is lab.train is probelab.api.train and lab.runs is probelab.api.runs
assert set(lab.__all__) == {name for names in lab.HOMES.values() for name in names} | {"curves", "figures", "measures"}
assert all(getattr(lab, name) is not None for name in lab.__all__)
try:
    lab.trian
except AttributeError as error:
    assert "trian" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listings(probelab: Probelab) -> None:
    studies, tasks = probelab("studies").out, probelab("tasks").out
    assert all(name in studies and study.claims[0].sentence in studies for name, study in STUDIES.items())
    assert all(name in tasks for name in TASKS) and "states" in probelab("tasks", "markov").out
    assert "repeats, version" not in probelab("tasks", "markov").out
    assert probelab().code in (0, 2), "no command: help"
    helps = [probelab(name, "--help").out for name in ("measure", "draw")]
    for name in MEASURES:
        assert name in helps[0]
    for name in FIGURES:
        assert name in helps[1]


def test_train_measure_draw_and_list(probelab: Probelab, tmp_path: Path) -> None:
    said = probelab("train", "markov", "--set", "length=16", "--model", "d_model=16", "--steps", 6, "--seed", 3)
    path = Path(said.out.splitlines()[0])
    run = lab.open(path)
    assert said.code == 0 and "measure" in said.out and run.length == 6
    assert (run.spec.task.world, run.spec.data, run.spec.init) == (3, 3, 3) and run.spec.model.d_model == 16
    measured = probelab("measure", path, "loss", "--set", "n=8")
    assert measured.code == 0 and "oracle_loss" in measured.out
    assert Path(measured.out.splitlines()[-1]).exists()
    some = probelab("measure", path, "strategy", "--set", "n=8", "--steps", "0,6")
    assert pd.read_parquet(some.out.splitlines()[-1])["step"].unique().tolist() == [0, 6]
    patterns = probelab("measure", path, "patterns")
    assert patterns.code == 0 and Path(patterns.out.splitlines()[-1]).suffix == ".safetensors"
    for figure in ("dynamics", "phases", "pattern"):
        drawn = probelab("draw", path, figure)
        assert drawn.code == 0, drawn.err
        assert [Path(line).suffix for line in drawn.out.splitlines()] == [".html", ".csv"]
        assert all(Path(line).exists() for line in drawn.out.splitlines())
    assert probelab("draw", run.name, "dynamics", "--metric", "kl_truth").code == 0, "by its name, too"
    listed = probelab("runs").out
    assert run.name in listed and "6 steps" in listed and "done" in listed
    assert "no runs in" in probelab("runs", tmp_path / "nowhere").out


def test_a_dial_beats_the_seed_of_all(probelab: Probelab) -> None:
    said = probelab("train", "markov", "--set", "world=7", "--seed", 3, "--steps", 1, "--model", "d_model=16")
    run = lab.open(said.out.splitlines()[0])
    assert (run.spec.task.world, run.spec.data, run.spec.init) == (7, 3, 3)


def test_a_finished_run_is_not_trained_again(probelab: Probelab, tmp_path: Path) -> None:
    run = train(tmp_path)
    before = snapshot(tmp_path)
    seen: list[tuple[int, float]] = []
    again = lab.train(SPEC, steps=12, keep=(0, 5), out=tmp_path, progress=False, watch=lambda *at: seen.append(at))
    assert again.path == run.path and snapshot(tmp_path) == before
    assert [step for step, _ in seen] == list(range(12)), "a curve shows the steps that were trained before"
    longer: list[int] = []
    lab.train(SPEC, steps=15, keep=(0,), out=tmp_path, progress=False, watch=lambda step, loss: longer.append(step))
    assert longer == list(range(15))
    assert [run.path for run in lab.runs(tmp_path)] == [run.path]


def test_generate(probelab: Probelab) -> None:
    arguments = ("generate", "markov", "--preset", "edelman2024", "--set", "length=16", "--n", 50, "--out", "data")
    said = probelab(*arguments)
    assert said.code == 0 and "data/README.md" in said.out and Path("data/README.md").exists()
    asked = json.loads(Path("data/card.json").read_text())["spec"]
    assert asked["dials"]["length"] == 16 and asked["dials"]["world"] == 0 and asked["n"] == 50
    before = snapshot(Path("data"))
    assert probelab(*arguments).code == 0
    assert {k: v[0] for k, v in snapshot(Path("data")).items()} == {k: v[0] for k, v in before.items()}


def test_reproduce_and_verify(probelab: Probelab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = conduct.save
    monkeypatch.setattr(conduct, "save", lambda figure, folder, name, formats: honest(figure, folder, name, ()))
    arguments = ("induction", "--preset", "smoke", "--seeds", "3", "--panel", "two-layers", "--set", "steps=6")
    dry = probelab("reproduce", *arguments, "--dry-run")
    assert dry.code == 0 and "make repeats-" in dry.out and "0 of 1 runs are there already" in dry.out
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
    said = probelab("reproduce", *arguments)
    assert said.code == 0, said.err
    assert "undecided" in said.out and "not judged" in said.out and "figure: " in said.out and "try next" in said.out
    assert "induction:" in said.err and "left" in said.err, "progress goes to stderr"
    assert "have repeats-" in probelab("reproduce", *arguments, "--dry-run").out
    card = Path("report.md").read_bytes()
    verified = probelab("verify", *arguments)
    assert verified.code == 0 and Path("report.md").read_bytes() == card
    drawn = probelab("draw", "induction", "dynamics", "--metric", "copy")
    assert drawn.code == 0 and "figures/induction" in drawn.out
    unknown = probelab("draw", "inductoin", "dynamics")
    assert unknown.code == 2 and "did you mean 'induction'" in unknown.err


def test_where_results_go(probelab: Probelab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("train", "markov", "--steps", 1, "--model", "d_model=16", "--model", "layers=1", "--set", "length=8")
    monkeypatch.setenv("PROBELAB_RUNS", "there")
    assert probelab(*small).out.startswith("there/runs/")
    assert probelab(*small, "--out", "here").out.startswith("here/runs/")
    monkeypatch.delenv("PROBELAB_RUNS")
    assert probelab(*small).out.startswith("runs/runs/")


@pytest.mark.parametrize(("text", "expected"), [("2GiB", 2 << 30), ("512MiB", 512 << 20), ("1.5KiB", 1536)])
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


# where this test itself was started in the background, children would inherit that Ctrl-C is ignored
ARMED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from probelab.cli import main; main()"


def test_ctrl_c_is_told_in_one_line_and_the_same_command_continues(probelab: Probelab, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", ARMED, "train", "markov", "--steps", "4000"]
    arguments += ["--set", "length=16", "--model", "d_model=16", "--out", str(tmp_path / "lab")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while process.poll() is None and not list(tmp_path.glob("lab/runs/*/checkpoints/000100*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; the same command continues" in err and "Traceback" not in err
    run = lab.open(next((tmp_path / "lab/runs").iterdir()))
    assert run.steps and not run.length
    assert "unfinished" in probelab("runs", tmp_path / "lab").out
    kept = weights(run)
    lab.train(run.spec, steps=max(run.steps), out=tmp_path / "lab", progress=False)
    assert kept.items() <= weights(run).items()
