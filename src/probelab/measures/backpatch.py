"""Did the first hop come too late? Later layers' states put back into earlier ones (Biran et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probelab.edit import Context, Edit
from probelab.lenses import needs_stream
from probelab.measures._chain import chain_of, rate
from probelab.measures._contract import Row
from probelab.subject import Model, Subject, as_batch
from synthetic_tasks.chain import text
from synthetic_tasks.task import require


@dataclass(frozen=True)
class BackPatch:
    """Answers at once, after the state of one position before a later layer was put before an earlier one.

    `layer` is where the state is put, `sender_layer` where it comes from (the number of layers: behind the last),
    `pos` the position. Both counted before their layer, on the text that asks for the answer behind the prompt.

    rescued  share of answers, wrong before, that become right. Rows without layers: by any of the pairs of layers (the
             paper's oracle; a guess that changes often is right sometimes, so mind chance)
    kept     share of answers, right before, that stay right
    right    share of right answers before anything was changed

    n      sequences that training never sees
    split  where they come from (None: the task's last one); prompts must be of one length
    """

    n: int = 200
    split: str | None = None

    name = "backpatch"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_stream(subject.spec.model)
        chain, split = chain_of(self.name, subject), self.split or subject.task.splits[-1]
        batch = subject.batch(self.n, split)
        ends = batch.facts["cuts"].max(axis=1)  # the mark, before the answer's first symbol
        truth = text(batch)[np.arange(len(batch)), ends + 1]
        asked = chain.ask(batch, 0)
        length = int((asked >= 0).sum(axis=1).max())
        if not (asked[:, :length] >= 0).all():
            raise ValueError(f"backpatch needs prompts of one length, and {subject.task.name!r} has several on {split}")
        asked = asked[:, :length]
        for step, model in subject:
            size = model.chunk(as_batch(asked), True)
            parts = [answers(model, asked[i : i + size]) for i in range(0, len(asked), size)]
            after = {pair: np.concatenate([part[1][pair] for part in parts], axis=1) for pair in parts[0][1]}
            before = np.concatenate([part[0] for part in parts])
            right = before == truth
            there = dict(step=step, split=split)
            yield dict(**there, metric="right", **rate(right))
            layers = sorted(after)
            for pos in range(length):
                found = np.stack([after[pair][pos] == truth for pair in layers])
                yield dict(**there, metric="rescued", pos=pos, **rate(np.logical_or.reduce(found), ~right))
                for (sender, layer), fixed in zip(layers, found, strict=True):
                    at = dict(**there, pos=pos, layer=layer, sender_layer=sender)
                    yield dict(**at, metric="rescued", **rate(fixed, ~right))
                    yield dict(**at, metric="kept", **rate(fixed, right))


def answers(model: Model, asked: np.ndarray) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
    """The likeliest symbols after texts `[batch pos]`: `[batch]`; once patched, by (from, to) layers: `[pos batch]`."""
    layers = range(model.spec.layers)
    sites = [f"blocks.{layer}.hook_resid_pre" for layer in layers] + [f"blocks.{layers[-1]}.hook_resid_post"]
    logits, states = model.run(asked, sites)
    found = {}
    for layer in layers:
        for sender in range(layer + 1, len(sites)):
            moved = [
                model(asked, [Edit(sites[layer], moving(states[sites[sender]], pos))])[:, -1].argmax(-1)
                for pos in range(asked.shape[1])
            ]
            found[sender, layer] = torch.stack(moved).cpu().numpy()
    return logits[:, -1].argmax(-1).cpu().numpy(), found


def moving(state: Tensor, pos: int) -> Callable[[Tensor, Context], Tensor]:
    """An edit that puts `state [batch pos d_model]` in place of what stands at one position."""

    def f(value: Tensor, context: Context) -> Tensor:
        changed = value.clone()
        changed[:, pos] = state[:, pos]
        return changed

    return f
