"""Curves in a notebook that move while a model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _style as style
from probelab.measures import Measure
from probelab.record import measure
from probelab.rows import pick
from probelab.subject import Run


class LiveCurve:
    """The training loss, drawn while it falls.

        curve = lab.LiveCurve(); display(curve.figure); lab.train(..., watch=curve)

    every  steps averaged into one point of the curve; drawing costs about as much as a few steps
    """

    def __init__(self, every: int = 20, title: str = "Training loss", lines: dict[str, float] | None = None):
        self.every, self.waiting = every, []
        self.figure = go.FigureWidget()
        self.figure.add_scatter(x=[], y=[], mode="lines", name="loss", line=dict(width=2))
        self.figure.update_layout(
            title=title,
            xaxis_title="step",
            yaxis_title="loss (nats per token)",
            template="plotly_white",
            height=380,
            width=760,
        )
        for name, level in (lines or {}).items():
            self.figure.add_hline(y=level, line=dict(dash="dot", width=1), annotation_text=name)
        self.steps: list[int] = []
        self.losses: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self.waiting.append(loss)
        if len(self.waiting) < self.every:
            return
        self.steps.append(step + 1)
        self.losses.append(sum(self.waiting) / len(self.waiting))
        self.waiting = []
        with self.figure.batch_update():
            self.figure.data[0].x, self.figure.data[0].y = tuple(self.steps), tuple(self.losses)


class LiveScores:
    """What a measure says of the model at each kept step, drawn while it trains, above the training loss.

        live = lab.LiveScores(Classify(n=500), {"ICL": {"split": "icl2", "metric": "accuracy_in_context"}})
        display(live.figure); run = lab.train(..., watch=live)

    Rows are recorded in the run's folder, so that `lab.measure(run, ...)` finds them there.

    series  name -> coordinates of its rows, as in `figures.multiples`: one row a step
    lines   levels to compare with: label -> level
    span    ends of the scores' axis
    every   steps averaged into one point of the loss
    """

    def __init__(
        self,
        what: Measure,
        series: Mapping[str, Mapping[str, Any]],
        title: str = "",
        *,
        lines: Mapping[str, float] | None = None,
        span: tuple[float, float] = (-0.02, 1.02),
        every: int = 20,
        width: int = 760,
    ):
        self.what, self.series, self.every, self.waiting = what, dict(series), every, []
        panels = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
        self.figure = go.FigureWidget(panels)
        for name, ink in style.inks(self.series).items():
            self.figure.add_scatter(
                x=[], y=[], mode="lines+markers", name=name, line=dict(width=2, color=ink), row=1, col=1
            )
        grey = dict(width=2, color=style.INK)
        self.figure.add_scatter(x=[], y=[], mode="lines", name="loss", line=grey, showlegend=False, row=2, col=1)
        self.figure.update_layout(title=title, template="plotly_white", height=420, width=width)
        self.figure.update_layout(legend=dict(orientation="h", y=1.02, yanchor="bottom"), margin=dict(t=90, b=50))
        self.figure.update_yaxes(range=span, row=1)
        self.figure.update_yaxes(title_text="loss (nats)", rangemode="tozero", row=2)
        self.figure.update_xaxes(title_text="step", row=2)
        for name, level in (lines or {}).items():
            rule = dict(line=dict(dash="dot", width=1), annotation_text=name, annotation_position="bottom right")
            self.figure.add_hline(y=level, row=1, col=1, **rule)  # pyright: ignore[reportArgumentType]

    def __call__(self, step: int, loss: float) -> None:
        self.waiting.append(loss)
        if len(self.waiting) == self.every:
            self.extend(-1, step + 1, sum(self.waiting) / self.every)
            self.waiting = []

    def look(self, run: Run, step: int) -> None:
        """Measure the weights at a step that has just been kept."""
        rows = measure(run, self.what, [step])
        with self.figure.batch_update():
            for k, (name, of) in enumerate(self.series.items()):
                found = pick(rows, **of)["value"]
                if len(found) != 1:
                    raise ValueError(f"{len(found)} rows of {name!r} at step {step}, not one: name more coordinates")
                self.extend(k, step, found.iloc[0])

    def extend(self, k: int, step: int, value: float) -> None:
        """One more point of a curve."""
        curve: Any = self.figure.data[k]
        curve.update(x=(*curve.x, step), y=(*curve.y, float(value)))
