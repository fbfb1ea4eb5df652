"""What heads do to content, read off the weights alone: composition, copying, matching (Elhage et al. 2021).

Vectors are rows, as in the model: where a head attends to `x` it writes `x W_V W_O`. Norms, biases and positions are
left out.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from probelab.subject import Model
from synthetic_tasks.task import choose

KINDS = ("Q", "K", "V")  # of composition: what the later head reads the earlier one with


def composition(model: Model, kind: str) -> Tensor:
    """How much of what an earlier head writes a later one reads, float64 `[sender receiver]`, heads as in `places`.

    ||W_V W_O M|| / (||W_V W_O|| ||M||), Frobenius norms, where M is the later head's W_Q W_K^T ("Q"), W_K W_Q^T ("K")
    or W_V W_O ("V"): Elhage et al. 2021, TransformerLens's `all_composition_scores`. NaN where the sender lies in no
    earlier layer. Chance is `composition_chance`.
    """
    choose("kind of composition", kind, KINDS)
    where = places(model)
    scores = torch.full((len(where), len(where)), torch.nan, dtype=torch.float64)
    for below, above in combinations(range(model.spec.layers), 2):
        w, r = ({name: m.double() for name, m in model.head_weights(layer).items()} for layer in (below, above))
        pair = {"Q": (r["W_Q"], r["W_K"].mT), "K": (r["W_K"], r["W_Q"].mT), "V": (r["W_V"], r["W_O"])}[kind]
        # A norm is that of the triangular factor alone: both products become as small as the size of a head.
        written = torch.linalg.qr(w["W_V"], mode="r").R @ w["W_O"]
        read = pair[0] @ torch.linalg.qr(pair[1].mT, mode="r").R.mT
        size = [m.flatten(1).norm(dim=1) for m in (written, read)]
        both = (written[:, None] @ read[None]).flatten(2).norm(dim=2)
        rows, columns = ([k for k, (layer, _) in enumerate(where) if layer == of] for of in (below, above))
        scores[np.ix_(rows, columns)] = (both / (size[0][:, None] * size[1]).clamp(min=1e-30)).cpu()
    return scores


def composition_chance(model: Model) -> float:
    """The root mean square score of two heads, whatever they do, if the stream were turned at random between them."""
    return model.spec.d_model**-0.5


def copying_weights(model: Model, layer: int, head: int) -> float:
    """Eigenvalue score of a head's token-to-token map W_E W_V W_O W_U: 1 if every token raises itself, chance 0."""
    w = {name: weight[head].double() for name, weight in model.head_weights(layer).items()}
    return eigenvalue_score(model["embed.W_E"].double() @ w["W_V"], w["W_O"] @ model.unembedding.double())


def matching_weights(model: Model, layer: int, head: int, sender: tuple[int, int] | None = None) -> float:
    """Eigenvalue score of W_E W_Q W_K^T W_E^T: 1 if every token attends to itself, chance 0.

    With a `sender` (layer, head), keys are what that head writes, W_E W_V W_O: 1 if a token attends to where the sender
    brought the same token, as in an induction head that reads a previous-token head (Elhage et al. 2021).
    """
    w, symbols = {name: m[head].double() for name, m in model.head_weights(layer).items()}, model["embed.W_E"].double()
    keys = symbols
    if sender is not None:
        before = {name: m[sender[1]].double() for name, m in model.head_weights(sender[0]).items()}
        keys = symbols @ before["W_V"] @ before["W_O"]
    return eigenvalue_score(symbols @ w["W_Q"], (keys @ w["W_K"]).T)


def eigenvalue_score(left: Tensor, right: Tensor) -> float:
    """Sum of the eigenvalues of `left [n k] @ right [k n]` over the sum of their moduli, from -1 to 1; 0 if all are 0.

    It is taken from the smaller of the two products: AB and BA share their eigenvalues.
    """
    small = right @ left if left.shape[1] < left.shape[0] else left @ right
    eigenvalues = torch.linalg.eigvals(small)
    return float(eigenvalues.real.sum() / eigenvalues.abs().sum().clamp(min=1e-30))


def places(model: Model) -> list[tuple[int, int]]:
    """Layer and head of every head, in order."""
    return [(layer, head) for layer in range(model.spec.layers) for head in range(model.spec.heads_of(layer))]
