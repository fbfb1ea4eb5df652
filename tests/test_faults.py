"""Faults of a sweep on this machine: each ends with the bits of an undisturbed one, and repeats no finished run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probelab.conduct import execute
from probelab.measures import Loss, Patterns
from probelab.runs import Folder, run_folders
from probelab.storage import RunError
from probelab.study import Job
from probelab.work import finished
from tests.test_conduct import workers_of
from tests.tiny import SPEC, results

ROOT = Path(__file__).parents[1]
JOBS = [Job("arm", SPEC.seeded(seed), 150, (0, 1, 50, 150), (Loss(n=8), Patterns()), seed) for seed in range(6)]
DRIVER = """
import sys
from probelab.conduct import execute
from probelab.storage import located
from tests.test_faults import JOBS
execute(JOBS, located(sys.argv[1]), workers=int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    execute(JOBS, out / "runs")
    return results(out)


def made(out: Path) -> dict[str, dict[str, int]]:
    """Of every finished run: when each of its files was written. `env.json` is written whenever training starts."""
    done = [job for job in JOBS if finished(job, out / "runs")]
    return {
        job.spec.name: {
            str(path): path.stat().st_mtime_ns for path in (out / "runs" / job.spec.name).rglob("*") if path.is_file()
        }
        for job in done
    }


def repeated(before: dict[str, dict[str, int]], out: Path) -> list[str]:
    """The runs that were finished before and have been written to since."""
    after = made(out)
    return [name for name, files in before.items() if after.get(name) != files]


def driver(out: Path, workers: int = 2, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(out / "runs"), str(workers)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def wait_for_runs(out: Path, count: int) -> dict[str, dict[str, int]]:
    """Wait until at least so many runs are finished."""
    deadline = time.monotonic() + 300
    while len(found := made(out)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_worker_that_dies_is_replaced(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    killed, before = [], {}
    told = {"train": 0, "measure": 0}

    def report(kind: str, done: int) -> None:
        told[kind] += done
        if not killed and made(tmp_path):
            before.update(made(tmp_path))
            killed.extend(workers_of(os.getpid())[:1])
            os.kill(killed[0], signal.SIGKILL)

    execute(JOBS, tmp_path / "runs", workers=2, report=report)
    assert killed and before and results(tmp_path) == undisturbed
    assert repeated(before, tmp_path) == [] and not list(tmp_path.rglob("*.part"))
    assert told == {"train": 6 * 150, "measure": 6 * 4 * 2}, "the bar ends where it was promised to"


@pytest.mark.slow
def test_the_driver_is_killed_and_the_command_given_again(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    process = driver(tmp_path)
    before = wait_for_runs(tmp_path, 2)
    process.kill()
    ended(process)
    assert ended(driver(tmp_path)) == (0, "")
    assert results(tmp_path) == undisturbed and repeated(before, tmp_path) == []


@pytest.mark.slow
def test_two_drivers_share_the_work(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    first, second = driver(tmp_path, 1), driver(tmp_path, 1)
    before = wait_for_runs(tmp_path, 1)
    assert ended(first)[0] == ended(second)[0] == 0
    assert results(tmp_path) == undisturbed and repeated(before, tmp_path) == []


def test_a_held_folder_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process trains the first run: the sweep does the others, waits, and then finds it free."""
    jobs = JOBS[:2]
    folder = Folder.create(jobs[0].spec, tmp_path / "runs")
    lock = folder.lock()
    lock.__enter__()
    free = threading.Timer(3, lambda: lock.__exit__(None, None, None))
    free.start()
    execute(jobs, tmp_path / "runs")
    assert not free.is_alive() and all(finished(job, tmp_path / "runs") for job in jobs)
    assert "another process is writing to" in capsys.readouterr().err


@pytest.mark.slow
def test_storage_that_fails_now_and_then(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    marks, flaky = tmp_path / "marks", str(Path(__file__).parent / "flaky")
    marks.mkdir()
    path = os.pathsep.join([flaky, os.environ["PYTHONPATH"]])
    said = ended(driver(tmp_path, FLAKY="15", FLAKY_MARKS=str(marks), PYTHONPATH=path))
    assert said == (0, "") and results(tmp_path) == undisturbed
    assert len(list(marks.iterdir())) >= 2, "it has failed"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    there = tmp_path / "disk"
    there.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", there], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes more rights")
    yield there
    subprocess.run(["umount", there], check=True)


def test_a_full_disk(tiny_disk: Path, undisturbed: dict[str, str]) -> None:
    with pytest.raises(RunError, match="No space left on device; what was there before is untouched"):
        execute(JOBS, tiny_disk / "runs", workers=2)
    assert not list(tiny_disk.rglob("*.part"))
    before = made(tiny_disk)
    subprocess.run(["mount", "-o", "remount,size=64m", tiny_disk], check=True)
    execute(JOBS, tiny_disk / "runs", workers=2)
    assert results(tiny_disk) == undisturbed and repeated(before, tiny_disk) == []
    assert len(run_folders(tiny_disk)) == len(JOBS)
