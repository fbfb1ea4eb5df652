"""Studies: one published figure, or a family of them, in a file each. `STUDIES` lists what ships."""

from __future__ import annotations

from probelab.studies.induction import INDUCTION
from probelab.studies.markov import MARKOV
from probelab.study import Study

STUDIES: dict[str, Study] = {"markov": MARKOV, "induction": INDUCTION}
