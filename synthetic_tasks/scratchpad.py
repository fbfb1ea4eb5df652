"""How a sum is written: what stands where, where it comes from, and what a text says (`addition` draws them)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic_tasks.chain import Chain
from synthetic_tasks.task import Array, Batch

PLUS, MARK, COMMA, FILLER = 10, 11, 12, 13
ROLES = ("first", "second", "incoming", "source")


@dataclass(frozen=True)
class Scratchpad:
    """All that is said of two numbers fills *slots*, int `[batch slot]`: everything written is a copy of one of them.

        digits of the first number | of the second | digit and carry of each column by turns | 0 + , =

    Columns count from the right. The 0 is what is carried into the first.

    prompt, chain, answer  the slots that are written, int `[symbol]` each; between chain and answer stands the mark
    """

    digits: int
    format: str

    @cached_property
    def prompt(self) -> Array:
        first = np.arange(self.digits)[::-1]
        return np.r_[first, 4 * self.digits + 1, first + self.digits]

    @cached_property
    def chain(self) -> Array:
        d, lines = self.digits, [np.empty(0, np.int64)]
        for i in range(d):
            digit = 2 * d + 2 * i
            if self.format == "detailed":
                left, so_far, below = np.arange(i, d)[::-1], np.arange(2 * d, digit, 2)[::-1], digit - 1 if i else 4 * d
                lines.append(np.r_[left, 4 * d + 1, left + d, 4 * d + 2, so_far, below, 4 * d + 2, digit, digit + 1])
            elif self.format == "simplified":
                lines.append(np.r_[digit, digit + 1])
        return np.concatenate(lines)

    @cached_property
    def answer(self) -> Array:
        whole = np.r_[np.arange(2 * self.digits, 4 * self.digits, 2), 4 * self.digits - 1]
        return whole if self.format == "reverse" else whole[::-1]

    @cached_property
    def steps(self) -> Array:
        """Where in the chain each digit and carry is written for the first time, int `[step]`."""
        slots, first = np.unique(self.chain, return_index=True)
        return first[(slots >= 2 * self.digits) & (slots < 4 * self.digits)]

    @cached_property
    def whole(self) -> Array:
        """A complete text, int `[symbol]`."""
        return np.r_[self.prompt, self.chain, 4 * self.digits + 3, self.answer]

    @cached_property
    def origins(self) -> Array:
        """The places of a complete text that each of its symbols comes from, int `[role symbol]`; -1: none."""
        d, seen = self.digits, {}
        found = np.full((len(ROLES), len(self.whole)), -1)
        for at, slot in enumerate(self.whole.tolist()):
            column, new = slot // 2 - d, at >= len(self.prompt) and slot < 4 * d
            if new and slot in seen:
                found[3, at] = seen[slot]
            elif new:
                below = 2 * d + 2 * column - 1 if column else 4 * d
                found[:3, at] = seen[column], seen[d + column], seen.get(below, -1)
            seen[slot] = at
        return found

    def slots(self, figures: Array) -> Array:
        """What the figures of both numbers, `[batch 2 column]`, fill; digits and carries are -1."""
        n, d = len(figures), self.digits
        return np.concatenate(
            [figures.reshape(n, -1), np.tile([*[-1] * (2 * d), 0, PLUS, COMMA, MARK], (n, 1))], axis=1
        )

    def inferred(self, slots: Array) -> Array:
        """Digits and carries that are not known (< 0) inferred from what is, `[batch slot]`."""
        d, slots = self.digits, slots.copy()
        carry = slots[:, 4 * d]
        for i in range(d):
            total = slots[:, i] + slots[:, d + i] + carry
            for slot, right in ((2 * d + 2 * i, total % 10), (2 * d + 2 * i + 1, total // 10)):
                slots[:, slot] = np.where(slots[:, slot] < 0, right, slots[:, slot])
            carry = slots[:, 2 * d + 2 * i + 1]
        return slots

    def number(self, answer: Array) -> Array:
        """The number that an answer, `[batch symbol]`, says."""
        powers = 10 ** np.arange(self.digits + 1)
        return answer @ (powers if self.format == "reverse" else powers[::-1])

    def read(self, told: Array) -> tuple[Array, Array]:
        """What texts imply and what they say, `[batch]` each; -1 where they are malformed, or have no answer yet.

        Of what is written more than once the last counts. What is said is read behind any scratchpad, if it is not
        longer than a complete one; to imply something, each symbol of it must be of its kind, or a filler.
        """
        begin, most, size = len(self.prompt), len(self.chain), len(self.answer)
        told = np.pad(told, ((0, 0), (0, begin + most + size + 2)), constant_values=-1)
        place, digit, length = np.arange(told.shape[1]), (told >= 0) & (told < 10), (told >= 0).sum(axis=1)
        slots = self.slots(np.zeros((len(told), 2, self.digits), np.int64))
        end = begin + np.argmax((told[:, begin:] == MARK) | (told[:, begin:] < 0), axis=1)
        fine = np.where(self.prompt < 4 * self.digits, digit[:, :begin], told[:, :begin] == PLUS).all(axis=1)
        fine &= (length <= end + 1 + size) & (end <= begin + most)
        fine &= (digit | (place <= end[:, None]) | (place >= length[:, None])).all(axis=1)
        fine &= ((told >= 0) == (place < length[:, None])).all(axis=1)
        slots[:, self.prompt] = told[:, :begin]
        answer = np.take_along_axis(told, end[:, None] + np.arange(1, size + 1), axis=1)
        says = np.where(fine & (length == end + 1 + size), self.number(answer), -1)
        for at, slot in enumerate(self.chain, begin):
            there = (at < end) & (told[:, at] != FILLER)
            fine &= ~there | (digit[:, at] if slot <= 4 * self.digits else told[:, at] == slots[:, slot])
            slots[:, slot] = np.where(there, told[:, at], slots[:, slot])
        return np.where(fine, self.number(self.inferred(slots)[:, self.answer]), -1), says


class Columns(Chain):
    """Steps are digits and carries by turns; where a carry is corrupted it is the other carry."""

    def corrupt(self, batch: Batch, step: int | Array, rng: np.random.Generator) -> Batch:
        wrong = super().corrupt(batch, step, rng)
        step = np.broadcast_to(step, len(batch))
        at = np.take_along_axis(batch.facts["places"], step[:, None], axis=1)[:, 0]
        rows = np.flatnonzero((at >= 0) & (step % 2 == 1))
        write(wrong, rows, at[rows], 1 - batch.tokens[rows, at[rows]])
        return wrong


def write(batch: Batch, rows: Array, at: Array, symbols: Array) -> None:
    """Put symbols into a batch, also where they are asked; `[row]` each."""
    batch.tokens[rows, at] = symbols
    batch.targets[rows, at - 1] = np.where(batch.targets[rows, at - 1] >= 0, symbols, -1)


def column(total: Array, into: Array, vocab: int) -> tuple[Array, Array]:
    """How likely each digit and each carry of a column is, `[... vocab]`, by its sum and how likely something comes in.

    total  the sum of its two digits, `[...]`
    into   the probability of a carry into it, `[...]`
    """
    symbol, total, into = np.arange(vocab), total[..., None], into[..., None]
    digit = (1 - into) * (symbol == total % 10) + into * (symbol == (total + 1) % 10)
    out = (total > 9) + (total == 9) * into
    return digit, (1 - out) * (symbol == 0) + out * (symbol == 1)
