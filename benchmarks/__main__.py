"""`python -m benchmarks [SECTION ...]`: a table of ratios; all sections together rewrite benchmarks/results.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})  # before torch is imported, which reads them once

import torch  # noqa: E402

from benchmarks.decoding import decoding  # noqa: E402
from benchmarks.generation import generation  # noqa: E402
from benchmarks.patching import patching  # noqa: E402
from benchmarks.probing import probing  # noqa: E402
from benchmarks.reading import reading  # noqa: E402
from benchmarks.running import checkpoints, processes, ray  # noqa: E402
from benchmarks.steps import stack, step  # noqa: E402
from benchmarks.timing import Line, as_table  # noqa: E402
from synthetic_tasks.task import choose_from  # noqa: E402

SECTIONS = {
    section.__name__: section
    for section in (step, stack, checkpoints, generation, decoding, patching, probing, processes, ray, reading)
}
HEAD = """# Speed

Ratios above 1 say that probelab is faster (or the share, where a share is asked). Every ratio compares contestants that
took turns in one run, on one CPU thread unless it says otherwise; it is the median of the ratios of neighbouring turns.
Made by `python -m benchmarks`.

"""


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    lines: list[Line] = []
    for section in [choose_from("section of benchmarks", name, SECTIONS) for name in names or SECTIONS]:
        print(f"{section.__name__} ...", flush=True)
        lines += section()
    print(as_table(lines))
    if not names:
        (Path(__file__).parent / "results.md").write_text(HEAD + as_table(lines) + "\n")


if __name__ == "__main__":  # the workers of the last section import this module again
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
