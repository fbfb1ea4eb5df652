"""Watching and tidying: what is said of a sweep is what lies on disk, and reports are remade from what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probelab as lab
from probelab import plans, watching
from probelab.conduct import conclude, execute, merged
from probelab.measures import Loss
from probelab.pulse import Pulse
from probelab.runs import Folder
from probelab.storage import write_json
from probelab.study import plan
from probelab.train import grow
from probelab.watching import Watch, thinned
from probelab.work import finished
from tests.test_conduct import CALM
from tests.tiny import SPEC, Said, command, results, snapshot

Probelab = Callable[..., Said]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def probelab(capsys: pytest.CaptureFixture[str]) -> Probelab:
    return lambda *arguments: command(capsys, *arguments)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A study of four runs, two of them executed; the plan was written before."""
    jobs = plan(CALM, "smoke")
    plans.record(tmp_path, CALM, merged(jobs), merged(jobs), 0.5)
    execute(jobs[:2], tmp_path / "runs")
    return tmp_path


def test_a_watcher_sees_what_is_done_and_what_waits(out: Path, probelab: Probelab) -> None:
    watch = Watch(out)
    watch.look()
    assert sorted(seen.state for seen in watch.seen.values()) == ["done", "done", "waiting", "waiting"]
    assert not watch.finished and "50% of 4 runs (2 done, 2 waiting)" in watch.summary()
    done = plan(CALM, "smoke")[0]
    log = pd.read_parquet(out / "runs" / done.spec.name / "train.parquet")
    assert watch.seen[done.spec.name].loss == pytest.approx(log["loss"].mean())
    before = snapshot(out)
    said = probelab("watch", out, "--once")
    assert said.code == 0 and "12/12" in said.out and "2 waiting" in said.out
    assert snapshot(out) == before, "who watches changes nothing"


def test_states_of_a_run(out: Path) -> None:
    waiting = plan(CALM, "smoke")[2]
    folder = Folder.create(waiting.spec, out / "runs")
    write_json(folder.path / "live.json", {"step": 4, "loss": 0.5})
    watch = Watch(out)
    watch.look()
    seen = watch.seen[folder.name]
    assert (seen.state, seen.step, seen.steps, seen.loss) == ("training", 4, 8, 0.5)
    assert seen.share == pytest.approx(4 / (8 + len(waiting.keep)))
    past = time.time() - 1000
    for path in (folder.path / "live.json", folder.path, *(out / "plans").iterdir()):
        os.utime(path, (past, past))
    watch.look()
    assert seen.state == "resting"
    grow([folder], 8, waiting.keep)
    watch.look()
    assert seen.state == "measuring" and seen.loss != 0.5, "trained, and not yet measured"
    write_json(folder.path / "stopped", {"step": 3, "reason": "planted"})
    watch.look()
    assert seen.state == "stopped"


def test_silence_is_told_and_the_end_is_seen(out: Path) -> None:
    past = time.time() - 600
    for path in out.rglob("*"):
        os.utime(path, (past, past))
    watch = Watch(out)
    watch.look()
    assert "no sign of life for 10 min" in watch.summary()
    execute(plan(CALM, "smoke"), out / "runs")
    watch.look()
    assert watch.finished and "all is done" in watch.summary()


def test_the_time_left_goes_by_the_pace_so_far(out: Path) -> None:
    """Half of the work in 1,000 seconds leaves as many; a sweep that has done nothing yet is told by its price."""
    began = time.time() - 1000
    for path in (out / "plans").iterdir():
        os.utime(path, (began, began))
    watch = Watch(out)
    watch.look()
    work = {name: asked["work"] for name, asked in watch.plans[0].runs.items()}
    done = sum(part for name, part in work.items() if watch.seen[name].state == "done")
    assert watch.left() == pytest.approx(1000 * (sum(work.values()) - done) / done, rel=0.05)
    for seen in watch.seen.values():
        seen.share = 0.0
    assert watch.left() == pytest.approx(30, rel=0.01)


