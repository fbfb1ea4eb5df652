"""Addition, at once or digit by digit: plain, reversed, or with a scratchpad (Lee et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic_tasks import summands
from synthetic_tasks.chain import Chain, compose, text
from synthetic_tasks.scratchpad import FILLER, MARK, ROLES, Columns, Scratchpad, column, write
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream

DOUBT = 1e-6  # what a strategy leaves to all symbols, so that no log-probability is infinite
MOST = 50_000  # balanced samples: of more, too many would be of two digits, of which there are not enough


@dataclass(frozen=True)
class Addition(Task):
    """Two numbers, padded with zeros, so that each symbol has its place; maybe a scratchpad; then = and their sum.

        tokens   1 2 8 + 3 6 7 = 0 4 9         plain: the answer is all that is asked, and the mark is given
        targets  . . . . . . . 0 4 9 5
        tokens   1 2 8 + 3 6 7 = 5 9 4         reverse: from the right, where each digit needs one carry only
        targets  . . . . . . . 5 9 4 0
        tokens   1 2 8 + 3 6 7 5 1 9 0 4 0 = 0 4 9         simplified: digit and carry of each column from the right
        targets  . . . . . . 5 1 9 0 4 0 = 0 4 9 5
        first    . . . . . . 2 2 1 1 0 0 . . . . .         the digits that are added,
        second   . . . . . . 6 6 5 5 4 4 . . . . .
        incoming . . . . . . . . 8 8 A A . . . . .         the carry that is added,
        source   . . . . . . . . . . . . . C B 9 7         or where it was written before (A: 10, and so on)
        detailed 128+367 128+367,0,51 12+36,51,90 1+3,950,40 = 0495

    A line of the detailed scratchpad holds all that is needed to go on: the digits left of both numbers, a comma, the
    answer so far and the carry, a comma, then the new digit and carry. The paper's line for it is "[1,2] + [3,6] ,
    A=[5] , C=1 , 2+6+1=9 , A->9 , C->0". What is left out is brackets, labels, the sum of the column (its figures are
    the new carry and digit), how many digits the numbers have, and the last line, which is the answer. The paper reads
    windows of a stream without padding (which makes plain harder: 88 against 98 % after 10,000 samples); here a
    sequence is one sum.

    A digit and a carry are a step each, from the right: 5, 1, 9, 0, 4, 0 above.

    digits       how many digits the numbers have at most, 2 to 9
    format       how the answer is written: plain, reverse, simplified or detailed
    samples      distinct pairs to train on, drawn once a world; None: all but those of the test split, an eighth of all
                 pairs of more than one digit (in either order)
    balanced     as in the paper: all 100 pairs of one digit, 9 % of two, the others of all digits; of both as many with
                 each number of carries. Else all pairs are as likely, as they are in the test split
    noise_digit  probability that a digit on the scratchpad is drawn at random (so that 1 in 10 is right by chance) in
                 training. Later steps and the answer stay right, and with finite samples the same steps stay wrong
    noise_carry  the same of carries, drawn from 0 and 1. Both for the simplified scratchpad only
    early        share of training sequences whose chain breaks off after fewer steps than all (0 and up, each as
                 likely): the mark is given and the answer asked, so that early answering is nothing new
    filler       share of training sequences with fillers in place of their chain, which then are not asked
    """

    digits: int = 3
    format: str = "simplified"
    samples: int | None = 10_000
    balanced: bool = True
    noise_digit: float = 0.0
    noise_carry: float = 0.0
    early: float = 0.0
    filler: float = 0.0

    name = "addition"
    splits = ("train", "test")
    roles = ROLES
    facts = {
        "operands": "[batch operand] the two numbers",
        "digit": "[batch column] digits of the sum, from the right, without the last carry",
        "carry": "[batch column] the carry out of each column, from the right",
        "carries": "[batch] how many columns carry",
        "cuts": "[batch cut] where the chain may be cut: after the numbers and after each step; -1 beyond the last",
        "places": "[batch place] position of the value of each step; -1 where it is not written",
        "values": "[batch step] the right digit and carry of each column by turns, written or not",
        "answer": "[batch] the sum",
        "clean": "[batch pos] the target, had no step been written wrong; -1 where nothing is asked",
        "first": "[batch pos] where the first of the digits that are added to get the target was last written; else -1",
        "second": "[batch pos] where the second one was last written; else -1",
        "incoming": "[batch pos] where the carry that is added was last written; -1 if it was not",
        "source": "[batch pos] where the target itself was last written, if it is a copy; else -1",
    }
    presets = {
        "lee2023": {},
        "lee2023_plain": {"format": "plain"},
        "lee2023_reverse": {"format": "reverse"},
        "lee2023_detailed": {"format": "detailed"},
        "lee2023_random_digit": {"noise_digit": 1.0},
        "lee2023_random_carry": {"noise_carry": 1.0},
        "lee2023_random": {"noise_digit": 1.0, "noise_carry": 1.0},
        "lee2023_unbalanced": {"format": "plain", "balanced": False},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.digits <= 9, "digits", self.digits, "2 to 9")
        choose("format of addition", self.format, ("plain", "reverse", "simplified", "detailed"))
        half = 10 ** (2 * self.digits) // 2  # of all pairs: so that distinct ones are drawn in no time
        least, most = (200, min(half, MOST)) if self.balanced else (1, half)
        allowed = f"{least} to {most}, or None (balanced = {self.balanced})"
        require(self.samples is None or least <= self.samples <= most, "samples", self.samples, allowed)
        for dial in ("noise_digit", "noise_carry", "early", "filler"):
            value = getattr(self, dial)
            require(0 <= value <= 1, dial, value, "a probability")
            require(value == 0 or self.steps > 0, dial, value, f"0 where no step is written (format = {self.format})")
            fits = value == 0 or not dial.startswith("noise") or self.format == "simplified"
            require(fits, dial, value, "0 but in the simplified scratchpad")

    @cached_property
    def pad(self) -> Scratchpad:
        """What is written where."""
        return Scratchpad(self.digits, self.format)

    @property
    def steps(self) -> int:
        """How many steps a complete chain has: a digit and a carry for each column."""
        return len(self.pad.steps)

    @property
    def vocab(self) -> int:
        return 14

    @property
    def context(self) -> int:
        return len(self.pad.whole) - 1

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("digit", *["carry"] * (self.format != "detailed"), *["step"] * (self.steps > 0))

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """Pairs to train on `[sample 2]`, and what is written at random for their steps `[sample step]`, else -1."""
        here, n = (self.name, "fixed", self.world), self.samples
        pairs = summands.few(stream(*here, "pairs"), n, self.digits, self.balanced) if n else np.empty((0, 2), np.int64)
        return {"pairs": pairs, "noise": self._noise(stream(*here, "noise"), len(pairs))}

    def _noise(self, rng: np.random.Generator, n: int) -> Array:
        """What is written at random for the steps of a chain, int `[n step]`, -1 where they are right."""
        drawn = rng.random((n, self.steps)) < np.tile((self.noise_digit, self.noise_carry), self.steps // 2)
        return np.where(drawn, rng.integers(np.tile((10, 2), self.steps // 2), size=drawn.shape), -1)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train as the dials say; test has other pairs, all as likely, and complete chains that are right."""
        self.check_split(split)
        if split == "test":
            return self._batch(self._figures(summands.fresh(rng, n, self.digits, test=True)))
        rows = rng.integers(self.samples, size=n) if self.samples else None
        pairs = summands.fresh(rng, n, self.digits, self.balanced) if rows is None else self.fixed["pairs"][rows]
        kept = np.where(rng.random(n) < self.early, rng.integers(max(self.steps, 1), size=n), self.steps)
        told = rng.random((n, 1)) >= self.filler
        noise = self._noise(rng, n) if rows is None else self.fixed["noise"][rows]
        return self._batch(self._figures(pairs), noise, kept, told)

    def _figures(self, pairs: Array) -> Array:
        """Digits from the right, `[batch 2 column]`, of numbers `[batch 2]`."""
        return pairs[:, :, None] // 10 ** np.arange(self.digits) % 10

    def _batch(
        self, figures: Array, noise: Array | None = None, kept: Array | None = None, told: Array | bool = True
    ) -> Batch:
        """Sequences of numbers `[batch 2 column]`: steps at random (else -1), how many, and whether they are told."""
        n, pad, steps = len(figures), self.pad, slice(2 * self.digits, 4 * self.digits)
        slots, told = pad.inferred(pad.slots(figures)), np.broadcast_to(told, (n, 1))
        values, written, at = slots[:, steps], slots.copy(), np.tile(pad.steps, (n, 1))
        if noise is not None and self.steps:
            written[:, steps] = np.where(noise >= 0, noise, values)
        said, answer = np.where(told, written[:, pad.chain], FILLER), slots[:, pad.answer]
        batch = compose(slots[:, pad.prompt], said, at + 1, at, MARK, answer, self.context, kept, told[:, 0])
        places, end = batch.facts["places"], batch.facts["cuts"].max(axis=1, keepdims=True)
        clean, (row, step) = batch.targets.copy(), np.nonzero(places >= 0)
        clean[row, places[row, step] - 1] = values[row, step]
        complete = (places >= 0).all(axis=1, keepdims=True)  # only then the answer is a copy
        known = (clean >= 0) & (complete | (np.arange(1, self.context + 1) < end))
        batch.facts.update(operands=figures @ 10 ** np.arange(self.digits), values=values, answer=pad.number(answer))
        batch.facts.update(digit=values[:, ::2], carry=values[:, 1::2], carries=values[:, 1::2].sum(axis=1))
        batch.facts.update(zip(ROLES, np.where(known, pad.origins[:, None, 1:], -1), strict=True), clean=clean)
        return batch

    @cached_property
    def chain(self) -> Chain:
        """Prompt, steps and answer, to be cut, corrupted and read."""
        return Columns(np.arange(10), FILLER, lambda told: self.pad.read(told)[0], lambda told: self.pad.read(told)[1])

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by; each knows how noisy the steps of training are.

        uniform     any symbol
        columns     the two digits of a column: one carry in two comes into it, unless it is the first
        neighbours  also the two to their right: the same of what comes into those
        follow      the carries and digits that are written, as far as they are to be trusted; else as columns
        ideal       both numbers
        """
        d, pad, place = self.digits, self.pad, np.arange(1, self.context + 1)
        end, slots = batch.facts["cuts"].max(axis=1, keepdims=True), pad.slots(self._figures(batch.facts["operands"]))
        behind = pad.answer[np.clip(place - end - 1, 0, d)]
        asks = np.where(place > end, behind, np.where(place < end, pad.whole[place], 4 * d + 3))
        is_digit, total = asks % 2 == 0, slots[:, :d] + slots[:, d : 2 * d]
        noise = np.where(is_digit, self.noise_digit, self.noise_carry)[..., None]
        incoming, source = batch.facts["incoming"], batch.facts["source"]

        def lookahead(columns: int) -> Array:
            into = np.where(np.arange(d) > 0, 1 / 2, np.zeros((len(batch), 1)))
            for _ in range(columns):
                into = np.pad((total > 9) + (total == 9) * into, ((0, 0), (1, 0)))[:, :-1]
            p = onehot(slots, self.vocab).astype(np.float64)
            p[:, 2 * d : 4 * d] = np.stack(column(total, into, self.vocab), 2).reshape(len(batch), 2 * d, -1)
            return np.take_along_axis(p, asks[..., None], axis=1)

        blind = lookahead(0)
        carry, copy = (np.take_along_axis(batch.tokens, np.maximum(at, 0), axis=1) for at in (incoming, source))
        summed = np.take_along_axis(total, np.clip(asks // 2 - d, 0, d - 1), axis=1)
        into = (1 - self.noise_carry) * (carry == 1) + self.noise_carry / 2
        follow = np.where(is_digit[..., None], *column(summed, into, self.vocab))
        follow = np.where(incoming[..., None] >= 0, follow, blind)
        step, symbol = ((place < end) & (source < 0) & (asks < 4 * d))[..., None], np.arange(self.vocab)
        random = np.where(is_digit[..., None], (symbol < 10) / 10, (symbol < 2) / 2)
        copied = ((1 - noise) * onehot(copy, self.vocab) + noise * random) * (blind + DOUBT)
        follow = np.where(source[..., None] >= 0, copied / copied.sum(axis=2, keepdims=True), follow)
        logs = {"uniform": np.full(blind.shape, -np.log(self.vocab))}
        for name, p in (("columns", blind), ("neighbours", lookahead(1)), ("follow", follow), ("ideal", lookahead(d))):
            p = np.where(step, (1 - noise) * p + noise * random, p)
            logs[name] = np.log((1 - DOUBT) * p + DOUBT / self.vocab)
        return {name: np.where(batch.targets[..., None] >= 0, log, np.nan) for name, log in logs.items()}

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Pairs of numbers of the test split, something of them changed; asked is the next thing that follows from it.

        digit  a digit of the first number; the rest of the corrupt sequence is what follows
        carry  both digits of a column, so that not its digit but its carry turns; the rest is what follows. Not in the
               detailed scratchpad, which would copy both first
        step   a digit or carry on the scratchpad that is read from afar; the rest is pinned
        """
        kind, rows, d = (
            choose("kind of pairs of addition", kind or self.kinds[0], self.kinds),
            np.arange(n),
            self.digits,
        )
        figures = self._figures(summands.fresh(rng, 2 * n + 8, d, test=True))
        can = figures.sum(axis=1) != 9  # a column of 9 becomes neither 19 nor -1
        figures, can = (x[can.any(axis=1)][:n] for x in (figures, can))
        clean, turned = self._batch(figures), figures.copy()
        if kind == "step":
            return self._misread(rng, clean)
        at = np.where(can, rng.random(can.shape), -1).argmax(axis=1)
        if kind == "digit":
            turned[rows, 0, at] = (turned[rows, 0, at] + rng.integers(1, 10, n)) % 10
        else:
            total = figures[rows, :, at].sum(axis=1)
            total += np.where(total > 9, -10, 10)
            first = rng.integers(np.maximum(total - 9, 0), np.minimum(total, 9) + 1)
            turned[rows, :, at] = np.stack([first, total - first], axis=1)
        corrupt = self._batch(turned)
        position = (clean.targets != corrupt.targets).argmax(axis=1)
        return Pairs(clean, corrupt, position, clean.targets[rows, position], corrupt.targets[rows, position])

    def _misread(self, rng: np.random.Generator, clean: Batch) -> Pairs:
        """One symbol of each chain changed, and what it is read for: a copy, or the digit that a carry goes into."""
        pad, d, n, rows = self.pad, self.digits, len(clean), np.arange(len(clean))
        role, reader = np.nonzero(pad.origins >= len(pad.prompt))
        place = pad.origins[role, reader]
        slot, into = pad.whole[place], pad.whole[reader]
        fits = (place < reader - 1) & (slot >= 2 * d) & (slot < 4 * d) & ((role == 3) | (into % 2 == 0))
        pick = rng.choice(np.flatnonzero(fits), n)
        at, position, copied, carry = place[pick], reader[pick] - 1, role[pick] == 3, slot[pick] % 2 == 1
        corrupt = Batch(clean.tokens.copy(), clean.targets.copy(), None, clean.facts)
        was, answer = clean.tokens[rows, at], clean.targets[rows, position]
        now = np.where(carry, 1 - was, (was + rng.integers(1, 10, n)) % 10)
        write(corrupt, rows, at, now)
        foil = corrupt.targets[rows, position] = np.where(copied, now, (answer + now - was) % 10)
        return Pairs(clean, corrupt, position, answer, foil)

    def chance(self, split: str = "train") -> float:
        return 1 / 10

    def statistics(self, lots: list[Batch]) -> dict[str, float]:
        """Shares of sums by how often one carries, and of those of one digit."""
        carries, operands = (np.concatenate([lot.facts[name] for lot in lots]) for name in ("carries", "operands"))
        shares = {f"share with {c} carries": float(np.mean(carries == c)) for c in range(self.digits + 1)}
        return shares | {"share of one digit": float(np.mean(operands.max(axis=1) < 10))}

    def show(self) -> str:
        """One test sequence of the world's own stream, and what is added in each column."""
        batch = self.sample(stream(self.name, "show", self.world), 1, "test")
        told, cuts = text(batch)[0], batch.facts["cuts"][0]
        said = "".join("0123456789+=,_"[symbol] for symbol in told)
        lines = [f"read     {said[: cuts[0]]}"]
        lines += [f"step {i:<3} {said[a:b]}" for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))]
        lines += [f"answer   {said[cuts[-1] :]}", ""]
        into = 0
        for i, (a, b) in enumerate(self._figures(batch.facts["operands"])[0].T):
            digit, carry = batch.facts["digit"][0, i], batch.facts["carry"][0, i]
            lines.append(f"column {i}  {a} + {b} + {into} = {a + b + into:>2}: digit {digit}, carry {carry}")
            into = carry
        return "\n".join(lines)
