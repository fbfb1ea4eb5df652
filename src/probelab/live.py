"""A curve in a notebook that moves while a model trains."""

from __future__ import annotations

import plotly.graph_objects as go


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
