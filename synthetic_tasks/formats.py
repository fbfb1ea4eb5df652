"""File formats of datasets: blocks of columns to one file in constant memory, without a date or a machine in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from synthetic_tasks.task import Array, Batch

Columns = dict[str, Array]


def columns(batch: Batch, facts: tuple[str, ...]) -> Columns:
    """What a dataset holds of a batch, name -> `[batch ...]`; facts that are empty in this task have no column."""
    found = {"tokens": batch.tokens.astype(np.int32), "targets": batch.targets.astype(np.int32)}
    if batch.vectors is not None:
        found["vectors"] = batch.vectors
    return found | {name: batch.facts[name] for name in facts if 0 not in batch.facts[name].shape[1:]}


PINNED = {  # all that shapes the bytes
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": False,
    "store_schema": True,
}


def parquet(path: Path, blocks: Iterable[Columns]) -> None:
    """One row group per block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def nested(x: Array) -> Any:
        values = pa.array(np.ascontiguousarray(x).reshape(-1))
        for axis in range(x.ndim - 1, 0, -1):
            rows = int(np.prod(x.shape[:axis]))
            offsets = np.arange(rows + 1, dtype=np.int32) * x.shape[axis]
            values = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
        return values

    writer = None
    with path.open("wb") as file:
        try:
            for block in blocks:
                table = pa.table({name: nested(x) for name, x in block.items()})
                writer = writer or pq.ParquetWriter(file, table.schema, **PINNED)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            if writer:
                writer.close()
        except BaseException:
            if writer:
                writer.is_open = False  # else it would write its last words, later, to a file that is closed or full
            raise


def jsonl(path: Path, blocks: Iterable[Columns]) -> None:
    """One JSON object per sequence; NaN becomes null."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for block in blocks:
            for row in zip(*map(_plain, block.values()), strict=True):
                file.write(json.dumps(dict(zip(block, row, strict=True)), separators=(",", ":"), allow_nan=False))
                file.write("\n")


def _plain(x: Array) -> list[Any]:
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        plain = x.astype(object)
        plain[~np.isfinite(x)] = None
        return plain.tolist()
    return x.tolist()


def npz(path: Path, blocks: Iterable[Columns]) -> None:
    """One compressed array per column, all in memory at once; numpy dates the members of the archive 1980."""
    parts = list(blocks)
    with path.open("wb") as file:
        arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        np.savez_compressed(file, **arrays)


FORMATS: dict[str, Callable[..., None]] = {"parquet": parquet, "jsonl": jsonl, "npz": npz}


def available(format: str) -> None:
    """Raise if a format needs a library that is not installed."""
    if format == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            message = "format = 'parquet' needs pyarrow (pip install pyarrow); 'jsonl' and 'npz' need numpy alone"
            raise ImportError(message) from None
