"""Nested arithmetic modulo a number, at once or one reduction a line (Feng et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

from synthetic_tasks.brackets import Arithmetic
from synthetic_tasks.chain import Chain, compose, hashed, packed, text
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream

TEST = 1 / 8  # of all expressions, by a hash of their content
MOST = 1_000_000  # samples
DOUBT = 1e-6  # what a strategy leaves to all symbols, so that no log-probability is infinite


@dataclass(frozen=True)
class Expressions(Task):
    """An expression; then lines that each work out one bracket of the line before; then ? and the value.

        tokens   ( 1 + 2 ) * 4 = 3 * 4 = 5 ?      modulo 7
        targets  . . . . . . = 3 * 4 = 5 ? 5
        source   . . . . . . . . 5 6 . . . C      where the target was written before (C: 12)
        first    . . . . . . . 1 . . . 8 . .      or the two numbers
        operator . . . . . . . 2 . . . 9 . .      and the operator
        second   . . . . . . . 3 . . . A . .      that it is the value of (A: 10)
        tokens   ( 1 + 2 ) * 4 ?                  direct: no lines. The mark is given, and the value all that is asked

    It grew from its value: a random number, again and again, became a random expression of two numbers with that value.
    Each line is a step, and the value of the step the number that is new in it. Every expression within another is in
    brackets, so it is never asked what comes first, and with as many operators expressions are as long. The leftmost
    bracket that holds two numbers is worked out first. The paper writes such brackets only where they are needed,
    divides, too, undoes the growth in its own (random) order, and stops at the last line; here its value is then
    repeated behind a mark, so that it can be asked for early.

    modulus    numbers are taken modulo this, 4 to 101
    operators  how many + - * there are in the test split, 1 to 8; in training from 1 up to as many, more of them more
               often: the number of operators is as likely as it is large, as in the paper
    format     how the value is written: chain or direct
    samples    distinct expressions to train on, drawn once a world; None: all but those of the test split, an eighth
    noise      probability that the value of a step is written wrong in training. Values are wrong one by one: later
               lines and the answer stay right, and with finite samples the same steps stay wrong
    early      share of training sequences whose chain breaks off after fewer lines than all (0 and up, each as likely):
               the mark is given and the value asked, so that early answering is nothing new
    filler     share of training sequences with fillers in place of their lines, which then are not asked
    """

    modulus: int = 11
    operators: int = 4
    format: str = "chain"
    samples: int | None = None
    noise: float = 0.0
    early: float = 0.0
    filler: float = 0.0

    name = "expressions"
    splits = ("train", "test")
    roles = ("source", "first", "operator", "second")
    facts = {
        "size": "[batch] how many operators the expression has",
        "depth": "[batch] how many brackets are open at once, at most",
        "left": "[batch step] the first number of what each step works out; -1 where there is no such step",
        "operation": "[batch step] its operator: 0, 1 and 2 are + - *",
        "right": "[batch step] its second number",
        "cuts": "[batch cut] where the chain may be cut: after the expression and after each line; -1 beyond the last",
        "places": "[batch place] position of the value of each step; -1 where it is not written",
        "values": "[batch step] the right value of each step, written or not; -1 where there is no such step",
        "answer": "[batch] the value of the expression",
        "clean": "[batch pos] the target, had no step been written wrong; -1 where nothing is asked",
        "source": "[batch pos] where the target was last written, if it is a copy; else -1",
        "first": "[batch pos] where the first number stands that the target is worked out from; else -1",
        "operator": "[batch pos] where the operator stands; else -1",
        "second": "[batch pos] where the second number stands; else -1",
    }
    presets = {
        "feng2023": {},
        "feng2023_direct": {"format": "direct"},
        "feng2023_5": {"operators": 5},
        "feng2023_6": {"operators": 6},
        "feng2023_6_direct": {"operators": 6, "format": "direct"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(4 <= self.modulus <= 101, "modulus", self.modulus, "4 to 101, so that some are kept for the test")
        require(1 <= self.operators <= 8, "operators", self.operators, "1 to 8")
        choose("format of expressions", self.format, ("chain", "direct"))
        n, p = self.operators, self.modulus
        most = min(MOST, comb(2 * n, n) // (n + 1) * 3**n * p ** (n + 1) // 2)  # half of those with all operators
        require(self.samples is None or 1 <= self.samples <= most, "samples", self.samples, f"1 to {most}, or None")
        for dial in ("noise", "early", "filler"):
            value = getattr(self, dial)
            require(0 <= value <= 1, dial, value, "a probability")
            require(value == 0 or self.steps > 0, dial, value, f"0 where no step is written (format = {self.format})")

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """The expressions, and how they are written."""
        return Arithmetic(self.modulus, self.operators)

    @property
    def steps(self) -> int:
        """How many lines there are at most."""
        return self.operators if self.format == "chain" else 0

    @property
    def vocab(self) -> int:
        return self.modulus + 8

    @property
    def context(self) -> int:
        n = self.operators
        return 4 * n + (2 * n * (n - 1) + 2) * (self.steps > 0)

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("number", "step") if self.steps else ("number",)

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """Expressions to train on `[sample symbol]`, and what is added to the values of their steps `[sample step]`."""
        here, n = (self.name, "fixed", self.world), self.samples or 0
        drawn, rng = np.full((0, 4 * self.operators + 1), -1, np.int8), stream(*here, "expressions")
        while len(drawn) < n:
            more = self._drawn(rng, n, "train").astype(np.int8)
            drawn = np.concatenate([drawn, more])
            drawn = drawn[np.sort(np.unique(hashed(drawn), return_index=True)[1])][:n]
        return {"expressions": drawn, "noise": self._noise(stream(*here, "noise"), n).astype(np.int8)}

    def _drawn(self, rng: np.random.Generator, n: int, split: str) -> Array:
        """Expressions of a split, `[n symbol]`, with all brackets, as `Arithmetic` has them."""
        most, test = self.operators, split == "test"
        kept, share = np.empty((0, 4 * most + 1), np.int64), np.arange(1, most + 1).cumsum()
        while len(kept) < n:
            m = 8 * n + 16 if test else n + n // 4 + 16
            sizes = np.full(m, most) if test else 1 + np.searchsorted(share, rng.integers(share[-1], size=m), "right")
            told = self.arithmetic.grow(rng, sizes)
            kept = np.concatenate([kept, told[(hashed(told) < TEST) == test]])
        return kept[:n]

    def _noise(self, rng: np.random.Generator, n: int) -> Array:
        """What is added to the values of steps, int `[n step]`: 0 where they are right."""
        wrong = rng.random((n, self.steps)) < self.noise
        return np.where(wrong, rng.integers(1, self.modulus, size=wrong.shape), 0)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train as the dials say; test has other expressions, of all operators, and right, complete chains."""
        self.check_split(split)
        if split == "test":
            return self._batch(self._drawn(rng, n, split))
        rows = rng.integers(self.samples, size=n) if self.samples else None
        told = self._drawn(rng, n, split) if rows is None else self.fixed["expressions"][rows].astype(np.int64)
        short, fewer, plain = rng.random(n) < self.early, rng.random(n), rng.random(n) >= self.filler
        kept = np.where(short, (fewer * self.arithmetic.size(told)).astype(np.int64), self.operators)
        return self._batch(told, self._noise(rng, n) if rows is None else self.fixed["noise"][rows], kept, plain)

    def _batch(
        self, told: Array, noise: Array | None = None, kept: Array | None = None, plain: Array | None = None
    ) -> Batch:
        """Sequences of expressions: added to values `[batch step]`, lines written `[batch]`, and not as fillers."""
        n, lines, stage, found = len(told), [], told, []
        for _ in range(self.operators):
            found.append(self.arithmetic.reduce(stage))
            stage = found[-1].told
            line = np.insert(self.arithmetic.bare(stage), 0, self.arithmetic.equals, axis=1)
            lines.append(np.where(found[-1].at[:, None] >= 0, line, -1))
        at, left, operation, right, values = (np.stack(x, axis=1) for x in [*zip(*found, strict=True)][1:])
        there = at >= 0
        upto = np.cumsum([np.zeros(n, np.int64), *((line >= 0).sum(axis=1) for line in lines)], axis=0).T
        ends, new = (np.where(there, x, -1)[:, : self.steps] for x in (upto[:, 1:], upto[:, :-1] + np.maximum(at, 1)))
        prompt, chain, (row, step) = self.arithmetic.bare(told), packed(*lines), np.nonzero(new >= 0)
        if noise is not None:
            chain[row, new[row, step]] = (chain[row, new[row, step]] + noise[row, step]) % self.modulus
        if plain is not None:
            chain = np.where(plain[:, None] | (chain < 0), chain, self.arithmetic.filler)
        batch = compose(prompt, chain, ends, new, self.arithmetic.mark, stage[:, :1], self.context, kept, plain)
        places, clean, (row, step) = batch.facts["places"], batch.targets.copy(), np.nonzero(batch.facts["places"] >= 0)
        clean[row, places[row, step] - 1] = values[row, step]
        known = np.where(there, [left, operation - self.modulus, right, values], -1)
        batch.facts.update(zip(("left", "operation", "right", "values"), known, strict=True), answer=stage[:, 0])
        batch.facts.update(size=self.arithmetic.size(told), depth=self.arithmetic.depth(prompt), clean=clean)
        starts = (prompt >= 0).sum(axis=1, keepdims=True) + upto
        batch.facts.update(zip(self.roles, self._origins(batch, starts, at), strict=True))
        return batch

    def _origins(self, batch: Batch, starts: Array, at: Array) -> Array:
        """Roles, `[role batch pos]`, by where lines start, `[batch step+1]`, and where they reduce, `[batch step]`."""
        found = np.full((len(self.roles), len(batch), self.context + 1), -1)  # what is not written goes to the end
        for i in range(self.steps):
            start, here = starts[:, i, None], at[:, i, None]
            before = starts[:, i - 1, None] + 1 if i else 0  # where the line before begins, or the expression
            place, new = np.arange(4 * self.operators), np.maximum(here - 1, 0)
            behind = np.where(place < starts[:, i + 1, None] - start - 1, start + place, self.context)
            np.put_along_axis(found[0], behind, np.where(place == new, -1, before + place + 4 * (place > new)), axis=1)
            for part in range(3):
                spot = np.where(here >= 0, start + new, self.context)
                np.put_along_axis(found[part + 1], spot, before + here + part, axis=1)
        places, end = batch.facts["places"], batch.facts["cuts"].max(axis=1)
        last = np.where((places >= 0).sum(axis=1) == (at >= 0).sum(axis=1), places.max(axis=1, initial=-1), -1)
        found[:, np.arange(len(batch)), end] = np.stack([last, *3 * [np.full(len(batch), -1)]])  # of the answer
        return np.where(batch.targets >= 0, found[:, :, :-1], -1)

    @cached_property
    def chain(self) -> Chain:
        """Prompt, lines and answer, to be cut, corrupted and read."""
        form, symbols = self.arithmetic, np.arange(self.modulus)
        return Chain(symbols, form.filler, form.implied, lambda told: form.read(told)[0])

    def _guess(self, batch: Batch) -> Array:
        """The number or symbol that follows from what is written where a role says so, int `[batch pos]`; else -1."""
        places = np.stack([batch.facts[role] for role in self.roles])
        copied, left, operator, right = np.take_along_axis(batch.tokens[None], np.maximum(places, 0), axis=2)
        operator = np.clip(operator - self.modulus, 0, 2)
        worked = self.arithmetic.results[operator, left % self.modulus, right % self.modulus]
        return np.where(places[0] >= 0, copied, np.where(places[1] >= 0, worked, -1))

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by; each knows how noisy the values of steps are in training.

        uniform  any symbol
        copy     lines and answers are copied from what is written, but nothing is worked out: that may be any number
        follow   and each step is worked out from the line before; an answer without a chain may be any number
        ideal    the expression, whatever is written
        """
        clean, p, place = batch.facts["clean"], self.modulus, np.arange(self.context)
        step = (batch.facts["places"][:, :, None] == place + 1).any(axis=1)
        number = np.arange(self.vocab) < p

        def spread(guess: Array, trust: Array) -> Array:
            sure = onehot(guess, self.vocab)
            return trust[..., None] * sure + (1 - trust[..., None]) * number * (1 - sure) / (p - 1)

        said = np.pad(step, ((0, 0), (1, 0)))[:, :-1]  # where the values of steps stand
        seen = [np.take_along_axis(said, np.maximum(batch.facts[role], 0), axis=1) for role in self.roles]
        guess, copied = self._guess(batch), batch.facts["source"] >= 0
        trust = (1 - self.noise) ** np.where(copied, seen[0], seen[1] | seen[3])
        any_number = np.where(clean >= p, 1.0, 1 / p)  # signs are known
        told = {
            "copy": spread(np.where(copied, guess, clean), np.where(copied, trust, any_number)),
            "follow": spread(np.where(guess >= 0, guess, clean), np.where(guess >= 0, trust, any_number)),
            "ideal": spread(clean, np.ones(clean.shape)),
        }
        logs = {"uniform": np.full((*clean.shape, self.vocab), -np.log(self.vocab))}
        for name, q in told.items():
            q = np.where(step[..., None], (1 - self.noise) * q + self.noise * np.maximum(number - q, 0) / (p - 1), q)
            logs[name] = np.log((1 - DOUBT) * q + DOUBT / self.vocab)
        return {name: np.where(batch.targets[..., None] >= 0, log, np.nan) for name, log in logs.items()}

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Expressions of the test split, with another number; asked is the next thing that follows from it.

        number  in the expression, so that it has another value; the rest of the corrupt sequence is what follows
        step    the value of a step, so that what reads it next has another value; the rest is pinned
        """
        kind = choose("kind of pairs of expressions", kind or self.kinds[0], self.kinds)
        m = 4 * n + 64  # so many that enough of them make a difference
        told, row = self._drawn(rng, m, "test"), np.arange(m)
        clean = self._batch(told)
        if kind == "number":
            at = np.where(self.arithmetic.number(told), rng.random(told.shape), -1).argmax(axis=1)
            told[row, at] = (told[row, at] + rng.integers(1, self.modulus, m)) % self.modulus
            corrupt = self._batch(told)
            position = (clean.targets != corrupt.targets).argmax(axis=1)
            keep = clean.facts["answer"] != corrupt.facts["answer"]
        else:
            step = rng.integers(self.steps, size=m)
            corrupt = self.chain.corrupt(clean, step, rng)
            reads = np.stack([clean.facts[role] for role in self.roles]) == clean.facts["places"][row, step][:, None]
            position = reads.any(axis=0).argmax(axis=1)
            corrupt.targets[row, position] = self._guess(corrupt)[row, position]
            keep = corrupt.targets[row, position] != clean.targets[row, position]
        kept = np.flatnonzero(keep)[:n]
        clean, corrupt, position = clean[kept], corrupt[kept], position[kept]
        answer, foil = (lot.targets[np.arange(len(lot)), position] for lot in (clean, corrupt))
        return Pairs(clean, corrupt, position, answer, foil)

    def chance(self, split: str = "train") -> float:
        return 1 / self.modulus

    def statistics(self, lots: list[Batch]) -> dict[str, float]:
        """Shares of expressions by size, how deep brackets are nested, and how often the value is 0 (from 0 * x)."""
        size, depth, answer = (
            np.concatenate([lot.facts[name] for lot in lots]) for name in ("size", "depth", "answer")
        )
        shares = {f"share with {k} operators": float(np.mean(size == k)) for k in range(1, self.operators + 1)}
        return shares | {"mean depth": float(depth.mean()), "share of 0": float(np.mean(answer == 0))}

    def show(self) -> str:
        """One test sequence of the world's own stream, line by line."""
        batch = self.sample(stream(self.name, "show", self.world), 1, "test")
        told, cuts = text(batch)[0], batch.facts["cuts"][0]
        names = [*map(str, range(self.modulus)), *"+-*()=?_"]
        said = [" ".join(names[symbol] for symbol in part if symbol >= 0) for part in np.split(told, cuts)]
        lines = [f"read     {said[0]}", *(f"step {i:<3} {line}" for i, line in enumerate(said[1:-1]))]
        lines += [f"answer   {said[-1]}", "", f"modulo {self.modulus}"]
        return "\n".join(line[:190] for line in lines)
