"""Exact resume: killed, deleted, grown or interrupted, a run ends with the bits of one that never was (invariant 2)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probelab.runs import Folder, content_hash
from probelab.schedule import anchors, kept
from probelab.spec import Optimizer, Spec, Transformer
from probelab.storage import RunError
from probelab.train import grow, read_log
from synthetic_tasks import Markov

SPEC = Spec(Markov(states=2, length=16), Transformer(layers=1, heads=1, d_model=16), Optimizer(lr=1e-2), batch=16)
STEPS, KEEP = 60, (0, 7, 20, 41, 60)


def hashes(folder: Folder) -> dict[str, str]:
    """Content of everything that training leaves, by file."""
    weights = {str(step): content_hash(folder.weights(step)) for step in folder.steps}
    return weights | {"log": str(pd.util.hash_pandas_object(read_log(folder)).sum())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = Folder.create(SPEC, tmp_path_factory.mktemp("undisturbed"))
    grow([folder], STEPS, KEEP)
    return hashes(folder)


@pytest.mark.parametrize("stop", [0, 1, 8, 9, 30, 59])
def test_interrupted_anywhere_and_continued(tmp_path: Path, undisturbed: dict[str, str], stop: int) -> None:
    folder = Folder.create(SPEC, tmp_path)
    seen = 0

    def interrupt(done: int) -> None:
        nonlocal seen
        seen += done
        if seen > stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grow([folder], STEPS, KEEP, progress=interrupt)
    grow([folder], STEPS, KEEP)
    assert hashes(folder) == undisturbed


def test_any_part_deleted_is_made_again(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    folder = Folder.create(SPEC, tmp_path)
    grow([folder], STEPS, KEEP)
    parts = [
        folder.checkpoint(20),
        folder.checkpoint(0),
        folder.checkpoint(60),
        folder.anchor(8),
        folder.anchor(60),
        folder.path / "train.parquet",
        folder.path / "done",
        folder.path / "env.json",
    ]
    for part in parts:
        part.unlink()
        grow([folder], STEPS, KEEP)
        assert hashes(folder) == undisturbed, part
    for part in (folder.path / "resume").glob("*"):
        part.unlink()
    folder.checkpoint(41).unlink()
    grow([folder], STEPS, KEEP)
    assert hashes(folder) == undisturbed


def test_a_run_may_grow_in_length_and_in_checkpoints(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    folder = Folder.create(SPEC, tmp_path)
    grow([folder], 20, (7,))
    grow([folder], STEPS, (20,))
    before = {step: folder.checkpoint(step).stat().st_mtime_ns for step in folder.steps}
    grow([folder], STEPS, KEEP)
    assert hashes(folder) == undisturbed
    assert all(folder.checkpoint(step).stat().st_mtime_ns == when for step, when in before.items()), (
        "finished work was repeated"
    )


def test_nothing_is_trained_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.create(SPEC, tmp_path)
    grow([folder], STEPS, KEEP)
    monkeypatch.setattr(sys.modules["probelab.train"], "train", lambda *a, **k: pytest.fail("trained again"))
    done: list[int] = []
    grow([folder], STEPS, KEEP, progress=done.append)
    assert sum(done) == STEPS, "progress adds up whether work is new or reused"


KILLED = """
import sys; from pathlib import Path
from probelab.runs import Folder; from tests.test_train import SPEC, STEPS, KEEP
from probelab.train import grow
import time
print("ready", flush=True)
grow([Folder.create(SPEC, sys.argv[1])], STEPS, KEEP, progress=lambda done: time.sleep(0.004))
"""


@pytest.mark.parametrize("after", [0.02, 0.11, 0.23])
def test_sigkill_at_any_moment(tmp_path: Path, undisturbed: dict[str, str], after: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    folder = Folder.create(SPEC, tmp_path)
    grow([folder], STEPS, KEEP)
    assert hashes(folder) == undisturbed


def test_a_member_whose_loss_is_not_finite_stops_alone(tmp_path: Path) -> None:
    wild = Spec(SPEC.task, SPEC.model, Optimizer(name="sgd", lr=1e30), batch=16)
    calm = Spec(SPEC.task, SPEC.model, Optimizer(name="sgd", lr=0.1), batch=16)
    alone = Folder.create(calm, tmp_path / "alone")
    grow([alone], 20, (5, 20))
    pair = [Folder.create(spec, tmp_path) for spec in (wild, calm)]
    grow(pair, 20, (5, 20))
    stopped = pair[0].stopped
    assert stopped["reason"] == "the loss is no longer finite" and 0 < stopped["step"] < 20
    assert max(pair[0].steps) <= stopped["step"] and all(np.isfinite(a).all() for a in pair[0].weights(0).values())
    assert not (pair[0].path / "done").exists()
    assert hashes(pair[1]) == hashes(alone), "the other member goes on as if alone"
    grow(pair, 20, (5, 20))
    assert pair[0].stopped == stopped, "and is not tried again"


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    folder = Folder.create(SPEC, tmp_path)
    with folder.lock():
        before = sorted(path.name for path in folder.path.rglob("*"))
        with pytest.raises(RunError, match="another process is writing"):
            grow([folder], STEPS, KEEP)
        assert sorted(path.name for path in folder.path.rglob("*")) == before


def test_a_stack_refuses_members_that_differ_in_shape(tmp_path: Path) -> None:
    other = Spec(Markov(states=3, length=16), SPEC.model, SPEC.optimizer, batch=16)
    with pytest.raises(ValueError, match="differ in shapes"):
        grow([Folder.create(spec, tmp_path) for spec in (SPEC, other)], 5)


def test_checkpoints_say_only_what_the_trajectory_determines(tmp_path: Path) -> None:
    files = []
    for place in ("here", "there"):
        folder = Folder.create(SPEC, tmp_path / place)
        grow([folder], 5, (3,))
        files.append([path.read_bytes() for path in sorted((folder.path / "checkpoints").iterdir())])
        header = json.loads(files[-1][0][8 : 8 + int.from_bytes(files[-1][0][:8], "little")])
        assert list(header["__metadata__"]) == ["probelab"], "safetensors orders several keys at random"
    assert files[0] == files[1]


def test_the_schedule_is_even_in_log_step() -> None:
    steps = np.array(kept(10_000, per_decade=16))
    ratios = np.log10(steps[steps >= 100][1:] / steps[steps >= 100][:-1])
    assert steps[0] == 0 and steps[-1] == 10_000 and ratios.max() < 1.1 / 16
    assert max(np.diff(kept(10_000, 16, every=250))) <= 250
    assert anchors(1000)[-1] == 1000 and len(anchors(1000)) == 8 and anchors(3) == (1, 2, 3)
