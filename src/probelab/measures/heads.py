"""What each attention head does: where it looks, and whether it copies what it looks at (Olsson et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from probelab.composition import copying_weights, places
from probelab.measures._contract import Row, needs_heads
from probelab.measures._estimate import Mean, pooled
from probelab.subject import Model, Subject, chunks
from synthetic_tasks import Batch, Task
from synthetic_tasks.task import require

# metric -> totals `[sequence head]` and counts `[sequence head]` or `[sequence 1]`; a score is the ratio of their sums
Sums = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Heads:
    """Scores of every `layer` and `head` on the task's own sequences; means, with 95 % intervals over sequences.

    previous_token     attention to the token just before, over all positions but the first
    prefix_matching    attention from a token to the places right after its earlier occurrences, all of them together,
                       over positions that have one (in tasks that know their copies: over copied targets)
    attention_to_<role>  attention to the position that the task's fact <role> names, where it names one
    entropy            of the attention pattern, in nats; chance is the log of the positions read, on average
    copying            by output: each attended token adds to the logits through W_O W_U; of what it raises above the
                       mean over the vocabulary, the share `s` that falls on itself, against the tokens in the sequence,
                       weighted by attention; score 2 s - 1, from -1 to 1 (Olsson's 4 r - 1 with r = s / 2)
    copying_weights    sum of the eigenvalues of W_E W_V W_O W_U over the sum of their moduli, from -1 to 1; norms and
                       biases are left out; chance 0

    Rows named `<metric>_chance` have no layer and head: what a head scores that looks at all it has read alike, or for
    copying, one that raises all tokens in the sequence alike: 2 / (how many there are) - 1. Prefix matching sums over
    earlier occurrences, so that it is 1 for a perfect head also where tokens are few and come often (Markov chains);
    chance is high there. What a task or model does not have is left out: copying needs answers that are input symbols,
    and no MLP between stream and logits.

    n      sequences that training never sees
    split  where they come from
    """

    n: int = 256
    split: str = "train"

    name = "heads"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        needs_heads(self.name, subject)
        batch, task = subject.batch(self.n, self.split), subject.task
        copies = task.outputs == task.vocab and not subject.spec.model.readout
        chance = {f"{metric}_chance": mean.row(0) for metric, mean in even(task, batch).items()}
        if copies:
            chance["copying_chance"] = dict(value=2 / distinct(batch, task.vocab).sum(1).mean().item() - 1, n=self.n)
        for step, model in subject:
            here = dict(step=step, split=self.split)
            yield from (dict(here, metric=metric, **row) for metric, row in chance.items())
            found = means([scored(model, part, copies) for part in chunks(batch, model.chunk(batch, True))])
            if copies:
                found["copying"] = found["copying"].scaled(2, -1)
            for k, (layer, head) in enumerate(places(model)):
                at = dict(here, layer=layer, head=head)
                yield from (dict(at, metric=metric, **mean.row(k)) for metric, mean in found.items())
                if copies:
                    yield dict(at, metric="copying_weights", value=copying_weights(model, layer, head))


def scored(model: Model, part: Batch, copies: bool) -> Sums:
    """The sums of all heads on some of the sequences."""
    sites = [[f"blocks.{layer}.attn.hook_{site}" for layer in range(model.spec.layers)] for site in ("pattern", "v")]
    cache = model.cache(part, sites[0] + sites[1])
    patterns, values = ([cache[site] for site in some] for some in sites)
    sums = attention(torch.cat(patterns, 1), looks(model.task, part), present(part))
    if copies:
        both = [copying(model, layer, part, *seen) for layer, seen in enumerate(zip(patterns, values, strict=True))]
        own, held = (torch.cat(each, 1) for each in zip(*both, strict=True))
        sums["copying"] = own, held.clamp(min=1e-30)
    return sums


def means(parts: list[Sums]) -> dict[str, Mean]:
    """Scores `[head]` over all the parts; what no part has a place for is left out."""
    joined = {metric: [torch.cat([part[metric][k] for part in parts]).numpy() for k in (0, 1)] for metric in parts[0]}
    return {metric: pooled(totals, counts) for metric, (totals, counts) in joined.items() if counts.any()}


def present(part: Batch) -> Tensor:
    """Where something stands: not on the padding, bool `[sequence pos]`."""
    read = part.tokens >= 0
    return torch.from_numpy(read if part.vectors is None else read | part.vectors.any(axis=-1))


def looks(task: Task, part: Batch) -> dict[str, Tensor]:
    """Where a head of each kind looks, 1 or 0, `[sequence query key]`; queries that have no such place are all 0."""
    tokens, length = torch.from_numpy(part.tokens), part.tokens.shape[1]
    before = torch.ones(length, length, dtype=torch.bool).tril(-1)
    same = (tokens[:, :, None] == tokens[:, None, :]) & before & (tokens >= 0)[:, :, None]
    goals = {
        "previous_token": torch.eye(length, dtype=torch.bool).roll(1, 0) & before & present(part)[:, :, None],
        "prefix_matching": F.pad(same[:, :, :-1], (1, 0)),
    }
    if "source" in part.facts:
        goals["prefix_matching"] &= torch.from_numpy(part.facts["source"] >= 0)[:, :, None]
    for role in task.roles:
        goals[f"attention_to_{role}"] = torch.from_numpy(part.facts[role])[:, :, None] == torch.arange(length)
    return goals


def attention(pattern: Tensor, goals: dict[str, Tensor], read: Tensor) -> Sums:
    """How much of a pattern `[sequence head query key]` goes where, and how spread it is."""
    where = torch.stack(list(goals.values()), 1).flatten(2).to(pattern)
    totals = (pattern.flatten(2) @ where.mT).double().cpu().unbind(-1)
    counts = [goal.any(-1).sum(-1, keepdim=True) for goal in goals.values()]
    spread = (torch.special.entr(pattern).sum(-1).double().cpu() * read[:, None]).sum(-1)
    return dict(zip(goals, zip(totals, counts, strict=True), strict=True)) | {"entropy": (spread, read.sum(-1, True))}


def even(task: Task, batch: Batch) -> dict[str, Mean]:
    """Chance: what a head scores that looks at all it has read alike."""
    length = batch.tokens.shape[1]
    weights = torch.ones(length, length, dtype=torch.float64).tril()
    pattern = (weights / weights.sum(-1, keepdim=True)).expand(1, 1, -1, -1)
    parts = [(part, pattern.expand(len(part), -1, -1, -1)) for part in chunks(batch, 64)]
    return means([attention(same, looks(task, part), present(part)) for part, same in parts])


def distinct(part: Batch, vocab: int) -> Tensor:
    """Which tokens a sequence holds, 1 or 0, `[sequence vocab]`."""
    held = torch.zeros(len(part), vocab + 1)  # the last column takes what is no token
    return held.scatter_(1, torch.from_numpy(part.tokens) % (vocab + 1), 1.0)[:, :vocab]


def copying(model: Model, layer: int, part: Batch, pattern: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What attended tokens raise, weighted by attention: their own logits, and those of all tokens in the sequence."""
    out = model.head_weights(layer)["W_O"] @ model.unembedding
    tokens = torch.from_numpy(part.tokens).to(values.device)
    raised = torch.einsum("nkhd,hdv->nhkv", values, out - out.mean(-1, keepdim=True)).relu_()
    own = raised.gather(-1, tokens.clamp(min=0)[:, None, :, None].expand(*raised.shape[:3], 1))[..., 0]
    held = (raised @ distinct(part, model.task.vocab).to(raised)[:, None, :, None])[..., 0]
    weight = torch.einsum("nhqk,nq->nhk", pattern, present(part).to(pattern)) * (tokens >= 0)[:, None]
    return (own * weight).sum(-1).double().cpu(), (held * weight).sum(-1).double().cpu()
