"""Letting a model write on: against TransformerLens's `generate` on the same weights, and reading anew each time."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.timing import Line, race, ratio
from probelab.bridge import to_transformer_lens
from probelab.decode import Rereading, decode
from probelab.model import init
from probelab.spec import Transformer
from probelab.subject import Model
from synthetic_tasks import BayesNet

ROUNDS = 5
QUERIES, CHAINS = 1000, 50


def decoding() -> list[Line]:
    task, spec = BayesNet(), Transformer(heads=4, d_mlp=256, positions="learned", init="lecun")
    model = Model(spec, task, init(spec, task, 0))
    texts = np.repeat(task.chain.cut(task.queries(), 0)[:, :4], 10, axis=0)
    bridge, new = to_transformer_lens(model), task.context - texts.shape[1]
    prompt = torch.from_numpy(texts)
    peer = partial(bridge.generate, prompt, max_new_tokens=new, stop_at_eos=False, verbose=False, return_type="tokens")
    rivals = {"ours": partial(full, model, texts), "lens": peer, "rereading": partial(rereading, model, prompt)}
    seconds = race(rivals, ROUNDS)
    name = f"{len(texts)} texts of {texts.shape[1]} symbols go on to {task.context}: d64 h4 L2"
    lines = [
        Line(name, "transformer_lens generate", "reported", f"{ratio(seconds['lens'], seconds['ours']):.1f}"),
        Line(name, "reading anew", "reported", f"{ratio(seconds['rereading'], seconds['ours']):.1f}"),
    ]
    whole = QUERIES * CHAINS / len(texts) * float(np.median(seconds["ours"]))
    lines.append(Line(f"{QUERIES} queries x {CHAINS} free chains to the end", "a minute", "1", f"{60 / whole:.1f}"))
    return lines


def full(model: Model, texts: np.ndarray) -> np.ndarray:
    """Every text goes on to the end of the context."""
    return decode(model, texts, lambda told: np.full(len(told), -1), 1.0, np.random.default_rng(0))


def rereading(model: Model, prompt: torch.Tensor) -> torch.Tensor:
    """The same, each symbol after a pass over all before it."""
    reader, told = Rereading(model), prompt
    new = told
    for _ in range(model.task.context - prompt.shape[1]):
        new = torch.multinomial(reader(new).softmax(-1), 1)
        told = torch.cat([told, new], 1)
    return told
