"""Datasets: what is read back is what was drawn, the same command makes the same bytes, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from synthetic_tasks import Batch, Markov, Repeats, batch, generate, turn
from synthetic_tasks.formats import FORMATS, columns

TASK = Repeats(tokens=12, length=10, language="bigram", share=0.5)
EXPORT = import_module("synthetic_tasks.export")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 sequences and shards of two blocks, so that a hundred sequences fill several."""
    monkeypatch.setattr(EXPORT, "BLOCK", 16)
    held = columns(batch(TASK, 0, 0, n=16), tuple(TASK.facts))
    monkeypatch.setattr(EXPORT, "SHARD", 2 * sum(x.nbytes for x in held.values()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def drawn(split: str, n: int, block: int = 16) -> dict[str, np.ndarray]:
    lots = [columns(batch(TASK, 5, i, split, n=block), tuple(TASK.facts)) for i in range(-(-n // block))]
    return {name: np.concatenate([lot[name] for lot in lots])[:n] for name in lots[0]}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_datasets_loads_a_config_per_split(tmp_path, monkeypatch, format):
    generate(TASK, tmp_path / "out", ["train", "plain"], n=100, seed=5, format=format)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "plain"):
        table = datasets.load_dataset(str(tmp_path / "out"), split, cache_dir=str(tmp_path / "cache"))[split]
        assert len(table) == 100
        for name, known in drawn(split, 100).items():
            assert np.array_equal(np.array(table[name]), known), name
    default = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(default) == ["train"]


@pytest.mark.usefixtures("small")
def test_npz_holds_what_was_drawn(tmp_path):
    generate(TASK, tmp_path / "out", ["train"], n=100, seed=5, format="npz")
    files = sorted((tmp_path / "out/data/train").glob("*.npz"))
    assert [file.name for file in files] == [f"train-{i:05d}-of-00004.npz" for i in range(4)]
    parts = [np.load(file) for file in files]
    for name, known in drawn("train", 100).items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), known)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_command_makes_the_same_bytes(tmp_path, format):
    for name in ("here", "there"):
        generate(TASK, tmp_path / name, ["train", "test"], n=50, format=format)
    here = contents(tmp_path / "here")
    assert here == contents(tmp_path / "there") and len(here) == 3 + 2 * 2
    assert not any(str(tmp_path).encode() in data for data in here.values())


@pytest.mark.usefixtures("small")
def test_what_is_finished_is_kept_and_what_is_damaged_is_made_again(tmp_path, monkeypatch):
    out, made = tmp_path / "out", []
    generate(TASK, out, n=100, format="npz")
    whole = contents(out)
    (out / "data/train/train-00001-of-00004.npz").unlink()
    (out / "data/train/train-00002-of-00004.npz").write_bytes(b"cut off")
    (out / "README.md").write_text((out / "README.md").read_text().replace("100", "200"))
    before = (out / "data/train/train-00000-of-00004.npz").stat().st_mtime_ns
    monkeypatch.setitem(
        FORMATS, "npz", lambda path, blocks, was=FORMATS["npz"]: (made.append(path.name), was(path, blocks))
    )
    generate(TASK, out, n=100, format="npz")
    assert contents(out) == whole and len(made) == 2
    assert (out / "data/train/train-00000-of-00004.npz").stat().st_mtime_ns == before


def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path):
    code = (
        "import sys; from importlib import import_module; from synthetic_tasks import Markov, generate;"
        "export = import_module('synthetic_tasks.export'); export.BLOCK, export.SHARD = 16, 1;"
        "generate(Markov(length=20), sys.argv[1], n=600)"
    )
    root = Path(EXPORT.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}

    def run(out: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, str(out)], env=env)

    assert run(tmp_path / "whole").wait() == 0
    first = run(tmp_path / "cut")
    while not list((tmp_path / "cut").glob("data/train/*-of-*.parquet")):
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert run(tmp_path / "cut").wait() == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"format": "paruet"}, "no format of datasets 'paruet'; did you mean 'parquet'"),
        ({"splits": ["trian"]}, "no split of repeats 'trian'; did you mean 'train'"),
        ({"splits": []}, "splits"),
        ({"splits": ["train", "train"]}, "splits"),
        ({"n": 0}, "n = 0"),
        ({"facts": ["copied"]}, "no fact of repeats 'copied'; did you mean 'copy'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(tmp_path, dials, words):
    with pytest.raises(ValueError, match=words):
        generate(TASK, tmp_path / "out", **dials)
    assert not (tmp_path / "out").exists()


def test_a_split_that_contradicts_the_dials_is_refused_too(tmp_path):
    with pytest.raises(ValueError, match="order = 2"):
        generate(Markov(order=2), tmp_path / "out", ["train", "doubly_stochastic"], n=10)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_a_folder_with_anything_else_in_it_is_refused_and_untouched(tmp_path):
    generate(TASK, tmp_path / "out", n=20)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="another dataset: n is 20 there and 21 here"):
        generate(TASK, tmp_path / "out", n=21)
    with pytest.raises(ValueError, match=r"dials is \{'share': 0.5\} there and \{'share': 0.25\} here"):
        generate(turn(TASK, share=0.25), tmp_path / "out", n=20)
    with pytest.raises(ValueError, match="holds no dataset of ours"):
        generate(TASK, tmp_path / "papers", n=20)
    with pytest.raises(ValueError, match="is a file"):
        generate(TASK, tmp_path / "file", n=20)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("small")
