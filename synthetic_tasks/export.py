"""Datasets on disk: shards in constant memory, the same bytes for the same command, continued where cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from synthetic_tasks.card import card, tables
from synthetic_tasks.folder import claim
from synthetic_tasks.formats import FORMATS, Columns, available, columns
from synthetic_tasks.task import Batch, Task, batch, choose, require

BLOCK = 1024  # sequences drawn together: block i of a split is `batch(task, seed, i, split, n=BLOCK)`
SHARD = 2**28  # bytes of a shard's columns before compression, about


def generate(
    task: Task,
    out: str | Path,
    splits: tuple[str, ...] | list[str] = ("train",),
    n: int = 10_000,
    seed: int = 0,
    format: str = "parquet",
    facts: bool | tuple[str, ...] | list[str] = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write `n` sequences of each split into the folder `out`, with a README and a card; return the card.

    Columns are tokens, targets, vectors (where the task has some) and the facts: all, none, or those named. A later
    call with the same arguments keeps what is finished and goes on from there; a folder with anything else in it is
    refused and stays as it is. `progress(done, total)` is told sequences. Raises ValueError for what cannot be asked,
    before anything is written, and OSError where the disk is full; what is finished then stays.
    """
    kept = tuple(task.facts) if facts is True else tuple(facts or ())
    _check(task, splits, n, format, kept)
    spec = {"task": task.name, "version": task.version, "dials": asdict(task), "splits": list(splits), "n": n}
    spec |= {"seed": int(seed), "format": format, "facts": list(kept), "block": BLOCK}
    sample = {split: batch(task, seed, 0, split, n=BLOCK) for split in splits}
    held = {split: columns(lot, kept) for split, lot in sample.items()}
    plan = [part for split in splits for part in _shards(split, n, held[split], format)]
    write, done, total = FORMATS[format], 0, n * len(splits)
    with claim(Path(out), spec) as folder:
        for name, split, start, rows in plan:
            if name not in folder.files:
                blocks = (columns(lot, kept) for lot in _blocks(task, seed, split, start, rows))
                told = _told(blocks, progress, done, total)
                folder.add(name, partial(write, blocks=told))
            done += rows
            if progress:
                progress(done, total)
        if "card.json" not in folder.files or "README.md" not in folder.files:
            cards = {split: card(task, split, _blocks(task, seed, split, 0, n)) for split in splits}
            text = json.dumps({"spec": spec, "splits": cards}, indent=1, ensure_ascii=False) + "\n"
            folder.add("card.json", partial(Path.write_text, data=text, encoding="utf-8"))
            text = _readme(task, spec, cards, held[splits[0]])
            folder.add("README.md", partial(Path.write_text, data=text, encoding="utf-8"))
        return json.loads((folder.path / "card.json").read_text(encoding="utf-8"))


def _check(task: Task, splits: tuple[str, ...] | list[str], n: int, format: str, facts: tuple[str, ...]) -> None:
    choose("format of datasets", format, FORMATS)
    require(n >= 1, "n", n, "at least one sequence")
    require(0 < len(splits) == len(set(splits)), "splits", list(splits), "one or more, each once")
    for split in splits:
        task.check_split(split)
    for fact in facts:
        choose(f"fact of {task.name}", fact, task.facts)
    available(format)


def _shards(split: str, n: int, held: Columns, format: str) -> list[tuple[str, str, int, int]]:
    """Name, split, first sequence and number of sequences of each shard: whole blocks, but for the last."""
    size = BLOCK * max(1, SHARD // sum(x.nbytes for x in held.values()))
    of = -(-n // size)
    names = [f"data/{split}/{split}-{i:05d}-of-{of:05d}.{format}" for i in range(of)]
    return [(name, split, i * size, min(size, n - i * size)) for i, name in enumerate(names)]


def _blocks(task: Task, seed: int, split: str, start: int, rows: int) -> Iterator[Batch]:
    """The sequences of a split from `start`, a multiple of BLOCK, on."""
    for first in range(start, start + rows, BLOCK):
        yield batch(task, seed, first // BLOCK, split, n=BLOCK)[: start + rows - first]


def _told(
    blocks: Iterator[Columns], progress: Callable[[int, int], None] | None, done: int, total: int
) -> Iterator[Columns]:
    """The same blocks, each announced when it is written."""
    for block in blocks:
        yield block
        done += len(block["tokens"])
        if progress:
            progress(done, total)


def _readme(task: Task, spec: dict[str, Any], cards: dict[str, Any], held: Columns) -> str:
    """What the folder holds, for readers and for `datasets.load_dataset`: a config per split."""
    lines = ["---", f"pretty_name: {task.name}"]
    if spec["format"] != "npz":
        lines.append("configs:")
        for i, split in enumerate(cards):
            lines += [f"- config_name: {split}", *(["  default: true"] if i == 0 else []), "  data_files:"]
            lines += [f"  - split: {split}", f"    path: data/{split}/*.{spec['format']}"]
    split = next(iter(cards))
    load = f'datasets.load_dataset("this/folder", "{split}")["{split}"]'
    if spec["format"] == "npz":
        load = f'[numpy.load(file) for file in sorted(pathlib.Path("this/folder/data/{split}").glob("*.npz"))]'
    meanings = {
        "tokens": "[pos] the symbols read",
        "targets": "[pos] the answer after reading up to and including this position; -1 where nothing is asked",
        "vectors": "[pos feature] the continuous items",
    } | {name: meaning.replace("[batch ", "[").replace("[batch]", "[]") for name, meaning in task.facts.items()}
    lines += [
        "---",
        "",
        f"# {task.name}",
        "",
        f"{spec['n']:,} sequences of each split ({', '.join(cards)}) of the synthetic",
    ]
    lines += [
        f"task `{task.name}`, version {task.version}, data seed {spec['seed']}.",
        "",
        "```python",
        load,
        "```",
        "",
    ]
    lines += ["| asked | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in spec["dials"].items()), ""]
    lines += ["| column | axes and meaning |", "|---|---|", *(f"| {name} | {meanings[name]} |" for name in held), ""]
    lines += ["\n\n".join(map(tables, cards.values())), ""]
    lines += [
        f"Sequence i of a split is row i mod {BLOCK} of `batch(task, {spec['seed']}, i // {BLOCK}, split, n={BLOCK})`."
    ]
    lines += ["`shards.json` holds the size and BLAKE2b hash of every file, `card.json` these tables.", ""]
    return "\n".join(lines)
