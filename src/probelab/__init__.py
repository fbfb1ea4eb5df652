"""probelab: when, why and by which circuit does an ability appear while a transformer trains?

    import probelab as lab
    from synthetic_tasks import Markov

    run = lab.train(Markov(states=2), lab.Transformer(layers=2, heads=1, d_model=16), steps=1000)
    rows = lab.measure(run, "strategy")
    lab.figures.phases(rows).show()

Names are loaded when they are first used, so that `import probelab` is quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probelab import curves, figures, measures
    from probelab.api import (
        arrays,
        example,
        grid,
        measure,
        open,
        oracle_losses,
        reproduce,
        rows,
        runs,
        table,
        train,
    )
    from probelab.clamps import Copy, HandBuiltLayer, Match, OnlyHeads, PreviousToken
    from probelab.decode import decode, flops
    from probelab.edit import Edit
    from probelab.live import LiveCurve, LiveScores
    from probelab.measures import (
        Answers,
        Attribution,
        BackPatch,
        Circuit,
        Classify,
        Composition,
        Early,
        Edges,
        Faithful,
        Follow,
        Heads,
        InContext,
        Lens,
        Loss,
        Mixture,
        Norms,
        Patching,
        Patterns,
        Probe,
        Ready,
        Reasoning,
        Sparsity,
        Strategy,
        Use,
    )
    from probelab.places import Place
    from probelab.sinks import TensorBoard, WandB
    from probelab.spec import LSTM, RNN, Optimizer, Spec, Transformer
    from probelab.subject import Model, Run, Subject
    from probelab.sweep import Sweep

__version__ = "0.1.0"
HOMES = {
    "probelab.api": (
        "arrays",
        "example",
        "grid",
        "measure",
        "open",
        "oracle_losses",
        "reproduce",
        "rows",
        "runs",
        "table",
        "train",
    ),
    "probelab.clamps": ("Copy", "HandBuiltLayer", "Match", "OnlyHeads", "PreviousToken"),
    "probelab.decode": ("decode", "flops"),
    "probelab.edit": ("Edit",),
    "probelab.live": ("LiveCurve", "LiveScores"),
    "probelab.measures": (
        "Answers",
        "Attribution",
        "BackPatch",
        "Circuit",
        "Classify",
        "Composition",
        "Early",
        "Edges",
        "Faithful",
        "Follow",
        "Heads",
        "InContext",
        "Lens",
        "Loss",
        "Mixture",
        "Norms",
        "Patching",
        "Patterns",
        "Probe",
        "Ready",
        "Reasoning",
        "Sparsity",
        "Strategy",
        "Use",
    ),
    "probelab.places": ("Place",),
    "probelab.sinks": ("TensorBoard", "WandB"),
    "probelab.spec": ("LSTM", "RNN", "Optimizer", "Spec", "Transformer"),
    "probelab.subject": ("Model", "Run", "Subject"),
    "probelab.sweep": ("Sweep",),
}
__all__ = [
    "Answers",
    "Attribution",
    "BackPatch",
    "Circuit",
    "Classify",
    "Composition",
    "Copy",
    "Early",
    "Edges",
    "Edit",
    "Faithful",
    "Follow",
    "HandBuiltLayer",
    "Heads",
    "InContext",
    "LSTM",
    "Lens",
    "LiveCurve",
    "LiveScores",
    "Loss",
    "Match",
    "Mixture",
    "Model",
    "Norms",
    "OnlyHeads",
    "Optimizer",
    "Patching",
    "Patterns",
    "Place",
    "PreviousToken",
    "Probe",
    "Ready",
    "Reasoning",
    "RNN",
    "Run",
    "Sparsity",
    "Spec",
    "Strategy",
    "Subject",
    "Sweep",
    "TensorBoard",
    "Transformer",
    "Use",
    "WandB",
    "arrays",
    "curves",
    "decode",
    "example",
    "figures",
    "flops",
    "grid",
    "measure",
    "measures",
    "open",
    "oracle_losses",
    "reproduce",
    "rows",
    "runs",
    "table",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("curves", "figures", "measures", "studies"):
        return import_module(f"probelab.{name}")
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'probelab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class Facade(ModuleType):
    """Keeps `lab.train` the function that it is: importing the module probelab.train would hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and any(name in names for names in HOMES.values())):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Facade
