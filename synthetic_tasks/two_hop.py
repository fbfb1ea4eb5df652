"""Two facts put together, with or without writing what links them (Wang et al. 2024, Biran et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic_tasks.chain import Chain, compose, hashed, read, text
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream

TEST = 1 / 32  # of all compositions in distribution, by a hash of their content
DOUBT = 1e-6  # what a strategy leaves to all symbols, so that no log-probability is infinite
PAPER = {"entities": 2000, "relations": 200, "out_degree": 20, "ood": 0.05, "format": "direct"}
SHARED = {"head": (1, 2), "first": (0, 2), "second": (0, 1), "bridge": (2,)}  # what pairs agree in: see `fixed`


@dataclass(frozen=True)
class TwoHop(Task):
    """A fact of a random graph, or one that follows from two of them: the tail of the head's relation's relation.

        graph     7 -a-> 4,  4 -c-> 9             entities, and relations between them: two facts
        tokens    7 a =      7 a c 4 =  7 a c =   atomic; inferred, with the bridge; inferred, direct
        targets   . . 4      . . 4 = 9  . . . 9
        entity    . . 0      . . 0 . 3  . . . .   where the entity is written whose fact is the target
        relation  . . 1      . . 1 . 2  . . . 2   and where the relation is

    Where the bridge is written, every answer is a single fact looked up. Where it is not, two look-ups have to follow
    one another inside the model, the second one in later layers. Wang et al. find that this is learned for facts that
    training composes, long after it knows them all, and never for others. Here a mark asks for the answer; in the paper
    it follows at once.

    Trained are all atomic facts, and compositions of those that are *in distribution*; each of them is as frequent as
    any other. Compositions that mix facts in and out of distribution are nowhere.

    entities    how many there are
    relations   how many kinds of them
    out_degree  relations that each entity has, drawn anew for each, with uniform tails. None: all of them. With fewer,
                a wrong bridge may lack the relation asked of it, and then implies no answer
    phi         compositions to train on for each atomic fact in distribution (a 32nd is kept for the test)
    ood         share of atomic facts out of distribution: trained on, but never composed
    format      how compositions are answered: bridge (it is written first) or direct
    noise       probability that a bridge is written wrong in training: another entity, the same one each time. The
                answer stays right
    early       share of training compositions where the answer is asked at once, as in direct
    filler      share of training compositions with a filler in place of the bridge, which then is not asked
    """

    entities: int = 50
    relations: int = 10
    out_degree: int | None = None
    phi: float = 4.0
    ood: float = 0.2
    format: str = "bridge"
    noise: float = 0.0
    early: float = 0.0
    filler: float = 0.0

    name = "two_hop"
    splits = ("train", "atomic", "id", "ood")
    roles = ("entity", "relation")
    facts = {
        "head": "[batch] the entity that the sequence begins with",
        "relations": "[batch hop] its relation, and the relation of the bridge; -1 in an atomic fact",
        "bridge": "[batch] the right bridge, written or not; -1 in an atomic fact",
        "inferred": "[batch] whether two facts have to be put together",
        "ood": "[batch hop] 1 where the fact of this hop is out of distribution (never composed), else 0; -1: none",
        "cuts": "[batch cut] where the chain may be cut: after the relations and after the bridge; -1 beyond",
        "places": "[batch place] position of the bridge; -1 where it is not written",
        "values": "[batch step] the bridge, as the one step of the chain",
        "answer": "[batch] the tail that is asked",
        "entity": "[batch pos] position of the entity whose fact is the target; -1 where it is not written",
        "relation": "[batch pos] position of the relation of that fact",
    }
    presets = {"wang2024": PAPER | {"phi": 18.0}, "wang2024_few": PAPER | {"phi": 3.6}}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.entities >= 2, "entities", self.entities, "at least 2")
        require(self.relations >= 1, "relations", self.relations, "at least 1")
        most = self.relations
        require(1 <= self.degree <= most, "out_degree", self.out_degree, f"1 to the {most} relations")
        require(self.phi >= 0, "phi", self.phi, "0 (atomic facts alone) or more")
        require(0 <= self.ood < 1, "ood", self.ood, "0 up to, not including, 1")
        choose("format of two_hop", self.format, ("bridge", "direct"))
        for dial, value in (("noise", self.noise), ("early", self.early), ("filler", self.filler)):
            require(0 <= value <= 1, dial, value, "a probability")
            require(value == 0 or self.steps > 0, dial, value, f"0 where no bridge is written (format = {self.format})")

    @property
    def degree(self) -> int:
        """Relations that each entity has."""
        return self.relations if self.out_degree is None else self.out_degree

    @property
    def steps(self) -> int:
        """How many steps the chain of a composition has: the bridge, or none."""
        return int(self.format == "bridge")

    @property
    def mark(self) -> int:
        """The token that asks for the answer, behind those of entities and of relations; then comes the filler."""
        return self.entities + self.relations

    @property
    def vocab(self) -> int:
        return self.mark + 2

    @property
    def context(self) -> int:
        return 4 + self.steps

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(SHARED)[: 3 + self.steps]

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """The graph, and what each split draws from; facts are rows of tokens: head, relation, relation, bridge, tail.

        tails      int `[entity relation]`, -1 where the entity has no such relation
        outside    int `[entity relation]`, 1 where the fact is out of distribution, else 0
        train      `[fact 5]`, atomic ones first; `atomic`, `id` and `ood` likewise. -1 for what an atomic fact has not
        written    `[fact]` the bridges as they are written in training
        """
        here, shape = (self.name, "fixed", self.world), (self.entities, self.relations)
        rng = stream(*here, "graph")
        has = rng.permuted(np.tile(np.arange(self.relations) < self.degree, (self.entities, 1)), axis=1)
        tails = np.where(has, rng.integers(self.entities, size=shape), -1)
        head, first = np.nonzero(has)
        inside = len(head) - round(self.ood * len(head))
        outside, strange = np.zeros(shape, np.int64), stream(*here, "ood").permutation(len(head))[inside:]
        outside[head[strange], first[strange]] = 1
        bridge, none = tails[has], np.full(len(head), -1)
        atomic = np.stack([head, self.entities + first, none, none, bridge], axis=1)
        path, second = np.nonzero(has[bridge])
        head, first, bridge = head[path], first[path], bridge[path]
        tail, far = tails[bridge, second], outside[head, first] + outside[bridge, second]
        paths = np.stack([head, self.entities + first, self.entities + second, bridge, tail], axis=1)
        test = hashed(paths[:, :3]) < TEST
        pool, held, size = paths[(far == 0) & ~test], paths[(far == 0) & test], round(self.phi * inside)
        require(size <= len(pool), "phi", self.phi, f"at most {len(pool) / inside:.4g} in world {self.world}")
        composed = pool[stream(*here, "train").permutation(len(pool))[:size]]
        for hop in ([0, 1], [3, 2]):  # at both of its hops, a fact of `id` is one that training puts there
            held = held[np.isin(held[:, hop] @ [self.vocab, 1], composed[:, hop] @ [self.vocab, 1])]
        train, rng = np.concatenate([atomic, composed]), stream(*here, "noise")
        wrong = (rng.random(len(train)) < self.noise) & (train[:, 3] >= 0)
        other = (train[:, 3] + rng.integers(1, self.entities, len(train))) % self.entities
        found = {"train": train, "atomic": atomic, "id": held, "ood": paths[far == 2]}
        return found | {"tails": tails, "outside": outside, "written": np.where(wrong, other, train[:, 3])}

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits: train as the dials say; the others have complete chains with the right bridge.

        atomic  single facts, in and out of distribution (fact `ood`): what is known
        id      compositions that training leaves out, of facts that it composes
        ood     compositions of facts that it never composes, but trains one by one
        """
        self.check_split(split)
        rows = self.fixed[split]
        require(len(rows) > 0, "split", split, f"one with facts in world {self.world}: turn entities, phi or ood")
        at = rng.integers(len(rows), size=n)
        if split != "train":
            return self._batch(rows[at])
        kept = np.where(rng.random(n) < self.early, 0, self.steps)
        return self._batch(rows[at], self.fixed["written"][at], kept, rng.random(n) >= self.filler)

    def _batch(
        self, rows: Array, written: Array | None = None, kept: Array | None = None, told: Array | None = None
    ) -> Batch:
        """Sequences of facts `[batch 5]`: bridges, how many are written, and whether not as fillers, all `[batch]`."""
        prompt, right, answer = np.split(rows, [3, 4], axis=1)
        inferred, said = right >= 0, right if written is None else written[:, None]
        if told is not None:
            said = np.where(told[:, None], said, self.chain.filler)
        ends, begins = np.where(inferred, 1, -1)[:, : self.steps], np.where(inferred, 0, -1)[:, : self.steps]
        said = said[:, : self.steps]
        batch = compose(prompt, said, ends, begins, self.mark, answer, self.context, kept, told)
        facts, pos = batch.facts, np.arange(self.context)
        last, place = pos == facts["cuts"].max(axis=1, keepdims=True), facts["places"].max(axis=1, initial=-1)[:, None]
        one, two = (last & ~inferred) | (pos == place - 1), last & inferred
        ood = self._look("outside", rows[:, [0, 3]], rows[:, [1, 2]])
        facts.update(head=rows[:, 0], relations=prompt[:, 1:], bridge=rows[:, 3], inferred=inferred[:, 0], ood=ood)
        facts.update(values=right, answer=rows[:, 4])
        facts.update(entity=np.where(one, 0, np.where(two, place, -1)), relation=np.where(one, 1, np.where(two, 2, -1)))
        return batch

    def _look(self, table: str, entity: Array, relation: Array) -> Array:
        """`fixed[table]` for entities and relations, given as tokens of any shape; -1 where they are none."""
        known = (entity >= 0) & (entity < self.entities) & (relation >= self.entities) & (relation < self.mark)
        at = np.where(known, entity, 0), np.where(known, relation - self.entities, 0)
        return np.where(known, self.fixed[table][at], -1)

    @cached_property
    def chain(self) -> Chain:
        """Prompt, bridge and answer, to be cut, corrupted and read."""
        symbols = np.arange(self.entities)
        return Chain(symbols, self.mark + 1, lambda told: self._read(told)[0], lambda told: self._read(told)[1])

    def _read(self, told: Array) -> tuple[Array, Array]:
        """What texts imply and what they say, `[batch]` each; -1 where they are malformed, or have no answer yet."""
        told = np.pad(told, ((0, 0), (0, 3)), constant_values=-1)
        head, first, second = told[:, :3].T
        inferred = (second >= self.entities) & (second < self.mark)
        rest = np.where(inferred[:, None], told[:, 3:], told[:, 2:-1])
        steps, answer, fine = read(rest, 0, self.steps, self.mark, self.chain)
        bridge, linked = steps.max(axis=1, initial=-1), self._look("tails", head, first)
        fine &= (head >= 0) & (head < self.entities) & (first >= self.entities) & (first < self.mark)
        fine &= inferred | (bridge < 0)  # an atomic fact has no bridge
        implied = np.where(inferred, self._look("tails", np.where(bridge < 0, linked, bridge), second), linked)
        return np.where(fine, implied, -1), np.where(fine, answer, -1)

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by; each knows how noisy the bridges of training are, and all but uniform where the mark is.

        uniform  any symbol
        tails    how often each entity is the answer in training
        facts    all atomic facts: what is written last is looked up. Does not compose: tails, where there is no bridge
        ideal    all that the graph implies
        """
        facts, place = batch.facts, np.arange(1, self.context + 1)
        end = facts["cuts"].max(axis=1, keepdims=True)
        step, mark = place < end, place == end
        written = np.pad(batch.tokens, ((0, 0), (0, 1)), constant_values=-1)  # a role of -1 reads nothing
        found = self._look("tails", *(np.take_along_axis(written, facts[role], axis=1) for role in self.roles))
        right = np.where(step, facts["bridge"][:, None], facts["answer"][:, None])
        often = np.bincount(self.fixed["train"][:, 4], minlength=self.outputs) / len(self.fixed["train"])

        def bet(guess: Array, doubtful: Array) -> Array:
            guess = np.where(mark, self.mark, guess)
            hot = onehot(guess, self.outputs)
            other = (np.arange(self.outputs) < self.entities) & (hot == 0)
            trust = 1 - self.noise * doubtful[..., None]
            p = np.where(guess[..., None] < 0, often, trust * hot + (1 - trust) * other / (self.entities - 1))
            return np.log((1 - DOUBT) * p + DOUBT / self.outputs)

        said = {
            "uniform": np.full((*right.shape, self.outputs), -np.log(self.outputs)),
            "tails": bet(np.full_like(found, -1), step),
            "facts": bet(found, step | (facts["entity"] == 3)),
            "ideal": bet(right, step),
        }
        return {name: np.where(batch.targets[..., None] >= 0, logs, np.nan) for name, logs in said.items()}

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """Two training compositions with different answers; asked is the next thing that follows from the difference.

        head    another head with the same relations: another bridge, which is asked where it is written
        first   another first relation: the same
        second  another second relation, of the same bridge; the answer is asked
        bridge  another bridge is written, which has the second relation too; the answer is asked
        """
        kind = choose("kind of pairs of two_hop", kind or self.kinds[0], self.kinds)
        rows = self.fixed["train"][len(self.fixed["atomic"]) :]
        same = rows[:, SHARED[kind]] @ [self.vocab, 1][-len(SHARED[kind]) :]
        _, group, size = np.unique(same, return_inverse=True, return_counts=True)
        other = rng.integers(size[group]) + (np.cumsum(size) - size)[group]
        other = rows[np.argsort(group, kind="stable")[other]]  # one of its group, for each composition
        fit = np.flatnonzero(rows[:, 4] != other[:, 4])
        require(len(fit) > 0, "phi", self.phi, f"more, so that compositions differ in their {kind} alone")
        chosen = rng.choice(fit, n)
        rows, other = rows[chosen], other[chosen]
        clean = self._batch(rows)
        corrupt = self._batch(rows, other[:, 3]) if kind == "bridge" else self._batch(other)
        if kind == "bridge":
            corrupt.targets[:, -1] = other[:, 4]
        place, asked = (2, 3) if self.steps and kind in ("head", "first") else (self.context - 1, 4)
        return Pairs(clean, corrupt, np.full(n, place), rows[:, asked], other[:, asked])

    def chance(self, split: str = "train") -> float:
        return 1 / self.entities

    def show(self) -> str:
        """How many facts each split has, and one of them of the world's own stream, with those it follows from."""
        names = [f"e{i}" for i in range(self.entities)] + [f"r{i}" for i in range(self.relations)] + ["=", "..."]
        lines, rng = [], stream(self.name, "show", self.world)
        for split in (split for split in self.splits if len(self.fixed[split])):
            batch = self.sample(rng, 1, split)
            told = [names[token] for token in text(batch)[0] if token >= 0]
            lines.append(f"{split:<8} {' '.join(told):<24} one of {len(self.fixed[split])}")
            if batch.facts["inferred"][0]:
                row = batch.facts["head"][0], *batch.facts["relations"][0], batch.facts["bridge"][0]
                head, first, second, bridge = (names[token] for token in row)
                lines.append(f"{'':<8} {head} {first} -> {bridge}, {bridge} {second} -> {told[-1]}")
        return "\n".join(lines)
