"""Repeated segments: what followed a token once follows it again, as an induction head expects (Olsson et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic_tasks.skew import draw, zipf
from synthetic_tasks.strategies import followers, latest, occurrences, onehot, smooth
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, join, require, stream

LANGUAGES = ("uniform", "bigram")
DOUBT = 1e-6  # what the copier leaves to all other tokens, so that no log-probability is infinite


@dataclass(frozen=True)
class Repeats(Task):
    """A sequence in which a segment occurs again; after every token the next one is asked.

        tokens   5 9 2 7 4 4 8 9 2 7 1          segment 9 2 7, repeat = 3, gap = 3
        copy     . . . . . . . 2 7 . .          the target, where induction can know it
        match    . . . . . . . 1 2 . .          where the present token stood before
        source   . . . . . . . 2 3 . .          the place after that: what to copy
        first    . 1 1 . . . . . . . .          the same targets, at their first occurrence

    The first token of a copy cannot be predicted, so a segment of r tokens has r - 1 copied targets. Where `repeat` and
    `gap` are None they differ from sequence to sequence, and the segment starts anywhere: no position gives it away.

    tokens    size of the vocabulary; token id = rank of frequency
    length    positions; length + 1 tokens are drawn
    language  what stands outside the copies. uniform: independent tokens. bigram: a fresh language per sequence, in
              which every token has `branch` successors, each drawn from the tokens' distribution, equally likely
    branch    successors of a token, drawn with replacement: one that comes twice is twice as likely (as what comes
              often leads back to itself, tokens of a bigram language are a little more skewed than asked: 1.02 for 1)
    repeat    tokens in the segment; None: drawn uniformly from one to three quarters of the longest that fits
    gap       tokens between two occurrences; None: drawn uniformly over what fits
    copies    occurrences of the segment
    share     probability that a sequence has a repeated segment at all
    zipf      exponent of the tokens' distribution
    """

    tokens: int = 64
    length: int = 64
    language: str = "uniform"
    branch: int = 4
    repeat: int | None = None
    gap: int | None = None
    copies: int = 2
    share: float = 1.0
    zipf: float = 0.0

    name = "repeats"
    splits = ("train", "test", "repeated", "plain")
    kinds = ("copy", "match")
    roles = ("source", "match")
    ranked = True
    facts = {
        "copy": "[batch pos] the target where it was copied and induction can know it; else -1",
        "source": "[batch pos] at these positions, where the token to copy stands first; else -1",
        "match": "[batch pos] at these positions, where the present token stands in the first occurrence; else -1",
        "first": "[batch pos] 1 where the same targets come in the first occurrence; else 0",
        "segment": "[batch copies] where each occurrence starts; -1 in a sequence without a repeat",
        "size": "[batch] tokens in the segment; 0 in a sequence without a repeat",
        "language": "[batch tokens branch] the successors of each token; empty where the language is uniform",
    }
    presets = {
        "induction": {},
        "language": {"language": "bigram"},
        "olsson2022": {"length": 99, "repeat": 25, "gap": 0, "copies": 4},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tokens >= 3, "tokens", self.tokens, "at least 3")
        require(self.length >= 4, "length", self.length, "at least 4")
        choose("language of repeats", self.language, LANGUAGES)
        require(self.branch >= 1, "branch", self.branch, "at least 1")
        require(self.copies >= 2, "copies", self.copies, "at least 2 occurrences")
        require(0 <= self.share <= 1, "share", self.share, "a probability")
        require(self.repeat is None or self.repeat >= 2, "repeat", self.repeat, "at least 2 tokens, or None")
        require(self.gap is None or self.gap >= 0, "gap", self.gap, "0 or more tokens, or None")
        needed = self.copies * (self.repeat or 2) + (self.copies - 1) * (self.gap or 0)
        fits = needed <= self.length + 1
        room = f"{self.copies} occurrences take {needed} tokens, a sequence of this length has {self.length + 1}"
        require(fits, "length", self.length, f"{room}; turn repeat, gap, copies or length")
        zipf(self.tokens, self.zipf)

    @property
    def vocab(self) -> int:
        return self.tokens

    @property
    def context(self) -> int:
        return self.length

    @cached_property
    def marginal(self) -> Array:
        """p(token), float64 `[tokens]`."""
        return zipf(self.tokens, self.zipf)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train and test as the dials say; repeated has a repeat in every sequence, plain in none."""
        self.check_split(split)
        share = {"repeated": 1.0, "plain": 0.0}.get(split, self.share)
        starts, size = self._segments(rng, n, share)
        place = np.arange(self.length + 1)
        origin = np.tile(place, (n, 1))
        for start in starts.T[1:]:
            offset = place - start[:, None]
            copied = (offset >= 0) & (offset < size[:, None])
            origin = np.where(copied, starts[:, :1] + offset, origin)
        if self.language == "uniform":
            tokens = np.take_along_axis(draw(rng, self.marginal, origin.shape), origin, axis=1)
            language = np.full((n, 0, 0), -1)
        else:
            language = draw(rng, self.marginal, (n, self.tokens, self.branch))
            tokens = self._speak(rng, language, origin)
        return self._batch(tokens, starts, size, language)

    def _segments(self, rng: np.random.Generator, n: int, share: float) -> tuple[Array, Array]:
        """Where occurrences start, `[batch copies]`, and their size, `[batch]`; -1 and 0 where nothing is repeated."""
        total, gaps = self.length + 1, self.copies - 1
        longest = (total - gaps * (self.gap or 0)) // self.copies
        # Not up to the longest: these leave no choice of gap, and looking back a fixed way would often be right.
        quarters = max(2, longest // 4), max(2, longest * 3 // 4)
        least, most = quarters if self.repeat is None else (self.repeat, self.repeat)
        size = rng.integers(least, most, endpoint=True, size=n)
        widest = (total - self.copies * size) // gaps
        gap = rng.integers(widest, endpoint=True) if self.gap is None else np.full(n, self.gap)
        begin = rng.integers(total - self.copies * size - gaps * gap, endpoint=True)
        starts = begin[:, None] + np.arange(self.copies) * (size + gap)[:, None]
        repeated = rng.random(n) < share
        return np.where(repeated[:, None], starts, -1), np.where(repeated, size, 0)

    def _speak(self, rng: np.random.Generator, language: Array, origin: Array) -> Array:
        """Follow the language; copy where `origin` `[batch length+1]` points back."""
        n, total = origin.shape
        said, now = np.empty((total, n), np.int64), draw(rng, self.marginal, n)
        successor, slot = language.reshape(-1), rng.integers(self.branch, size=(total, n))
        slot += np.arange(n) * self.tokens * self.branch
        back, rows = np.ascontiguousarray(origin.T), np.arange(n)
        copied = back != np.arange(total)[:, None]
        some = copied.any(axis=1)
        said[0] = now
        for t in range(1, total):
            now = successor[now * self.branch + slot[t]]
            if some[t]:
                now = np.where(copied[t], said[back[t], rows], now)
            said[t] = now
        return np.ascontiguousarray(said.T)

    def _batch(self, symbols: Array, starts: Array, size: Array, language: Array) -> Batch:
        """Inputs, targets and facts of symbols `[batch length+1]`, whose repeated segments are known."""
        target = np.arange(1, self.length + 1)
        offset = target - starts[:, :1]
        first = (offset >= 1) & (offset < size[:, None])
        source = np.full((len(symbols), self.length), -1)
        for start in starts.T[1:]:
            offset = target - start[:, None]
            known = (offset >= 1) & (offset < size[:, None])
            source = np.where(known, starts[:, :1] + offset, source)
        facts = {
            "copy": np.where(source >= 0, symbols[:, 1:], -1),
            "source": source,
            "match": np.where(source >= 0, source - 1, -1),
            "first": first.astype(np.int64),
            "segment": starts,
            "size": size,
            "language": language,
        }
        return Batch(symbols[:, :-1], symbols[:, 1:], facts=facts)

    @cached_property
    def fixed(self) -> dict[str, float]:
        """How far each strategy trusts the context, fitted on 1024 sequences of the world's own stream.

        context, bigram: the strength of the marginal beside the counts, in counts, that gives the least loss.
        induction: how often the token after the latest earlier occurrence is indeed the next one.
        """
        batch = self.sample(stream(self.name, "fixed", self.world), 1024)
        prior, asked = self.marginal[batch.targets], batch.targets[..., None]
        strengths = 2.0 ** np.arange(-4, 13)
        fitted = {}
        for name, counts in self._counts(batch).items():
            hits, total = np.take_along_axis(counts, asked, axis=2)[..., 0], counts.sum(axis=2)
            loss = [-np.mean(np.log((hits + s * prior) / (total + s))) for s in strengths]
            fitted[name] = float(strengths[np.argmin(loss)])
        follower = self._follower(batch.tokens)
        fitted["induction"] = float(np.mean((follower == batch.targets)[follower >= 0]))
        return fitted

    def _counts(self, batch: Batch) -> dict[str, Array]:
        return {
            "context": occurrences(batch.tokens, self.tokens),
            "bigram": followers(batch.tokens, batch.targets, self.tokens),
        }

    def _follower(self, tokens: Array) -> Array:
        """The token after the latest earlier occurrence of the present one, `[batch pos]`; -1 where it is new."""
        before = latest(tokens)
        return np.where(before >= 0, np.take_along_axis(tokens, before + 1, axis=1), -1)

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may know: nothing, the tokens' distribution, the sequence so far, or which targets are copies.

        uniform    every token
        unigram    the true distribution of tokens
        context    counts of tokens in the sequence, smoothed with the unigram
        bigram     counts of what followed the present token in the sequence, smoothed with the unigram
        induction  the token after the latest earlier occurrence of the present one, trusted as far as it holds on
                   average; unigram where the token is new
        copier     the floor: it is told which targets are copies, and the language; for the first token of a copy,
                   which comes unannounced, it says unigram
        """
        shape, unigram = (*batch.tokens.shape, self.tokens), self.marginal
        logs = {"uniform": np.full(shape, -np.log(self.tokens)), "unigram": np.broadcast_to(_log(unigram), shape)}
        for name, counts in self._counts(batch).items():
            logs[name] = _log(np.exp(smooth(counts, np.maximum(unigram, 1e-300), self.fixed[name])))
        follower = onehot(self._follower(batch.tokens), self.tokens).astype(np.float64)
        trust = self.fixed["induction"] * follower.sum(axis=2, keepdims=True)
        logs["induction"] = _log(trust * follower + (1 - trust) * unigram)
        copied = onehot(batch.facts["copy"], self.tokens).astype(np.float64)
        logs["copier"] = _log(np.where(batch.facts["copy"][..., None] >= 0, copied, self._spoken(batch)))
        return logs

    def _spoken(self, batch: Batch) -> Array:
        """p(next token) outside the copies, `[batch pos tokens]`."""
        if self.language == "uniform":
            return self.marginal
        rows = np.arange(len(batch))[:, None]
        nexts = batch.facts["language"][rows, batch.tokens]
        spoken = sum(onehot(nexts[..., i], self.tokens) for i in range(self.branch)) / self.branch
        starts = batch.facts["segment"][:, 1:, None] == np.arange(1, self.length + 1)
        return np.where(starts.any(axis=1)[..., None], self.marginal, spoken)

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Sequences that call for another token at the position asked about, where the present token stood once before.

            clean    7 A . . 3 B . . 7 -> A
            copy     7 B . . 3 B . . 7 -> B    what is to be copied: another token at one place of the segment
            match    3 A . . 7 B . . 7 -> B    where it stands: the present token and another one change places

        Both are proper sequences of the task (match: up to the target, and where the language is uniform).
        """
        corrupted = {"copy": self._copying, "match": self._matching}[
            choose("kind of pairs of repeats", kind or self.kinds[0], self.kinds)
        ]
        found: list[Pairs] = []
        while len(found) < 100 or any(len(pairs.answer) for pairs in found):
            clean = self.sample(rng, 256, "repeated")
            match = clean.facts["match"]
            before = latest(clean.tokens)
            once = np.take_along_axis(before, np.maximum(match, 0), axis=1) < 0
            good = (match >= 0) & (before == match) & once
            at = np.where(good, rng.random(good.shape), -1).argmax(axis=1)
            rows = np.flatnonzero(good[np.arange(len(clean)), at])
            found.append(corrupted(rng, clean[rows], at[rows]))
            if sum(len(pairs.answer) for pairs in found) >= n:
                return join(found, n)
        raise ValueError(f"no pairs of repeats at tokens = {self.tokens}, zipf = {self.zipf}: every token came before")

    def _copying(self, rng: np.random.Generator, clean: Batch, at: Array) -> Pairs:
        """Another token at the source, and at its place in all occurrences of the segment."""
        rows = np.arange(len(clean))
        now, answer, segment = clean.tokens[rows, at], clean.targets[rows, at], clean.facts["segment"]
        race = _log(self.marginal) + rng.gumbel(size=(len(clean), self.tokens))
        ids = np.arange(self.tokens)
        foil = np.where((ids == now[:, None]) | (ids == answer[:, None]), -np.inf, race).argmax(axis=1)
        inside = clean.facts["source"][rows, at] - segment[:, 0]
        symbols = np.concatenate([clean.tokens, clean.targets[:, -1:]], axis=1)
        np.put_along_axis(symbols, segment + inside[:, None], foil[:, None], axis=1)
        corrupt = self._batch(symbols, segment, clean.facts["size"], clean.facts["language"])
        return Pairs(clean, corrupt, at, answer, foil)

    def _matching(self, rng: np.random.Generator, clean: Batch, at: Array) -> Pairs:
        """The present token where another one stood, which something else follows; that one where the present stood."""
        rows, place = np.arange(len(clean)), np.arange(self.length)
        match, follows = clean.facts["match"][rows, at], clean.targets
        apart = (place < at[:, None] - 1) & (abs(place - match[:, None]) > 1)
        free = apart & (follows != clean.targets[rows, at, None])
        other = np.where(free, rng.random(free.shape), -1).argmax(axis=1)
        rows = np.flatnonzero(free[rows, other])
        clean, at, match, other = clean[rows], at[rows], match[rows], other[rows]
        rows = np.arange(len(rows))
        answer, foil = clean.targets[rows, at], clean.targets[rows, other]
        symbols = np.concatenate([clean.tokens, clean.targets[:, -1:]], axis=1)
        symbols[rows, match], symbols[rows, other] = symbols[rows, other], symbols[rows, match]
        symbols[rows, at + 1] = foil
        segment = np.full_like(clean.facts["segment"], -1)
        segment[:, 0], segment[:, 1] = other, at  # all that is repeated here is two tokens
        corrupt = self._batch(symbols, segment, np.full(len(rows), 2), clean.facts["language"])
        return Pairs(clean, corrupt, at, answer, foil)

    def show(self) -> str:
        """One sequence of the world's own stream, with the facts below it, at most 128 positions of it."""
        batch = self.sample(stream(self.name, "show", self.world), 1, "repeated")
        rows = {"position": np.arange(self.length), "tokens": batch.tokens[0], "targets": batch.targets[0]}
        rows |= {name: batch.facts[name][0] for name in ("copy", "match", "source")}
        rows["first"] = np.where(batch.facts["first"][0], batch.targets[0], -1)
        width = len(str(max(self.tokens, self.length) - 1))
        starts = ", ".join(map(str, batch.facts["segment"][0]))
        lines = [f"segment of {batch.facts['size'][0]} tokens, starts at {starts}"]
        for begin in range(0, min(self.length, 128), 32):
            for name, row in rows.items():
                cells = (f"{'.' if x < 0 else x:>{width}}" for x in row[begin : begin + 32])
                lines.append(f"{name:<9}" + " ".join(cells))
            lines.append("")
        return "\n".join(lines).rstrip()


def _log(p: Array) -> Array:
    """log p, with a trace of doubt, so that it is finite everywhere."""
    return np.log((1 - DOUBT) * p + DOUBT / p.shape[-1])
