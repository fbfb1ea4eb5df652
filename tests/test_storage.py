"""Results at a URL: the bits that a folder of this machine has, no half file, one writer, and clear refusals."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from probelab import locks
from probelab.conduct import execute
from probelab.figures import _save
from probelab.listing import listed, rows
from probelab.locks import Busy, locked
from probelab.measures import Loss
from probelab.rows import load_rows
from probelab.runs import Folder, load_arrays, run_folders
from probelab.storage import RunError, located, noted, passing, write
from probelab.study import Job
from tests.stores import serving
from tests.test_faults import JOBS, driver, ended, made, repeated, undisturbed, wait_for_runs  # noqa: F401 (a fixture)
from tests.tiny import SPEC, command, results, train, weights


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with serving() as environment:
        yield environment


@pytest.fixture(params=["memory", "s3"])
def out(request: pytest.FixtureRequest, server: dict[str, str]) -> Path:
    """An empty results folder at a URL."""
    return located(f"{request.param}://lab/{uuid4().hex}")


@pytest.fixture
def bucket(server: dict[str, str]) -> Path:
    return located(f"s3://lab/{uuid4().hex}")


def test_a_run_at_a_url_has_the_bits_of_one_here(out: Path, tmp_path: Path) -> None:
    here, there = train(tmp_path), train(out)
    assert there.path == out / "runs" / here.path.name
    assert weights(there) == weights(here) and results(out) == results(tmp_path)
    assert [run_folders(out), there.length, there.anchors] == [[there.path], here.length, here.anchors]
    assert not any(path.name.startswith(".") for path in out.rglob("*")), "no lease is left"


def test_many_runs_are_read_as_they_are_here(out: Path, tmp_path: Path) -> None:
    jobs = [Job("arm", SPEC.seeded(seed), 12, (0, 12), (Loss(n=8),), seed) for seed in range(3)]
    for place in (out, tmp_path):
        execute(jobs, place / "runs")
    assert rows(out).equals(rows(tmp_path))
    assert list(listed(out)) == list(listed(tmp_path))
    assert load_rows(out / "runs" / jobs[0].spec.name / "train.parquet")["step"].tolist() == list(range(12))


def test_a_file_that_is_truncated_or_altered_is_refused(out: Path) -> None:
    run = train(out)
    path = run.checkpoint(12)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(RunError, match="truncated"):
        load_arrays(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match="was altered"):
        load_arrays(path)


class Files(MemoryFileSystem):
    """A distant file system, no store of objects: what is written shows at once, a byte after the other."""

    protocol = "files"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    writing: list[str] = []

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        raise AssertionError("here a file is written beside its place, then renamed")

    def mv(self, path1: str, path2: str, **more: Any) -> None:
        if self.writing:
            raise OSError(errno.EIO, "the line is cut")
        super().mv(path1, path2, **more)


@pytest.mark.filterwarnings("ignore:UPath .files. filesystem not explicitly implemented")
def test_no_half_file_where_files_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("files", Files, clobber=True)
    path = located("files://lab/x.json")
    write(path, b"first")
    assert path.read_bytes() == b"first" and [name.split("/")[-1] for name in Files.store] == ["x.json"]
    monkeypatch.setattr(Files, "writing", ["now"])
    with pytest.raises(RunError, match="could not write .*the line is cut"):
        write(path, b"second")
    assert path.read_bytes() == b"first"


def test_one_writer_at_a_time(out: Path) -> None:
    folder = Folder.create(SPEC, out / "runs")
    with folder.lock():
        with pytest.raises(Busy, match="another process is writing to"), folder.lock():
            pass
        with folder.lock("rows"):  # another room
            pass
    with folder.lock():
        pass


def test_of_many_one_takes_the_lease(bucket: Path) -> None:
    """Also when all find that of a process that died."""
    for there in ({}, {"who": "dead", "until": time.time() - 1}):
        folder, held = bucket / uuid4().hex, []
        if there:
            write(folder / ".writer", json.dumps(there).encode())
        gate, over = threading.Barrier(8, timeout=30), threading.Barrier(8, timeout=30)

        def attempt(folder: Path = folder, held: list[int] = held, gate: Any = gate, over: Any = over) -> None:
            gate.wait()
            try:
                with locked(folder):
                    held.append(1)
                    over.wait()
            except Busy:
                over.wait()

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(held) == 1


def test_a_lease_is_renewed_while_it_is_held_and_lapses_with_its_holder(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "RENEWED", 0.1)
    with locked(out):
        time.sleep(1)
        with pytest.raises(Busy), locked(out):
            pass
    monkeypatch.setattr(locks, "keep", lambda *_: None)  # its holder has died
    dead = locked(out)
    dead.__enter__()
    time.sleep(0.6)
    with locked(out):
        assert noted(out / ".writer")["until"] > time.time()


@pytest.mark.slow
def test_a_sweep_by_two_processes(bucket: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    execute(JOBS, bucket / "runs", workers=2)
    assert results(bucket) == undisturbed
    before = made(bucket)
    execute(JOBS, bucket / "runs", workers=2)
    assert len(before) == 6 and repeated(before, bucket) == []


@pytest.mark.slow
def test_the_driver_of_a_sweep_is_killed(bucket: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    """What it held lapses within a minute, and the same command goes on."""
    process = driver(bucket)
    before = wait_for_runs(bucket, 2)
    process.kill()
    ended(process)
    code, _ = ended(driver(bucket))
    assert code == 0 and results(bucket) == undisturbed and repeated(before, bucket) == []


def test_a_store_that_fails_now_and_then(monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, str]) -> None:  # noqa: F811
    sound, calls = MemoryFileSystem.pipe_file, []

    def flaky(self: Any, path: str, *more: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) % 60 == 0:
            raise ConnectionError("connection reset by peer") if len(calls) % 120 else RuntimeError("EndpointError")
        sound(self, path, *more, **options)

    asked, answered = MemoryFileSystem.cat_file, []

    def lost(self: Any, path: str, *more: Any, **options: Any) -> Any:
        answered.append(path)
        if len(answered) % 60 == 0:
            raise RuntimeError("EndpointError: no answer")
        return asked(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", flaky)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lost)
    out = located(f"memory://lab/{uuid4().hex}")
    execute(JOBS, out / "runs", workers=2)
    assert results(out) == undisturbed and len(calls) > 120 and len(answered) > 60, "it has failed all ways"


def test_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_save, "_pictures", lambda *_: {})  # a browser takes half a minute
    bucket = located(f"memory://lab/{uuid4().hex}")
    said = command(capsys, "reproduce", "markov", "--preset", "smoke", "--jobs", "1", "--out", bucket)
    assert said.code == 0 and f"report card: {bucket}/figures/markov/report.md" in said.out, said
    card = (bucket / "report.md").read_bytes()
    said = command(capsys, "verify", "markov", "--preset", "smoke", "--out", bucket)
    assert said.code == 0 and (bucket / "report.md").read_bytes() == card
    said = command(capsys, "reproduce", "markov", "--preset", "smoke", "--dry-run", "--out", bucket)
    runs = run_folders(bucket)
    assert f"{len(runs)} of {len(runs)} runs are there already" in said.out
    said = command(capsys, "runs", bucket)
    assert [line.split()[0] for line in said.out.splitlines()] == [path.name for path in runs]
    assert command(capsys, "watch", bucket, "--once").code == 0
    said = command(capsys, "draw", runs[0], "pattern", "--out", bucket)
    assert said.code == 0 and any(path.suffix == ".csv" for path in (bucket / "figures" / runs[0].name).iterdir()), said
    before = results(bucket)
    said = command(capsys, "runs", bucket, "--prune", "--weights", "--yes")
    assert said.code == 0 and "freed" in said.out, said
    assert len(results(bucket)) < len(before)
    said = command(capsys, "reproduce", "markov", "--preset", "smoke", "--dry-run", "--out", bucket)
    assert f"{len(runs)} of {len(runs)} runs are there already" in said.out


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s4://lab/x", "cannot be reached"),
        ("sftp2://lab/x", "cannot be reached"),
        ("gs://lab/x", "Please install gcsfs"),
        ("s3://nobody/x", "could not write s3://nobody/x"),
        ("s3:/lab/x", "give it as text"),
    ],
)
def test_what_cannot_be_reached(
    server: dict[str, str], capsys: pytest.CaptureFixture[str], url: str, told: str
) -> None:
    said = command(capsys, "reproduce", "markov", "--preset", "smoke", "--out", url)
    assert said.code == 2 and told in said.err and "Traceback" not in said.err


def test_a_store_that_is_closed_to_us(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")  # without a number, as s3fs does

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", closed)
    said = command(capsys, "reproduce", "markov", "--preset", "smoke", "--out", "memory://lab/closed")
    assert said.code == 2 and "could not write memory://lab/closed" in said.err and "Access Denied" in said.err
    with pytest.raises(RunError) as refused:
        write(located("memory://lab/closed/x"), b"")
    assert not passing(refused.value), "nobody tries that again"
