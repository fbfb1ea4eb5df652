"""Few-shot classification: is the label read off the context, or remembered (Chan 2022, Reddy 2023, Singh 2023-25)?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from synthetic_tasks.episodes import PAIRS, as_batch, in_bursts, normal, relabelled, remembered, renewed, trained
from synthetic_tasks.skew import burstiness, cumulative, fit_zipf, zipf
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, Task, choose, require, stream

IMAGES = {"labels": None, "exemplars": 20, "noise": 0.5, "dim": 64}  # in place of Omniglot's 20 drawings a class
EXEMPLAR = {"examples": 2, "exemplars": 1, "dim": 512}  # in place of one image a class, as features of a network
ONCE = {"burst": 1, "p_bursty": 1.0, "distinct": True}
DOUBT = 1e-3  # probability that a strategy spreads over all labels, so that no loss is infinite


@dataclass(frozen=True)
class Classification(Task):
    """Pairs of items and labels, then an item whose label is asked.

        x1 l1 x2 l2 ... xn ln xq -> lq     the answer is in the context, in the weights, or in both
        A  3  B  7  A' 3  B' 7  A" -> 3    a burst of two classes, two copies each

    classes        trained classes K; class k is the one of rank k
    labels         label symbols L; class k owns the labels k X, ..., k X + X - 1 (modulo L); None: K X of them
    examples       pairs n of an item and its label in the context
    burst          copies of a bursting class in the context of a bursty sequence
    bursting       how many classes burst, the query's among them; the pairs left over are drawn like those of a
                   sequence without bursts. None: as many as fit, and then burst must divide examples
    p_bursty       share of bursty sequences (of trained classes); in the others all n + 1 classes are independent, and
                   the query's is in the context by luck alone
    p_novel        share of training sequences made of new classes with labels of their own (always bursty)
    zipf           exponent of the class frequencies: p(k) ~ (k + 1)^-zipf
    skewed_bursts  whether bursting classes follow these frequencies too; Reddy's are uniform (`no_repeats`)
    distinct       bursting classes have distinct labels; else they are drawn with replacement (Chan et al. 2022)
    noise          within-class noise: item = (mean + noise * g) / sqrt(1 + noise^2), mean and g ~ N(0, I / dim)
    exemplars      items of a class, in a sequence without replacement as far as they go; None: every one is new
    query          "fresh": another exemplar than its likes in the context, if there are enough; "identical": the one
                   of one of them
    multiplicity   labels X that a class owns; in a burst it uses one of them
    reassigned     labels are drawn anew for every sequence, so that nothing can be remembered
    held_pairs     pairs of labels that never come together in training (two bursting classes, reassigned labels)
    items          "vectors", or "symbols": exemplar e of class k is the token L + k exemplars + e
    dim            size of the vectors
    novel          new classes that symbols provide for (once for training, once for the splits)
    """

    classes: int = 1024
    labels: int | None = 32
    examples: int = 8
    burst: int = 3
    bursting: int | None = 2
    p_bursty: float = 0.9
    p_novel: float = 0.0
    zipf: float = 0.0
    skewed_bursts: bool = True
    distinct: bool = False
    noise: float = 0.1
    exemplars: int | None = None
    query: str = "fresh"
    multiplicity: int = 1
    reassigned: bool = False
    held_pairs: int = 0
    items: str = "vectors"
    dim: int = 32
    novel: int = 256

    name = "classification"
    version = 2
    splits = ("train", "icl", "icl2", "swap", "flip", "relabel", "iwl", "iwl_common", "iwl_rare", "ciwl")
    kinds = tuple(PAIRS)
    roles = ("item", "label")
    facts = {
        "classes": "[batch item] class of each item, the query's last; K and up: new ones (vectors: of this sequence)",
        "exemplars": "[batch item] which exemplar of its class each item is (of endless ones: its place)",
        "labels": "[batch item] label of each item, the query's answer last",
        "owned": "[batch owned] labels that the query's class owns; -1 where there is nothing to remember",
        "bursty": "[batch] 1 where classes burst",
        "rank": "[batch] rank of the query's class, 0 the most frequent; -1 for a new class",
        "answerable": "[batch] 1 where the query's class stands in the context with the answer as its label",
        "item": "[batch pos] at a label: position of its item; else -1",
        "label": "[batch pos] at the query: latest position of the answer, after an item of its class if there is one",
    }
    presets = {
        "chan2022": {"classes": 1600, **IMAGES},
        "reddy2023": {**ONCE, "bursting": None, "skewed_bursts": False, "dim": 63},
        "singh2023": {"classes": 1600, "p_bursty": 1.0, **IMAGES},
        "singh2024": {**ONCE, **EXEMPLAR, "classes": 50, "labels": 5, "reassigned": True, "held_pairs": 2},
        "singh2025": {**ONCE, **IMAGES, "classes": 12_800, "examples": 2},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.classes >= 2, "classes", self.classes, "at least 2")
        require(self.multiplicity >= 1, "multiplicity", self.multiplicity, "at least 1")
        least = max(2, self.multiplicity)
        require(self.outputs >= least, "labels", self.labels, f"at least {least}, or None for one a class")
        require(self.examples >= 1, "examples", self.examples, "at least 1")
        require(1 <= self.burst <= self.examples, "burst", self.burst, f"1 to the {self.examples} pairs")
        fits = self.bursting is not None or self.examples % self.burst == 0
        require(fits, "burst", self.burst, f"it must divide the {self.examples} pairs, or set bursting")
        room = self.bursters >= 1 and self.bursters * self.burst <= self.examples
        require(room, "bursting", self.bursting, f"1 to {self.examples // self.burst} classes, so that bursts fit")
        for dial in ("p_bursty", "p_novel"):
            require(0 <= getattr(self, dial) <= 1, dial, getattr(self, dial), "a probability")
        require(0 <= self.noise < np.inf, "noise", self.noise, "0 or more")
        require(self.exemplars is None or self.exemplars >= 1, "exemplars", self.exemplars, "at least 1, or None")
        choose("query of classification", self.query, ("fresh", "identical"))
        choose("items of classification", self.items, ("vectors", "symbols"))
        require(self.dim >= 1, "dim", self.dim, "at least 1")
        if self.items == "symbols":
            require(self.exemplars is not None, "exemplars", self.exemplars, "a number, where items are symbols")
            require(self.novel >= self.examples, "novel", self.novel, f"at least the {self.examples} pairs")
        if self.distinct:
            many = min(self.outputs, self.classes)
            require(
                self.bursters <= many, "distinct", self.distinct, f"False: {many} labels for {self.bursters} classes"
            )
        if self.held_pairs:
            two = self.reassigned and self.bursters == 2 and self.examples == 2 * self.burst
            require(two, "held_pairs", self.held_pairs, "0, unless labels are reassigned to two classes that fill it")
            most = self.outputs * (self.outputs - 1) // 2
            require(0 < self.held_pairs < most, "held_pairs", self.held_pairs, f"less than the {most} pairs of labels")
        zipf(self.classes, self.zipf)

    @property
    def outputs(self) -> int:
        return self.classes * self.multiplicity if self.labels is None else self.labels

    @property
    def vocab(self) -> int:
        if self.items == "vectors":
            return self.outputs
        return self.outputs + (self.classes + 2 * self.novel) * (self.exemplars or 1)

    @property
    def context(self) -> int:
        return 2 * self.examples + 1

    @property
    def features(self) -> int:
        return self.dim if self.items == "vectors" else 0

    @property
    def bursters(self) -> int:
        """How many classes burst."""
        return self.examples // self.burst if self.bursting is None else self.bursting

    @cached_property
    def p(self) -> Array:
        """Class frequencies, float64 `[class]`."""
        return zipf(self.classes, self.zipf)

    @cached_property
    def cdf(self) -> Array:
        """Cumulative class frequencies, float64 `[class]`."""
        return cumulative(self.p)

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """Class means `[class dim]`, noise of exemplars `[class exemplar dim]`, pairs of labels `[pair 2]` by use."""
        here = (self.name, "fixed", self.world)
        found: dict[str, Array] = {}
        if self.items == "vectors":
            found["means"] = normal(stream(*here, "means"), (self.classes, self.dim))
            if self.exemplars is not None:
                found["noise"] = normal(stream(*here, "noise"), (self.classes, self.exemplars, self.dim))
        if self.held_pairs:
            both = stream(*here, "pairs").permutation(list(combinations(range(self.outputs), 2)))
            found |= {"held": both[: self.held_pairs], "trained": both[self.held_pairs :]}
        return found

    def owned(self, classes: Array) -> Array:
        """Labels `[... owned]` of trained classes `[...]`."""
        return (classes[..., None] * self.multiplicity + np.arange(self.multiplicity)) % self.outputs

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        """Splits. In all but train, iwl and ciwl the query's class is in the context, with the answer as its label.

        train       as the dials say
        icl         new classes, bursts as in training
        icl2        two new classes, half of the pairs each (two-way, n/2-shot)
        swap        trained classes in bursts, all labels one class further (l + X modulo L)
        flip        two trained classes, half of the pairs each, their labels exchanged
        relabel     trained classes in bursts, labels drawn anew (held-out pairs of labels, where there are any)
        iwl         a trained class, not in the context and none of its labels either; iwl_common and iwl_rare ask for
                    the 10 most frequent classes and for the others, each class as often
        ciwl        the same, but one label in the context is overwritten with the answer
        """
        self.check_split(split)
        remembers = split not in ("swap", "flip", "iwl", "iwl_common", "iwl_rare", "ciwl") or not self.reassigned
        require(remembers, "reassigned", self.reassigned, f"False for the split {split}: there is nothing to remember")
        halves = split not in ("icl2", "flip") or self.examples % 2 == 0
        require(halves, "examples", self.examples, f"even for the split {split}: it shows two classes equally often")
        if split in ("iwl", "iwl_common", "iwl_rare", "ciwl"):
            others, most = self.outputs > self.multiplicity, self.multiplicity
            require(others, "labels", self.labels, f"more than the {most} of a class for the split {split}")
            return as_batch(self, rng, remembered(self, rng, n, split))
        if split == "train":
            return as_batch(self, rng, trained(self, rng, n))
        two = split in ("icl2", "flip")
        size = (self.examples // 2, 2, True) if two else (self.burst, self.bursters, self.distinct)
        drawn = in_bursts(self, rng, n, *size)
        if split in ("icl", "icl2"):
            return as_batch(self, rng, renewed(self, rng, drawn, 1))
        if split == "relabel":
            return as_batch(self, rng, relabelled(self, rng, drawn, "held"))
        if split == "swap":
            return as_batch(self, rng, drawn._replace(labels=(drawn.labels + self.multiplicity) % self.outputs))
        first = drawn.classes == drawn.classes[:, :1]
        one, other = drawn.labels[:, :1], np.take_along_axis(drawn.labels, first.argmin(axis=1)[:, None], axis=1)
        return as_batch(self, rng, drawn._replace(labels=np.where(first, other, one)))

    @cached_property
    def label_frequencies(self) -> Array:
        """p(answer) over the training sequences, float64 `[label]`, leaving aside that bursts may be distinct."""
        bursty = self.p if self.skewed_bursts else np.full(self.classes, 1 / self.classes)
        p = self.p_bursty * bursty + (1 - self.p_bursty) * self.p
        own = np.bincount(self.owned(np.arange(self.classes)).ravel(), np.repeat(p, self.multiplicity), self.outputs)
        even = 1.0 if self.reassigned else self.p_novel
        return (1 - even) * own / own.sum() + even / self.outputs

    def oracles(self, batch: Batch) -> dict[str, Array]:
        """What one may go by, each with a trace of doubt; NaN but at the query.

        uniform    any label
        frequency  how often labels are the answer in training
        context    any pair's label in the context
        icl        labels that the query's class has in the context (any label, where it has none)
        iwl        labels that it owns (any label, where it is new)
        ciwl       those of its own labels that are in the context; else, any pair's label
        ideal      icl where the query's class is in the context, else iwl
        """
        classes, shown, own = batch.facts["classes"], batch.facts["labels"][:, :-1], batch.facts["owned"]
        pairs = onehot(shown, self.outputs).astype(np.float64)
        context = pairs.mean(axis=1)
        like = (classes[:, :-1] == classes[:, -1:]).astype(np.float64)
        seen = np.einsum("np,npl->nl", like, pairs)
        remembered = onehot(own, self.outputs).sum(axis=1).astype(np.float64)
        within = remembered * (context > 0)
        even = np.full(context.shape, 1 / self.outputs)
        p = {
            "uniform": even,
            "frequency": np.broadcast_to(self.label_frequencies, context.shape),
            "context": context,
            "icl": normalised(seen, even),
            "iwl": normalised(remembered, even),
            "ciwl": normalised(within, context),
            "ideal": normalised(seen, normalised(remembered, even)),
        }
        logs = {name: np.full((*batch.tokens.shape, self.outputs), np.nan) for name in p}
        for name, told in p.items():
            doubt = 0.0 if name == "uniform" else DOUBT
            logs[name][:, -1] = np.log((1 - doubt) * told + doubt / self.outputs)
        return logs

    def statistics(self, lots: list[Batch]) -> dict[str, Any]:
        """Class frequencies, bursts, and what can be answered from the context, measured."""
        facts = {
            name: np.concatenate([lot.facts[name] for lot in lots]) for name in ("classes", "bursty", "answerable")
        }
        context, asked = facts["classes"][:, :-1], facts["classes"][:, -1]
        found: dict[str, Any] = {
            "bursty sequences": float(facts["bursty"].mean()),
            "queries answerable from the context": float(facts["answerable"].mean()),
            "queries of new classes": float((asked >= self.classes).mean()),
            "pairs of the query's class": float((context == asked[:, None]).sum(axis=1).mean()),
        }
        known = asked[asked < self.classes]
        if len(known) > 1:
            fit = fit_zipf(np.bincount(known, minlength=self.classes))
            found["Zipf exponent of the queries' classes"] = fit.exponent
            found["standard error of that exponent"] = fit.error
        if self.examples > 1 and len(context) > 1:
            size = int(context.max()) + 1
            found["pairs whose class came before in their context"] = burstiness(context, size).repeated
            found["the same, were pairs independent"] = burstiness(context, size).independent
        return found

    def pairs(self, rng: np.random.Generator, n: int, kind: str | None = None) -> Pairs:
        """New classes, one example each; the corrupt sequence calls for another label.

        clean    A 1  B 2  C 3  A -> 1
        label    A 9  B 2  C 3  A -> 9    the label beside the query's class is another one
        item     B 1  A 2  C 3  A -> 2    the item of its class has changed places with one of another label
        """
        return PAIRS[choose("kind of pairs of classification", kind or self.kinds[0], self.kinds)](self, rng, n)

    def chance(self, split: str = "train") -> float:
        """Two-way splits are scored within the labels of the context."""
        return 1 / 2 if split in ("icl2", "flip") else 1 / self.outputs

    def show(self) -> str:
        """One sequence of each kind that the dials allow: classes as letters, exemplars as numbers."""
        lines = []
        for split in self.splits:
            try:
                batch = self.sample(stream(self.name, "show", self.world, split), 1, split)
            except ValueError:
                continue
            classes, exemplars, labels = (batch.facts[name][0] for name in ("classes", "exemplars", "labels"))
            letters = {int(k): chr(ord("A") + i) for i, k in enumerate(dict.fromkeys(classes.tolist()))}
            items = [f"{letters[int(k)]}{e}" for k, e in zip(classes, exemplars, strict=True)]
            shown = [f"{item} {label}" for item, label in zip(items, labels, strict=True)]
            remembered = ", ".join(map(str, batch.facts["owned"][0])) if batch.facts["owned"][0, 0] >= 0 else "nothing"
            told = "   ".join(shown[-10:-1]) + f"   {items[-1]} -> {labels[-1]}"
            lines.append(f"{split:<10} {told[:130]}   (remembered: {remembered[:20]})")
        lines.append("A3 7: exemplar 3 of class A with label 7; letters count the classes of a sequence")
        return "\n".join(lines)


def normalised(mass: Array, otherwise: Array) -> Array:
    """Distributions `[... label]` in proportion to `mass`; `otherwise` where there is none."""
    total = mass.sum(axis=-1, keepdims=True)
    return np.where(total > 0, mass / np.maximum(total, 1e-12), otherwise)
