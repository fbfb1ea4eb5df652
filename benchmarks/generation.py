"""Drawing batches: against a loop over sequences as the papers write it, and as a share of a training step."""

from __future__ import annotations

from functools import partial
from itertools import count

import numpy as np

from benchmarks.peers import ours
from benchmarks.steps import SHAPES
from benchmarks.timing import Call, Line, race, ratio, times
from probelab.spec import Spec, Transformer
from probelab.train import AHEAD
from synthetic_tasks import BayesNet, Classification, Markov, Repeats, Task, batch, preset

ROUNDS = 25


def generation() -> list[Line]:
    lines = []
    loops = {
        Markov(states=3, length=100): markov_loop,
        Repeats(tokens=64, length=64): repeats_loop,
        Classification(): classification_loop,
        preset(BayesNet, "prystawski2023"): bayes_net_loop,
    }
    for task, loop in loops.items():
        rivals: dict[str, Call] = {
            "ours": drawing(task, 64),
            "loop": partial(loop, task, np.random.default_rng(0), 64),
        }
        seconds = race(rivals, ROUNDS)
        value = ratio(seconds["loop"], seconds["ours"])
        lines.append(
            Line(f"64 sequences of {task.name}, facts included", "a loop over sequences", "10", f"{value:.0f}")
        )
    small = Transformer(heads=2, d_model=32, d_mlp=128)
    single = Transformer(heads=1, readout=(64,))
    local = Transformer(heads=4, d_mlp=256)
    studied = {
        "study skew, B64": Spec(Classification(), small, batch=64),
        "study abrupt, new classes, B128": Spec(preset(Classification, "reddy2023", p_novel=0.8), single, batch=128),
        "bayes_net, 100 variables, B4": Spec(preset(BayesNet, "prystawski2023"), local, batch=4),
        "bayes_net, 16 variables, B64": Spec(BayesNet(), local, batch=64),
    }
    for shape, spec in (SHAPES | studied).items():
        contestants = {"draw": drawing(spec.task, spec.batch), "step": ours([spec])}
        seconds = race({name: times(call, AHEAD) for name, call in contestants.items()}, ROUNDS)
        share = ratio(seconds["draw"], seconds["step"])
        lines.append(Line(f"drawing a batch: {shape}", "share of a training step", "at most 10 %", f"{share:.1%}"))
    return lines


def drawing(task: Task, n: int) -> Call:
    """Each call draws the next batch."""
    steps = count()
    return lambda: batch(task, 0, next(steps), "train", n)


def markov_loop(task: Markov, rng: np.random.Generator, n: int) -> np.ndarray:
    """A chain a sequence, walked symbol by symbol (as in the code of Edelman et al. 2024)."""
    rows = []
    for _ in range(n):
        chain = rng.dirichlet(np.ones(task.states), size=task.states)
        values, vectors = np.linalg.eig(chain.T)
        steady = np.abs(np.real(vectors[:, np.argmax(np.real(values))]))
        row = [rng.choice(task.states, p=steady / steady.sum())]
        for _ in range(task.length):
            row.append(rng.choice(task.states, p=chain[row[-1]]))
        rows.append(row)
    return np.array(rows)


def repeats_loop(task: Repeats, rng: np.random.Generator, n: int) -> np.ndarray:
    """Tokens drawn one at a time, and a segment copied to a later place."""
    rows = []
    for _ in range(n):
        row = [rng.choice(task.tokens, p=task.marginal) for _ in range(task.length + 1)]
        size = rng.integers(2, (task.length + 1) // 2)
        start = rng.integers(task.length + 2 - 2 * size)
        again = rng.integers(start + size, task.length + 2 - size)
        row[again : again + size] = row[start : start + size]
        rows.append(row)
    return np.array(rows)


def classification_loop(task: Classification, rng: np.random.Generator, n: int) -> np.ndarray:
    """One sequence after the other, item by item (as in the code of Chan et al. 2022 and Reddy 2023)."""
    rows, classes = [], np.arange(task.classes)
    for _ in range(n):
        if rng.random() < task.p_bursty:
            one, two = rng.choice(classes, 2, p=task.p)
            context = [one] * 3 + [two] * 3 + list(rng.choice(classes, 2, p=task.p))
            rng.shuffle(context)
            chosen = [*context, rng.choice([one, two])]
        else:
            chosen = list(rng.choice(classes, 9, p=task.p))
        row = []
        for k in chosen:
            item = task.fixed["means"][k] + task.noise * rng.normal(size=task.dim) / np.sqrt(task.dim)
            row += [item / np.sqrt(1 + task.noise**2), np.full(task.dim, k % task.outputs)]
        rows.append(row)
    return np.array(rows, np.float32)


def bayes_net_loop(task: BayesNet, rng: np.random.Generator, n: int) -> np.ndarray:
    """One sample after the other, variable by variable, until the sequence is full (as in Prystawski et al. 2023)."""
    net, held, rows = task.fixed.net, task.fixed.held.tolist(), []
    for _ in range(n):
        row: list[int] = []
        while len(row) <= task.context:
            state: dict[int, int] = {}
            for v in net.order:
                p = net.tables[v][tuple(state[parent] for parent in net.parents[v])]
                state[v] = int(rng.random() < p)
            away, reach = net.steps[rng.integers(len(net))], rng.geometric(1 - task.scale)
            shown = [v for v in np.flatnonzero((away >= 0) & (away <= reach)) if rng.random() >= task.dropout]
            for pair in held:
                if pair[0] in shown and pair[1] in shown:
                    shown.remove(pair[rng.integers(2)])
            rng.shuffle(shown)
            if shown:
                row += [task.target, 2 + shown[-1]]
            for v in shown * 2 if len(shown) == 1 else shown:
                row += [2 + v, state[v]]
        rows.append(row[: task.context + 1])
    return np.array(rows)
