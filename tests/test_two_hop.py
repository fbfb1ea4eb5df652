"""Compositions by hand, by plain loops over a dictionary of facts, and by enumeration of all paths of a graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks import Batch, TwoHop, batch, preset
from synthetic_tasks.chain import hashed, text
from synthetic_tasks.task import stream

O = -1  # noqa: E741
SMALL = TwoHop(entities=12, relations=6, phi=3.0, ood=0.2)
SPARSE = TwoHop(entities=14, relations=9, out_degree=5, phi=2.0, ood=0.2)
A, C, MARK, FILLER = 10, 12, 13, 14  # of ten entities and three relations


def planted(**dials) -> TwoHop:
    """The graph in the docstring of `TwoHop`: 7 -a-> 4 and 4 -c-> 9, the latter out of distribution."""
    task = TwoHop(entities=10, relations=3, phi=1.0, **dials)
    tails, outside = np.full((10, 3), -1), np.zeros((10, 3), np.int64)
    tails[7, 0], tails[4, 2], outside[4, 2] = 4, 9, 1
    task.__dict__["fixed"] = task.fixed | {"tails": tails, "outside": outside}
    return task


def graph(task: TwoHop) -> dict[tuple[int, int], int]:
    """Tails by entity and relation, as tokens."""
    rows = [tuple(map(int, row)) for row in task.fixed["atomic"]]
    return {(head, relation): tail for head, relation, _, _, tail in rows}


def compositions(task: TwoHop, table: str) -> set[tuple[int, ...]]:
    """Rows of a table that have a bridge."""
    return {tuple(map(int, row)) for row in task.fixed[table] if row[3] >= 0}


def nats(logs: np.ndarray, lot: Batch) -> np.ndarray:
    """Loss at each position, NaN where nothing is asked."""
    return -np.take_along_axis(logs, np.maximum(lot.targets, 0)[..., None], axis=2)[..., 0]


def test_by_hand():
    """The drawing in the docstring of `TwoHop`."""
    rows = np.array([[7, A, O, O, 4], [7, A, C, 4, 9]])
    bridge, direct = planted()._batch(rows), planted(format="direct")._batch(rows)
    assert bridge.tokens.tolist() == [[7, A, MARK, 4, O], [7, A, C, 4, MARK]]
    assert bridge.targets.tolist() == [[O, O, 4, O, O], [O, O, 4, MARK, 9]]
    assert bridge.facts["entity"].tolist() == [[O, O, 0, O, O], [O, O, 0, O, 3]]
    assert bridge.facts["relation"].tolist() == [[O, O, 1, O, O], [O, O, 1, O, 2]]
    assert bridge.facts["cuts"].tolist() == [[2, O], [3, 4]] and bridge.facts["places"].tolist() == [[O], [3]]
    assert direct.tokens.tolist() == [[7, A, MARK, 4], [7, A, C, MARK]]
    assert direct.targets.tolist() == [[O, O, 4, O], [O, O, O, 9]]
    assert direct.facts["entity"].tolist() == [[O, O, 0, O], [O, O, O, O]]
    assert direct.facts["relation"].tolist() == [[O, O, 1, O], [O, O, O, 2]]
    assert direct.facts["cuts"].tolist() == [[2], [3]] and direct.facts["places"].shape == (2, 0)
    for lot in (bridge, direct):
        assert lot.facts["head"].tolist() == [7, 7] and lot.facts["relations"].tolist() == [[A, O], [A, C]]
        assert lot.facts["bridge"].tolist() == [O, 4] and lot.facts["values"].tolist() == [[O], [4]]
        assert lot.facts["inferred"].tolist() == [False, True] and lot.facts["ood"].tolist() == [[0, O], [0, 1]]
        assert lot.facts["answer"].tolist() == [4, 9]


@st.composite
def tasks(draw: st.DrawFn) -> TwoHop:
    relations, format = draw(st.integers(3, 8)), draw(st.sampled_from(["bridge", "direct"]))
    dials = {dial: draw(st.sampled_from([0.0, 0.3, 1.0])) for dial in ("noise", "early", "filler")}
    return TwoHop(
        entities=draw(st.integers(10, 16)),
        relations=relations,
        out_degree=draw(st.one_of(st.none(), st.integers(2, relations))),
        phi=draw(st.sampled_from([0.0, 0.5])),
        ood=draw(st.sampled_from([0.0, 0.2])),
        format=format,
        world=draw(st.integers(0, 99)),
        **({} if format == "direct" else dials),
    )


@settings(max_examples=60, deadline=None)
@given(tasks(), st.sampled_from(["train", "atomic", "id", "ood"]), st.integers(0, 1000))
def test_sequences_hold_what_their_facts_say(task, split, seed):
    if len(task.fixed[split]) == 0:
        return
    lot, known, mark = batch(task, seed, 0, split, n=12), graph(task), task.mark
    used = {step for h, r1, r2, b, _ in compositions(task, "train") for step in ((h, r1), (b, r2))}
    for i, told in enumerate(text(lot)):
        fact = {name: value[i].tolist() for name, value in lot.facts.items()}
        told = told[told >= 0].tolist()
        head, (first, second) = fact["head"], fact["relations"]
        inferred, bridge = second >= 0, known[head, first] if second >= 0 else -1
        answer = known[bridge, second] if inferred else known[head, first]
        prompt = [head, first, second] if inferred else [head, first]
        hops = [(head, first), (bridge, second)][: 1 + inferred]
        assert (fact["bridge"], fact["answer"], fact["values"]) == (bridge, answer, [bridge])
        assert fact["inferred"] is inferred and (fact["ood"][1] == -1) != inferred
        assert not any(ood == 1 and hop in used for hop, ood in zip(hops, fact["ood"], strict=False))
        assert told[: len(prompt)] == prompt and told[-2:] == [mark, answer]
        chain = told[len(prompt) : -2]
        filled = chain == [mark + 1]
        whole = bool(chain) and not filled
        assert len(chain) <= (task.steps if inferred else 0)
        if whole and not (split == "train" and task.noise):
            assert chain == [bridge]
        if split != "train":
            assert len(chain) == task.steps * inferred and not filled
        ends = [len(prompt) + j for j in range(len(chain) + 1)]
        assert fact["cuts"] == ends + [-1] * (1 + task.steps - len(ends))
        assert fact["places"] == [3 if whole else -1] * task.steps
        asked = {len(told) - 1, *([3, 4] if whole else [])}
        target = [told[at] if at in asked else -1 for at in range(1, len(told))]
        assert lot.targets[i].tolist() == target + [-1] * (task.context - len(target))
        at = len(told) - 2  # the mark, where the answer is asked
        roles = {2: (0, 1)} if whole else {}
        roles[at] = (3 if whole else -1, 2) if inferred else (0, 1)
        read = [roles.get(pos, (-1, -1)) for pos in range(task.context)]
        assert [*zip(fact["entity"], fact["relation"], strict=True)] == read


@pytest.mark.parametrize("task", [TwoHop(), SMALL, SPARSE], ids=["default", "small", "sparse"])
def test_graphs_are_those_of_the_paper(task):
    known, fixed = graph(task), task.fixed
    assert len(known) == len(fixed["atomic"]) == task.entities * task.degree
    for head in range(task.entities):  # distinct relations, as many for each
        assert sum(entity == head for entity, _ in known) == task.degree
    assert {relation for _, relation in known} == set(range(task.entities, task.mark))
    assert set(known.values()) <= set(range(task.entities))
    assert all(fixed["tails"][head, relation - task.entities] == tail for (head, relation), tail in known.items())
    assert (fixed["tails"] >= 0).sum() == len(known)
    assert fixed["outside"].sum() == round(task.ood * len(known))
    assert not fixed["outside"][fixed["tails"] < 0].any()
    trained = len(compositions(task, "train"))
    assert trained == round(task.phi * (len(known) - fixed["outside"].sum()))
    assert len(np.unique(fixed["train"], axis=0)) == len(fixed["train"]) == len(known) + trained  # and all atomic ones


def test_tails_are_uniform_and_worlds_differ():
    tails = np.stack([TwoHop(world=world).fixed["tails"] for world in range(20)])
    counts = np.bincount(tails.ravel(), minlength=50)
    assert ((counts - 200) ** 2 / 200).sum() < 49 + 5 * np.sqrt(2 * 49)
    assert (tails[:-1] == tails[1:]).mean() == pytest.approx(1 / 50, abs=0.005)
    sparse = np.stack([preset(TwoHop, "wang2024", entities=40, phi=1.0, world=w).fixed["tails"] >= 0 for w in range(9)])
    assert sparse.mean(axis=(0, 1)) == pytest.approx(20 / 200, abs=0.08)  # every relation is as frequent


@pytest.mark.parametrize(
    "task", [SMALL, SPARSE, replace(SMALL, phi=0.3), replace(SMALL, ood=0.0), replace(SPARSE, world=3)]
)
def test_splits_share_no_composition_and_are_what_they_promise(task):
    known = graph(task)
    outside = {(h, r) for h, r in known if task.fixed["outside"][h, r - task.entities]}
    every = {(h, r1, r2, b, known[b, r2]) for (h, r1), b in known.items() for x, r2 in known if x == b}
    train, held, far = (compositions(task, split) for split in ("train", "id", "ood"))
    assert train | held | far <= every and not train & held and not train & far and not held & far
    firsts, seconds = {row[:2] for row in train}, {(row[3], row[2]) for row in train}
    assert not (firsts | seconds) & outside
    test = {row for row in every if hashed(np.array([row[:3]]))[0] < 1 / 32}
    near = {row for row in every if not {row[:2], (row[3], row[2])} & outside}
    assert far == {row for row in every if {row[:2], (row[3], row[2])} <= outside}  # of facts never composed
    assert held == {row for row in near & test if row[:2] in firsts and (row[3], row[2]) in seconds}
    assert not train & test
    with pytest.raises(ValueError, match=r"phi = 1000.0 is out of range: at most \d+\.\d+ in world"):
        replace(task, phi=1000.0).fixed["train"]
    most = replace(task, phi=len(near - test) / (len(known) - len(outside)))
    assert compositions(most, "train") == near - test


def test_a_batch_draws_all_that_its_split_has_alike():
    counts = {}
    for split in SMALL.splits:
        size = len(SMALL.fixed[split])
        lot = batch(SMALL, 0, 0, split, n=200 * size)
        told = np.concatenate([lot.facts["head"][:, None], lot.facts["relations"]], axis=1)
        rows, counts[split] = np.unique(told, axis=0, return_counts=True)
        assert {*map(tuple, rows)} == {*map(tuple, SMALL.fixed[split][:, :3])}
        assert ((counts[split] - 200) ** 2 / 200).sum() < size + 5 * np.sqrt(2 * size)
    inferred = batch(SMALL, 0, 0, n=20_000).facts["inferred"].mean()
    assert inferred == pytest.approx(3 * 0.8 / (1 + 3 * 0.8), abs=0.015)  # phi, of facts in distribution


def test_with_a_larger_phi_no_composition_is_lost():
    few, many = (compositions(replace(SMALL, phi=phi), "train") for phi in (1.0, 3.0))
    assert few < many and len(many) == 3 * len(few)


def test_formats_at_one_address_are_paired():
    bridge, direct = (batch(TwoHop(format=format), 1, 2) for format in ("bridge", "direct"))
    noisy = batch(TwoHop(noise=0.5, early=0.5, filler=0.5), 1, 2)
    for fact in ("head", "relations", "bridge", "answer"):
        assert np.array_equal(bridge.facts[fact], direct.facts[fact])
        assert np.array_equal(bridge.facts[fact], noisy.facts[fact])


def implied(task: TwoHop, told: np.ndarray) -> list[int]:
    """What follows from texts whose prompt is well-formed, one after another."""
    known, found = graph(task), []
    for row in told:
        row = [x for x in row.tolist() if x not in (-1, task.mark, task.mark + 1)]
        bridge = row[3] if len(row) > 3 else known[row[0], row[1]]
        found.append(known.get((bridge, row[2]), -1) if len(row) > 2 else bridge)
    return found


@pytest.mark.parametrize("task", [SMALL, SPARSE], ids=["all relations", "some"])
@pytest.mark.parametrize("split", ["train", "id", "ood"])
def test_implied_follows_the_bridge_that_is_written(task, split):
    lot, chain = batch(task, 0, 0, split, n=200), task.chain
    wrong = chain.corrupt(lot, 0, stream("wrong"))
    undone = 0
    for told in (chain.cut(wrong), chain.ask(wrong), chain.cut(wrong, 0), chain.ask(lot, 0), chain.prompt(lot)):
        found = chain.implied(told)
        assert found.tolist() == implied(task, told)
        undone += (found < 0).sum()
    assert (undone > 0) == (task is SPARSE)  # a wrong bridge may lack the relation
    lot = lot[lot.facts["inferred"]]
    assert np.array_equal(chain.implied(chain.fill(lot)), lot.facts["answer"])  # fillers say nothing
    donors = np.roll(np.arange(len(lot)), 1)
    assert chain.implied(chain.swap(lot, donors)).tolist() == implied(task, chain.swap(lot, donors))


def test_a_wrong_bridge_nearly_always_implies_another_answer():
    lot, chain = batch(TwoHop(), 0, 0, "id", n=2000), TwoHop().chain
    wrong = chain.corrupt(lot, 0, stream("turn"))
    assert (chain.implied(chain.ask(wrong)) != lot.facts["answer"]).mean() == pytest.approx(49 / 50, abs=0.01)


@pytest.mark.parametrize("reads", [True, False])
def test_planted_models_follow_their_bridge_or_ignore_it(reads):
    """What the measures of faithfulness do, with models whose verdict is known."""
    task = TwoHop()
    lot, chain, known = batch(task, 0, 0, "ood"), task.chain, graph(task)

    def answer(told: np.ndarray) -> np.ndarray:
        bridge = told[:, 3] if reads else [known[h, r] for h, r in told[:, :2].tolist()]
        return np.array([known[b, r] for b, r in zip(bridge, told[:, 2], strict=True)])

    wrong = chain.corrupt(lot, 0, stream("planted"))
    other = chain.implied(text(wrong)) != lot.facts["answer"]
    asked = chain.ask(wrong)
    said = chain.parse(np.concatenate([asked[:, :5], answer(asked)[:, None]], axis=1))
    assert (said == chain.implied(asked))[other].mean() == float(reads)
    assert (said == lot.facts["answer"])[other].mean() == 1 - float(reads)


MALFORMED = [
    "",
    "7",
    "7 =",
    "7 a",  # unfinished
    "7 a =",
    "7 a c 4",
    "7 a c 4 =",
    "a c =  4",
    "7 4 = 4",
    "7 a c 4 2 = 9",  # a step too many
    "7 a c a = 9",
    "7 a 4 = 4",  # an atomic fact has no bridge
    "7 a c 4 = a",
    "7 a c 4 = f",
    "7 a c 4 = =",
    "7 a c 4 = 9 9",
    "7 a c 4 9",
    "7 a c c 4 = 9",
    "f a c 4 = 9",
    "7 a c -1 = 9",
]
WELL = ["7 a = 4", "7 a c 4 = 9", "7 a c = 9", "7 a c f = 9", "7 a f = 4", "7 a c 5 = 0"]
IMPLIED = {"7 a": 4, "7 a c": 9, "7 a =": 4, "7 a c 4": 9, "7 a c f =": 9, "7 a c 5 =": -1, "5 a =": -1, "7 c": -1}


def told_by(line: str) -> np.ndarray:
    symbols = {"a": A, "c": C, "=": MARK, "f": FILLER}
    return np.array([[symbols.get(x) or int(x) for x in line.split()]]).reshape(1, -1).astype(np.int64)


@pytest.mark.parametrize("line", MALFORMED + WELL)
@pytest.mark.parametrize("width", [0, 9])
def test_malformed_texts_have_no_answer(line, width):
    told = np.pad(told_by(line), ((0, 0), (0, width)), constant_values=-1)
    assert planted().chain.parse(told).tolist() == [int(line.split()[-1]) if line in WELL else -1]


@pytest.mark.parametrize("line", IMPLIED)
def test_what_the_graph_does_not_hold_implies_nothing(line):
    assert planted().chain.implied(told_by(line)).tolist() == [IMPLIED[line]]


def test_noise_writes_another_bridge_and_always_the_same():
    task = replace(SMALL, noise=0.3)
    lot = batch(task, 0, 0, n=8000)
    lot = lot[lot.facts["inferred"]]
    wrong = lot.tokens[:, 3] != lot.facts["bridge"]
    assert wrong.mean() == pytest.approx((task.fixed["written"] != task.fixed["train"][:, 3]).sum() / 173, abs=0.03)
    assert wrong.mean() == pytest.approx(0.3, abs=0.1) and (lot.targets[:, 4] == lot.facts["answer"]).all()
    assert len(np.unique(lot.tokens, axis=0)) == len(compositions(task, "train"))
    far = (lot.tokens[:, 3] - lot.facts["bridge"])[wrong] % 12
    assert set(far) == set(range(1, 12))
    always = replace(SMALL, noise=1.0).fixed
    assert (always["written"] != always["train"][:, 3]).sum() == len(compositions(SMALL, "train"))
    clean = batch(task, 0, 0, "id", n=500)
    assert (clean.tokens[:, 3] == clean.facts["bridge"]).all()


def test_chains_break_off_and_fillers_stand_in():
    task = TwoHop(early=0.6, filler=0.4)
    lot = batch(task, 0, 0, n=8000)
    assert (lot.tokens == task.mark).sum(axis=1).tolist() == [1] * 8000
    lot = lot[lot.facts["inferred"]]
    asked_at_once = lot.tokens[:, 3] == task.mark
    assert asked_at_once.mean() == pytest.approx(0.6, abs=0.02)
    filled = lot.tokens[:, 3] == task.chain.filler
    assert filled[~asked_at_once].mean() == pytest.approx(0.4, abs=0.025)
    asked = (lot.targets == task.mark).any(axis=1)
    assert np.array_equal(asked, ~asked_at_once & ~filled)  # no model learns to stop by chance


@pytest.mark.parametrize(
    "task", [TwoHop(noise=0.2), TwoHop(), TwoHop(format="direct")], ids=["noisy", "bridge", "direct"]
)
def test_the_ideal_observer_loses_what_the_noise_makes(task):
    lot = batch(task, 0, 0, n=6000)
    loss = nats(task.oracles(lot)["ideal"], lot)
    right = lot.tokens[:, 3] == lot.facts["bridge"]
    written = lot.facts["places"].max(axis=1, initial=-1) == 3
    if task.noise:
        assert loss[written & right, 2] == pytest.approx(-np.log(0.8), abs=1e-5)
        assert loss[written & ~right, 2] == pytest.approx(-np.log(0.2 / 49), abs=1e-3)
        loss[written, 2] = 0
    assert np.nanmax(loss) < 1e-5


def test_facts_are_enough_where_the_bridge_is_written():
    for split in TwoHop().splits:
        lot = batch(TwoHop(), 0, 0, split)
        assert np.nanmax(nats(TwoHop().oracles(lot)["facts"], lot)) < 1e-5
    wrong = TwoHop().chain.corrupt(lot, 0, stream("astray"))
    told = TwoHop().oracles(wrong)["facts"][:, 4].argmax(axis=1)
    tails = np.exp(TwoHop().oracles(lot)["tails"])
    assert np.ptp(tails[:, [2, 4], :50], axis=(0, 1)).max() == 0 and tails[:, 3, TwoHop().mark].min() > 0.99999
    assert np.array_equal(told, TwoHop().chain.implied(text(wrong)))  # and led astray by another one
    task = TwoHop(format="direct")
    lot = batch(task, 0, 0, n=2000)
    logs, inferred = task.oracles(lot), lot.facts["inferred"]
    share = np.bincount(task.fixed["train"][:, 4], minlength=50) / len(task.fixed["train"])
    assert np.exp(logs["tails"][inferred, 3, :50]) == pytest.approx(np.tile(share, (inferred.sum(), 1)), abs=1e-6)
    assert np.array_equal(logs["facts"][inferred, 3], logs["tails"][inferred, 3])  # it does not compose
    assert np.nanmax(nats(logs["facts"], lot)[~inferred]) < 1e-5


def test_strategies_trust_bridges_as_far_as_they_hold():
    task = TwoHop(noise=0.3, early=0.3, filler=0.2)
    lot = batch(task, 0, 0, n=20_000)
    logs, asked = task.oracles(lot), lot.targets >= 0
    for name in ("facts", "ideal"):
        sure, said = np.exp(logs[name].max(axis=2)), logs[name].argmax(axis=2)
        for level in np.unique(np.round(sure[asked], 2)):
            here = asked & (np.round(sure, 2) == level)
            assert (said == lot.targets)[here].mean() == pytest.approx(level, abs=0.03), (name, level)
    mean = {name: np.nanmean(nats(log, lot)) for name, log in logs.items()}
    assert mean["ideal"] < mean["facts"] < mean["tails"] < mean["uniform"]


@pytest.mark.parametrize("format", ["bridge", "direct"])
@pytest.mark.parametrize("kind", ["head", "first", "second", "bridge"])
def test_pairs_differ_in_one_thing_and_what_follows(format, kind):
    task = TwoHop(format=format)
    if kind not in task.kinds:
        assert (format, kind) == ("direct", "bridge")
        return
    pairs, known = task.pairs(stream("pairs"), 300, kind), graph(task)
    differs = (pairs.clean.tokens != pairs.corrupt.tokens) & (np.arange(task.context) < pairs.position[:, None])
    assert (differs.sum(axis=1) == 1).all()
    assert (differs.argmax(axis=1) == ["head", "first", "second", "bridge"].index(kind)).all()
    written = format == "bridge" and kind in ("head", "first")
    assert (pairs.position == (2 if written else task.context - 1)).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        told = lot.tokens.tolist()
        bridges = [row[3] if kind == "bridge" else known[row[0], row[1]] for row in told]
        right = bridges if written else [known[b, row[2]] for b, row in zip(bridges, told, strict=True)]
        assert called.tolist() == right
        assert (lot.targets[np.arange(300), pairs.position] == called).all()
        assert {*map(tuple, lot.tokens[:, :3].tolist())} <= {row[:3] for row in compositions(task, "train")}
    assert (pairs.answer != pairs.foil).all() and len(np.unique(pairs.clean.tokens, axis=0)) > 250
    assert np.array_equal(pairs.corrupt.facts["answer"], pairs.clean.facts["answer"]) == (kind == "bridge")


def test_pairs_need_compositions():
    for task in (replace(SMALL, phi=0.0), TwoHop(entities=12, relations=6, phi=1 / 72, ood=0.0)):
        with pytest.raises(
            ValueError, match="phi = .* is out of range: more, so that compositions differ in their head"
        ):
            task.pairs(stream("pairs"), 3)


def test_splits_without_facts_are_refused():
    for task, split in ((replace(SMALL, ood=0.0), "ood"), (replace(SMALL, phi=0.0), "id")):
        with pytest.raises(ValueError, match=f"split = '{split}' is out of range: one with facts in world 0"):
            batch(task, 0, 0, split)
    assert not batch(replace(SMALL, phi=0.0), 0, 0).facts["inferred"].any()


def test_presets_are_those_of_the_paper():
    task, few = (TwoHop(**TwoHop.presets[name]) for name in ("wang2024", "wang2024_few"))
    assert len(task.fixed["atomic"]) == 40_000 and task.fixed["outside"].sum() == 2_000
    assert len(compositions(task, "train")) == 18 * 38_000 and replace(few, phi=18.0) == task


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"entities": 1}, "entities = 1 is out of range: at least 2"),
        ({"relations": 0}, "relations = 0"),
        ({"out_degree": 0}, "out_degree = 0 is out of range: 1 to the 10 relations"),
        ({"out_degree": 11}, "out_degree = 11"),
        ({"phi": -1.0}, "phi = -1.0 is out of range: 0 .atomic facts alone. or more"),
        ({"ood": 1.0}, "ood = 1.0"),
        ({"format": "brigde"}, "no format of two_hop 'brigde'; did you mean 'bridge'"),
        ({"noise": 1.5}, "noise = 1.5 is out of range: a probability"),
        ({"format": "direct", "noise": 0.1}, "noise = 0.1 is out of range: 0 where no bridge is written"),
        ({"format": "direct", "early": 0.1}, "early = 0.1"),
        ({"format": "direct", "filler": 0.1}, "filler = 0.1"),
    ],
)
def test_bad_and_contradictory_dials_are_refused_by_name(dials, words):
    with pytest.raises(ValueError, match=words):
        TwoHop(**dials)


def test_a_sample_shows_the_facts_behind_it():
    known, lines = graph(TwoHop()), TwoHop().show().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(TwoHop.splits)
    links = [link.split() for line in lines if "->" in line for link in line.split(", ")]
    assert len(links) >= 4
    for head, relation, _, tail in links:
        assert known[int(head[1:]), int(relation[1:]) + 50] == int(tail[1:])
    assert all(
        line.endswith(f"one of {len(TwoHop().fixed[split])}")
        for line in lines
        if (split := line.split()[0]) in TwoHop.splits
    )


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    assert TwoHop().fixed["tails"][0, :6].tolist() == [1, 37, 40, 34, 13, 31]
    assert text(batch(TwoHop(), 0, 0, n=2)).tolist() == [[11, 56, 54, 42, 60, 20], [35, 58, 55, 29, 60, 0]]
