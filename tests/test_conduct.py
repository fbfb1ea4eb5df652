"""A study from the first command to the report card: the same bits however it is executed, interrupted or repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import probelab as lab
from probelab import conduct, work
from probelab.claims import Claim, median
from probelab.conduct import conclude, execute, gather
from probelab.measures import Heads, Loss, Patterns
from probelab.planner import merged, packed
from probelab.spec import Optimizer, Spec
from probelab.storage import RunError
from probelab.studies import STUDIES
from probelab.study import Arm, Job, Preset, Study, parse_range, parse_settings, plan
from probelab.subject import Subject
from probelab.work import finished, job_from_json, job_to_json
from synthetic_tasks import Batch, Markov, Task
from tests.tiny import SPEC, results, snapshot

ROOT = Path(__file__).parents[1]


def job(seed: int = 0, steps: int = 12, spec: Spec = SPEC, measures: tuple[Any, ...] = (Loss(n=8), Patterns())) -> Job:
    return Job("arm", spec.seeded(seed), steps, (0, 1, 5, steps), measures, seed)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one after the other in this process."""
    out = tmp_path_factory.mktemp("alone")
    execute([job(seed) for seed in range(3)], out / "runs")
    return out


def test_processes_change_nothing(alone: Path, tmp_path: Path) -> None:
    done = {"train": 0, "measure": 0}

    def report(kind: str, units: int) -> None:
        done[kind] += units

    execute([job(seed) for seed in range(3)], tmp_path / "runs", workers=2, report=report)
    assert results(tmp_path) == results(alone) and len(results(alone)) == 3 * (4 + 1 + 1 + 4 + 1)
    assert done == {"train": 3 * 12, "measure": 3 * 4 * 2}, "what the bar was promised"


