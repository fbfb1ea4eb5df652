"""What a task is: a frozen dataclass that draws batches from addressed streams of random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple

import numpy as np

Array = np.ndarray
KINDS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None)}


def stream(*address: str | int) -> np.random.Generator:
    """The random numbers that live at an address such as `stream("markov", "train", world, data, step)`.

    The text of the address is hashed, so batch 10,000 costs what batch 1 costs, two processes agree, and neighbouring
    seeds share nothing (adding seeds, `seed + step`, silently repeats data).
    """
    for part in address:
        if not isinstance(part, (str, int, np.integer)):
            raise TypeError(f"stream{address!r}: an address is made of text and whole numbers, not {part!r}")
    text = "\x1f".join(f"{'s' if isinstance(part, str) else 'i'}{part}" for part in address)
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")))


@dataclass(frozen=True)
class Batch:
    """Sequences, the answers asked for, and the latent facts behind them.

    tokens   int `[batch pos]`, -1 where a vector speaks (and on the padding at the right)
    targets  int `[batch pos]`, the answer after reading up to and including that position, -1 where nothing is asked
    vectors  float32 `[batch pos feature]`, or None
    facts    name -> `[batch ...]` or `[batch pos ...]`; undefined entries are -1 or NaN
    """

    tokens: Array
    targets: Array
    vectors: Array | None = None
    facts: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Array) -> Batch:
        """Some of the sequences, with their facts."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return Batch(self.tokens[rows], self.targets[rows], vectors, {k: v[rows] for k, v in self.facts.items()})


class Pairs(NamedTuple):
    """Clean and corrupt sequences of equal length, and where and what they disagree about.

    position, answer and foil are int `[batch]`: after `position`, clean calls for `answer`, corrupt for `foil`.
    """

    clean: Batch
    corrupt: Batch
    position: Array
    answer: Array
    foil: Array


def join(lots: list[Pairs], n: int) -> Pairs:
    """The first `n` of several lots of pairs."""

    def batches(lots: list[Batch]) -> Batch:
        facts = {name: np.concatenate([lot.facts[name] for lot in lots])[:n] for name in lots[0].facts}
        vectors = [lot.vectors for lot in lots if lot.vectors is not None]
        tokens, targets = (np.concatenate([getattr(lot, name) for lot in lots])[:n] for name in ("tokens", "targets"))
        return Batch(tokens, targets, np.concatenate(vectors)[:n] if vectors else None, facts)

    position, answer, foil = (
        np.concatenate([getattr(lot, name) for lot in lots])[:n] for name in ("position", "answer", "foil")
    )
    return Pairs(batches([lot.clean for lot in lots]), batches([lot.corrupt for lot in lots]), position, answer, foil)


@dataclass(frozen=True)
class Task:
    """The contract of every task. Fields are the dials; `world` seeds whatever is fixed for a whole run.

    A subclass defines `sample`, `oracles`, `pairs`, `show` and the properties `vocab` and `context`. `facts` documents
    each fact as `name -> "[axes] meaning"`, `presets` holds dials by the name of the paper they come from. `roles` are
    the facts that are, for each position, the position of a key worth attending to (-1: none). `ranked`: token 0 is by
    design the most frequent, token 1 the next, and so on.
    """

    world: int = field(default=0, kw_only=True)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    splits: ClassVar[tuple[str, ...]] = ("train",)
    kinds: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[dict[str, str]] = {}
    roles: ClassVar[tuple[str, ...]] = ()
    ranked: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def __post_init__(self) -> None:
        """Check the kinds of the dials, and store 1 as 1.0 where a number may be broken, so that equals look equal."""
        for dial in fields(self):
            names, value = str(dial.type).split(" | "), getattr(self, dial.name)
            if not set(names) <= set(KINDS):
                continue
            known = isinstance(value, tuple(KINDS[kind] for kind in names))
            fits = known and ("bool" in names or not isinstance(value, bool))
            require(fits, dial.name, value, f"it is of kind {dial.type}")
            if "float" in names and value is not None:
                object.__setattr__(self, dial.name, float(value))

    @property
    def vocab(self) -> int:
        """Number of input symbols."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Number of output symbols: the input symbols, unless a task says otherwise."""
        return self.vocab

    @property
    def context(self) -> int:
        """Length of the longest sequence, in positions."""
        raise NotImplementedError

    @property
    def features(self) -> int:
        """Size of the continuous items, 0 where all items are symbols."""
        return 0

    @cached_property
    def fixed(self) -> Any:
        """What is fixed for a run, drawn once from the world's own stream. Nothing, unless a task says otherwise."""
        return None

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Draw `n` sequences of a split."""
        raise NotImplementedError

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """Strategies by name -> log-probabilities in nats, float `[batch pos outputs]`; NaN where nothing is asked."""
        raise NotImplementedError

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Draw `n` clean and corrupt sequences for patching; `kind` is one of `kinds` (the first, if None)."""
        raise NotImplementedError

    def chance(self, split: str = "train") -> float:
        """The accuracy of a uniform guess over what may be answered."""
        return 1 / self.outputs

    def statistics(self, lots: list[Batch]) -> dict[str, float]:
        """What the card of a dataset says beyond tokens: name -> value, measured on the facts of a sample."""
        return {}

    def show(self) -> str:
        """An annotated sample, as text."""
        raise NotImplementedError

    def check_split(self, split: str) -> None:
        """Raise if this task has no such split."""
        choose(f"split of {self.name}", split, self.splits)


def batch(task: Task, seed: int, step: int, split: str = "train", n: int = 64) -> Batch:
    """The batch at an address: a pure function of the task, the data seed, the step and the split.

    The address leaves the dials out on purpose: two settings at one address are paired, so comparisons have less noise.
    """
    task.check_split(split)
    return task.sample(stream(task.name, split, task.world, seed, step), n, split)


def preset(kind: type[Task], name: str, **dials: Any) -> Task:
    """A task as a paper sets it, with some dials turned: `preset(Markov, "edelman2024", length=64)`."""
    return turn(kind(**choose_from(f"preset of {kind.name}", name, kind.presets)), **dials)


def turn(task: Task, **dials: Any) -> Task:
    """The same task with some dials turned; an unknown dial raises and names the near miss."""
    known = [f.name for f in fields(task)]
    for dial in dials:
        choose(f"dial of {task.name}", dial, known)
    return replace(task, **dials)


def choose(what: str, name: str, known: Any) -> str:
    """`name`, if it is among the known; else an error that repeats the question and suggests the near miss."""
    if name in known:
        return name
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"no {what} {name!r}{hint} known: {', '.join(known)}")


def choose_from(what: str, name: str, table: dict[str, Any]) -> Any:
    """`table[name]`, with the error of `choose`."""
    return table[choose(what, name, table)]


def require(holds: bool, dial: str, value: Any, allowed: str) -> None:
    """Raise unless a dial's value is allowed: the error names dial, value and what is allowed."""
    if not holds:
        raise ValueError(f"{dial} = {value!r} is out of range: {allowed}")
