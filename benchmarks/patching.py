"""Patching sweeps over checkpoints: against `transformer_lens.patching` at its best (no gradients, no bars)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.timing import Line, race, ratio
from probelab.answers import logit_difference
from probelab.bridge import to_transformer_lens
from probelab.measures.patching import TOGETHER
from probelab.model import init
from probelab.places import Place
from probelab.spec import Transformer
from probelab.subject import Model
from probelab.sweep import Sweep
from synthetic_tasks import Pairs, Repeats, stream

BATCH, CHECKPOINTS = 16, 50
TASK = Repeats(tokens=64, length=32)
POS, HEAD_POS, HEAD = ("layer", "pos"), ("layer", "pos", "head"), ("layer", "head")
SWEEPS = {
    "attn_head_out_by_pos": ("z", HEAD_POS, "50"),
    "attn_head_q_by_pos": ("q", HEAD_POS, "10"),
    "attn_head_k_by_pos": ("k", HEAD_POS, "10"),
    "attn_head_v_by_pos": ("v", HEAD_POS, "10"),
    "attn_head_pattern_by_pos": ("pattern", ("layer", "head", "pos"), "10"),
    "resid_pre": ("resid_pre", POS, "10"),
    "resid_mid": ("resid_mid", POS, "10"),
    "attn_out": ("attn_out", POS, "10"),
    "mlp_out": ("mlp_out", POS, "10"),
    "attn_head_out_all_pos": ("z", HEAD, "10"),
    "attn_head_q_all_pos": ("q", HEAD, "10"),
    "attn_head_k_all_pos": ("k", HEAD, "10"),
    "attn_head_v_all_pos": ("v", HEAD, "10"),
    "attn_head_pattern_all_pos": ("pattern", HEAD, "10"),
    "attn_head_all_pos_every": ("z q k v pattern", HEAD, "10"),
    "attn_head_by_pos_every": ("z q k v pattern", HEAD_POS, "10"),
    "block_every": ("resid_pre attn_out mlp_out", POS, "10"),
}


def patching() -> list[Line]:
    """The peer sweeps one checkpoint, ours several; what is compared is the time of one."""
    import transformer_lens.patching as theirs

    theirs.tqdm = lambda rows, **how: rows
    pairs, lines = TASK.pairs(stream("benchmark"), BATCH), []
    for depth, names in ((2, list(SWEEPS)), (3, ["attn_head_out_by_pos", "resid_pre"])):
        spec = Transformer(layers=depth, heads=4, d_model=64, d_mlp=256)
        models = [Model(spec, TASK, sharp(init(spec, TASK, seed))) for seed in range(CHECKPOINTS)]
        bridge = to_transformer_lens(models[0])
        for name in names:
            sites, axes, floor = SWEEPS[name]
            sizes = [dict(layer=depth, pos=TASK.length, head=4)[axis] for axis in axes]
            places = [dict(zip(axes, at, strict=True)) for at in np.ndindex(*sizes)]
            cells = [Place(site, **place) for site in sites.split() for place in places]
            found, wanted = ours(models[:TOGETHER], pairs, cells), lens(theirs, name, bridge, pairs)
            apart = (found[0].mean(-1) - wanted.flatten()).abs().max().item()
            rivals = {
                "ours": partial(ours, models[:TOGETHER], pairs, cells),
                "lens": partial(lens, theirs, name, bridge, pairs),
            }
            seconds = race(rivals, 25 if len(cells) < 10 else 5, warm=1)
            value = ratio(seconds["lens"], seconds["ours"]) * TOGETHER
            work = f"patching sweep {name}, {len(cells)} cells, L{depth} h4 d64 T32 B16, a checkpoint"
            peer = f"transformer_lens.patching; apart by {apart:.0e}"
            lines.append(Line(work, peer, floor if depth == 2 else "reported", f"{value:.1f}"))
    return lines


def sharp(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Larger weights than at the start, so that heads look somewhere."""
    return {name: array * (4 if array.ndim > 1 else 1) for name, array in params.items()}


def ours(models: list[Model], pairs: Pairs, cells: list[Place]) -> torch.Tensor:
    """Both passes and the sweep: `[member cell batch]`."""
    sweep = Sweep(models, pairs.corrupt, pairs.position)
    source = sweep.beside(pairs.clean, [cell.name for cell in cells])
    return sweep(cells, source, logit_difference(pairs))


def lens(theirs: object, name: str, bridge: object, pairs: Pairs) -> torch.Tensor:
    """The clean pass and the sweep."""
    clean, corrupt = (torch.as_tensor(part.tokens) for part in (pairs.clean, pairs.corrupt))
    rows, at, metric = torch.arange(BATCH), torch.as_tensor(pairs.position), logit_difference(pairs)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean)  # type: ignore[attr-defined]
        sweep = getattr(theirs, f"get_act_patch_{name}")
        return sweep(bridge, corrupt, cache, lambda logits: metric(logits[rows, at]), reduce="mean")
