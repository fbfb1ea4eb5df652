"""The card of a dataset: what was asked of a task, what its sequences measurably are, and on how many of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import accumulate, repeat
from typing import Any

import numpy as np

from synthetic_tasks import locality, skew
from synthetic_tasks.task import Array, Batch, Task, require

SEQUENCES = 10_000  # how many are measured, of however many there are
TOKENS = 2_000_000  # and no more of these
ENTRIES = 2**28  # log-probabilities that each oracle is asked for
AT_ONCE = 2**18  # and of these, at once


def card(task: Task, split: str, batches: Iterable[Batch]) -> dict[str, Any]:
    """Asked and measured, ready for JSON; `batches` of the split are read until enough sequences were seen.

    Losses are in nats per scored token, information and entropies in nats; an `error` is a standard error that takes
    sequences, not tokens, to be independent.
    """
    lots, kept = [], 0
    for lot in batches:
        lots.append(lot[: max(1, min(SEQUENCES - kept, TOKENS // lot.tokens.shape[1] - kept))])
        kept += len(lots[-1])
        if kept >= min(SEQUENCES, TOKENS // lot.tokens.shape[1]):
            break
    require(kept > 0, "batches", kept, "at least one sequence")
    tokens = np.concatenate([lot.tokens for lot in lots])
    measured: dict[str, Any] = {
        "sequences": kept,
        "tokens": int((tokens >= 0).sum()),
        "scored": int(sum((lot.targets >= 0).sum() for lot in lots)),
    }
    if (tokens >= 0).any():
        measured |= _tokens(task, tokens)
    if of_task := task.statistics(lots):
        measured["statistics"] = of_task
    measured["loss"] = _losses(task, lots)
    asked = {"task": task.name, "version": task.version, "split": split, "dials": asdict(task)}
    asked |= {"vocab": task.vocab, "outputs": task.outputs, "chance": task.chance(split)}
    return _rounded({"asked": asked, "measured": measured})


def _tokens(task: Task, tokens: Array) -> dict[str, Any]:
    """Frequencies, burstiness, information and entropies of `[batch pos]`."""
    counts = np.bincount(tokens[tokens >= 0], minlength=task.vocab)
    order = np.arange(task.vocab) if task.ranked else np.argsort(-counts, kind="stable")
    found: dict[str, Any] = {"frequencies": (counts / counts.sum())[order][:32].tolist()}
    if task.vocab > 1 and len(tokens) > 1:
        logs = np.zeros(task.vocab)
        logs[order] = np.log(np.arange(1, task.vocab + 1))
        _, error = mean(np.where(tokens >= 0, logs[tokens], 0).sum(axis=1), (tokens >= 0).sum(axis=1))
        ranks = "the task's own" if task.ranked else "sorted by these counts, which biases the exponent upwards"
        found["zipf"] = skew.fit_zipf(counts[order], error)._asdict() | {"ranks": ranks}
        found["burstiness"] = skew.burstiness(tokens, task.vocab)._asdict()
    apart = [d for d in (1, 2, 3, *accumulate(repeat(4, 12), lambda d, _: 2 * d)) if d < tokens.shape[1]]
    found["mutual_information"] = {
        str(d): float(nats) for d, nats in zip(apart, locality.mutual_information(tokens, apart), strict=True)
    }
    found["entropy_rate"] = locality.entropy_rates(tokens).tolist()
    return found


def _losses(task: Task, lots: list[Batch]) -> dict[str, Any]:
    """The mean loss of every oracle, and of who knows the truth where the facts hold it."""
    size = lots[0].tokens.shape[1] * task.outputs
    left, step = max(2, ENTRIES // size), max(1, AT_ONCE // size)
    sums: dict[str, list[Array]] = {}
    scored = []
    for lot in lots:
        for some in (lot[i : min(i + step, left)] for i in range(0, min(len(lot), left), step)):
            asked = some.targets >= 0
            at = np.where(asked, some.targets, 0)[..., None]
            logs = task.oracles(some)
            if "truth" in some.facts:
                with np.errstate(divide="ignore"):
                    logs["truth"] = np.log(some.facts["truth"])
            for name, log in logs.items():
                loss = np.where(asked, -np.take_along_axis(log, at, axis=2)[..., 0], 0)
                sums.setdefault(name, []).append(loss.sum(axis=1))
            scored.append(asked.sum(axis=1))
        left -= len(lot)
        if left <= 0:
            break
    sizes = np.concatenate(scored)
    table: dict[str, Any] = {"sequences": len(sizes)}
    for name, parts in sums.items():
        nats, error = mean(np.concatenate(parts), sizes)
        table[name] = {"nats": nats, "error": error}
    return table


def mean(sums: Array, sizes: Array) -> tuple[float, float]:
    """The mean per item of independent lots, from their sums and sizes `[lot]`, and its standard error."""
    total, n = sizes.sum(), len(sizes)
    if total == 0:
        return float("nan"), float("nan")
    middle = sums.sum() / total
    spread = ((sums - middle * sizes) ** 2).sum() * n / max(n - 1, 1)
    return float(middle), float(np.sqrt(spread) / total) if n > 1 else float("nan")


def tables(card: dict[str, Any]) -> str:
    """The card of one split as Markdown."""
    asked, measured = card["asked"], card["measured"]
    lines = [f"## Split `{asked['split']}`", ""]
    lines += [f"Measured on {measured['sequences']:,} sequences, {measured['tokens']:,} tokens."]
    if "zipf" in measured:
        zipf, burst = measured["zipf"], measured["burstiness"]
        lines += ["", "| measured | value |", "|---|---|"]
        lines += [f"| Zipf exponent of the tokens (ranks: {zipf['ranks']}) | {_pm(zipf['exponent'], zipf['error'])} |"]
        lines += [f"| share of tokens that came before in their sequence | {_show(burst['repeated'])} |"]
        lines += [f"| the same, were tokens independent | {_show(burst['independent'])} |"]
        lines += [f"| two places of one sequence agree, against two sequences | {_show(burst['ratio'])} times |"]
    if "statistics" in measured:
        lines += ["", f"| measured of {asked['task']} | value |", "|---|---|"]
        lines += [f"| {name} | {_show(value)} |" for name, value in measured["statistics"].items()]
    if "entropy_rate" in measured:
        information = measured["mutual_information"]
        lines += ["", "| places apart | " + " | ".join(information) + " |", "|---|" + "---|" * len(information)]
        told = ("none" if x is None else f"{x:.4f}" for x in information.values())  # no two symbols so far apart
        lines += ["| mutual information, nats | " + " | ".join(told) + " |"]
        rates = measured["entropy_rate"]
        lines += ["", "| tokens known before | " + " | ".join(map(str, range(len(rates)))) + " |"]
        lines += [
            "|---|" + "---|" * len(rates),
            "| entropy of the next, nats | " + " | ".join(map(_show, rates)) + " |",
        ]
        lines += ["", "Entropies pool all sequences: what a reader infers about the sequence at hand is not in them."]
    loss = dict(measured["loss"])
    lines += ["", f"| strategy | loss, nats per scored token ({loss.pop('sequences'):,} sequences) |", "|---|---|"]
    lines += [f"| {name} | {_pm(found['nats'], found['error'])} |" for name, found in loss.items()]
    return "\n".join(lines)


def _pm(value: float | None, error: float | None) -> str:
    return _show(value) + ("" if error is None else f" ± {error:.2g}")


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _rounded(x: Any) -> Any:
    """Six digits, so that the last bits of a build do not show; None for what is not a number."""
    if isinstance(x, dict):
        return {str(key): _rounded(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_rounded(value) for value in x]
    if isinstance(x, float):
        return float(f"{x:.6g}") if np.isfinite(x) else None
    return x
