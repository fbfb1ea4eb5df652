"""TensorBoard and Weights & Biases get the numbers that lie on disk; tests are skipped where an extra is missing."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

import probelab as lab
from probelab import plans
from probelab.conduct import execute, merged
from probelab.sinks import needs
from probelab.study import plan
from probelab.watching import Watch, numbers, watched
from tests.test_conduct import CALM
from tests.tiny import SPEC


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two runs."""
    root, jobs = tmp_path_factory.mktemp("sinks"), plan(CALM, "smoke", panel="small")
    plans.record(root, CALM, merged(jobs), merged(jobs), 0.1)
    execute(jobs, root / "runs")
    return root


def events(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard's own reader finds: tag -> step -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: {event.step: event.value for event in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_event_files_hold_every_row_and_the_loss(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    watched(out, once=True, tensorboard=tmp_path / "events")
    for path in (out / "runs").iterdir():
        found = events(tmp_path / "events" / path.name)
        log, rows = pd.read_parquet(path / "train.parquet"), lab.rows(out, "loss")
        mine = rows[(rows["run"] == path.name) & (rows["metric"] == "loss")].set_index("step")["value"]
        assert found["loss/train/loss"] == pytest.approx(mine.to_dict(), rel=1e-6)
        assert found["train/loss"][1] == pytest.approx(log["loss"][0], rel=1e-6)
        assert max(found["train/loss"]) == len(log)


def test_a_sink_is_told_everything_once(out: Path) -> None:
    class Memory:
        def __init__(self) -> None:
            self.told: list[tuple] = []

        def write(self, run: str, step: int, values: dict) -> None:
            self.told += [(run, step, name) for name in values]

        def close(self) -> None: ...

    memory, watch = Memory(), Watch(out)
    for _ in range(3):
        watch.look()
        watch.send(memory)
    assert (
        len(memory.told)
        == len(set(memory.told))
        == sum(len(values) for path in (out / "runs").iterdir() for values in numbers(path).values())
    )


def test_training_can_be_watched_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    board = lab.TensorBoard(tmp_path / "events", every=4)
    run = lab.train(SPEC, steps=12, out=tmp_path, progress=False, watch=board)
    board.close()
    log = pd.read_parquet(run.path / "train.parquet")["loss"]
    want = {4: log[:4].mean(), 8: log[4:8].mean(), 12: log[8:].mean()}
    assert events(tmp_path / "events/training")["train/loss"] == pytest.approx(want, rel=1e-6)


def test_weights_and_biases_offline(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *what, **how: None)
        sink = lab.WandB("planted", tmp_path)
        watch = Watch(out)
        watch.look()
        watch.send(sink)
        sink.close()

    def arrived() -> list[bytes]:
        """What its own process writes, perhaps a little later than `finish` returns."""
        files = [file.read_bytes() for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
        return [file for file in files if len(file) > 1000 and b"train/loss" in file and b"loss/train/loss" in file]

    deadline = time.monotonic() + 30
    while len(arrived()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(arrived()) == 2


def test_an_extra_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"Nothing at all is not installed: pip install '.\[nothing_at_all\]'"):
        needs("nothing_at_all", "Nothing at all")
