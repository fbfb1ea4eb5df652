"""Every notebook runs from top to bottom: at full length in the slow suite, two of them briefly; no stored outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
BRIEF = {  # fewer steps, and fewer checkpoints
    "00_quickstart": {"STEPS = 1000": "STEPS = 40"},
    "02_find_the_circuit": {"STEPS = 1000": "STEPS = 40", "STEPS // 40": "STEPS // 8"},
}
CLAIMS = {  # what a notebook prints where its claim was asserted: on recorded rows, or on the run of full length
    "00_quickstart": ("recorded:", "prefix matching: switched", "copy loss: switched"),
    "01_in_context_learning_from_skew": ("ICL, 1,024 classes: switched", "ICL, 64 classes: flat"),
    "02_find_the_circuit": (
        "TransformerLens: the same effects",
        "needed, and yet no effect on the first pairs: a head of layer 0",
        "edges: tokens go through values, places through keys",
        "loss on copied tokens: switched",
        "the circuit: some edges do it all",
    ),
    "03_probe_with_controls": (
        "colour: a trap; copy and before: learned",
        "before: no information in the untrained net, and nearly all of it in the trained one",
        "after layer 1: copy is used, before is not",
        "copy, decodable: switched",
        "copy: decodable before it is used, by its dates; but the intervals overlap",
    ),
    "04_why_think_step_by_step": (
        "local data: the nearer, the oftener together; held-out pairs never",
        "held-out pairs: by way of what lies between, nearer to the truth than at once",
        "the step in between is used, at the end and not before the net infers",
        "parity: the answer waits for the steps, and follows a turned one",
        "uses steps: switched",
        "writes the right steps: switched",
        "uses steps before it writes the right ones",
    ),
}


def run(path: Path, folder: Path, replaced: dict[str, str]) -> nbformat.NotebookNode:
    """The executed notebook, with some of its settings replaced."""
    notebook = nbformat.read(path, as_version=4)
    for old, new in replaced.items():
        assert any(old in cell.source for cell in notebook.cells), f"{old!r} is not found in {path.name}"
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()


def said(notebook: nbformat.NotebookNode) -> str:
    """Everything that was printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("name", BRIEF)
def test_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    told = said(run(NOTEBOOKS[0].with_stem(name), tmp_path, BRIEF[name]))
    assert "recorded:" in told or "recorded:" not in CLAIMS[name], "the claim is asserted on recorded rows"
    assert list(tmp_path.glob("runs/runs/*/checkpoints/000040.safetensors")), "a model was trained"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shows_what_it_promises(path: Path, tmp_path: Path) -> None:
    told = said(run(path, tmp_path, {}))
    assert [claim for claim in CLAIMS[path.stem] if claim not in told] == []
