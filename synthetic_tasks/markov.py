"""In-context Markov chains: each sequence has its own transition matrix, to be inferred (Edelman et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthetic_tasks.strategies import followers, occurrences, smooth
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, join, require, stream

VARIANTS = ("dirichlet", "doubly_stochastic", "iid")
GRAMS = ("uniform", "unigram", "bigram", "trigram")


@dataclass(frozen=True)
class Markov(Task):
    """A fresh chain per sequence; after every symbol the next one is asked.

        chain    p(0|0) = .9   p(0|1) = .2
        tokens   0 0 0 1 1 0 0
        targets  0 0 1 1 0 0 0
        truth    distribution of the target given the last `order` symbols

    states         number of symbols k
    order          how many past symbols the next one depends on; the chain has k^order rows (contexts)
    concentration  rows ~ Dirichlet(concentration, ...): small is nearly deterministic, large nearly uniform
    length         positions; length + 1 symbols are drawn, the first ones from the stationary distribution
    variant        dirichlet; doubly_stochastic (weights ~ Dirichlet over the k cyclic shifts of a random permutation:
                   all symbols equally frequent, so unigrams are useless); iid (all rows equal: bigrams are useless)
    """

    states: int = 2
    order: int = 1
    concentration: float = 1.0
    length: int = 100
    variant: str = "dirichlet"

    name = "markov"
    splits = ("train", "test", *VARIANTS)
    kinds = ("bigram", "unigram")
    facts = {
        "chain": "[batch contexts states] p(next symbol | context); contexts count in base k, oldest symbol first",
        "stationary": "[batch states] the chain's long-run share of each symbol",
        "context": "[batch pos] the context after reading this position; -1 before `order` symbols were read",
        "truth": "[batch pos states] the true distribution of the target, given the chain and all symbols read",
    }
    presets = {
        "edelman2024": {},
        "edelman2024_doubly_stochastic": {"variant": "doubly_stochastic"},
        "edelman2024_iid": {"variant": "iid"},
        "edelman2024_trigram": {"order": 2},
        "edelman2024_k8": {"states": 8, "length": 200},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.states >= 2, "states", self.states, "at least 2")
        require(1 <= self.order <= self.length, "order", self.order, f"1 to the length, {self.length}")
        contexts = self.states**self.order
        require(
            contexts <= 1024, "order", self.order, f"{self.states} states would have {contexts} contexts, over 1024"
        )
        require(1e-3 <= self.concentration < np.inf, "concentration", self.concentration, "a finite number >= 0.001")
        choose("variant of markov", self.variant, VARIANTS)
        self._check_variant(self.variant)

    def _check_variant(self, variant: str) -> None:
        contradicts = variant == "doubly_stochastic" and self.order > 1
        require(not contradicts, "order", self.order, "1 where chains are doubly stochastic")

    @property
    def vocab(self) -> int:
        return self.states

    @property
    def context(self) -> int:
        return self.length

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train and test follow the task's variant, a split named after a variant follows that one."""
        self.check_split(split)
        variant = split if split in VARIANTS else self.variant
        self._check_variant(variant)
        chain = self._chains(rng, n, variant)
        contexts, k = self.states**self.order, self.states
        steady = stationary(successors(chain))
        symbols = np.empty((n, self.length + 1), np.int64)
        now = (rng.random((n, 1)) >= np.cumsum(steady, axis=1)[:, :-1]).sum(axis=1)
        for i in range(self.order):
            symbols[:, i] = now // k ** (self.order - 1 - i) % k
        steps = np.cumsum(chain, axis=2)[:, :, :-1].reshape(n * contexts, k - 1)
        dice, first_row = rng.random((self.length + 1, n, 1)), np.arange(n) * contexts
        for t in range(self.order, self.length + 1):
            symbols[:, t] = x = (dice[t] >= steps[first_row + now]).sum(axis=1)
            now = (now * k + x) % contexts
        return self._batch(symbols, chain, steady)

    def _chains(self, rng: np.random.Generator, n: int, variant: str) -> Array:
        k, contexts = self.states, self.states**self.order
        if variant == "dirichlet":
            return rng.dirichlet(np.full(k, self.concentration), size=(n, contexts))
        weights = rng.dirichlet(np.full(k, self.concentration), size=(n, 1))
        if variant == "iid":
            return np.repeat(weights, contexts, axis=1)
        permutation = rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)
        shifted = permutation[:, (np.arange(k)[:, None] + np.arange(k)) % k]
        chain = np.empty((n, k, k))
        np.put_along_axis(chain, shifted, np.broadcast_to(weights, (n, k, k)), axis=2)
        return chain

    def _batch(self, symbols: Array, chain: Array, steady: Array) -> Batch:
        """Inputs, targets and facts of symbols `[batch length+1]`; steady `[batch contexts]` is stationary."""
        k, n = self.states, len(symbols)
        tokens, targets = symbols[:, :-1], symbols[:, 1:]
        context, rows = self._code(tokens, self.order), np.arange(n)
        truth = chain[rows[:, None], context]
        for t in range(self.order - 1):  # too few symbols read: condition the stationary distribution on them
            read = self._code(tokens[:, : t + 1], t + 1)[:, t]
            begun = steady.reshape(n, k ** (t + 1), k, -1).sum(axis=3)[rows, read]
            truth[:, t] = begun / begun.sum(axis=1, keepdims=True)
        share = steady.reshape(n, -1, k).sum(axis=1)
        return Batch(tokens, targets, facts={"chain": chain, "stationary": share, "context": context, "truth": truth})

    def _code(self, tokens: Array, symbols: int) -> Array:
        """The last few symbols as a number in base k, `[batch pos]`; -1 where so many were not yet read."""
        code = np.zeros_like(tokens)
        for lag in range(symbols):
            code[:, lag:] += tokens[:, : tokens.shape[1] - lag] * self.states**lag
        code[:, : symbols - 1] = -1
        return code

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """Counts in the context plus one each: unigram (n_j + 1) / (t + k), bigram (n_ij + 1) / (n_i + k), and so on.

        The (order + 1)-gram is the ideal observer of dirichlet chains at concentration 1.
        """
        k = self.states
        logs = {"uniform": np.full((*batch.tokens.shape, k), -np.log(k))}
        logs["unigram"] = smooth(occurrences(batch.tokens, k), np.full(k, 1 / k), k)
        for symbols in range(1, self.order + 1):
            counts = followers(self._code(batch.tokens, symbols), batch.targets, k)
            logs[gram(symbols + 1)] = smooth(counts, np.full(k, 1 / k), k)
        return logs

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """One earlier symbol is changed so that the answer of one strategy flips while that of the other one stays.

        kind bigram: answer and foil are the bigram strategy's first choices, the unigram strategy has one and the same
        choice in both sequences; kind unigram: the reverse.
        """
        flips = choose("kind of pairs of markov", kind or self.kinds[0], self.kinds)
        stays = "unigram" if flips == "bigram" else "bigram"
        found: list[Pairs] = []
        for _ in range(100):
            clean = self.sample(rng, 256)
            rows = np.arange(len(clean))
            symbols = np.concatenate([clean.tokens, clean.targets[:, -1:]], axis=1)
            place = rng.integers(self.length, size=len(clean))
            symbols[rows, place] = (symbols[rows, place] + rng.integers(1, self.states, size=len(clean))) % self.states
            corrupt = self._batch(symbols, clean.facts["chain"], stationary(successors(clean.facts["chain"])))
            before, after = self.oracles(clean), self.oracles(corrupt)
            answer, foil = _choice(before[flips]), _choice(after[flips])
            good = (answer >= 0) & (foil >= 0) & (answer != foil) & (np.arange(self.length) > place[:, None])
            good &= (_choice(before[stays]) == _choice(after[stays])) & (_choice(before[stays]) >= 0)
            at = np.where(good, rng.random(good.shape), -1).argmax(axis=1)
            kept = rows[good[rows, at]]
            at = at[kept]
            found.append(Pairs(clean[kept], corrupt[kept], at, answer[kept, at], foil[kept, at]))
            if sum(len(pairs.answer) for pairs in found) >= n:
                return join(found, n)
        raise ValueError(f"no {flips} pairs of markov at length = {self.length}: no symbol turns the answer")

    def show(self) -> str:
        """One sequence of the world's own stream, with its chain and what each strategy says at the end."""
        batch = self.sample(stream(self.name, "show", self.world), 1)
        tail = slice(max(0, self.length - 24), None)
        lines = ["chain    p(next | context), one line per context"]
        for context, row in enumerate(batch.facts["chain"][0][:8]):
            digits = np.base_repr(context, max(self.states, 2)) if self.states <= 36 else str(context)
            lines.append(f"  {digits.zfill(self.order):>6}   " + " ".join(f"{p:.2f}" for p in row))
        lines.append("tokens   " + " ".join(str(x) for x in batch.tokens[0, tail]))
        lines.append("targets  " + " ".join(str(x) for x in batch.targets[0, tail]))
        lines.append("after the last token, p(next):")
        lines.append("  truth      " + " ".join(f"{p:.2f}" for p in batch.facts["truth"][0, -1]))
        for name, logs in self.oracles(batch).items():
            lines.append(f"  {name:<10} " + " ".join(f"{p:.2f}" for p in np.exp(logs[0, -1])))
        return "\n".join(lines)


