"""Parity of a secret set of bits: hopeless at once, easy step by step (Wies 2023, Kim & Suzuki 2024, Wen 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic_tasks.chain import Chain, compose, hashed, read
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream

MARK, FILLER = 2, 3
TEST = 1 / 8  # of all inputs, by a hash of their content
DOUBT = 1e-6  # what a strategy leaves to all symbols, so that no log-probability is infinite


@dataclass(frozen=True)
class Parity(Task):
    """Random bits, of which a few secret positions count; maybe some steps; then = and the parity of the secret bits.

        secret   ^   ^ ^
        tokens   1 0 1 1 0 1 1 0 1 =      left: the parity of the first secret bit, of the first two, and so on
        targets  . . . . . 1 0 1 = 1
        first    . . . . . . 6 7 . 8      what the target is the parity of: a step
        second   . . . . . 0 2 3 . .      and a secret bit
        tokens   1 0 1 1 0 1 0 1 =        tree: of neighbours, then of their parities, up to the root
        tokens   1 0 1 1 0 1 =            direct: no steps. The mark is given, and the answer all that is asked

    Fewer than all the secret bits tell nothing about the answer; each step takes two symbols. The papers stop at the
    last step. Here the answer is then repeated behind a mark, so that it can be asked for early. The first step of Wen
    et al. is left out: it is always 0.

    bits     how many bits are read
    secret   how many of them count. Which ones is drawn once a world; never the last one, unless all do (Wen 2024)
    format   how the answer is written: left, tree or direct
    samples  distinct inputs to train on, drawn once a world; None: all but those of the test split, an eighth
    noise    probability that a step is written wrong in training. Steps are wrong one by one: later ones and the answer
             stay right (as in Lee 2023), and with finite samples the same steps stay wrong
    early    share of training sequences whose chain breaks off after fewer steps than all (0 and up, each as likely):
             the mark is given and the answer asked, so that early answering is nothing new
    filler   share of training sequences with fillers in place of their steps, which then are not asked
    """

    bits: int = 20
    secret: int = 6
    format: str = "left"
    samples: int | None = 10_000
    noise: float = 0.0
    early: float = 0.0
    filler: float = 0.0

    name = "parity"
    splits = ("train", "test")
    roles = ("first", "second")
    facts = {
        "bits": "[batch bits] the bits read",
        "secret": "[batch secret] positions of the bits that count, ascending; the same in all sequences of a world",
        "cuts": "[batch cut] where the chain may be cut: after the bits and after each step; -1 beyond the last step",
        "places": "[batch place] position of each step; -1 where it is not written",
        "values": "[batch step] the right parity of each step, written or not (direct: those of left)",
        "answer": "[batch] parity of all the bits that count",
        "clean": "[batch pos] the target, had no step been written wrong; -1 where nothing is asked",
        "first": "[batch pos] one of two positions whose parity is the target: a step (or a bit, in a tree); else -1",
        "second": "[batch pos] the other one: a secret bit (or a step, in a tree); else -1",
    }
    presets = {
        "wen2024": {},
        "wen2024_direct": {"format": "direct"},
        "wen2024_fresh": {"bits": 30, "secret": 3, "samples": None},
        "wies2023": {"bits": 32, "secret": 16, "format": "tree", "samples": None},
        "kim2024": {"bits": 64, "secret": 16, "format": "tree", "samples": 100_000},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits >= 6, "bits", self.bits, "at least 6, so that there are inputs to keep for the test")
        least = 2 if choose("format of parity", self.format, ("left", "tree", "direct")) == "tree" else 1
        require(least <= self.secret <= self.bits, "secret", self.secret, f"{least} to the {self.bits} bits")
        half = 2 ** (self.bits - 1)  # of all inputs: so that distinct ones are drawn in no time
        require(self.samples is None or 1 <= self.samples <= half, "samples", self.samples, f"1 to {half}, or None")
        for dial, value in (("noise", self.noise), ("early", self.early), ("filler", self.filler)):
            require(0 <= value <= 1, dial, value, "a probability")
            require(value == 0 or self.steps > 0, dial, value, f"0 where no step is written (format = {self.format})")

    @cached_property
    def sources(self) -> Array:
        """The two positions whose parity is each step and, last, the answer: int `[step+1 2]`, -1 for nothing (a 0)."""
        bits, begin = self.fixed["secret"].tolist(), self.bits
        if self.format != "tree":
            return np.array([*zip([-1, *range(begin, begin + self.secret)], [*bits, -1], strict=True)])
        found, level = [], bits
        while len(level) > 1:
            pairs = [*zip(level[::2], level[1::2], strict=False)]
            begin, found = begin + len(pairs), found + pairs
            level = [*range(begin - len(pairs), begin), *level[2 * len(pairs) :]]
        return np.array([*found, (level[0], -1)])

    @property
    def steps(self) -> int:
        """How many steps a complete chain has: as many as there are secret bits; in a tree, one less."""
        return {"left": self.secret, "tree": self.secret - 1, "direct": 0}[self.format]

    @property
    def vocab(self) -> int:
        return 4

    @property
    def context(self) -> int:
        return self.bits + self.steps + 1

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("bit", "step") if self.steps else ("bit",)

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """Secret positions `[secret]`; inputs to train on `[sample bits]` and their wrong steps `[sample step]`."""
        here, n = (self.name, "fixed", self.world), self.samples or 0
        inputs, rng = np.empty((0, self.bits), np.int8), stream(*here, "inputs")
        while len(inputs) < n:
            inputs = np.concatenate([inputs, self._inputs(rng, n, test=False).astype(np.int8)])
            inputs = inputs[np.sort(np.unique(hashed(inputs), return_index=True)[1])][:n]
        wrong = stream(*here, "noise").random((n, self.steps), np.float32) < self.noise
        pool = stream(*here, "secret").permutation(self.bits - (self.secret < self.bits))
        return {"secret": np.sort(pool[: self.secret]), "inputs": inputs, "wrong": wrong}

    def _inputs(self, rng: np.random.Generator, n: int, test: bool) -> Array:
        """`n` uniform inputs `[n bits]` of the test split or of the others."""
        kept = np.empty((0, self.bits), np.int64)
        while len(kept) < n:
            drawn = rng.integers(2, size=(8 * n + 16 if test else n + n // 4 + 16, self.bits))
            kept = np.concatenate([kept, drawn[(hashed(drawn) < TEST) == test]])
        return kept[:n]

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train as the dials say; test has other inputs and complete chains without a wrong step."""
        self.check_split(split)
        if split == "test":
            return self._batch(self._inputs(rng, n, test=True))
        rows = rng.integers(self.samples, size=n) if self.samples else None
        bits = self._inputs(rng, n, test=False) if rows is None else self.fixed["inputs"][rows].astype(np.int64)
        kept = np.where(rng.random(n) < self.early, rng.integers(max(self.steps, 1), size=n), self.steps)
        told = rng.random((n, 1)) >= self.filler
        wrong = rng.random((n, self.steps)) < self.noise if rows is None else self.fixed["wrong"][rows]
        return self._batch(bits, wrong, kept, told)

    def _batch(
        self, bits: Array, wrong: Array | int = 0, kept: Array | None = None, told: Array | bool = True
    ) -> Batch:
        """Sequences of bits: wrong steps `[batch step]`, how many are written `[batch]`, not as fillers `[batch 1]`."""
        n, step = len(bits), np.tile(np.arange(self.steps), (len(bits), 1))
        values, answer = np.split(self._inferred(bits), [-1], axis=1)
        right, told = values[:, : self.steps], np.broadcast_to(told, (n, 1))
        said = np.where(told, right ^ wrong, FILLER)
        batch = compose(bits, said, step + 1, step, MARK, answer, self.context, kept, told[:, 0])
        places, end = batch.facts["places"], batch.facts["cuts"].max(axis=1, keepdims=True)
        clean, place = batch.targets.copy(), np.arange(1, self.context + 1)
        clean[:, self.bits - 1 : -2] = np.where(places >= 0, right, clean[:, self.bits - 1 : -2])
        origin = np.full((self.context, 2), -1)
        origin[self.bits - 1 : -2], origin[-1] = self.sources[: self.steps], self.sources[-1]
        complete = (places >= 0).all(axis=1, keepdims=True) & (self.steps > 0)  # only then a step is the answer
        known = (clean >= 0) & ((place < end) | (complete & (place == self.context)))
        first, second = np.moveaxis(np.where(known[..., None], origin, -1), 2, 0)
        batch.facts.update(bits=bits, secret=np.tile(self.fixed["secret"], (n, 1)), values=values, answer=answer[:, 0])
        batch.facts.update(clean=clean, first=first, second=second)
        return batch

    def _inferred(self, known: Array) -> Array:
        """Steps and answer `[batch step+1]`, inferred from bits and steps `[batch bits+]`; steps known (>= 0) stay."""
        told = np.pad(known, ((0, 0), (0, self.bits + len(self.sources) - known.shape[1])), constant_values=-1)
        told = np.pad(told, ((0, 0), (0, 1)))  # the 0 that a source of -1 reads
        for at, (left, right) in enumerate(self.sources, self.bits):
            told[:, at] = np.where(told[:, at] < 0, told[:, left] ^ told[:, right], told[:, at])
        return told[:, self.bits : -1]

    @cached_property
    def chain(self) -> Chain:
        """Prompt, steps and answer, to be cut, corrupted and read."""
        return Chain(np.arange(2), FILLER, lambda told: self._read(told)[0], lambda told: self._read(told)[1])

    def _read(self, told: Array) -> tuple[Array, Array]:
        """What texts imply and what they say, `[batch]` each; -1 where they are malformed, or have no answer yet."""
        steps, answer, fine = read(told, self.bits, self.steps, MARK, self.chain)
        bits = told[:, : self.bits]
        fine &= np.isin(bits, (0, 1)).sum(axis=1) == self.bits
        implied = self._inferred(np.concatenate([bits, steps], axis=1))[:, -1]
        return np.where(fine, implied, -1), np.where(fine, answer, -1)

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by; each knows how noisy the steps of training are.

        uniform  any symbol
        blind    the steps as they are written, and nothing of the secret: ln 2 wherever a bit is needed
        follow   the steps as they are written, and the secret: one step at a time; ln 2 for an answer without a chain
        ideal    the bits and the secret, whatever is written
        """
        right, place = batch.facts["clean"], np.arange(1, self.context + 1)
        step = (place >= self.bits) & (place < batch.facts["cuts"].max(axis=1, keepdims=True))
        sources = np.stack([batch.facts[role] for role in self.roles])
        said = np.where(sources < 0, 0, np.take_along_axis(batch.tokens[None], np.maximum(sources, 0), axis=2))
        follow = np.where(right == MARK, MARK, said[0] ^ said[1])
        prepared = (right == MARK) | (sources >= 0).any(axis=0)
        secret = ((sources >= 0) & (sources < self.bits)).any(axis=0)
        doubtful = (sources >= self.bits).sum(axis=0) + step  # an odd number of wrong ones among them shows
        agree = (1 + (1 - 2 * self.noise) ** doubtful) / 2

        def bet(guess: Array, trust: Array, doubt: float = DOUBT) -> Array:
            other = np.where(guess == MARK, MARK, 1 - guess)
            p = trust[..., None] * onehot(guess, self.outputs) + (1 - trust[..., None]) * onehot(other, self.outputs)
            return np.where(batch.targets[..., None] >= 0, np.log((1 - doubt) * p + doubt / self.outputs), np.nan)

        return {
            "uniform": bet(right, agree, doubt=1.0),
            "blind": bet(follow, np.where(prepared & ~secret, agree, 1 / 2)),
            "follow": bet(follow, np.where(prepared, agree, 1 / 2)),
            "ideal": bet(right, 1 - self.noise * step),
        }

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Inputs of the test split, with one symbol turned; asked is the next thing that follows from it.

        bit   a secret bit; the rest of the corrupt sequence is what follows
        step  a step that is looked back at (in left, only the last one is); the rest is pinned
        """
        kind = choose("kind of pairs of parity", kind or self.kinds[0], self.kinds)
        bits, rows = self._inputs(rng, n, test=True), np.arange(n)
        clean = self._batch(bits)
        if kind == "bit":
            turned = onehot(self.fixed["secret"][rng.integers(self.secret, size=n)], self.bits)
            corrupt = self._batch(bits ^ turned.astype(np.int64))
            position = (clean.targets != corrupt.targets).argmax(axis=1)
        else:
            reader, column = np.nonzero(self.sources >= self.bits)
            place = self.sources[reader, column]
            position = np.where(reader < self.steps, self.bits + reader, self.context) - 1
            back = rng.choice(np.flatnonzero(position > place), n)
            corrupt, position = self.chain.corrupt(clean, place[back] - self.bits, rng), position[back]
            corrupt.targets[rows, position] ^= 1
        return Pairs(clean, corrupt, position, clean.targets[rows, position], corrupt.targets[rows, position])

    def chance(self, split: str = "train") -> float:
        return 1 / 2

    def show(self) -> str:
        """One test sequence of the world's own stream, and which two symbols make each step."""
        batch = self.sample(stream(self.name, "show", self.world), 1, "test")
        told, secret = "".join(map(str, batch.tokens[0])), set(self.fixed["secret"].tolist())
        caret = "".join(" ^"[at in secret] for at in range(self.bits))
        lines = [f"bits     {told[: self.bits][:180]}", f"secret   {caret[:180].rstrip()}"]
        lines += [f"steps    {told[self.bits : -1][:180]} = {batch.facts['answer'][0]}", ""]
        for step, (value, pair) in enumerate(zip(batch.facts["values"][0], self.sources, strict=False)):
            made = [f"bit {at}" if at < self.bits else f"step {at - self.bits}" for at in pair if at >= 0]
            lines.append(f"step {step:<3} {value} = {' + '.join(made) or '0'}")
        return "\n".join(lines)