def test_a_stack_changes_nothing(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    honest = work.work
    monkeypatch.setattr(work, "work", lambda jobs, *more: (sizes.append(len(jobs)), honest(jobs, *more)))
    execute([job(seed) for seed in range(3)], tmp_path / "runs", stack=3)
    assert sizes == [3] and results(tmp_path) == results(alone)


def test_who_may_be_packed() -> None:
    jobs = [job(seed) for seed in range(5)]
    assert [len(group) for group in packed(jobs, 3)] == [3, 2]
    odd = replace(SPEC, model=replace(SPEC.model, d_model=24))
    assert len(packed([job(0, spec=odd), job(1, spec=odd)], 3)) == 2, "not a multiple of 16: other bits"
    others = [
        job(1, steps=9),
        replace(job(1), keep=(0, 12)),
        job(1, spec=replace(SPEC, batch=32)),
        job(1, spec=replace(SPEC, model=replace(SPEC.model, attention="explicit"))),
        job(1, spec=replace(SPEC, task=Markov(states=2, length=20))),
    ]
    assert all(len(packed([job(0), other], 3)) == 2 for other in others)
    assert len(packed([job(0), job(1, spec=replace(SPEC, optimizer=Optimizer(lr=0.5)))], 3)) == 1


def test_the_second_time_nothing_is_done(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(alone)
    monkeypatch.setattr(work, "work", lambda *a: pytest.fail("worked again"))
    execute([job(seed) for seed in range(3)], alone / "runs", workers=2)
    assert snapshot(alone) == before


def test_jobs_that_want_the_same_run_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = replace(job(0, steps=20), arm="other", measures=(Loss(n=8), Heads(n=8)))
    (one,) = merged([job(0), longer])
    assert one.steps == 20 and one.keep == (0, 1, 5, 12, 20)
    assert one.measures == (Loss(n=8), Patterns(), Heads(n=8))
    honest, names = work.work, []
    monkeypatch.setattr(work, "work", lambda jobs, *more: (names.extend(jobs), honest(jobs, *more)))
    execute([job(0), longer], tmp_path, workers=2)
    assert len(names) == 1, "two processes would not let each other into its folder"
    assert finished(job(0), tmp_path) and finished(longer, tmp_path)
    assert gather([job(0), longer], tmp_path).groupby("arm")["step"].max().to_dict() == {"arm": 12, "other": 20}


def test_a_job_survives_its_text() -> None:
    for study in STUDIES.values():
        for one in plan(study, "smoke"):
            assert job_from_json(job_to_json(one)) == one


def test_a_deleted_part_is_made_again(alone: Path, tmp_path: Path) -> None:
    execute([job(0)], tmp_path / "runs")
    before = results(tmp_path)
    for name in (name for name in before if not name.endswith(".json")):  # what was asked, and needs no making
        (tmp_path / name).unlink()
        execute([job(0)], tmp_path / "runs")
        assert results(tmp_path) == before, name


def test_a_worker_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(kind: str, done: int) -> None:
        for child in workers_of(os.getpid()):
            os.kill(child, signal.SIGKILL)

    jobs = [job(seed, steps=20_000) for seed in range(2)]
    with pytest.raises(RunError, match=r"ended unexpectedly 3 times \(exit code -9\); the same command continues"):
        execute(jobs, tmp_path, workers=2, report=kill)


def test_a_workers_mistake_is_told(tmp_path: Path) -> None:
    jobs = [job(seed, measures=(Loss(n=8, split="icl"),)) for seed in range(2)]
    with pytest.raises(RunError, match="no split of markov 'icl'"):
        execute(jobs, tmp_path, workers=2)


def test_nothing_is_begun_if_one_job_is_impossible(tmp_path: Path) -> None:
    wrong = job(1, spec=replace(SPEC, model=replace(SPEC.model, init="none")))
    with pytest.raises(ValueError, match="no init 'none'"):
        execute([job(0), wrong], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_one_run_that_is_not_finite_does_not_stop_the_others(tmp_path: Path) -> None:
    wild = job(0, spec=replace(SPEC, optimizer=Optimizer(name="sgd", lr=1e30)))
    jobs = [wild, job(1)]
    execute(jobs, tmp_path)
    assert all(finished(one, tmp_path) for one in jobs)
    assert "stopped at step" in conduct.stopped(jobs, tmp_path)[0] and len(conduct.stopped(jobs, tmp_path)) == 1
    assert len(gather(jobs, tmp_path)) > 0
    before = snapshot(tmp_path)
    execute(jobs, tmp_path)
    assert snapshot(tmp_path) == before


CALM = Study(
    name="calm",
    question="Does the loss fall?",
    source="Nobody 2020",
    presets={"smoke": Preset({"small": Arm(SPEC, 12), "wide": Arm(replace(SPEC, batch=32), 8)}, seeds=(100, 101))},
    measures=(Loss(n=8),),
    curves=lambda rows: rows.head(1),
    draw=lambda rows, dated, arrays: {"loss": go.Figure(go.Scatter(x=rows["step"], y=rows["value"]))},
    claims=(Claim("n", "A loss is finite.", "Nobody 2020", lambda rows: median(rows["value"]), (0, 99)),),
    panels={"small": ("small",)},
)


def test_plans() -> None:
    jobs = plan(CALM, "smoke")
    assert [(one.arm, one.seed, one.spec.data) for one in jobs] == [
        ("small", 100, 100),
        ("small", 101, 101),
        ("wide", 100, 100),
        ("wide", 101, 101),
    ]
    assert {one.arm for one in plan(CALM, "smoke", panel="small")} == {"small"}
    assert [one.seed for one in plan(CALM, "smoke", seeds=(7,), panel="small")] == [7]


def test_a_grid() -> None:
    settings = parse_settings(["task.length=8,20", "optimizer.lr=1e-3", "steps=4"])
    jobs = plan(CALM, "smoke", (0,), settings)
    assert [one.arm for one in jobs] == [f"{arm}, task.length={n}" for arm in ("small", "wide") for n in (8, 20)]
    assert {one.spec.task.context for one in jobs} == {8, 20} and {one.spec.optimizer.lr for one in jobs} == {1e-3}
    assert {one.steps for one in jobs} == {4} and {one.keep[-1] for one in jobs} == {4}
    assert len({one.spec.name for one in jobs}) == 4


def test_a_seed_may_be_set_alone() -> None:
    jobs = plan(CALM, "smoke", (3, 4), parse_settings(["init=7", "task.world=1,2"]), "small")
    assert [(one.seed, one.spec.data, one.spec.init, one.spec.task.world) for one in jobs] == [
        (3, 3, 7, 1),
        (4, 4, 7, 1),
        (3, 3, 7, 2),
        (4, 4, 7, 2),
    ]
    (paired,) = {one.spec.data for one in plan(CALM, "smoke", (3, 4), {"data": [5]}, "small")}
    assert paired == 5 and [one.seed for one in plan(CALM, "smoke", (3, 4), {"data": [5]}, "small")] == [3, 4]


def test_what_is_written_on_the_command_line() -> None:
    parsed = parse_settings(["a=1,1,2", "b=x", "c=[1,2],3", "d=true,none", "e=1e-3", "f=[[1,2]]"])
    assert parsed == {"a": [1, 2], "b": ["x"], "c": [(1, 2), 3], "d": [True, None], "e": [0.001], "f": [((1, 2),)]}
    assert parse_range("--seeds", "3-5,1,4") == (3, 4, 5, 1)


def test_conclusions_and_altered_dials(tmp_path: Path) -> None:
    jobs = plan(CALM, "smoke")
    with pytest.raises(RunError, match="0 of 4 runs are in"):
        conclude(CALM, jobs, tmp_path)
    assert not list(tmp_path.iterdir())
    execute(jobs[:3], tmp_path / "runs")
    with pytest.raises(RunError, match="3 of 4 runs are in"):
        conclude(CALM, jobs, tmp_path)
    execute(jobs, tmp_path / "runs")
    outcome = conclude(CALM, jobs, tmp_path, images=False)
    assert outcome.judged[0].verdict == "held" and not outcome.stopped
    assert set(outcome.rows["arm"]) == {"small", "wide"} and set(outcome.rows["seed"]) == {100, 101}
    card = (tmp_path / "report.md").read_text()
    assert "**held**" in card and "small: 12 steps of 16 sequences" in card and "Does the loss fall?" in card
    assert (tmp_path / "figures/calm/loss.html").exists() and (tmp_path / "figures/calm/loss.csv").exists()
    assert len(pd.read_parquet(tmp_path / "figures/calm/rows.parquet")) == len(outcome.rows)
    before = results(tmp_path), (tmp_path / "report.md").read_bytes()
    again = conclude(CALM, jobs, tmp_path, conduct.barred(CALM, "quick", [100], altered=True), images=False)
    assert again.judged[0].verdict == "undecided" and "dials were altered" in (tmp_path / "report.md").read_text()
    conclude(CALM, jobs, tmp_path, images=False)
    assert (results(tmp_path), (tmp_path / "report.md").read_bytes()) == before


def test_conclusions_need_rows_and_no_checkpoints(tmp_path: Path) -> None:
    jobs = plan(CALM, "smoke", panel="small")
    execute(jobs, tmp_path / "runs")
    first = conclude(CALM, jobs, tmp_path, images=False).rows
    for path in tmp_path.glob("runs/*/checkpoints/*"):
        path.unlink()
    pd.testing.assert_frame_equal(conclude(CALM, jobs, tmp_path, images=False).rows, first)
    longer = [replace(one, keep=(*one.keep, 20), steps=20) for one in jobs]
    with pytest.raises(RunError, match="has not been measured in full"):
        conclude(CALM, longer, tmp_path)


@dataclass(frozen=True)
class Parity(Task):
    """The last bit is the parity of the others."""

    bits: int = 3
    name = "odd"

    @property
    def vocab(self) -> int:
        return 2

    @property
    def context(self) -> int:
        return self.bits

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens = rng.integers(2, size=(n, self.bits))
        targets = np.full_like(tokens, -1)
        targets[:, -1] = tokens.sum(1) % 2
        return Batch(tokens, targets)


@dataclass(frozen=True)
class Largest:
    """The largest logit."""

    n: int = 4
    name = "largest"
    version = 1

    def __call__(self, subject: Subject) -> Iterator[dict[str, Any]]:
        for step, model in subject:
            yield dict(step=step, metric="largest", value=float(model(subject.batch(self.n)).max()))


def test_tasks_and_measures_of_ones_own(tmp_path: Path) -> None:
    run = lab.train(Parity(), SPEC.model, steps=6, batch=16, out=tmp_path, progress=False)
    rows = lab.measure(run, Largest())
    assert rows["measure"].unique() == ["largest"] and rows["step"].tolist() == run.steps
    assert lab.measure(run, lab.Loss(n=8))["value"].notna().all() and lab.measure(run, "norms") is not None
    assert lab.table([run], Largest())["task.bits"].unique() == [3]
    own = Job("own", Spec(Parity(bits=4), SPEC.model, batch=16), 6, (0, 6), (Largest(), Loss(n=8)))
    execute([own, replace(own, spec=own.spec.seeded(1), seed=1)], tmp_path / "runs", workers=2)
    assert set(gather([own], tmp_path / "runs")["measure"]) == {"largest", "loss"}
    with pytest.raises(ValueError, match="open the run with task=<class>"):
        lab.open(run.path)
    assert lab.open(run.path, Parity).model()(Parity().sample(np.random.default_rng(0), 2)).shape == (2, 3, 2)


CHEAP = ("markov", "induction")  # seconds; the others are slow tests
ALL = [pytest.param(name, marks=[] if name in CHEAP else [pytest.mark.slow]) for name in STUDIES]
Smoke = Callable[[str], Path]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """The results of a study's smoke preset on two processes, made when they are first asked for.

    Each study has runs of its own: where two studies share a run, its rows are those of the steps of both.
    """
    root = tmp_path_factory.mktemp("smoke")

    def made(name: str) -> Path:
        study, jobs, out = STUDIES[name], plan(STUDIES[name], "smoke"), root / name
        if not (out / "figures" / name).exists():
            execute(jobs, out / "runs", workers=2)
            conclude(study, jobs, out, conduct.barred(study, "smoke", (0, 1), False), images=False)
        return out

    return made


@pytest.mark.parametrize("name", ALL)
def test_a_study_end_to_end(smoke: Smoke, name: str) -> None:
    study, out = STUDIES[name], smoke(name)
    folder = out / "figures" / name
    figures = {path.stem for path in folder.glob("*.html")}
    assert figures and figures <= {path.stem for path in folder.glob("*.csv")}
    rows, card = pd.read_parquet(folder / "rows.parquet"), (folder / "report.md").read_text()
    assert set(rows["arm"]) == set(study.presets["smoke"].arms) and set(rows["seed"]) == {0, 1}
    assert all(claim.sentence in card for claim in study.claims) and card.count("**undecided**") == len(study.claims)
    assert card in (out / "report.md").read_text()
    assert all(finished(one, out / "runs") for one in plan(study, "smoke"))


@pytest.mark.parametrize("name", ALL)
def test_a_study_in_this_process_is_the_same(smoke: Smoke, name: str, tmp_path: Path) -> None:
    execute(plan(STUDIES[name], "smoke", seeds=(1,)), tmp_path / "runs")
    here = results(tmp_path)
    assert here and here.items() <= results(smoke(name)).items()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_any_part_of_a_study_can_be_concluded(smoke: Smoke, name: str) -> None:
    study, out = STUDIES[name], smoke(name)
    for panel in study.panels:
        outcome = conclude(study, plan(study, "smoke", panel=panel), out, images=False)
        assert set(outcome.rows["arm"]) == set(study.panels[panel]) and outcome.files
    conclude(study, plan(study, "smoke"), out, "not judged: the smoke preset is too short", images=False)


KILLED = """
import sys
from pathlib import Path
from probelab.conduct import execute
from tests.test_conduct import job
print("ready", flush=True)
execute([job(seed, steps=150) for seed in range(3)], Path(sys.argv[1]), workers=int(sys.argv[2]))
"""


def workers_of(parent: int) -> list[int]:
    """The children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may have ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def killed(out: Path, workers: int, after: float) -> None:
    """SIGKILL the parent of a study some seconds after it began; its workers must end, too."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), str(workers)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(after)
    children = workers_of(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    execute([job(seed, steps=150) for seed in range(3)], out / "runs")
    return results(out)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_a_random_moment(tmp_path: Path, undisturbed: dict[str, str], workers: int, turn: int) -> None:
    for _ in range(2):
        killed(tmp_path / "runs", workers, random.uniform(0.0, 1.5 if workers == 1 else 5.0))
    execute([job(seed, steps=150) for seed in range(3)], tmp_path / "runs", workers=workers)
    assert results(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*.part"))


def test_killed_and_continued(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    killed(tmp_path / "runs", 1, 0.4)
    execute([job(seed, steps=150) for seed in range(3)], tmp_path / "runs")
    assert results(tmp_path) == undisturbed