def test_an_onset_of_the_loss_is_dated_where_it_was_planted(out: Path) -> None:
    steps = np.arange(1, 5001)
    losses = 1 - 0.8 / (1 + (400 / steps) ** 6) + 0.02 * np.random.default_rng(0).standard_normal(len(steps))
    folder = Folder.create(plan(CALM, "smoke")[2].spec, out / "runs")
    pd.DataFrame({"loss": losses}).to_parquet(folder.path / "train.parquet")
    assert watching.onsets(folder.path, losses, {})["loss"] == pytest.approx(400, rel=0.1)
    ends, means = thinned(losses)
    assert ends[-1] == 5000 and means[-1] == pytest.approx(0.2, abs=0.02) and thinned(np.zeros(0))[0].size == 0
    assert watching.onsets(folder.path, losses[:100], {}) == {}, "it has not fallen yet"


def test_runs_are_told_apart_by_their_dials_and_seeds() -> None:
    runs = [f"markov-length={n}-layers=1-{seed}-abc{n}{seed}" for n in (8, 16) for seed in (0, 1)]
    assert list(watching.apart(runs).values()) == ["length=8 0", "length=8 1", "length=16 0", "length=16 1"]
    assert watching.apart(runs[:1]) == {runs[0]: "markov length=8 layers=1 0"}


def test_watching_needs_a_sweep(tmp_path: Path, probelab: Probelab) -> None:
    assert "no sweep was begun in" in probelab("watch", tmp_path).err
    assert "--every 0 is out of range" in probelab("watch", tmp_path, "--every", 0).err
    assert "--online says where --wandb sends" in probelab("watch", tmp_path, "--online").err
    assert "--weights says what --prune deletes" in probelab("runs", tmp_path, "--weights").err


def test_a_pulse_says_where_training_is_and_goes_with_it(tmp_path: Path) -> None:
    folder = Folder.create(SPEC, tmp_path)
    pulse = Pulse([folder], seconds=0)
    pulse(30, [[(float(k), 0.0) for k in range(30)]])
    assert json.loads((folder.path / "live.json").read_text()) == {"step": 30, "loss": 19.5}
    grow([folder], 12)
    assert not (folder.path / "live.json").exists()
    Pulse([folder], seconds=60)(31, [[(1.0, 0.0)]])
    assert not (folder.path / "live.json").exists(), "once a second, not at every step"


WATCHED = """
import sys
from probelab.cli import main
main(["watch", sys.argv[1], "--every", "0.1"])
"""


