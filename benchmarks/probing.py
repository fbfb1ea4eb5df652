"""Linear probes of sites, positions and checkpoints: against a loop that fits them with scikit-learn, one by one."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

from benchmarks.timing import Line, race, ratio
from probelab.probes import Linear, logistic, ridge
from synthetic_tasks import stream

SITES, POSITIONS, CHECKPOINTS = 4, 32, 50
N, D, CLASSES = 512, 64, 5
CELLS, AT_ONCE, LOOPED = SITES * POSITIONS, 8, 8  # of a checkpoint; fitted together; of those, timed with scikit-learn
ROUNDS = 7


def probing() -> list[Line]:
    """One checkpoint, as all others are the same work again. Of its cells the loop takes a few, which is scaled up."""
    x, labels = cells()
    z = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)).numpy()  # ours standardises by itself
    work = f"probes, {SITES} sites x {POSITIONS} positions x {CHECKPOINTS} checkpoints"
    lines = []
    for fit, kind, targets, floor in ((ridge, RidgeClassifier, 3, "20"), (logistic, LogisticRegression, 1, "1")):
        told = labels[:, :targets]
        rivals = {
            "ours": lambda fit=fit, told=told: batched(fit, x, told),
            "loop": lambda kind=kind, told=told: loop(kind, z, told),
        }
        seconds = race(rivals, ROUNDS, warm=1)
        value = ratio(seconds["loop"], seconds["ours"]) * CELLS / LOOPED
        peer = f"a loop of {kind.__name__}, {LOOPED} of {CELLS} cells timed"
        if fit is logistic:
            peer += f"; log-losses within {apart(x, z, told):.0e}"
        lines.append(
            Line(f"{fit.__name__} {work} x {targets} targets, n{N} d{D} K{CLASSES}", peer, floor, f"{value:.1f}")
        )
    return lines


def cells() -> tuple[Tensor, Tensor]:
    """Features `[cell n d]`, float32 as models give them, and labels `[cell target n]` that depend on them."""
    rng = stream("benchmark", "probing")
    x = rng.standard_normal((CELLS, N, D), np.float32) @ rng.standard_normal((D, D), np.float32)
    weight = rng.standard_normal((CELLS, D, 3 * CLASSES), np.float32) / D
    odds = 4 * x @ weight + rng.gumbel(size=(CELLS, N, 3 * CLASSES))
    labels = odds.reshape(CELLS, N, 3, CLASSES).argmax(-1)
    return torch.from_numpy(x), torch.from_numpy(labels).mT.contiguous()


def batched(fit, x: Tensor, labels: Tensor) -> list[Linear]:
    return [fit(*some, CLASSES) for some in zip(x.split(AT_ONCE), labels.split(AT_ONCE), strict=True)]


def loop(kind, z: np.ndarray, labels: Tensor) -> list:
    """Fitted models of the first cells and all targets."""
    with warnings.catch_warnings(action="ignore"):  # its default of 100 iterations may not be enough
        return [kind().fit(z[cell], told) for cell in range(LOOPED) for told in labels[cell].numpy()]


def apart(x: Tensor, z: np.ndarray, labels: Tensor) -> float:
    """The largest difference between the log-losses of both, in nats."""
    said = logistic(x[:LOOPED], labels[:LOOPED], CLASSES)(x[:LOOPED]).log_softmax(-2)
    ours = -said.gather(-2, labels[:LOOPED, :, None])[:, 0, 0].mean(-1)
    models = loop(LogisticRegression, z, labels)
    theirs = [
        -model.predict_log_proba(z[cell])[np.arange(N), labels[cell, 0]].mean() for cell, model in enumerate(models)
    ]
    return float(np.abs(ours.numpy() - theirs).max())
