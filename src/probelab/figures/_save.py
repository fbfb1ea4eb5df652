"""A figure as files: HTML that needs no network, the numbers in it as CSV, and pictures where a browser is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.storage import located, write

GET_A_BROWSER = (
    "no PNG or SVG: {why}; they need kaleido (pip install kaleido) and Chrome or Chromium (apt install chromium)"
)
LEADING = ("trace", "role", "frame")
TRAILING = ("x", "y", "z", "x_lo", "x_hi", "y_lo", "y_hi", "text")


def save(figure: go.Figure, folder: str | Path, name: str, images: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write `name.html`, `name.csv` and the images into a folder, and say where they lie.

    HTML and CSV are the same bytes for the same figure. Images are extras: without a browser a line says how to get it;
    none is ever downloaded.
    """
    folder = located(folder)
    html = figure.to_html(include_mathjax=False, auto_play=False, div_id=name, config={"displaylogo": False})
    html = html.replace("<head>", f"<head>\n    <title>{name}</title>", 1)
    table = plotted(figure).to_csv(index=False, lineterminator="\n")
    files = {"html": html.encode(), "csv": table.encode(), **_pictures(figure, name, images)}
    for ending, data in files.items():
        write(folder / f"{name}.{ending}", data)
    return [folder / f"{name}.{ending}" for ending in files]


def plotted(figure: go.Figure) -> pd.DataFrame:
    """What a figure shows, one row for each point or cell: its trace, its coordinates, x y z, and its interval."""
    about = dict(figure.layout["meta"] or {})
    zero = about.pop("zero", None)
    parts = []
    for number, (frame, trace) in enumerate(_traces(figure)):
        meta = dict(trace.meta or {})
        if meta.get("role") in ("band", "key"):  # a band is the interval of its median; a key is a legend entry alone
            continue
        cells = _cells(trace) if trace.type == "heatmap" else pd.DataFrame({"x": list(trace.x), "y": list(trace.y)})
        if held := meta.pop("columns", _ends(meta.pop("interval", None))):
            cells[list(held)] = np.asarray(trace.customdata, float).reshape(len(cells), len(held))
        if zero is not None:
            cells["x"] = np.where(np.isclose(cells["x"].astype(float), zero), 0.0, cells["x"].astype(float))
        leading = {"trace": trace.name or number, "frame": frame, **about, **meta}
        parts.append(cells.assign(**{k: v for k, v in leading.items() if v is not None}))
    table = pd.concat(parts, ignore_index=True)
    middle = [c for c in table.columns if c not in LEADING + TRAILING]
    return table.dropna(axis="columns", how="all").filter([*LEADING, *middle, *TRAILING])


def _traces(figure: go.Figure) -> Iterator[tuple[str | None, Any]]:
    """The traces, or those of every frame in turn (with the coordinates of the trace that each one replaces)."""
    if not figure.frames:
        yield from ((None, trace) for trace in figure.data)
    for frame in figure.frames:
        for i, trace in zip(frame.traces, frame.data, strict=True):
            yield frame.name, type(trace)({**figure.data[i].to_plotly_json(), **trace.to_plotly_json()})


def _ends(interval: str | None) -> tuple[str, ...]:
    """The columns of an interval across or along points; a trace that holds others names them in its meta."""
    return (f"{interval}_lo", f"{interval}_hi") if interval else ()


def _cells(trace: Any) -> pd.DataFrame:
    """The cells of a heat map; rows may be of different lengths, and axes that are not given count from 0."""
    z = [np.asarray(row, float) for row in trace.z]
    lengths = [len(row) for row in z]
    across = np.arange(max(lengths)) if trace.x is None else np.asarray(trace.x)
    down = np.arange(len(z)) if trace.y is None else np.asarray(trace.y)
    cells = {"x": np.concatenate([across[:n] for n in lengths]), "y": np.repeat(down, lengths), "z": np.concatenate(z)}
    if trace.text is not None:
        cells["text"] = np.concatenate([np.asarray(row) for row in trace.text])
    return pd.DataFrame(cells)


def _pictures(figure: go.Figure, name: str, images: tuple[str, ...]) -> dict[str, bytes]:
    """The figure as PNG, SVG, ... at twice the pixels, by ending; none, and a line that says why, if that fails."""
    if not images:
        return {}
    try:
        import kaleido

        with TemporaryDirectory() as folder:
            paths = {ending: Path(folder) / f"{name}.{ending}" for ending in images}
            wanted = [{"fig": figure, "path": str(p), "opts": {"format": e, "scale": 2}} for e, p in paths.items()]
            kaleido.write_fig_from_object_sync(wanted, cancel_on_error=True, kopts={"mathjax": False})
            return {ending: path.read_bytes() for ending, path in paths.items()}
    except Exception as error:  # whatever ails the browser, the figure itself is already there
        print(GET_A_BROWSER.format(why=str(error).strip().split("\n")[0] or type(error).__name__))
        return {}
