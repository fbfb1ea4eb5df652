"""Plan a sweep: one job a run, priced, packed into stacks where that pays, long before short. It touches no disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from probelab.model import shapes
from probelab.optim import LANE
from probelab.spec import Spec, Transformer
from probelab.study import Job

STACK = 16  # members trained as one on a GPU, where a step of 16 costs little more than a step of one
STEP, MAC, MEASURED = 1.5e-3, 1.5e-10, 0.1  # seconds: a step of nothing, a multiply-add, a measure at a checkpoint
PROCESS = 600 << 20  # bytes that a worker holds before it has done anything: Python, torch and this library

Stack = list[Job]


def planned(jobs: Sequence[Job], stack: int | None = None, device: str = "cpu", places: int = 1) -> list[Stack]:
    """What to do, in order: the jobs in stacks of `stack`, the longest first.

    If None, runs on a CPU are trained one by one, which is as fast there and leaves every run's bits alone; on a GPU in
    stacks of up to 16, smaller where one of `places` would be left without any.
    """
    size = stack or (1 if device == "cpu" else min(STACK, math.ceil(len(jobs) / places)))
    return sorted(packed(merged(jobs), max(size, 1)), key=lambda group: -sum(map(price, group)))


def merged(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that ask for the same run as one: settings may make two arms equal, and a run has one writer."""
    runs: dict[Spec, Job] = {}
    for job in jobs:
        first = runs.setdefault(job.spec, job)
        if first is not job:
            more = tuple(m for m in job.measures if m not in first.measures)
            runs[job.spec] = replace(
                first,
                steps=max(first.steps, job.steps),
                keep=tuple(sorted({*first.keep, *job.keep})),
                measures=first.measures + more,
            )
    return list(runs.values())


def price(job: Job) -> float:
    """Seconds on one core, to a factor of about two: enough to know long from short."""
    spec, model = job.spec, job.spec.model
    d, context = model.d_model, spec.task.context
    layer = 4 * d * d + 2 * d * model.d_mlp + 2 * context * d
    macs = spec.batch * context * (model.layers * layer + d * spec.task.outputs)
    return job.steps * (STEP + MAC * macs) + MEASURED * len(job.keep) * len(job.measures)


def room(group: Stack, memory: int) -> int:
    """Bytes that a worker may come to hold with a stack: itself, weights and optimiser, and the larger of two.

    These are what a training step keeps for its backward pass, and the `memory` allowed to a measure.
    """
    job = group[0]
    spec, model = job.spec, job.spec.model
    tokens = spec.batch * spec.task.context
    heads = max(map(model.heads_of, range(model.layers))) if isinstance(model, Transformer) else 0
    layer = 16 * model.d_model + 3 * model.d_mlp + 3 * heads * spec.task.context
    step = 4 * tokens * (model.layers * layer + 3 * spec.task.outputs)
    weights = 16 * sum(math.prod(shape.shape) for shape in shapes(model, spec.task).values())
    return PROCESS + len(group) * weights + max(len(group) * step, memory if job.measures else 0)


def packed(jobs: Sequence[Job], size: int) -> list[Stack]:
    """Jobs in stacks of at most `size`, equally full, that can be trained as one."""
    if size == 1:
        return [[job] for job in jobs]
    alike: dict[object, Stack] = {}
    for job in jobs:
        alike.setdefault(likeness(job), []).append(job)
    stacks: list[Stack] = []
    for group in alike.values():
        count = math.ceil(len(group) / size)
        stacks += [group[part::count] for part in range(count)]
    return stacks


def likeness(job: Job) -> object:
    """Equal for jobs that may be trained as one and keep the bits that each has alone; nothing else's for the others.

    The parts are those of `check_stack`; edits too, as what one clamp reads, all members compute: another attention
    path. Shapes that are no multiples of 16 meet kernels that depend, in the last bit, on the size of the stack.
    """
    spec, model = job.spec, job.spec.model
    widths = []
    if isinstance(model, Transformer):
        widths = [model.heads_of(layer) * model.head_size(layer) for layer in range(model.layers)]
    if any(number % LANE for number in (spec.batch, model.d_model, model.d_mlp, *widths)):
        return spec
    task = spec.task
    return (
        *(model, spec.batch, spec.edits, job.steps, job.keep),
        *(type(task), task.vocab, task.features, task.outputs, task.context),
        replace(spec.optimizer, lr=1.0, weight_decay=0.0),
    )