def test_another_process_watches_a_sweep_to_its_end(out: Path) -> None:
    watcher = subprocess.Popen([sys.executable, "-c", WATCHED, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert watcher.stdout is not None
    lines = [watcher.stdout.readline()]
    execute(plan(CALM, "smoke"), out / "runs")
    rest, _ = watcher.communicate(timeout=120)
    assert watcher.returncode == 0 and "calm: 50% of 4 runs" in lines[0] and "all is done" in rest


def test_ctrl_c_ends_watching_and_nothing_else(out: Path) -> None:
    armed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + WATCHED
    watcher = subprocess.Popen([sys.executable, "-c", armed, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert watcher.stdout is not None and "of 4 runs" in watcher.stdout.readline()
    before = snapshot(out)
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and snapshot(out) == before


def report(out: Path) -> bytes:
    """The report card and rows of the study, made again."""
    conclude(CALM, plan(CALM, "smoke"), out, images=False)
    return (out / "report.md").read_bytes() + (out / "figures/calm/rows.parquet").read_bytes()


def test_pruning_leaves_reports_and_says_what_it_frees(out: Path, probelab: Probelab) -> None:
    jobs = plan(CALM, "smoke")
    execute(jobs, out / "runs")
    extra = Folder(out / "runs" / jobs[0].spec.name)
    spare = [step for step in range(12) if step not in jobs[0].keep]
    grow([extra], 12, spare)
    lab.train(SPEC.seeded(7), steps=12, out=out, progress=False)  # a run of nobody's plan
    own = snapshot(out / "runs" / SPEC.seeded(7).name)
    before, card = results(out), report(out)
    had, sizes = snapshot(out), {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.confirm", lambda question: False)
        assert "nothing was deleted" in probelab("runs", out, "--prune").out and snapshot(out) == had
    said = probelab("runs", out, "--prune", "--yes")
    assert said.code == 0 and "1 runs that no plan" in said.out and f"no plan keeps: {len(spare)} files" in said.out
    gone = set(before) - set(results(out))
    assert spare and {Path(name).name for name in gone} == {f"{step:06d}.safetensors" for step in spare}
    freed = sum(size for path, size in sizes.items() if not path.exists())
    assert freed > 0 and f"freed {freed / 1e6:.1f} MB" in said.out
    assert all(len(Folder(out / "runs" / job.spec.name).anchors) == 1 for job in jobs), "the last one stays"
    assert report(out) == card and snapshot(out / "runs" / SPEC.seeded(7).name) == own
    assert all(finished(job, out / "runs") for job in jobs), "nothing is trained again"
    assert "nothing to delete" in probelab("runs", out, "--prune", "--yes").out


def test_measured_weights_go_if_asked_and_come_back_to_the_bit(out: Path, probelab: Probelab) -> None:
    jobs = plan(CALM, "smoke")
    execute(jobs, out / "runs")
    before, card = results(out), report(out)
    assert "measured weights" in probelab("runs", out, "--prune", "--weights", "--yes").out
    left = {step for job in jobs for step in Folder(out / "runs" / job.spec.name).steps}
    assert left == {0, 12, 8} and all(finished(job, out / "runs") for job in jobs)
    assert report(out) == card
    here = snapshot(out / "runs")
    execute(jobs, out / "runs")
    assert snapshot(out / "runs") == here, "the same command trains nothing again"
    more = [replace(job, measures=(*job.measures, Loss(n=4))) for job in jobs]
    execute(more, out / "runs")
    assert before.items() <= results(out).items(), "who asks for more has them made again"


def test_unfinished_runs_and_those_at_work_are_left_alone(out: Path, probelab: Probelab) -> None:
    jobs = plan(CALM, "smoke")
    folder = Folder.create(jobs[2].spec, out / "runs")
    grow([folder], 8, jobs[2].keep)  # trained, not measured
    busy = Folder(out / "runs" / jobs[0].spec.name)
    had, there = snapshot(folder.path), snapshot(busy.path)
    with busy.lock():
        said = probelab("runs", out, "--prune", "--yes")
    assert f"{busy.name} is left alone: another process is writing" in said.out
    assert snapshot(folder.path) == had
    assert {k: v for k, v in snapshot(busy.path).items() if "." in k} == {k: v for k, v in there.items() if "." in k}


def test_a_smaller_plan_does_not_hide_a_larger_one(out: Path, probelab: Probelab) -> None:
    jobs = plan(CALM, "smoke")
    execute(jobs, out / "runs")
    fewer = [replace(job, keep=(0, job.steps)) for job in jobs]
    plans.record(out, CALM, merged(fewer), [], 0.1)
    assert len(list((out / "plans").iterdir())) == 2
    kept = {job.spec.name: Folder(out / "runs" / job.spec.name).steps for job in jobs}
    probelab("runs", out, "--prune", "--yes")
    assert {job.spec.name: Folder(out / "runs" / job.spec.name).steps for job in jobs} == kept


def test_rows_of_many_runs_are_one_table(out: Path) -> None:
    found = lab.rows(out)
    each = pd.concat([lab.measure(lab.open(path), Loss(n=8)) for path in sorted((out / "runs").iterdir())])
    assert found["value"].to_numpy() == pytest.approx(each["value"].to_numpy(float)) and len(found) == len(each)
    assert set(found["task.length"]) == {16} and set(found["batch"]) == {16} and found["step"].dtype == "Int64"
    assert len(lab.rows(out, "loss", dials=False)) == len(found)
    with pytest.raises(ValueError, match="no rows of heads in"):
        lab.rows(out, "heads")


def test_a_reader_that_meets_a_writer(out: Path) -> None:
    """Looking while runs are made never fails, and never sees half a file."""
    errors: list[BaseException] = []
    over = threading.Event()

    def look() -> None:
        try:
            watch = Watch(out)
            while not over.is_set():
                watch.look()
                lab.rows(out)
        except BaseException as error:  # whatever it was: the test must see it
            errors.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    execute(plan(CALM, "smoke", seeds=(1, 2)), out / "runs")
    over.set()
    reader.join()
    assert not errors
