"""A run folder: what is written comes back to the bit, and what is not right is refused without touching it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from probelab.runs import Folder, content_hash, load_arrays, run_folders, save_arrays
from probelab.spec import to_json
from probelab.storage import RunError, home, unfinished, write
from tests.tiny import SPEC, snapshot, train, weights

KINDS = st.sampled_from(["float32", "float64", "int64", "uint8", "float16", "bool"])
ARRAYS = st.dictionaries(
    st.text("abcW._0", min_size=1, max_size=8),
    KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs")).path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Folder:
    return Folder(copytree(made, tmp_path / made.name))


@given(ARRAYS)
@settings(max_examples=40)
def test_arrays_come_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.safetensors"
    save_arrays(path, arrays, {"step": 3})
    again, about = load_arrays(path)
    assert about["step"] == 3 and about["hash"] == content_hash(arrays) == content_hash(again)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].tobytes() == array.tobytes()


def test_the_content_hash_sees_names_types_shapes_and_bytes() -> None:
    a = np.arange(6, dtype=np.float32)
    first = content_hash({"a": a, "b": a + 1})
    assert first == content_hash({"b": a + 1, "a": a})
    others = [
        {"a": a, "c": a + 1},
        {"a": a.view(np.int32), "b": a + 1},
        {"a": a.reshape(2, 3), "b": a + 1},
        {"a": np.nextafter(a, np.float32(9)), "b": a + 1},
        {"a": a},
    ]
    assert len({first, *map(content_hash, others)}) == len(others) + 1
    assert content_hash({"a": np.arange(6.0).reshape(2, 3).T}) == content_hash(
        {"a": np.ascontiguousarray(np.arange(6.0).reshape(2, 3).T)}
    )


def test_weights_come_back(folder: Folder) -> None:
    assert folder.steps == [0, 1, 5, 12] and folder.length == 12 and not folder.stopped
    assert folder.weights(5)["embed.W_E"].shape == (2, 16)
    before = weights(folder)
    folder.save_weights(5, folder.weights(5))
    assert weights(folder) == before


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_step(path: Path) -> None:
    path.write_bytes((path.parent / "000001.safetensors").read_bytes())


def foreign(path: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, path)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (truncated, "it is truncated"),
        (emptied, "it is truncated"),
        (altered, "was altered after it was written"),
        (of_another_step, "belongs to another run or step .*step 1"),
        (foreign, "was altered after it was written"),
    ],
)
def test_a_harmed_checkpoint_is_refused(folder: Folder, harm, complaint: str) -> None:
    harm(folder.checkpoint(5))
    before = snapshot(folder.path)
    with pytest.raises(RunError, match=complaint) as error:
        folder.weights(5)
    assert str(folder.checkpoint(5)) in str(error.value) and snapshot(folder.path) == before


def test_a_checkpoint_that_is_not_kept(folder: Folder) -> None:
    with pytest.raises(RunError, match=r"no checkpoint at step 4; the nearest is 5; kept: 0, 1, 5, 12"):
        folder.weights(4)


def rewrite(folder: Folder, **changed: object) -> None:
    described = json.loads((folder.path / "spec.json").read_text())
    (folder.path / "spec.json").write_text(json.dumps({**described, **changed}))


def test_folders_that_are_none(folder: Folder, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", folder.path / "spec.json"):
        with pytest.raises(RunError, match="is not a run folder"):
            Folder(path)
    for text in ("", "{", "[]", "{}", "null", "3"):
        (folder.path / "spec.json").write_text(text)
        with pytest.raises(RunError, match="is not a run folder"):
            Folder(folder.path)


def test_a_folder_of_another_format(folder: Folder) -> None:
    rewrite(folder, format=2)
    with pytest.raises(RunError, match="was written in format 2, this version reads format 1"):
        Folder(folder.path)


def test_a_spec_of_another_version(folder: Folder) -> None:
    spec = to_json(SPEC)
    for part, changed, complaint in [
        ("task", {"version": 99}, "made by version 99 of the task 'markov'"),
        ("task", {"name": "markow"}, "the task 'markow' does not ship with probelab"),
        ("task", {"colour": 1}, "no dial of markov 'colour'"),
        ("task", {"states": "two"}, "states = 'two' is out of range"),
        ("model", {"kind": "mamba"}, "no model kind 'mamba'"),
        ("model", {"gates": 1}, "no dial of the model 'gates'"),
        ("optimizer", {"lr": -1}, "lr = -1.0 is out of range"),
        ("model", {"layers": 2}, "its digest is"),
    ]:
        rewrite(folder, spec={**spec, part: {**spec[part], **changed}})
        with pytest.raises(RunError, match=complaint):
            Folder(folder.path)
    for broken in ({}, [], None, {"task": {}}, {**spec, "task": []}):
        rewrite(folder, spec=broken)
        with pytest.raises(RunError, match="cannot be opened"):
            Folder(folder.path)


def full_disk(monkeypatch: pytest.MonkeyPatch, room: int = 100) -> None:
    """From now on a file may grow to `room` bytes, and then the disk is full."""
    honest = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        honest(path, data[:room])
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", b"before")
    before = snapshot(tmp_path)
    full_disk(monkeypatch, room=3)
    with pytest.raises(RunError, match=r"could not write .*a: No space left on device; what was there before"):
        write(tmp_path / "a", b"after, and longer")
    assert snapshot(tmp_path) == before


def test_a_file_is_replaced_and_never_rewritten(tmp_path: Path) -> None:
    write(tmp_path / "a", b"before")
    with (tmp_path / "a").open("rb") as reader:
        write(tmp_path / "a", b"after")
        assert reader.read() == b"before", "who reads meanwhile sees the old file whole"
    assert (tmp_path / "a").read_bytes() == b"after" and len(list(tmp_path.iterdir())) == 1


def test_a_run_goes_on_after_the_disk_was_full(tmp_path: Path) -> None:
    whole, part = train(tmp_path / "whole"), train(tmp_path / "part", steps=1, keep=(0, 1))
    before = {name: was for name, was in snapshot(part.path).items() if name != "env.json"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        full_disk(monkeypatch, room=800)
        with pytest.raises(RunError, match="No space left on device"):
            train(tmp_path / "part")
    after = snapshot(part.path)
    assert {name: after[name] for name in before} == before and after.keys() - before.keys() <= {"env.json"}
    assert weights(train(tmp_path / "part")) == weights(whole)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match="could not write .*file"):
        train(tmp_path / "file")
    assert snapshot(tmp_path) == before


def test_one_writer_at_a_time(folder: Folder) -> None:
    with folder.lock():
        with pytest.raises(RunError, match="another process is writing to"), Folder(folder.path).lock():
            pass
        with folder.lock("rows"):  # what is trained may be measured meanwhile
            pass
    with folder.lock():
        pass


HOLD = """
import sys, time
from probelab.runs import Folder
with Folder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(99)
"""


def test_the_lock_dies_with_its_holder_and_half_written_files_are_swept(folder: Folder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    half = unfinished(folder.checkpoint(7), holder.pid)
    ours = unfinished(folder.checkpoint(8))
    other = [half.with_name(f".00000{k}.safetensors.elsewhere.{holder.pid}.part") for k in (1, 2)]
    for part in (half, ours, *other):
        part.touch()
    os.utime(other[0], (0, 0))
    with pytest.raises(RunError), folder.lock():
        pass
    assert half.exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with folder.lock():
        assert not half.exists() and ours.exists(), "a process that lives may still be writing"
        assert not other[0].exists() and other[1].exists(), "a number says nothing of another machine's processes"


def test_what_is_there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_folders(made.parent) == run_folders(made.parent.parent) == [made]
    assert run_folders(tmp_path) == run_folders(tmp_path / "nowhere") == []
    monkeypatch.setenv("PROBELAB_RUNS", "/elsewhere")
    assert home() == Path("/elsewhere") and home("here") == Path("here")
    monkeypatch.delenv("PROBELAB_RUNS")
    assert home() == Path("runs")
