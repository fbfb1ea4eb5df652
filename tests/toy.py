"""A task and weights for tests: random symbols, perhaps mixed with vectors, and parameters far from initial values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probelab.model import shapes
from probelab.spec import Recurrent, Transformer
from synthetic_tasks import Batch, Task


@dataclass(frozen=True)
class Toy(Task):
    """Independent symbols, answers from a vocabulary of their own; with `width`, every other item is a vector."""

    symbols: int = 5
    answers: int = 5
    length: int = 9
    width: int = 0

    name = "toy"

    @property
    def vocab(self) -> int:
        return self.symbols

    @property
    def outputs(self) -> int:
        return self.answers

    @property
    def context(self) -> int:
        return self.length

    @property
    def features(self) -> int:
        return self.width

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens = rng.integers(self.symbols, size=(n, self.length))
        targets = rng.integers(-1, self.answers, size=tokens.shape)
        if not self.width:
            return Batch(tokens, targets)
        vectors = rng.standard_normal((n, self.length, self.width), dtype=np.float32)
        vectors[:, 1::2] = 0
        tokens[:, 0::2] = -1
        return Batch(tokens, targets, vectors)


def random_params(spec: Transformer | Recurrent, task: Task, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters none of which is near its initial value: biases and norms must matter."""
    table = {name: shape for name, (shape, _, _) in shapes(spec, task).items()}
    return {
        name: (rng.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.7)).astype(np.float32)
        for name, shape in table.items()
    }