def gram(symbols: int) -> str:
    """uniform (0), unigram, bigram, trigram, 4-gram, ..."""
    return GRAMS[symbols] if symbols < len(GRAMS) else f"{symbols}-gram"


def successors(chain: Array) -> Array:
    """The chain over contexts, `[batch contexts contexts]`, of p(symbol | context) `[batch contexts symbols]`."""
    n, contexts, k = chain.shape
    if contexts == k:
        return chain
    following = (np.arange(contexts)[:, None] * k + np.arange(k)) % contexts
    full = np.zeros((n, contexts, contexts))
    full[:, np.arange(contexts)[:, None], following] = chain
    return full


def stationary(chain: Array) -> Array:
    """The stationary distributions `[batch states]` of transition matrices `[batch states states]`.

    States are eliminated one by one and nothing is ever subtracted (Grassmann, Taksar & Heyman 1985), so nearly
    deterministic chains lose no digits; where a chain falls apart, one of its closed classes gets the mass.
    """
    p, k = chain.copy(), chain.shape[-1]
    for i in range(k - 1, 0, -1):
        leaving = np.maximum(p[:, i, :i].sum(axis=1, keepdims=True), 1e-100)
        p[:, :i, i] /= leaving
        p[:, :i, :i] += p[:, :i, i, None] * p[:, i, None, :i]
    share = np.ones((len(p), k))
    for i in range(1, k):
        share[:, i] = (share[:, :i] * p[:, :i, i]).sum(axis=1)
        share /= share[:, : i + 1].max(axis=1, keepdims=True)
    return share / share.sum(axis=1, keepdims=True)


def _choice(logs: Array) -> Array:
    """The likeliest symbol at each position, -1 where several are equally likely."""
    ahead = np.sort(logs, axis=-1)
    return np.where(ahead[..., -1] - ahead[..., -2] > 1e-9, logs.argmax(axis=-1), -1)
