"""Samples of a Bayesian network that show only what is near: why think step by step? (Prystawski et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from synthetic_tasks.chain import Chain
from synthetic_tasks.locality import LAWS
from synthetic_tasks.observations import (
    NAMES,
    Samples,
    asked,
    drawn,
    guesses,
    implied,
    parsed,
    placed,
    shows,
    written,
)
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream
from synthetic_tasks.worlds import GRAPHS, World, chosen

DOUBT = 1e-6  # what a strategy leaves to all symbols, so that no log-probability is infinite
QUERIES = {  # split: about which pairs, and what stands between
    "held": ("held", None),
    "control": ("control", None),
    "control_scaffold": ("control", "scaffold"),
    "held_path": ("held", "path"),
    "held_scaffold": ("held", "scaffold"),
}
# Of names, values and heads of samples the paper's blocks of 1,024 hold about as many as 384 symbols here.
PAPER = {"variables": 100, "held": 25, "nets": 10, "samples": 48, "length": 384}
OBSERVED = {"law": "all", "dropout": 0.0}


@dataclass(frozen=True)
class BayesNet(Task):
    """A variable to be told last; then variables and their values, most of them near each other in a hidden network.

        network   3 -> 7 -> 5   7 -> 2
        tokens    target X5 X3 1  X7 0  X5          what stands here
        targets   X5     X3 1  X7 0  X5 1           all is asked, as in a language model
        value     .      .  1  .  0  .  1           the drawn value, at its variable's name
        nearest   .      .  .  .  3  .  5           the place of the value of the nearest variable shown before
        away      .      0  2  2  1  1  0           edges to the target

    Values come from one joint draw of all variables; only which of them are shown depends on the dials. The last one is
    the target; a sample of one variable shows it twice. Pairs that matter are kept apart in training: never do both
    come in one sample. So p(second | first) has to be inferred through what lies between: step by step.

    A query reads as a sample, but is a chain: the first variable and its value are the prompt, what stands between are
    the steps, and the target's name, at which its value is asked, is the mark.

    variables  binary variables of the network
    edges      edges of a random graph; None: as many as variables
    graph      random (any pairs, edges turned by coins until there is no cycle), tree (each variable has one cause,
               of those before it) or chain (0 -> 1 -> 2 ...)
    beta       p(1 | causes) ~ Beta(beta, beta), for each configuration of the causes; small is nearly deterministic.
               Roots are uniform
    flip       probability that a variable is not what its causes say, a random function with as many 0 as 1 (of one
               cause: a copy or its opposite); roots are then fair coins. None: rows are as beta says
    nets       networks drawn for a world; kept is the one whose held-out pairs share most information, on average
    held       held-out pairs. The 2 held pairs of most mutual information are taken; a random half of them is held
               out, the others are controls
    far        how many edges lie between the variables of such pairs, at least
    apart      whether held-out pairs are kept apart in training: of two that are both there, one is dropped by a coin
    law        which variables a sample shows: those within a radius around a random one, and the radius r = 1, 2, ...
               is geometric, zipf or fixed; or all
    scale      geometric: p(r) ~ scale^r, the probability of a step further. zipf: p(r) ~ r^-scale. fixed: r = scale
    dropout    probability of each variable to be left out
    wrong      neighbourhoods are those of another graph: the same one with its variables exchanged at random, so that
               samples are as long. Values and held-out pairs stay
    order      of the variables shown: shuffled; causal (causes before effects); inward (far from the target first)
    samples    samples in a sequence, one after another
    length     positions, at which a sequence is cut off; None: room for the longest possible. There is always room for
               a query through all variables
    """

    variables: int = 16
    edges: int | None = None
    graph: str = "random"
    beta: float = 0.2
    flip: float | None = None
    nets: int = 100
    held: int = 5
    far: int = 2
    apart: bool = True
    law: str = "geometric"
    scale: float = 0.5
    dropout: float = 0.2
    wrong: bool = False
    order: str = "shuffled"
    samples: int = 1
    length: int | None = None

    name = "bayes_net"
    splits = ("train", "test", *QUERIES)
    kinds = ("edge", "held", "step")
    roles = ("nearest", "header")
    facts = {
        "sample": "[batch pos] which sample of the sequence stands here, from 0; -1 behind the last",
        "variable": "[batch pos] the variable that is named here, or whose value stands here; else -1",
        "value": "[batch pos] at the name of a variable shown: its value; else -1",
        "away": "[batch pos] edges from the variable here to the target; -1 where there is none, or no path",
        "nearest": "[batch pos] at such a name: where the value of the nearest variable shown before stands; else -1",
        "header": "[batch pos] where the target of the sample was named; -1 before",
        "state": "[batch variable] the value of each variable, shown or not; -1: unknown, or there are several samples",
        "target": "[batch] the variable shown last; -1 if there are several samples",
        "answer": "[batch] its drawn value; -1: unknown, or there are several samples",
        "observed": "[batch] of a query: the first variable; else -1, as for all that follows",
        "evidence": "[batch] of a query: its value",
        "held": "[batch] of a query: 1 for a held-out pair of these two, 0 for a control pair, -1 for any other",
        "distance": "[batch] of a query: edges between the two, -1 if no path leads",
        "conditional": "[batch] of a query: p(target = 1 | evidence), exact; else NaN",
        "marginal": "[batch] of a query: p(target = 1), exact; else NaN",
        "scaffold": "[batch step] of a query, if held >= 0: minimal d-separating set, nearest to the first one first",
        "path": "[batch step] of a query, if held >= 0: such sets one behind the other, all the way to the target",
        "cuts": "[batch cut] of a query: where its chain may be cut, after the evidence and each later value",
        "places": "[batch place] of a query: where the value of each step stands",
        "values": "[batch place] of a query: the drawn value of each step",
    }
    presets = {
        "local": {},
        "wrong": {"wrong": True},
        "observed": OBSERVED,
        "chain": {"variables": 10, "graph": "chain", "flip": 0.05, "nets": 1, "far": 3, "law": "fixed", "scale": 1.0},
        "prystawski2023": PAPER,
        "prystawski2023_observed": PAPER | OBSERVED | {"samples": 2},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.variables
        require(n >= 4, "variables", n, "at least 4")
        choose("graph of bayes_net", self.graph, GRAPHS)
        require(self.edges is None or self.graph == "random", "edges", self.edges, "None, unless the graph is random")
        most = n * (n - 1) // 2
        require(self.edges is None or 2 <= self.edges < most, "edges", self.edges, f"2 to {most - 1}, or None")
        require(1e-2 <= self.beta < np.inf, "beta", self.beta, "a finite number >= 0.01")
        require(self.flip is None or 0 <= self.flip < 0.5, "flip", self.flip, "0 to below 0.5, or None")
        for dial, least in (("nets", 1), ("held", 1), ("far", 2), ("samples", 1)):
            require(getattr(self, dial) >= least, dial, getattr(self, dial), f"at least {least}")
        choose("law of bayes_net", self.law, (*LAWS, "all"))
        fits, allowed = {
            "geometric": (self.scale < 1, "0 to below 1"),
            "fixed": (self.scale >= 1 and self.scale % 1 == 0, "a whole number >= 1"),
        }.get(self.law, (self.scale < np.inf, "a finite number >= 0"))
        require(fits and self.scale >= 0, "scale", self.scale, f"{allowed} for the law {self.law}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")
        require(not (self.wrong and self.law == "all"), "wrong", self.wrong, "False, where all variables are shown")
        choose("order of bayes_net", self.order, ("shuffled", "causal", "inward"))
        least, room = 2 * n + 1, self.samples * (2 * n + 2) - 1
        fits = self.length is None or least <= self.length <= room
        allowed = f"{least} (a query through all variables) to {room} (as much as may be told), or None"
        require(fits, "length", self.length, allowed)

    @property
    def target(self) -> int:
        """The token that opens a sample."""
        return NAMES + self.variables

    @property
    def outputs(self) -> int:
        """Values and names; and the word "target" where another sample follows."""
        return self.target + (self.samples > 1)

    @property
    def vocab(self) -> int:
        return self.target + 2

    @property
    def context(self) -> int:
        return self.length or self.samples * (2 * self.variables + 2) - 1

    @cached_property
    def fixed(self) -> World:
        """The network of this world and its pairs; tasks that differ in what is shown alone share it."""
        dials = self.graph, self.variables, self.variables if self.edges is None else self.edges, self.beta, self.flip
        return chosen(self.world, self.nets, self.held, self.far, *dials)

    @cached_property
    def chain(self) -> Chain:
        """Prompt: the target, and a first variable with its value. Steps: more of these. Mark: the target's name."""
        return Chain(np.arange(NAMES), self.target + 1, partial(implied, self), partial(parsed, self))

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits.

        train, test                       as the dials say
        held, control                     queries about a held-out or control pair, either way
        held_scaffold, control_scaffold   with a minimal d-separating set in between, nearest to the first one first
        held_path                         with such sets one behind the other in between, all the way to the target
        """
        self.check_split(split)
        if split in QUERIES:
            use, between = QUERIES[split]
            pairs = getattr(self.fixed, use)
            one, other = np.concatenate([pairs, pairs[:, ::-1]])[rng.integers(2 * len(pairs), size=n)].T
            steps = getattr(self.fixed, between)[one, other] if between else np.empty((n, 0), np.int64)
            return self.query(self.fixed.net.sample(rng, n), np.column_stack([one, steps, other]))
        samples, state, ends = drawn(self, rng, n * self.samples), np.full((n, self.variables), -1), np.full((n, 2), -1)
        told = written(self, samples, n, self.context)
        if self.samples == 1:
            state, ends[:, 1] = samples.state, told[:, 1] - NAMES
        return Batch(told[:, :-1], told[:, 1:], facts=placed(self, told) | asked(self, state, ends))

    def query(self, state: Array, shown: Array) -> Batch:
        """Sequences that show variables in a given order, the last of which is asked.

        state  int `[batch variable]`: the value of each; -1: not known, as may be that of the last one, or if not shown
        shown  int `[batch place]`: two or more variables; between first and last -1 may stand: none
        """
        there = shown >= 0
        samples = Samples(state, np.nonzero(there)[0], shown[there])
        told = written(self, samples, len(state), 2 * shown.shape[1] + 1)
        given = np.where(there.sum(axis=1, keepdims=True) > 2, 3, 4)  # a mark that comes at once is given too
        targets = np.where(np.arange(told.shape[1] - 1) >= given, told[:, 1:], -1)
        return Batch(told[:, :-1], targets, facts=placed(self, told) | asked(self, state, shown))

    def queries(self, use: str = "held") -> Batch:
        """All queries about held-out or control pairs: each pair, either way, either value; the answer is not known."""
        pairs = getattr(self.fixed, choose("use of pairs", use, ("held", "control")))
        one, other = np.repeat(np.concatenate([pairs, pairs[:, ::-1]]), 2, axis=0).T
        state = np.full((len(one), self.variables), -1)
        state[np.arange(len(one)), one] = np.arange(len(one)) % 2
        return self.query(state, np.column_stack([one, other]))

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by for a value, each with a trace of doubt.

        uniform   any symbol
        marginal  p(variable), whatever was told
        nearest   p(variable | the nearest one told before), on the graph of the network; of several, the latest
        truth     p(variable | all that was told before in its sample): exact, the floor for values

        All but the first know where a value is asked. Of names they say nothing: each is as likely.
        """
        asked, shape = batch.targets[..., None] >= 0, (*batch.targets.shape, self.outputs)
        logs = {"uniform": np.where(asked, np.full(shape, -np.log(self.outputs)), np.nan)}
        for name, p in guesses(self, batch.tokens).items():
            logs[name] = np.where(asked, np.log((1 - DOUBT) * p + DOUBT / self.outputs), np.nan)
        return logs

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """One value is turned, and with it the likelier value of the target: answer and foil.

        edge  that of a neighbour of the target
        held  that of a variable that never came with the target in training
        step  that of the one variable which d-separates such two, written in between
        """
        rows = self.fixed.turning[choose("kind of pairs of bayes_net", kind or self.kinds[0], self.kinds)]
        require(len(rows) > 0, "world", self.world, f"another one: no value in it turns an answer in pairs {kind!r}")
        shown = rows[rng.integers(len(rows), size=n)]
        place, turned, last = np.arange(n), shown[:, -2], shown[:, -1]
        clean, drawn = np.full((n, self.variables), -1), self.fixed.net.sample(rng, n)
        np.put_along_axis(clean, shown, np.take_along_axis(drawn, shown, axis=1), axis=1)
        corrupt = clean.copy()
        corrupt[place, turned] = 1 - clean[place, turned]
        for state in (clean, corrupt):
            state[place, last] = self.fixed.net.given[turned, state[place, turned], last] > 0.5
        one, other = (self.query(state, shown) for state in (clean, corrupt))
        return Pairs(one, other, np.full(n, 2 * shown.shape[1]), clean[place, last], corrupt[place, last])

    def chance(self, split: str = "train") -> float:
        """A guess at a value, where a value is asked alone."""
        return 1 / 2 if split in ("held", "control") else 1 / self.outputs

    def statistics(self, lots: list[Batch]) -> dict[str, float]:
        """How many variables samples show, how often pairs come together by distance, and what pairs tell."""
        present = np.concatenate([shows(self, lot) for lot in lots])
        sizes = present.sum(axis=1)
        found = {"samples": len(sizes), "variables in a sample": float(sizes.mean())}
        found |= {f"{q} % of samples show at most": float(np.percentile(sizes, q)) for q in (50, 90)}
        return found | self.fixed.locality(present)

    def show(self) -> str:
        """The network, its held-out pairs, and one sample of the world's own stream."""
        net, rng = self.fixed.net, stream(self.name, "show", self.world)
        some = replace(self, samples=1, length=None).sample(rng, 8)
        batch = some[(some.facts["value"] >= 0).sum(axis=1).argmax(keepdims=True)]
        edges = [f"{cause}->{effect}" for cause, effect in np.argwhere(net.edges)]
        pairs = [f"{a} {b} ({net.information[a, b]:.2f}, {net.steps[a, b]})" for a, b in self.fixed.held]
        lines = [f"edges     {', '.join(edges[:20])}{', ...' if len(edges) > 20 else ''}"]
        lines += [f"held out  {', '.join(pairs[:8])}   (nats, edges apart)", ""]
        truth = np.exp(self.oracles(batch)["truth"][0])
        for at in np.flatnonzero(batch.facts["value"][0] >= 0)[:24]:
            variable, value, near = (batch.facts[name][0, at] for name in ("variable", "value", "nearest"))
            asked = "target" if batch.facts["away"][0, at] == 0 else ""
            after = f"nearest X{batch.facts['variable'][0, near]}" if near >= 0 else ""
            lines.append(f"X{variable:<3} {value}   p(1) = {truth[at, 1]:.2f}   {after:<13}{asked}".rstrip())
        return "\n".join(lines)
