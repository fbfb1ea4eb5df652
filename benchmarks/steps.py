"""The training step at four shapes against TransformerLens and plain PyTorch, and a stack against its members."""

from __future__ import annotations

from dataclasses import replace
from statistics import geometric_mean

from benchmarks.peers import eager, ours, transformer_lens
from benchmarks.timing import Line, race, ratio, times
from probelab.spec import Spec, Transformer
from synthetic_tasks import Markov, Repeats

ROUNDS, STEPS, MEMBERS = 25, 4, 6
SHAPES = {
    "d16 h1 L2 T100 V3 B64, attention only": Spec(Markov(states=3, length=100), Transformer(d_model=16), batch=64),
    "d64 h4 L2 T32 V64 B64": Spec(Repeats(tokens=64, length=32), Transformer(heads=4, d_mlp=256), batch=64),
    "d64 h8 L2 T5 V50 B32, attention only": Spec(Repeats(tokens=50, length=5), Transformer(heads=8), batch=32),
    "d64 h4 L2 T64 V64 B32": Spec(Repeats(tokens=64, length=64), Transformer(heads=4, d_mlp=256), batch=32),
}


def step() -> list[Line]:
    """With rotary positions, which all three have, and with learned ones, which cost least."""
    lines = []
    for positions in ("rotary", "learned"):
        bridge, plain = {}, {}
        for shape, spec in SHAPES.items():
            spec = replace(spec, model=replace(spec.model, positions=positions))
            contestants = {"ours": ours([spec]), "bridge": transformer_lens(spec), "plain": eager(spec)}
            seconds = race({name: times(call, STEPS) for name, call in contestants.items()}, ROUNDS)
            bridge[shape] = ratio(seconds["bridge"], seconds["ours"])
            plain[shape] = ratio(seconds["plain"], seconds["ours"])
        for peer, found, floors in (
            ("TransformerLens 4 bridge", bridge, (1.15, 1.6)),
            ("eager PyTorch", plain, (1, 1)),
        ):
            lines += [
                Line(f"training step, {positions}: {shape}", peer, f"{floors[0]}", f"{value:.2f}")
                for shape, value in found.items()
            ]
            mean = geometric_mean(found.values())
            lines.append(Line(f"training step, {positions}: geometric mean", peer, f"{floors[1]}", f"{mean:.2f}"))
    return lines


def stack() -> list[Line]:
    """Members per second in a stack, against the same members one by one."""
    lines = []
    for shape, spec in SHAPES.items():
        members = [spec.seeded(seed) for seed in range(MEMBERS)]
        alone = [ours([member]) for member in members]
        contestants = {"stack": ours(members), "alone": lambda alone=alone: [one() for one in alone]}
        seconds = race(contestants, ROUNDS)
        value = ratio(seconds["alone"], seconds["stack"])
        lines.append(Line(f"stack of {MEMBERS}, per member: {shape}", "one by one", "0.8", f"{value:.2f}"))
    return lines
