"""Redraw this gallery from the recorded rows that ship with the package; `--record RUNS` first renews those rows.

python docs/gallery/make.py                  pictures and report cards, from src/probelab/examples
python docs/gallery/make.py --record runs    thin runs/figures/<study>/rows.parquet of full presets into the examples
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from probelab.claims import card, judge
from probelab.figures import save
from probelab.rows import load_rows, save_rows
from probelab.studies import STUDIES
from probelab.studies._scores import SCORES
from probelab.study import Study

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "src" / "probelab" / "examples"
KEPT = ["arm", "run", "seed", "step", "sequences", "tokens", "measure", "split", "metric", "value"]
KEPT += ["strategy", "layer", "head", "pos", "site", "pairs", "sender", "receiver", "edges"]
KEPT += ["way", "kept", "mode", "link", "estimator", "distance", "drawn"]
KEPT += [
    f"task.{dial}"
    for dial in ("p_bursty", "classes", "zipf", "noise", "multiplicity", "format", "secret", "samples", "noise_carry")
]
METRICS = ["kl", "kl_truth", "kl_truth_oracle", "copy", "icl", "copy_oracle", "previous_token", "prefix_matching"]
METRICS += ["accuracy", "accuracy_in_context", "owned_accuracy", "log_prob", "context_mass", "weight"]
METRICS += ["label_to_item", "query_to_correct", "looks", "given", "model", "effect", "edge_effect"]
METRICS += ["circuit_size", "faithfulness"]
CHAINS = ["parity", "faithful", "locality", "two_hop", "addition"]
CHAINED = ["accuracy", "steps", "chain", "loss", "attention_entropy", "same", "aoc_over_chance", "follow", "repair"]
CHAINED += ["error", "separating", "separating_chance", "flops", "accuracy_untrained", "lens_accuracy", "rescued"]


def record(study: str, runs: Path) -> None:
    """Keep of a study's rows what its curves, figures and claims read, to four digits."""
    rows = load_rows(runs / "figures" / study / "rows.parquet")
    kept = CHAINED if study in CHAINS else METRICS
    rows = rows[rows["metric"].isin(kept)][[column for column in KEPT if column in rows]]
    if study in CHAINS:  # of all heads, steps and distances together
        rows = rows[rows[rows.columns.intersection(["head", "link", "distance", "drawn"])].isna().all(axis=1)]
        rows = rows[(rows["metric"] != "rescued") | rows["layer"].isna()] if "layer" in rows else rows
    usual = rows["split"].map(SCORES).fillna("accuracy") if "split" in rows else None
    rows = rows[(rows["measure"] != "classify") | (rows["metric"] == usual) | (rows["metric"] == "context_mass")]
    drawn = rows.groupby("arm")["step"].rank("dense", ascending=False) % 12 == 1  # edges: of one seed, a dozen steps
    rows = rows[(rows["measure"] != "edges") | drawn & (rows["seed"] == rows["seed"].min())]
    if study != "abrupt":
        rows = rows[rows["metric"] != "context_mass"]
    save_rows(EXAMPLES / f"{study}.parquet", rows.assign(value=[float(f"{value:.4g}") for value in rows["value"]]))


def draw(study: Study) -> str:
    """The study's pictures, and its page."""
    rows = load_rows(EXAMPLES / f"{study.name}.parquet")
    dated = study.curves(rows)
    pictures = []
    for name, figure in study.draw(rows, dated, {}).items():
        for path in save(figure, HERE / ".scratch", f"{study.name}-{name}", ("png",)):
            if path.suffix == ".png":
                path.replace(HERE / path.name)
                pictures.append(f"![{name}]({path.name})\n")
            else:
                path.unlink()
    verdicts = card([judge(claim, pd.concat([rows, dated], ignore_index=True)) for claim in study.claims])
    prices = ", ".join(f"{name} about {preset.minutes:g} min" for name, preset in study.presets.items())
    told = (
        f"Seeds {rows['seed'].min()} to {rows['seed'].max()}, full preset. Price on 2 cores: {prices}.\n\n{study.tried}"
    )
    return f"## {study.name}\n\n{study.question} ({study.source})\n\n{told}\n\n" + "\n".join(pictures) + f"\n{verdicts}"


def main() -> None:
    if sys.argv[1:2] == ["--record"]:
        for path in Path(sys.argv[2]).glob("figures/*/rows.parquet"):
            record(path.parent.name, Path(sys.argv[2]))
    pages = [draw(study) for study in STUDIES.values() if (EXAMPLES / f"{study.name}.parquet").exists()]
    (HERE / ".scratch").rmdir()
    opening = "# Gallery\n\nThe report figures of every study, drawn from the recorded rows by `make gallery`.\n\n"
    (HERE / "README.md").write_text(opening + "\n".join(pages))


if __name__ == "__main__":
    main()
