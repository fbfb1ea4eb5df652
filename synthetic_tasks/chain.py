"""Chains of thought: how they are written, cut short, corrupted, filled and swapped, and what answer they imply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from synthetic_tasks.task import Array, Batch, require, stream


@dataclass(frozen=True, eq=False)
class Chain:
    """What a task that writes steps offers as `task.chain`.

        text      1 0 1 1 0   0   1   0   = 1      prompt, three steps, the mark, the answer
        cuts                ^5  ^6  ^7  ^8         after the prompt and after each step; the mark stands at the last
        places                5   6   7            where the value of each step stands

    A *text* is what a model has read and written so far, int `[batch symbol]` with -1 on the right: a batch's is its
    tokens and, at the end, the last target. Prompts, cuts and answers below are texts: feed those of equal length
    together, let the model go on until they `parse` or its context is full, and compare with what is `implied`.

    symbols  int `[value]`, ascending: the tokens that the value of a step (and the first symbol of an answer) may be
    filler   the token of a step that says nothing
    implied  text -> int `[batch]`: the answer, if the steps written were right and the others were inferred from them.
             So the last steps count where they are pinned, an error is carried on where the chain is cut behind it, and
             an answer that stands there does not count. -1 where the text is malformed
    parse    text -> int `[batch]`: the answer as it is written, however many steps stand before it; -1 where the text
             is malformed or unfinished. No proper beginning of a text that parses does, so generation knows to stop

    A task with a chain has these facts, whatever else it has:

    cuts     `[batch cut]` as drawn above, -1 beyond a row's last step. A row without steps has one cut
    places   `[batch step]` as drawn above, -1 where a step is not written
    values   `[batch step]` the right symbol of each step, written or not (so there may be more of them than places)
    answer   `[batch]` the right answer, as `parse` gives it

    The mark is one token, not always the same, after which the answer follows at once. The prompt is not asked. Every
    step, the mark after the last one and the answer are; but a mark that comes before the chain is complete (there is
    none, or it breaks off) is not, so that no model learns to stop by chance: like a prompt, it is given.
    """

    symbols: Array
    filler: int
    implied: Callable[[Array], Array]
    parse: Callable[[Array], Array]

    def prompt(self, batch: Batch) -> Array:
        """What is read before anything has to be written: where there are no steps, also the mark."""
        cuts = batch.facts["cuts"]
        return _begun(text(batch), cuts[:, 0] + ((cuts >= 0).sum(axis=1) == 1))

    def cut(self, batch: Batch, steps: int | Array | None = None) -> Array:
        """Prompt and the first `steps` steps, a number or `[batch]`; all steps of a row that has fewer (or if None)."""
        cuts = batch.facts["cuts"]
        has = (cuts >= 0).sum(axis=1) - 1
        kept = has if steps is None else np.minimum(steps, has)
        require(bool((kept >= 0).all()), "steps", steps, "0 or more")
        return _begun(text(batch), np.take_along_axis(cuts, kept[:, None], axis=1)[:, 0])

    def ask(self, batch: Batch, steps: int | Array | None = None) -> Array:
        """The same, then the mark: the model has to answer now (early answering, Lanham et al. 2023)."""
        return packed(self.cut(batch, steps), self.mark(batch))

    def fill(self, batch: Batch, fillers: int | Array | None = None) -> Array:
        """Prompt, so many fillers (None: as long as the chain was), the mark."""
        cuts = batch.facts["cuts"]
        size = np.broadcast_to(cuts.max(axis=1) - cuts[:, 0] if fillers is None else fillers, len(batch))
        require(bool((size >= 0).all()), "fillers", fillers, "0 or more")
        said = np.where(np.arange(size.max(initial=0)) < size[:, None], self.filler, -1)
        return packed(self.cut(batch, 0), said, self.mark(batch))

    def swap(self, batch: Batch, donors: Array) -> Array:
        """Each prompt with the whole chain of another row, int `[batch]`, then the mark of its own."""
        chain = self.cut(batch)
        chain = np.where(np.arange(chain.shape[1]) < batch.facts["cuts"][:, :1], -1, chain)
        return packed(self.cut(batch, 0), chain[donors], self.mark(batch))

    def mark(self, batch: Batch) -> Array:
        """The token that asks for the answer, `[batch 1]`."""
        return np.take_along_axis(text(batch), batch.facts["cuts"].max(axis=1, keepdims=True), axis=1)

    def corrupt(self, batch: Batch, step: int | Array, rng: np.random.Generator) -> Batch:
        """Another of `symbols` as the value of one step, 0 the first, a number or `[batch]`; all the rest is pinned.

        Facts and the answer asked for stay those of the truth; what the wrong step leads to is `implied`. For the rest
        to be regenerated, cut the result behind it: `cut(batch, step + 1)`. Rows without such a step stay as they are.
        """
        places = batch.facts["places"]
        steps = np.broadcast_to(step, len(batch))[:, None]
        known = ((steps >= 0) & (steps < places.shape[1])).all()
        require(bool(known), "step", step, f"0 to {places.shape[1] - 1}, as the chain has {places.shape[1]} steps")
        at, further = np.take_along_axis(places, steps, axis=1)[:, 0], rng.integers(1, len(self.symbols), len(batch))
        rows = np.flatnonzero(at >= 0)
        at, tokens, targets = at[rows], batch.tokens.copy(), batch.targets.copy()
        now = np.searchsorted(self.symbols, tokens[rows, at])
        tokens[rows, at] = wrong = self.symbols[(now + further[rows]) % len(self.symbols)]
        targets[rows, at - 1] = np.where(targets[rows, at - 1] >= 0, wrong, -1)
        return Batch(tokens, targets, batch.vectors, batch.facts)


def compose(
    prompt: Array,
    chain: Array,
    ends: Array,
    values: Array,
    mark: Array | int,
    answer: Array,
    width: int,
    steps: Array | None = None,
    asked: Array | None = None,
) -> Batch:
    """Sequences as the contract above wants them, with the facts `cuts` and `places`; the other facts are the task's.

    prompt, chain, answer  texts; each chain with all its steps
    ends, values           `[batch step]` symbols of the chain to the end of each step, and before its value; -1: none
    mark                   `[batch 1]`, or one for all
    width                  positions of the batch
    steps                  int `[batch]`: how many steps are written before the chain breaks off (None: all)
    asked                  bool `[batch]`: False where the steps are fillers, which are not asked (None: True)
    """
    has, n = (ends >= 0).sum(axis=1), len(prompt)
    kept = has if steps is None else np.minimum(steps, has)
    plain = np.ones((n, 1), bool) if asked is None else asked[:, None]
    cuts = (prompt >= 0).sum(axis=1, keepdims=True) + np.pad(ends, ((0, 0), (1, 0)))
    cuts = np.where(np.arange(cuts.shape[1]) <= kept[:, None], cuts, -1)
    begin, end = cuts[:, :1], cuts.max(axis=1, keepdims=True)
    said = np.where(np.arange(chain.shape[1]) < end - begin, chain, -1)
    told = packed(prompt, said, np.broadcast_to(mark, (n, 1)), answer)[:, : width + 1]
    place = np.arange(told.shape[1])
    complete = plain & (kept == has)[:, None] & (end > begin)
    scored = (plain & (place >= begin) & (place < end)) | (complete & (place == end)) | (place > end)
    places = np.where(plain & (np.arange(ends.shape[1]) < kept[:, None]), begin + values, -1)
    return Batch(told[:, :-1], np.where(scored, told, -1)[:, 1:], facts={"cuts": cuts, "places": places})


def read(told: Array, prompt: int, most: int, mark: int, chain: Chain) -> tuple[Array, Array, Array]:
    """Texts with steps and answers of one symbol each, behind prompts of the same length.

    Returns the steps, int `[batch most]` (-1: not written, or a filler), the answer `[batch]` (-1: none yet), and
    whether the text is well-formed as far as it goes, bool `[batch]`; what the prompt says is not looked at.
    """
    told = np.pad(told, ((0, 0), (0, prompt + most + 3)), constant_values=-1)[:, prompt:]
    place, value = np.arange(told.shape[1]), np.isin(told, chain.symbols)
    end = np.argmax((told == mark) | (told < 0), axis=1)[:, None]
    marked, answer = np.take_along_axis(told, end, axis=1) == mark, np.take_along_axis(told, end + 1, axis=1)
    fine = np.where(place < end, value | (told == chain.filler), told < 0)
    fine |= (place == end) | ((place == end + 1) & marked & value)
    steps = np.where(value & (place < end), told, -1)[:, :most]
    return steps, answer[:, 0], fine.all(axis=1) & (end[:, 0] <= most)


def text(batch: Batch) -> Array:
    """Tokens and the last target of a batch, int `[batch pos+1]`, -1 on the right."""
    told = np.pad(batch.tokens, ((0, 0), (0, 1)), constant_values=-1)
    told[:, 1:] = np.where(batch.targets >= 0, batch.targets, told[:, 1:])
    return told


def packed(*parts: Array) -> Array:
    """Texts one after another in each row, without the gaps (-1) between them, int `[batch symbol]`."""
    whole = np.concatenate(parts, axis=1)
    return np.take_along_axis(whole, np.argsort(whole < 0, axis=1, kind="stable"), axis=1)


def hashed(tokens: Array) -> Array:
    """A number in [0, 1) for each row of int `[batch pos]`, float64 `[batch]`, by its content alone (-1 is nothing).

    `hashed(prompts) < 1 / 8` keeps the same eighth of them out of training in every world, split and process.
    """
    odd = 2 * stream("content").integers(2**63, size=tokens.shape[1], dtype=np.uint64) + 1
    x = (tokens + 1).astype(np.uint64) @ odd
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9  # the finaliser of SplitMix64 (Steele et al. 2014)
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return ((x ^ (x >> 31)) >> 11) / 2.0**53


def _begun(told: Array, symbols: Array) -> Array:
    """The first so many symbols, `[batch]`, of each row."""
    return np.where(np.arange(told.shape[1]) < symbols[:, None], told, -1)
