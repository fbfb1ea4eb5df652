"""Who goes with whom, what it costs, and in which order; 10,000 runs are planned while one waits."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probelab.measures import Loss
from probelab.planner import PROCESS, likeness, merged, packed, planned, price, room
from probelab.spec import LSTM, Optimizer, Spec, Transformer
from probelab.study import Job
from probelab.train import check_stack
from synthetic_tasks import Markov, Repeats
from tests.tiny import SPEC

KINDS = [
    SPEC,
    replace(SPEC, batch=32),
    replace(SPEC, optimizer=Optimizer(lr=0.5)),
    replace(SPEC, optimizer=Optimizer(name="sgd", lr=0.5)),
    replace(SPEC, model=Transformer(layers=2, heads=1, d_model=16)),
    replace(SPEC, model=Transformer(layers=1, heads=1, d_model=24)),
    replace(SPEC, model=LSTM(layers=1, d_model=16)),
    replace(SPEC, task=Markov(states=3, length=16)),
    replace(SPEC, task=Markov(states=2, length=20)),
    replace(SPEC, task=Repeats()),
]


def job(spec: Spec = SPEC, seed: int = 0, steps: int = 10) -> Job:
    return Job("arm", spec.seeded(seed), steps, (0, steps), (Loss(n=8),), seed)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 6))
def test_packing_keeps_every_run_and_stacks_only_what_can_be_one(kinds: list[tuple[Spec, int]], size: int) -> None:
    jobs = merged([job(spec, seed) for spec, seed in kinds])
    stacks = packed(jobs, size)
    assert sorted(one.spec.name for group in stacks for one in group) == sorted(one.spec.name for one in jobs)
    for group in stacks:
        check_stack([one.spec for one in group])
        assert len(group) <= size and len({likeness(one) for one in group}) == 1
    for kind in {likeness(one) for one in jobs}:
        sizes = [len(group) for group in stacks if likeness(group[0]) == kind]
        assert max(sizes) - min(sizes) <= 1, "equally full"


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_alike_is_what_check_stack_allows(first: Spec, second: Spec) -> None:
    """The planner's key and the trainer's check are two statements of one rule; d_model 24 is the planner's own no."""
    if likeness(job(first)) == likeness(job(second, seed=1)):
        check_stack([first, second])
    elif 24 not in (first.model.d_model, second.model.d_model):
        with pytest.raises(ValueError, match="cannot be stacked"):
            check_stack([first, second])


def test_long_before_short() -> None:
    jobs = [job(steps=10), job(steps=5000, seed=1), job(replace(SPEC, batch=256), steps=1000), job(steps=100, seed=2)]
    order = [group[0] for group in planned(jobs)]
    assert [one.steps for one in order] == [5000, 1000, 100, 10]
    assert [price(one) for one in order] == sorted(map(price, jobs), reverse=True)
    assert price(replace(jobs[0], measures=())) < price(jobs[0]), "measuring has its price"


def test_stacks_where_they_pay() -> None:
    jobs = [job(seed=seed) for seed in range(40)]
    assert {len(group) for group in planned(jobs)} == {1}, "a CPU trains one by one"
    assert sorted(len(group) for group in planned(jobs, device="cuda")) == [13, 13, 14]
    assert sorted(len(group) for group in planned(jobs, device="cuda", places=8)) == [5] * 8, "no place is left idle"
    assert sorted(len(group) for group in planned(jobs, stack=20, places=8)) == [20, 20], "as told"


def test_room_grows_with_what_is_held() -> None:
    one = job()
    assert room([one], 1 << 30) == pytest.approx(PROCESS + (1 << 30), rel=0.01), "measuring needs most here"
    bare = replace(one, measures=())
    assert PROCESS < room([bare], 1 << 30) < PROCESS + (8 << 20)
    large = replace(bare, spec=replace(SPEC, model=Transformer(layers=8, heads=8, d_model=512, d_mlp=2048), batch=512))
    assert room([large], 0) - PROCESS > 100 * (room([bare], 0) - PROCESS)
    assert room([large, large], 0) - PROCESS == 2 * (room([large], 0) - PROCESS)


def test_ten_thousand_runs_are_planned_at_once() -> None:
    """Processor time, as tests run side by side; a quadratic plan takes minutes."""
    jobs = [job(replace(SPEC, optimizer=Optimizer(lr=lr)), seed) for seed in range(400) for lr in (1e-3, 2e-3)]
    jobs += [replace(one, spec=replace(one.spec, init=k)) for k in range(1000, 1012) for one in jobs[:800]]
    jobs = jobs[:10_000]
    assert len(jobs) == 10_000
    for device in ("cpu", "cuda"):
        began = time.process_time()
        stacks = planned(jobs, device=device, places=4)
        assert time.process_time() - began < 1.0
        assert sum(map(len, stacks)) == 10_000
