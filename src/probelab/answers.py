"""What an intervention is judged by: functions of the logits where the answer is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from synthetic_tasks import Pairs

Metric = Callable[[Tensor], Tensor]  # logits `[... batch vocab]` (or `[... batch pos vocab]`) -> `[... batch]`


def chosen(logits: Tensor, symbols: np.ndarray) -> Tensor:
    """The entry of each sequence's symbol: `[... batch vocab]` -> `[... batch]`."""
    index = torch.as_tensor(symbols, device=logits.device).unsqueeze(-1)
    return logits.gather(-1, index.expand(*logits.shape[:-1], 1)).squeeze(-1)


def logit_difference(pairs: Pairs) -> Metric:
    """Logit of the answer minus logit of the foil: additive in what components write."""
    return lambda logits: chosen(logits, pairs.answer) - chosen(logits, pairs.foil)


def log_prob(pairs: Pairs) -> Metric:
    """Log-probability of the answer, in nats."""
    return lambda logits: chosen(logits.log_softmax(-1), pairs.answer)


def rank(pairs: Pairs) -> Metric:
    """How many symbols have a higher logit than the answer: 0 is right; NaN where the answer has none."""

    def higher(logits: Tensor) -> Tensor:
        own = chosen(logits, pairs.answer)
        return (logits > own.unsqueeze(-1)).sum(-1).to(logits.dtype).where(own.isfinite(), torch.nan)

    return higher


METRICS = {"logit_difference": logit_difference, "log_prob": log_prob, "rank": rank}


def kl_from(logits: Tensor) -> Metric:
    """KL(reference || intervened) in nats, from reference logits `[member batch vocab]`."""
    reference = logits.log_softmax(-1)

    def kl(found: Tensor) -> Tensor:
        told = reference.unsqueeze(1) if found.dim() > reference.dim() else reference
        return (told.exp() * (told - found.log_softmax(-1))).sum(-1)

    return kl
