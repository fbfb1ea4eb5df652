"""Ten thousand run folders: the seconds in which `probelab runs` lists them and `lab.rows` reads all their rows."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.timing import Call, Line, race
from probelab.listing import listed, rows
from probelab.rows import load_rows, tidy
from probelab.runs import FORMAT, Folder
from probelab.spec import Spec, to_json
from probelab.storage import write_json
from synthetic_tasks import Classification

RUNS, STEPS, LIMIT = 10_000, (0, 1, 3, 10, 30, 100, 300, 1000), 5


def reading() -> list[Line]:
    """Simulated folders, each with a spec, eight checkpoints and 32 rows; against opening each with `Folder`."""
    with TemporaryDirectory() as folder:
        out = Path(folder)
        paths = simulated(out)
        table = seconds(lambda: rows(out))
        listing = seconds(lambda: list(listed(out)))
        few = paths[: RUNS // 20]
        apart = 20 * seconds(lambda: [(Folder(path), load_rows(path / "rows" / "classify-0.parquet")) for path in few])
    told = f"{RUNS:,} run folders, one at a time"
    return [
        Line(
            f"the rows of {RUNS:,} run folders as one table",
            told,
            f"under {LIMIT} s",
            f"{table:.1f} s of {apart:.0f} s",
        ),
        Line(f"listing {RUNS:,} run folders", told, f"under {LIMIT} s", f"{listing:.1f} s"),
    ]


def seconds(call: Call) -> float:
    """Of a call, the median of three; files are in the cache of the system."""
    return median(race({"": call}, rounds=3, warm=0)[""])


def simulated(out: Path) -> list[Path]:
    """A grid over skew and bursts with many seeds, as if it had been run."""
    found, rows = [], pa.Table.from_pandas(tidy(rows_of("", 100)), preserve_index=False)
    for number in range(RUNS):
        task = Classification(zipf=0.1 * (number % 16), p_bursty=number // 16 % 11 / 10)
        spec = Spec(task).seeded(100 + number // 176)
        path = out / "runs" / spec.name
        described = {"format": FORMAT, "digest": spec.digest, "spec": to_json(spec)}
        write_json(path / "spec.json", described)
        write_json(path / "done", {"steps": STEPS[-1]})
        for part in ("rows", "checkpoints"):
            (path / part).mkdir()
        mine = rows.set_column(0, "run", pa.array([path.name] * len(rows)))
        pq.write_table(mine, path / "rows" / "classify-0.parquet", compression="zstd")
        for step in STEPS:
            (path / "checkpoints" / f"{step:06d}.safetensors").write_bytes(b"0" * 100)
        found.append(path)
    return found


def rows_of(run: str, seed: int) -> pd.DataFrame:
    """Two scores on two splits at each kept step."""
    return pd.DataFrame(
        dict(run=run, seed=seed, step=step, split=split, measure="classify", metric=metric, value=step / 1000, n=500)
        for step in STEPS
        for split in ("icl2", "iwl")
        for metric in ("accuracy", "accuracy_in_context")
    )
