"""Subjects for the tests of measures: models planted at steps, without a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from probelab.model import init, shapes
from probelab.spec import Spec, Transformer
from probelab.subject import Model, Subject
from synthetic_tasks import Batch, Task

TINY = Transformer(d_model=16, heads=2)


class Planted(Subject):
    """A subject whose models are given."""

    def __init__(self, task: Task, *models: Model, model: Transformer = TINY, data: int = 0):
        run: Any = SimpleNamespace(spec=Spec(task, model, batch=8, data=data), steps=list(range(len(models))))
        super().__init__(run)
        self.models = models

    def __iter__(self) -> Iterator[tuple[int, Model]]:
        yield from zip(self.steps, self.models, strict=True)

    def model(self, step: int) -> Model:
        return dict(self)[step]


class Oracle(Model):
    """A 'model' that says what an oracle of its task says, or the truth."""

    def __init__(self, task: Task, strategy: str):
        super().__init__(TINY, task, {})
        self.strategy = strategy

    def __call__(self, x: Any, edits: Any = ()) -> torch.Tensor:
        if self.strategy == "truth":
            return torch.from_numpy(np.log(x.facts["truth"]))
        return torch.from_numpy(self.task.oracles(x)[self.strategy])


def grown(task: Task, spec: Transformer = TINY, seed: int = 0, scale: float = 1.0, **how: Any) -> Model:
    """A random model; `scale` turns up its weights."""
    params = {name: array * (scale if array.ndim > 1 else 1) for name, array in init(spec, task, seed).items()}
    return Model(spec, task, params, **how)


def random_subject(task: Task, spec: Transformer = TINY, steps: int = 2, **how: Any) -> Planted:
    return Planted(task, *(grown(task, spec, seed, 3.0, **how) for seed in range(steps)), model=spec)


def induction(task: Task, sharp: float = 40.0, write: float = 40.0) -> Model:
    """An induction circuit set by hand: the stream holds the token, the token before, and the position (all one-hot).

    Layer 0 looks at the position before, and writes the token there into the second part. Layer 1 looks where the
    second part is the present token (never at position 0, before which there is none), and adds the token there to the
    logits.
    """
    v, t = task.vocab, task.context
    size, place = max(v, t), 2 * v  # of a head; where positions begin
    spec = Transformer(
        heads=1, d_model=2 * v + t, d_head=size, norm="none", positions="learned", biases=False, scaled=False
    )
    params = {name: np.zeros(shape, np.float32) for name, (shape, _, _) in shapes(spec, task).items()}
    query, key, read = slice(0, v), slice(size, size + v), slice(2 * size, 2 * size + v)
    params["embed.W_E"][:, :v] = np.eye(v)
    params["pos_embed.W_pos"][:, place:] = np.eye(t)
    one_back = params["blocks.0.attn.W_QKV"][place:]
    one_back[1:, : t - 1] = sharp * np.eye(t - 1)
    one_back[:, size : size + t] = np.eye(t)
    params["blocks.0.attn.W_QKV"][:v, read] = np.eye(v)
    params["blocks.0.attn.W_O"][:v, v:place] = np.eye(v)
    params["blocks.1.attn.W_QKV"][:v, query] = sharp * np.eye(v)
    params["blocks.1.attn.W_QKV"][v:place, key] = np.eye(v)
    params["blocks.1.attn.W_QKV"][place, key] = -1
    params["blocks.1.attn.W_QKV"][:v, read] = np.eye(v)
    params["blocks.1.attn.W_O"][:v, :v] = 2 * np.eye(v)
    params["unembed.W_U"][:v] = write * np.eye(v)
    return Model(spec, task, params)


@dataclass(frozen=True)
class Recall(Task):
    """Asks once, at the last token; the sequences have different lengths, no facts and no oracles."""

    name = "recall"
    vocab = property(lambda self: 5)
    context = property(lambda self: 6)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens, last = rng.integers(5, size=(n, 6)), 3 + np.arange(n) % 3
        targets = np.where(np.arange(6) == last[:, None], tokens, -1)
        return Batch(tokens, targets)


class Guessed(Recall):
    """The same with one oracle, that trusts every later position more."""

    def oracles(self, batch: Batch) -> dict[str, np.ndarray]:
        logits = np.zeros((*batch.tokens.shape, 5))
        logits[..., 0] = np.arange(6)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return {"later": np.where(batch.targets[..., None] >= 0, logs, np.nan)}


def table(measure: Any, subject: Subject) -> pd.DataFrame:
    return pd.DataFrame(measure(subject))


def value(rows: pd.DataFrame, **where: Any) -> float:
    """The one value at these coordinates; None asks for rows without one."""
    for column, wanted in where.items():
        have = rows[column] if column in rows else pd.Series(np.nan, rows.index)
        rows = rows[have.isna() if wanted is None else have == wanted]
    assert len(rows) == 1, rows
    return float(rows["value"].iloc[0])
