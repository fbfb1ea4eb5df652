"""Studies: one published figure, or a family of them, in a file each. `STUDIES` lists what ships."""

from __future__ import annotations

from probelab.studies.abrupt import ABRUPT
from probelab.studies.addition import ADDITION
from probelab.studies.circuit import CIRCUIT
from probelab.studies.clamp import CLAMP
from probelab.studies.faithful import FAITHFUL
from probelab.studies.induction import INDUCTION
from probelab.studies.locality import LOCALITY
from probelab.studies.markov import MARKOV
from probelab.studies.parity import PARITY
from probelab.studies.skew import SKEW
from probelab.studies.transience import TRANSIENCE
from probelab.studies.two_hop import TWO_HOP
from probelab.study import Study

STUDIES: dict[str, Study] = {
    "markov": MARKOV,
    "induction": INDUCTION,
    "skew": SKEW,
    "abrupt": ABRUPT,
    "clamp": CLAMP,
    "circuit": CIRCUIT,
    "transience": TRANSIENCE,
    "parity": PARITY,
    "faithful": FAITHFUL,
    "locality": LOCALITY,
    "two_hop": TWO_HOP,
    "addition": ADDITION,
}