def test_a_full_disk_says_so_and_leaves_what_is_finished(tmp_path, monkeypatch):
    out, write = tmp_path / "out", FORMATS["parquet"]

    def fails_on_the_third(path, blocks):
        if "00002" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, blocks)

    monkeypatch.setitem(FORMATS, "parquet", fails_on_the_third)
    with pytest.raises(OSError, match="no space left .* 2 files are finished and kept; make room") as error:
        generate(TASK, out, n=100)
    assert error.value.errno == errno.ENOSPC
    assert sorted(contents(out)) == [
        "data/train/train-00000-of-00004.parquet",
        "data/train/train-00001-of-00004.parquet",
        "shards.json",
    ]
    monkeypatch.setitem(FORMATS, "parquet", write)
    generate(TASK, out, n=100)
    generate(TASK, tmp_path / "whole", n=100)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_an_error_while_drawing_leaves_no_half_file(tmp_path, monkeypatch):
    def breaks_off(*args, **kwargs):
        if args[2] == 5:
            raise KeyboardInterrupt
        return batch(*args, **kwargs)

    monkeypatch.setattr(EXPORT, "batch", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        generate(TASK, tmp_path, n=100)
    assert [name for name in contents(tmp_path) if "00002" in name] == []
    monkeypatch.undo()


@pytest.mark.usefixtures("small")
def test_two_processes_do_not_write_to_one_folder(tmp_path):
    def meanwhile(done, total):
        with pytest.raises(ValueError, match="another process is writing"):
            generate(TASK, tmp_path, n=40)

    generate(TASK, tmp_path, n=40, progress=meanwhile)


@pytest.mark.usefixtures("small")
def test_progress_counts_sequences_to_the_end(tmp_path):
    told = []
    generate(TASK, tmp_path, ["train", "plain"], n=40, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[0] == (16, 80) and told[-1] == (80, 80)
    again = []
    generate(TASK, tmp_path, ["train", "plain"], n=40, progress=lambda done, total: again.append(done))
    assert again[-1] == 80


@pytest.mark.usefixtures("small")
def test_facts_may_be_left_out_or_chosen(tmp_path):
    for name, facts, held in (("none", False, []), ("some", ["copy", "size"], ["copy", "size"])):
        generate(TASK, tmp_path / name, n=20, facts=facts)
        schema = pq.read_schema(next((tmp_path / name).glob("data/train/*.parquet")))
        assert schema.names == ["tokens", "targets", *held]


@pytest.mark.usefixtures("small")
def test_a_larger_dataset_begins_like_a_smaller_one(tmp_path):
    for n in (20, 90):
        generate(TASK, tmp_path / str(n), n=n, format="jsonl")
    small, large = ("".join(p.read_text() for p in sorted((tmp_path / n).glob("data/train/*"))) for n in ("20", "90"))
    assert large.startswith(small)


@pytest.mark.usefixtures("small")
def test_the_readme_says_what_is_there(tmp_path):
    cards = generate(TASK, tmp_path, ["train", "plain"], n=40)
    page = (tmp_path / "README.md").read_text()
    for word in (
        "config_name: plain",
        "data/plain/*.parquet",
        "40 sequences",
        "| share | 0.5 |",
        "| copier |",
        "load_dataset",
    ):
        assert word in page
    assert all(f"| {name} |" in page for name in ("tokens", "targets", *TASK.facts))
    assert json.loads((tmp_path / "card.json").read_text()) == cards
    assert cards["splits"]["plain"]["measured"]["sequences"] == 40


def test_undefined_numbers_survive_each_format(tmp_path):
    lot = Batch(
        np.array([[0, -1]]), np.array([[-1, 1]]), np.ones((1, 2, 3), np.float32), {"x": np.array([[0.5, np.nan]])}
    )
    block = columns(lot, ("x",))
    for name, write in FORMATS.items():
        write(tmp_path / name, [block, block])
    assert pq.read_table(tmp_path / "parquet").to_pydict()["tokens"] == [[0, -1]] * 2
    assert np.isnan(pq.read_table(tmp_path / "parquet").to_pydict()["x"][0][1])
    row = json.loads((tmp_path / "jsonl").read_text().splitlines()[1])
    assert row == {"tokens": [0, -1], "targets": [-1, 1], "vectors": [[1.0] * 3] * 2, "x": [0.5, None]}
    assert np.load(tmp_path / "npz")["vectors"].shape == (2, 2, 3)


def test_parquet_without_pyarrow_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="'jsonl' and 'npz' need numpy alone"):
        generate(TASK, tmp_path / "out", n=10)
    assert not (tmp_path / "out").exists()
    generate(TASK, tmp_path / "out", n=10, format="jsonl")
