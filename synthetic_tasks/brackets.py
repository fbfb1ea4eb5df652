"""Arithmetic in brackets, modulo a number: grown from one number, and reduced to one again (Feng et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from synthetic_tasks.chain import packed
from synthetic_tasks.task import Array


class Reduced(NamedTuple):
    """Expressions with one bracket less, int `[batch symbol]`, where it was opened, and what stood in it, `[batch]`.

    Where there is nothing to reduce the expression is as it was, and `at` is -1.
    """

    told: Array
    at: Array
    left: Array
    operator: Array
    right: Array
    value: Array


@dataclass(frozen=True)
class Arithmetic:
    """Numbers are tokens below the modulus p; then come + - * and the brackets.

    Expressions are texts, int `[batch symbol]` with -1 on the right, in which everything but a number alone is in
    brackets: `((1+2)*3)`. What is written leaves out the outermost ones (`bare`). A line begins with =, the value asked
    for with the mark.

    most  how many operators expressions have at most
    """

    modulus: int
    most: int

    @property
    def opening(self) -> int:
        return self.modulus + 3

    @property
    def closing(self) -> int:
        return self.modulus + 4

    @property
    def equals(self) -> int:
        return self.modulus + 5

    @property
    def mark(self) -> int:
        return self.modulus + 6

    @property
    def filler(self) -> int:
        return self.modulus + 7

    @cached_property
    def results(self) -> Array:
        """Of each operator (+ - *) on each pair of numbers, int `[operator left right]`."""
        x = np.arange(self.modulus)
        return np.stack([x[:, None] + x, x[:, None] - x, x[:, None] * x]) % self.modulus

    @cached_property
    def ways(self) -> tuple[Array, Array]:
        """Pairs (as left * p + right) by result, `[operator pair]`, and how many have each, `[operator value]`."""
        flat = self.results.reshape(3, -1)
        counts = np.stack([np.bincount(row, minlength=self.modulus) for row in flat])
        return np.argsort(flat, axis=1, kind="stable"), counts

    def number(self, told: Array) -> Array:
        """Where a number stands."""
        return (told >= 0) & (told < self.modulus)

    def size(self, told: Array) -> Array:
        """How many operators there are, `[batch]`."""
        return ((told >= self.modulus) & (told < self.opening)).sum(axis=1)

    def depth(self, told: Array) -> Array:
        """How many brackets are open at once, at most, `[batch]`."""
        return ((told == self.opening) * 1 - (told == self.closing)).cumsum(axis=1).max(axis=1)

    def grow(self, rng: np.random.Generator, sizes: Array) -> Array:
        """Expressions with so many operators, `[batch]`: time and again a number becomes two that make it."""
        n, most = len(sizes), self.most
        told, (pairs, counts), row = np.full((n, 4 * most + 1), -1), self.ways, np.arange(n)
        place = np.arange(told.shape[1])
        told[:, 0] = rng.integers(self.modulus, size=n)
        for size in range(most):
            at = np.where(self.number(told), rng.random(told.shape, np.float32), -1).argmax(axis=1)
            value, operator = told[row, at], rng.integers(3, size=n)
            first = counts[operator].cumsum(axis=1)[row, value] - counts[operator, value]
            left, right = np.divmod(pairs[operator, first + rng.integers(counts[operator, value])], self.modulus)
            inner = np.stack(
                [np.full(n, self.opening), left, self.modulus + operator, right, np.full(n, self.closing)], 1
            )
            at = at[:, None]
            inside = np.take_along_axis(inner, np.clip(place - at, 0, 4), axis=1)
            behind = np.take_along_axis(told, np.maximum(place - 4, 0)[None], axis=1)
            grown = np.where(place < at, told, np.where(place > at + 4, behind, inside))
            told = np.where((size < sizes)[:, None], grown, told)
        return told

    def reduce(self, told: Array) -> Reduced:
        """Work out the leftmost bracket that holds two numbers."""
        wide, place = np.pad(told, ((0, 0), (0, 4)), constant_values=-1), np.arange(told.shape[1])
        opened, left, operator, right, closed = (wide[:, i : i + told.shape[1]] for i in range(5))
        fits = (opened == self.opening) & (closed == self.closing) & self.number(left) & self.number(right)
        fits &= (operator >= self.modulus) & (operator < self.opening)
        here = fits.argmax(axis=1)[:, None]
        found = fits.any(axis=1)
        left, operator, right = (np.take_along_axis(x, here, axis=1)[:, 0] for x in (left, operator, right))
        left, operator, right = (
            np.where(found, x, low) for x, low in ((left, 0), (operator, self.modulus), (right, 0))
        )
        value = self.results[operator - self.modulus, left, right]
        shorter = np.where(place < here, told, np.where(place > here, closed, value[:, None]))
        at = np.where(found, here[:, 0], -1)
        return Reduced(np.where(found[:, None], shorter, told), at, left, operator, right, value)

    def value(self, told: Array) -> Array:
        """What bare expressions are worth, `[batch]`; -1 for all that is none."""
        told = self.clad(told)
        for _ in range(self.most):
            told = self.reduce(told).told
        alone = self.number(told[:, 0]) & (told[:, 1:] < 0).all(axis=1)
        return np.where(alone, told[:, 0], -1)

    def bare(self, told: Array) -> Array:
        """Without the outermost brackets."""
        length = (told >= 0).sum(axis=1, keepdims=True)
        inner = np.where(np.arange(told.shape[1]) < length - 2, np.roll(told, -1, axis=1), -1)
        return np.where(length > 1, inner, told)

    def clad(self, told: Array) -> Array:
        """With them."""
        length, place = (told >= 0).sum(axis=1, keepdims=True), np.arange(told.shape[1] + 2)
        outer = np.pad(told, ((0, 0), (1, 1)), constant_values=-1)
        outer[:, 0] = self.opening
        outer = np.where(place == length + 1, self.closing, outer)
        return np.where(length > 1, outer, np.pad(told, ((0, 0), (0, 2)), constant_values=-1))

    def read(self, told: Array) -> tuple[Array, Array, Array]:
        """The answer that stands in texts (-1: none), the value of the expression, both `[batch]`, and the lines.

        Texts with gaps, without an expression, or with anything but a number behind the mark have -1 for both.
        """
        told = np.pad(told, ((0, 0), (0, 2)), constant_values=-1)
        place, length, marked = np.arange(told.shape[1]), (told >= 0).sum(axis=1), told == self.mark
        end = np.where(marked.any(axis=1), marked.argmax(axis=1), length)
        lines = np.where((place < end[:, None]) & (told != self.filler), told, -1)
        value, answer = (
            self._line(lines, 0),
            np.take_along_axis(told, end[:, None] + (end < length)[:, None], axis=1)[:, 0],
        )
        fine = ((told >= 0) == (place < length[:, None])).all(axis=1) & (value >= 0)
        fine &= (length <= end + 1) | ((length == end + 2) & self.number(answer))
        return np.where(fine & (length == end + 2), answer, -1), np.where(fine, value, -1), lines

    def implied(self, told: Array) -> Array:
        """The value of the last line of a text that has one, or of the expression, `[batch]`; -1 as above."""
        _, implied, lines = self.read(told)
        for line in range(1, self.most + 1):
            value = self._line(lines, line)
            implied = np.where((value >= 0) & (implied >= 0), value, implied)
        return implied

    def _line(self, lines: Array, line: int) -> Array:
        """The value of one line, `[batch]`; -1 if it has none, or none yet."""
        begins = lines == self.equals
        this = np.where((begins.cumsum(axis=1) == line) & ~begins, lines, -1)
        return self.value(packed(this)[:, : 4 * self.most])
