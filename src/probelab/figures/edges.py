"""What every edge between the parts of a model does, as a graph, with a slider over checkpoints."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _style as style
from probelab.figures._slider import SLIDER, evenly, slider
from probelab.figures._tables import curves, select
from synthetic_tasks.task import require

WIDE, HIGH, ROW, GAP = 64, 50, 76, 30  # pixels: a box, from one head to the next, and from the heads to the MLPs
AIR = 6  # pixels: how far from the middle between two heads an edge may pass
THICK, HAIR, PALE = 11, 0.7, "#E4E7EB"  # pixels: the strongest edge, and one too weak to be told
RAISES, LOWERS = style.COLOURS[0], style.COLOURS[1]
PORTS = {"q": HIGH / 3, "k": 0.0, "v": -HIGH / 3}  # pixels above the middle of a head


class Plan(NamedTuple):
    """Where things stand, in pixels: the middle of every box, free heights in each column of heads, and the size."""

    spots: dict[str, tuple[float, float]]
    gaps: dict[float, list[float]]
    width: float
    height: float


def edges(
    rows: pd.DataFrame,
    metric: str = "edge_effect",
    *,
    most: int = 12,
    floor: float = 0.03,
    title: str = "",
    unit: str = "logits",
) -> go.Figure:
    """Draw the edges of one run, from the embedding (left) to the logits (right); opens at the last step.

    rows   sender, receiver ("0.1", "mlp 0", "embed"; "1.0 k", "logits"), step, metric, value and perhaps lo and hi:
           what the measure edges gives, or the rows edge_drop of faithful. One value for each edge and step
    most   of more checkpoints, so many are drawn, evenly spaced in their list
    floor  edges with less than this share of the largest effect of all steps are hairlines

    Width and depth of colour are the size of an effect, on one scale for all steps.
    """
    require(0 <= floor < 1, "floor", floor, "a share of the largest effect, below 1")
    rows = select(rows, metric, "sender", "receiver", "step").dropna(subset=["sender", "receiver"])
    rows = rows.assign(**{end: np.nan for end in ("lo", "hi") if end not in rows})
    steps = np.sort(rows["step"].unique())
    steps = steps[evenly(len(steps), most)].tolist()
    drawn = curves(rows, ["sender", "receiver"], "step")
    drawn = [(names, table.set_index("step").reindex(steps)) for names, table in drawn]
    drawn.sort(key=lambda edge: edge[1]["value"].abs().max())  # the strongest lie on top
    largest = max(table["value"].abs().max() for _, table in drawn) or 1.0
    plan = planned([part for names, _ in drawn for part in names.values()])
    figure = go.Figure(
        [trace for names, table in drawn for trace in traces(plan, metric, names, table, largest, floor)],
        frames=[
            go.Frame(
                name=str(step),
                traces=list(range(2 * len(drawn))),
                data=[part for _, table in drawn for part in frame(table, k, largest, floor)],
            )
            for k, step in enumerate(steps)
        ],
    )
    note = f"width: effect of an edge, the widest {largest:.3g} {unit}; blue raises answer minus foil, orange lowers it"
    title, height = title or "Edges over training", int(plan.height)
    style.dress(figure, title, note, height, legend=0, right=style.LEFT, below=SLIDER)
    shapes, labels = zip(*(box(name, x, y) for name, (x, y) in plan.spots.items()), strict=True)
    figure.update_layout(shapes=shapes, annotations=[label for some in labels for label in some])
    hidden = dict(visible=False, fixedrange=True)
    figure.update_xaxes(hidden, range=[-2, plan.width + 2]).update_yaxes(hidden, range=[0, plan.height])
    return figure.update_layout(sliders=[{**slider(steps), "pad": dict(t=24)}])


def traces(plan: Plan, metric: str, names: dict, table: pd.DataFrame, largest: float, floor: float) -> list[go.Scatter]:
    """An edge at the last step: its line, and in the middle of it a point without looks that holds the numbers."""
    x, y = way(plan, names["sender"], names["receiver"])
    line = dict(mode="lines", line=look(table, -1, largest, floor), meta={"role": "key"}, hoverinfo="skip")
    point = dict(mode="markers", marker=dict(size=16, opacity=0), customdata=numbers(table, -1))
    meta = {"role": "edge", "metric": metric, **names, "columns": ["value", "value_lo", "value_hi"]}
    hover = "%{customdata[0]:.3~g} (%{customdata[1]:.3~g} to %{customdata[2]:.3~g})"
    about = dict(name=" to ".join(names.values()), meta=meta, hovertemplate=hover)
    middle = len(x) // 2
    return [
        go.Scatter(line, x=x, y=y, showlegend=False),
        go.Scatter(point | about, x=[x[middle]], y=[y[middle]], showlegend=False),
    ]


def split(receiver: str) -> tuple[str, str]:
    """A receiver's part and port: ("1.0", "k") of "1.0 k", ("mlp 0", "") of an MLP."""
    part, _, port = receiver.rpartition(" ")
    return (part, port) if port in PORTS else (receiver, "")


