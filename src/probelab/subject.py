"""A run opened up: its models at any kept step, callable, readable and editable, with no member axis in sight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from probelab.clamps import Clamp
from probelab.edit import Edit, Tape, clamping, facts_of
from probelab.model import Inputs, apply, inputs, sites
from probelab.runs import Folder
from probelab.spec import Transformer
from probelab.train import one_thread
from probelab.weights import Params
from synthetic_tasks import Batch, Task, batch, stream
from synthetic_tasks.task import require

MEMORY = 2 << 30  # bytes of activations at a time, at most
CACHE = 64 << 20  # on a CPU larger chunks only miss the cache: 2.8 times slower at T = 100


class Model:
    """One model: call it on a batch (or on tokens) for logits `[batch pos outputs]`.

    What its run clamped in training is clamped in every call, before the `edits` of that call; a clamp may need the
    facts of a batch.
    """

    def __init__(
        self,
        spec: Any,  # of a kind in `probelab.spec.MODELS`
        task: Task,
        params: dict[str, np.ndarray],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        memory: int = MEMORY,
        edits: Sequence[Clamp] = (),
    ):
        self.spec, self.task, self.device, self.dtype, self.memory = spec, task, device, dtype, memory
        self.edits = tuple(edits)
        self.params: Params = {name: torch.from_numpy(array).to(device, dtype)[None] for name, array in params.items()}

    def __getitem__(self, name: str) -> Tensor:
        """A parameter by name, such as `model["embed.W_E"]`."""
        return self.params[name][0]

    @property
    def sites(self) -> list[str]:
        """Every site that can be recorded or edited."""
        return sites(self.spec)

    def __call__(self, x: Batch | np.ndarray | Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        return self.run(x, (), edits)[0]

    def cache(
        self, x: Batch | np.ndarray | Tensor, record: Iterable[str] | None = None, edits: Sequence[Edit] = ()
    ) -> dict[str, Tensor]:
        """What the named sites hold, `[batch ...]`; all of them if `record` is None."""
        return self.run(x, self.sites if record is None else record, edits)[1]

    def run(
        self, x: Batch | np.ndarray | Tensor, record: Iterable[str] = (), edits: Sequence[Edit] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and recorded sites, computed in chunks of sequences that fit into `memory`."""
        whole = as_batch(x)
        record = tuple(record)
        self.check(whole)
        logits, caches = [], []
        with one_thread(), torch.no_grad():
            for part in chunks(whole, self.chunk(whole, bool(record or self.edits))):
                tape = self.tape(part, record, edits)
                logits.append(self.apply(inputs([part], self.device, self.dtype), tape))
                caches.append({site: value[0] for site, value in tape.recorded().items()})
        return torch.cat(logits), {site: torch.cat([c[site] for c in caches]) for site in caches[0]}

    def tape(self, x: Batch, record: Iterable[str] = (), edits: Sequence[Edit] = ()) -> Tape:
        """What a pass over a batch takes along: sites to record, the clamps of the run, then further edits."""
        both = [*clamping(self.edits), *edits]
        return Tape(record, both, facts_of(x, self.device) if both else None, self.sites)

    def apply(self, x: Inputs, tape: Tape) -> Tensor:
        """Logits `[batch pos outputs]`, differentiable; clamps come with `tape`."""
        return apply(self.spec, self.params, x, tape)[0]

    def check(self, x: Batch) -> None:
        """Refuse what the model was not built for."""
        if x.tokens.shape[-1] > self.task.context:
            raise ValueError(
                f"sequences of {x.tokens.shape[-1]} tokens are longer than the model's context of {self.task.context}"
            )
        if x.tokens.min() < -1 or x.tokens.max() >= self.task.vocab:
            span = f"tokens from {x.tokens.min()} to {x.tokens.max()}"
            raise ValueError(f"{span} are out of range: this model knows 0 to {self.task.vocab - 1}")

    def chunk(self, x: Batch, recording: bool) -> int:
        """Sequences at a time, from the spec and `memory` alone."""
        length, layers = x.tokens.shape[-1], self.spec.layers
        heads = max(map(self.spec.heads_of, range(layers))) if isinstance(self.spec, Transformer) else 0
        floats = length * (8 * self.spec.d_model + 2 * self.spec.d_mlp + self.task.outputs + 3 * heads * length)
        room = min(self.memory, CACHE) if self.device == "cpu" else self.memory
        return max(1, room // (8 * floats * (layers * (1 + heads) if recording else 1)))

    def log_probs(self, x: Batch | np.ndarray | Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        """Log-probabilities in nats, `[batch pos outputs]`."""
        return self(x, edits).log_softmax(-1)

    def head_weights(self, layer: int) -> dict[str, Tensor]:
        """A layer's W_Q, W_K, W_V `[head d_model d_head]` and W_O `[head d_head d_model]`."""
        heads, here = self.spec.heads_of(layer), f"blocks.{layer}.attn"
        q, k, v = rearrange(self[f"{here}.W_QKV"], "d (three head e) -> three head d e", three=3, head=heads)
        return {
            "W_Q": q,
            "W_K": k,
            "W_V": v,
            "W_O": rearrange(self[f"{here}.W_O"], "(head e) d -> head e d", head=heads),
        }

    @property
    def unembedding(self) -> Tensor:
        """From the last normalised stream to logits, `[d_model outputs]`."""
        return self["embed.W_E"].T if self.spec.tied else self["unembed.W_U"]


def as_batch(x: Batch | np.ndarray | Tensor) -> Batch:
    """Tokens `[batch pos]` as a batch that asks nothing."""
    if isinstance(x, Batch):
        return x
    tokens = np.atleast_2d(np.asarray(x))
    return Batch(tokens, np.full_like(tokens, -1))


def chunks(x: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(x), size):
        yield x[start : start + size]


class Run(Folder):
    """A run folder whose models can be called.

    run.model(500)(batch); run.cache(500, batch)["blocks.0.attn.hook_pattern"]
    """

    def model(
        self, step: int | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu", memory: int = MEMORY
    ) -> Model:
        """The model at a kept step (the last, if None)."""
        weights, spec = self.weights(self.last if step is None else step), self.spec
        return Model(spec.model, spec.task, weights, dtype, device, memory, spec.edits)

    @property
    def last(self) -> int:
        """The last kept step."""
        return self.steps[-1]

    def cache(
        self, step: int, x: Batch | np.ndarray | Tensor, record: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """What the sites hold at a kept step, `[batch ...]`."""
        return self.model(step).cache(x, record)

    def batch(self, n: int = 64, split: str = "train", seed: str = "look") -> Batch:
        """Sequences of the run's task for looking at, from a stream that training never reads."""
        return unseen(self.spec.task, self.spec.data, split, n, seed)

    def to_transformer_lens(self, step: int | None = None) -> Any:
        """The model at a kept step as a `transformer_lens.TransformerBridge`."""
        from probelab.bridge import to_transformer_lens

        return to_transformer_lens(self.model(step))

    def __repr__(self) -> str:
        return f"Run({self.name}, {len(self.steps)} checkpoints up to step {self.steps[-1] if self.steps else 'none'})"


def unseen(task: Task, seed: int, split: str, n: int, purpose: str = "measure") -> Batch:
    """`n` sequences of a split that training never sees: their address holds the purpose instead of a step."""
    task.check_split(split)
    return task.sample(stream(task.name, split, task.world, seed, purpose), n, split)


class Subject:
    """What a measure is called on: a run's models at some of its steps."""

    def __init__(self, run: Run, steps: Sequence[int] | None = None, memory: int = MEMORY, device: str = "cpu"):
        self.run, self.memory, self.device = run, memory, device
        self.steps = tuple(run.steps if steps is None else steps)

    @property
    def task(self) -> Task:
        return self.run.spec.task

    @property
    def spec(self) -> Any:
        return self.run.spec

    def __iter__(self) -> Iterator[tuple[int, Model]]:
        for step in self.steps:
            yield step, self.model(step)

    def model(self, step: int) -> Model:
        """The model at a kept step, which need not be one of those to measure."""
        return self.run.model(step, memory=self.memory, device=self.device)

    def kept(self, at: int | None) -> int:
        """The step `at`, if it is kept; the last one kept, if None."""
        known, last = self.run.steps, max(self.run.steps)
        require(at is None or at in known, "at", at, f"a kept step, such as {last}")
        return last if at is None else at

    def batch(self, n: int, split: str = "train") -> Batch:
        """`n` sequences of a split that training never sees; the same at every step, paired across runs of one seed."""
        return unseen(self.task, self.spec.data, split, n)

    def training_batch(self, step: int) -> Batch:
        """The batch that training reads at a step."""
        return batch(self.task, self.spec.data, step, "train", self.spec.batch)
