"""What each component adds to the answer's logit over training; together they are the logit difference."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import curves, reach, select
from probelab.rows import pick, tidy

PANEL = 340  # pixels of height
NAMES = {
    "embed": "embedding",
    "pos_embed": "positions",
    "head": "L{layer}H{head}",
    "attn_bias": "attention bias {layer}",
    "mlp": "MLP {layer}",
    "norm_bias": "norm bias",
}
TOTAL = "logit difference (their sum)"


def attribution(
    rows: pd.DataFrame,
    *,
    x: str = "step",
    by: str = "arm",
    most: int = 6,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw the rows of the measure attribution: a line for each component and one for their sum, with their intervals.

    rows  metric "attribution" (component, layer, head) and "logit_difference"; value, lo, hi; those by source position
          are left aside. One value for each (by, component, x): one run, the medians that `curves.over_seeds` gives
          (medians need not add up), or every seed with by="seed"
    by    a panel for each value of this column
    most  so many components have a colour: those that reach furthest from 0. The others are grey

    All panels have the same axes. In the CSV `series` names the component.
    """
    rows = _named(rows, "component", "layer", "head", "lo", "hi", x, by)
    axis, panels = Axis.of(rows, x, log_x), list(rows[by].unique())
    drawn = curves(rows, [by, "series"], x)
    order = rows.loc[rows["series"] != TOTAL].groupby("series", sort=False)["value"].agg(lambda v: v.abs().max())
    shown = set(order.nlargest(most).index)
    inks = {**style.inks(name for name in order.index if name in shown), TOTAL: style.INK}
    figure, inner, lift = style.stacked(panels, by, PANEL)
    legend = [TOTAL, *(name for name in inks if name != TOTAL)] + ["others"] * (len(order) > len(shown))
    lines = style.legend_lines(legend)
    note = f"what each component adds, directly, to the logit of answer minus foil; bands: {style.rate(rows)} intervals"
    style.dress(figure, title or "Direct logit attribution over training", note, inner, legend=lines, lift=lift)
    figure.update_layout(meta={"zero": axis.zero, "x_unit": x})
    for name in legend:
        look = dict(color=inks.get(name, style.PALE), width=3 if name in inks else 1.2)
        figure.add_trace(marks.line([None], [None], style.INK, "key", {}, name=name, line=look, showlegend=True))
    for coords, curve in sorted(drawn, key=lambda one: (one[0]["series"] in inks, one[0]["series"] == TOTAL)):
        name = coords["series"]
        ink, wide = inks.get(name, style.PALE), 3.5 if name == TOTAL else 2.2 if name in inks else 1
        role = {"role": "total" if name == TOTAL else "component"}
        traces = marks.median(curve, axis, ink, {**role, **coords}, name=name, line=dict(color=ink, width=wide))
        figure.add_traces(traces if name in inks else traces[1:], rows=panels.index(coords[by]) + 1, cols=1)
    span = reach([rows["value"], rows["lo"], rows["hi"], [0.0]])
    figure.add_hline(0, line=dict(color=style.INK, width=0.7), layer="below")
    figure.update_yaxes(range=span, title_text=y_title or "logit of answer minus foil")
    axis.under(figure, len(panels))
    return figure


def _named(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows of components, in their order in the model, and of their sum; `series` names them."""
    parts = tidy(pick(select(table, "attribution", *columns), pos=None))
    places = zip(parts["component"], parts["layer"], parts["head"], strict=True)
    names = [NAMES[str(component)].format(layer=layer, head=head) for component, layer, head in places]
    total = tidy(select(table, "logit_difference"))
    return pd.concat([parts.assign(series=names), total.assign(series=TOTAL)], ignore_index=True)