def planned(names: list[str]) -> Plan:
    """A column for the heads of each layer, and one for its MLP, which stands lower."""
    parts = {split(name)[0] for name in names}
    heads = sorted(tuple(map(int, part.split("."))) for part in parts if "." in part)
    mlps = sorted(int(part.split()[1]) for part in parts if part.startswith("mlp"))
    columns = sorted([(layer, 0) for layer in {layer for layer, _ in heads}] + [(layer, 1) for layer in mlps])
    width, bottom = 900 - 2 * style.LEFT, (HIGH + GAP) * bool(mlps)
    count = {layer: sum(at == layer for at, _ in heads) for layer, _ in heads}
    tall = max([*count.values(), 1]) * ROW
    places = np.linspace(WIDE / 2, width - WIDE / 2, len(columns) + 2).tolist()
    across = dict(zip(columns, places[1:-1], strict=True))
    spots = {"embed": (places[0], bottom + tall / 2), "logits": (places[-1], bottom + tall / 2)}
    gaps: dict[float, list[float]] = {}
    for layer, here in count.items():
        top, x = bottom + (tall + here * ROW) / 2, across[layer, 0]
        gaps[x] = [top - ROW * k for k in range(here + 1)]
        lot = [head for at, head in heads if at == layer]
        spots |= {f"{layer}.{head}": (x, top - ROW * (k + 0.5)) for k, head in enumerate(lot)}
    spots |= {f"mlp {layer}": (across[layer, 1], HIGH / 2 + 2) for layer in mlps}
    return Plan(spots, gaps, width, bottom + tall)


def way(plan: Plan, sender: str, receiver: str) -> tuple[np.ndarray, np.ndarray]:
    """An edge as a curve in pixels, that leaves to the right, arrives from the left, and passes between other heads."""
    part, port = split(receiver)
    (x0, y0), (x1, y1) = plan.spots[sender], plan.spots[part]
    stops = [(x0 + WIDE / 2, y0)]
    for x in sorted(x for x in plan.gaps if x0 < x < x1):
        straight = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        gap = min(plan.gaps[x], key=lambda gap: abs(gap - straight))
        y = gap + min(max(straight - gap, -AIR), AIR)  # those from above pass above those from below
        stops += [(x - WIDE / 2, y), (x + WIDE / 2, y)]
    stops.append((x1 - WIDE / 2, y1 + PORTS.get(port, 0.0)))
    pieces = [bow(*a, *b) for a, b in zip(stops[::2], stops[1::2], strict=True)]
    xs, ys = zip(*pieces, strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def bow(x0: float, y0: float, x1: float, y1: float) -> tuple[np.ndarray, np.ndarray]:
    """A cubic Bezier curve that is level at both ends."""
    t, bend = np.linspace(0, 1, 41), 0.5 * (x1 - x0)
    a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    x, y = a * x0 + b * (x0 + bend) + c * (x1 - bend) + d * x1, (a + b) * y0 + (c + d) * y1
    return x.round(1), y.round(1)


def look(table: pd.DataFrame, k: int, largest: float, floor: float) -> dict[str, Any]:
    """How an edge looks at a step."""
    value = table["value"].iloc[k]
    share, ink = abs(value) / largest, RAISES if value > 0 else LOWERS
    if not share > floor:  # also where there is no value
        return dict(width=HAIR, color=PALE, simplify=False)
    return dict(width=HAIR + (THICK - HAIR) * share, color=style.tint(ink, 0.3 + 0.6 * share), simplify=False)


def numbers(table: pd.DataFrame, k: int) -> list[list[float]]:
    """An edge's value with its interval at a step."""
    return [table[["value", "lo", "hi"]].iloc[k].tolist()]


def frame(table: pd.DataFrame, k: int, largest: float, floor: float) -> list[dict]:
    """What changes of an edge from step to step: its line, and its numbers."""
    return [
        dict(type="scatter", line=look(table, k, largest, floor)),
        dict(type="scatter", customdata=numbers(table, k)),
    ]


def box(name: str, x: float, y: float) -> tuple[dict, list[dict]]:
    """A part as a shape, and labels: its name and, if it is a head, what it reads with."""
    layer, _, head = name.partition(".")
    sides = dict(x0=x - WIDE / 2, x1=x + WIDE / 2, y0=y - HIGH / 2, y1=y + HIGH / 2)
    called = {"embed": "tokens and<br>positions"}.get(name, f"L{layer}H{head}" if head else name.replace("mlp", "MLP"))
    font = dict(size=11 if name == "embed" else 13, color=style.INK)
    labels: list[dict] = [dict(x=x + (7 if head else 0), y=y, text=called, showarrow=False, font=font)]
    for port, above in PORTS.items() if head else ():
        small = dict(size=10, color="#777777")
        labels.append(dict(x=x - WIDE / 2 + 7, y=y + 0.9 * above, text=port, showarrow=False, font=small))
    return dict(type="rect", line=dict(color=style.INK, width=1), fillcolor="white", **sides), labels
