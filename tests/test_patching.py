"""Patching: the same numbers as TransformerLens, the parts of a planted circuit, and what must hold of any model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from probelab.answers import kl_from
from probelab.bridge import to_transformer_lens
from probelab.changes import add, gaussian, mean, resample, zero
from probelab.clamps import PreviousToken
from probelab.measures import Patching
from probelab.measures.patching import Found
from probelab.places import Place
from probelab.spec import LSTM, Transformer
from probelab.sweep import Sweep
from synthetic_tasks import Batch, Pairs, Repeats, stream
from tests.planted import Planted, grown, induction
from tests.test_sweep import difference

TASK = Repeats(tokens=12, length=10)
SHAPES = {
    "rotary": Transformer(layers=2, heads=2, d_model=16, d_mlp=32),
    "learned, attention only": Transformer(layers=2, heads=2, d_model=16, positions="learned"),
    "three layers": Transformer(layers=3, heads=2, d_model=16, d_mlp=16, positions="sinusoidal", activation="relu"),
}
BY_POS, HEADS = ("layer", "pos"), ("layer", "pos", "head")
# the sweep of TransformerLens, our site, and the order of its axes
SWEEPS = {
    "resid_pre": ("resid_pre", BY_POS),
    "resid_mid": ("resid_mid", BY_POS),
    "attn_out": ("attn_out", BY_POS),
    "mlp_out": ("mlp_out", BY_POS),
    **{f"attn_head_{name}_by_pos": (site, HEADS) for name, site in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"))},
    **{
        f"attn_head_{name}_all_pos": (site, ("layer", "head"))
        for name, site in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern"))
    },
    "attn_head_pattern_by_pos": ("pattern", ("layer", "head", "pos")),
    "attn_head_pattern_dest_src_pos": ("pattern", ("layer", "head", "pos", "key")),
}
EVERY = {  # several of them in one call
    "attn_head_all_pos_every": [f"attn_head_{name}_all_pos" for name in ("out", "q", "k", "v", "pattern")],
    "attn_head_by_pos_every": [f"attn_head_{name}_by_pos" for name in ("out", "q", "k", "v", "pattern")],
    "block_every": ["resid_pre", "attn_out", "mlp_out"],
}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    """TransformerLens's patching, without its progress bars."""
    import transformer_lens.patching as patching

    bars, patching.tqdm = patching.tqdm, lambda rows, **how: rows
    yield patching
    patching.tqdm = bars


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_every_sweep_equals_transformer_lens(name: str, dtype: torch.dtype, lens: Any):
    """Invariant 5, on random models that look sharply: float64 to 1e-9, float32 to 1e-5 of the largest logit."""
    spec, pairs = SHAPES[name], TASK.pairs(stream("lens"), 4)
    model = grown(TASK, spec, 0, 12.0, dtype=dtype)
    bridge, sweep, metric = to_transformer_lens(model), Sweep([model], pairs.corrupt, pairs.position), difference(pairs)
    clean, corrupt = (torch.as_tensor(part.tokens) for part in (pairs.clean, pairs.corrupt))
    read = torch.as_tensor(pairs.position)
    _, cache = bridge.run_with_cache(clean)
    close = 1e-9 if dtype == torch.float64 else 1e-5 * max(1.0, float(sweep.held("logits")[0].abs().max()))
    sizes = dict(layer=spec.layers, pos=clean.shape[1], head=2, key=clean.shape[1])
    moved = 0.0
    for theirs, parts in ({name: [name] for name in SWEEPS} | EVERY).items():
        if {"resid_mid", "mlp_out"} & set(parts) and not spec.d_mlp:
            continue
        cells = [
            Place(site, **dict(zip(axes, at, strict=True)))
            for site, axes in map(SWEEPS.__getitem__, parts)
            for at in np.ndindex(*(sizes[axis] for axis in axes))
        ]
        wanted: list[torch.Tensor] = []  # by example: what TransformerLens returns is rounded to float32

        def judged(logits: torch.Tensor, wanted: list[torch.Tensor] = wanted) -> torch.Tensor:
            wanted.append(metric(logits[torch.arange(4), read]))
            return wanted[-1]

        with torch.no_grad():
            getattr(lens, f"get_act_patch_{theirs}")(bridge, corrupt, cache, judged, reduce="mean")
        fresh = Sweep([model], pairs.corrupt, pairs.position)
        found = fresh(cells, fresh.beside(pairs.clean, [cell.name for cell in cells]), metric)[0]
        assert (found - torch.stack(wanted)).abs().max() < close, theirs
        moved = max(moved, (found - sweep.unedited(metric)[0]).abs().max().item())
    assert moved > 0.03


def rows_of(measure: Patching, *models: Any) -> pd.DataFrame:
    return pd.DataFrame(list(measure(Planted(models[0].task, *models, model=models[0].spec))))


def test_the_planted_circuit_is_found_part_by_part():
    """Layer 0's head puts the token before where the copy's source is; layer 1's brings the source's token to the end.

    Clean and corrupt differ in the token at the source alone: patched are the stream and the values there, and what the
    last head carries. The first head carries the same in both; taking it away at the source shows that it is needed.
    """
    model, found = induction(TASK), {}
    for name, dials in {
        "stream": dict(site="resid_pre", by=("role",)),
        "heads": dict(site="z", by=("head", "role")),
        "values": dict(site="v", by=("head", "role")),
        "keys": dict(site="k", by=("head", "role")),
        "needed": dict(site="z", by=("head", "role"), change="zero"),
    }.items():
        table = rows_of(Patching(n=32, **dials), model)  # type: ignore[arg-type]
        rows = table[table["metric"] == ("effect" if name == "needed" else "recovery")]
        found[name] = {(row.layer, row.role): row.value for row in rows.itertuples() if abs(row.value) > 0.01}
    assert found["stream"] == pytest.approx({(0, "source"): 1, (1, "source"): 1})
    assert found["heads"] == pytest.approx({(1, "answer"): 1}) and found["values"] == pytest.approx({(1, "source"): 1})
    assert found["keys"] == {}
    assert set(found["needed"]) == {(0, "source"), (1, "answer")} and max(found["needed"].values()) < -20


def test_clean_into_clean_does_nothing_and_everything_into_corrupt_does_all():
    models = [grown(TASK, SHAPES["rotary"], seed, 12.0, dtype=torch.float64) for seed in (0, 1)]
    pairs = TASK.pairs(stream("same"), 6)
    metric, sweep = difference(pairs), Sweep(models, pairs.corrupt, pairs.position)
    places = [Place(site, layer) for site in ("resid_pre", "z", "q", "pattern") for layer in (0, 1)]
    parts = [Place("z", 0, 1, 3), Place("k", 0, 0, 2), Place("resid_pre", 1, pos=5), Place("resid_pre", 0, pos=1)]
    same = sweep(places + parts, sweep.hold(pairs.corrupt, [p.name for p in places + parts]), metric)
    assert (same - sweep.unedited(metric).unsqueeze(1)).abs().max() < 1e-12
    clean = Sweep(models, pairs.clean, pairs.position).unedited(metric)
    every = sweep(
        [Place("resid_pre", layer) for layer in (0, 1)], sweep.hold(pairs.clean, [p.name for p in places]), metric
    )
    assert (every - clean.unsqueeze(1)).abs().max() < 1e-12
    assert (clean - sweep.unedited(metric)).abs().max() > 0.1


def test_several_places_at_once_are_one_cell():
    """Two heads together, against hooks by hand; a sweep of single heads would miss what they do jointly."""
    model, pairs = grown(TASK, SHAPES["rotary"], 0, 12.0, dtype=torch.float64), TASK.pairs(stream("two"), 6)
    sweep, metric = Sweep([model], pairs.corrupt, pairs.position), difference(pairs)
    both = (Place("z", 0, 0), Place("z", 1, 1, 4))
    source = sweep.hold(pairs.clean, [place.name for place in both])
    cell, apart = sweep([both], source, metric)[0, 0], sweep(list(both), source, metric)[0]
    assert (sweep.one_by_one([both], source, metric)[0, 0] - cell).abs().max() < 1e-12
    assert (apart - cell).abs().max() > 1e-4


def test_clamped_and_recurrent_models_go_one_by_one():
    pairs = TASK.pairs(stream("other"), 3)
    clamped = grown(TASK, SHAPES["rotary"], 0, 12.0, edits=(PreviousToken(),))
    sweep = Sweep([clamped], pairs.corrupt, pairs.position)
    source = sweep.hold(pairs.clean, ["blocks.0.hook_resid_pre"])
    found = sweep([Place("resid_pre", 0)], source, difference(pairs))[:, 0]
    assert (found - Sweep([clamped], pairs.clean, pairs.position).unedited(difference(pairs))).abs().max() < 1e-5
    with pytest.raises(ValueError, match="attention heads"):
        list(Patching()(Planted(TASK, grown(TASK, LSTM(d_model=16)), model=LSTM(d_model=16))))


def test_changes_are_what_their_names_say():
    held = {"site": torch.as_tensor(np.random.default_rng(0).normal(2.0, 1.5, (2, 400, 3, 4)))}
    assert (zero(held)["site"] == 0).all()
    assert (mean(held)["site"] - held["site"].mean(1, keepdim=True)).abs().max() < 1e-12
    other = resample(held)["site"]
    assert (other != held["site"]).all() and torch.equal(
        other.sum(1).round(decimals=9), held["site"].sum(1).round(decimals=9)
    )
    assert torch.equal(resample(held)["site"], other) and not torch.equal(resample(held, 1)["site"], other)
    drift = gaussian(held, 2.0)["site"] - held["site"]
    assert drift.std().item() == pytest.approx(2.0 * 1.5, rel=0.05) and drift[0, 0].std() != drift[0, 1].std()
    assert torch.equal(add(held, torch.ones(4))["site"], held["site"] + 1)


@pytest.mark.parametrize("metric", ["logit_difference", "log_prob", "rank", "kl"])
@pytest.mark.parametrize("change", ["denoise", "noise", "zero", "mean", "resample", "gaussian"])
def test_measure_agrees_with_a_loop_of_passes(change: str, metric: str):
    """Head outputs of one model, each changed with a hook by hand."""
    spec, model = SHAPES["rotary"], grown(TASK, SHAPES["rotary"], 3, 12.0, dtype=torch.float64)
    measure = Patching(by=("head",), change=change, metric=metric, n=5)
    subject = Planted(TASK, model, model=spec)
    table = pd.DataFrame(list(measure(subject)))
    pairs: Pairs = TASK.pairs(stream(TASK.name, "pairs", TASK.world, 0, "measure"), 5)
    base, other = (pairs.corrupt, pairs.clean) if change == "denoise" else (pairs.clean, pairs.corrupt)
    rows, read = torch.arange(5), torch.as_tensor(pairs.position)
    answer, foil = torch.as_tensor(pairs.answer), torch.as_tensor(pairs.foil)

    def judged(logits: torch.Tensor) -> torch.Tensor:
        said, before = logits[rows, read].log_softmax(-1), model(base)[rows, read].log_softmax(-1)
        return {
            "logit_difference": said[rows, answer] - said[rows, foil],
            "log_prob": said[rows, answer],
            "rank": (said > said[rows, answer][:, None]).sum(-1).double(),
            "kl": (before.exp() * (before - said)).sum(-1),
        }[metric]

    from probelab.edit import Edit

    for layer in range(2):
        site = f"blocks.{layer}.attn.hook_z"
        held = {site: model.cache(base, [site])[site][None]}
        made = {"zero": zero, "mean": mean, "resample": resample, "gaussian": gaussian}
        source = made[change](held)[site][0] if change in made else model.cache(other, [site])[site]
        for head in range(2):

            def swapped(z: torch.Tensor, context: Any, head: int = head, source: torch.Tensor = source) -> torch.Tensor:
                z = z.clone()
                z[:, :, head] = source[:, :, head]
                return z

            wanted = judged(model(base, [Edit(site, swapped)])) - judged(model(base))
            found = table[(table["metric"] == "effect") & (table["layer"] == layer) & (table["head"] == head)].iloc[0]
            assert found["value"] == pytest.approx(wanted.mean().item(), abs=1e-9)
            assert found["hi"] - found["lo"] == pytest.approx(2 * 1.959964 * wanted.std().item() / 5**0.5, abs=1e-6)
    assert ("recovery" in set(table["metric"])) == (change in ("denoise", "noise"))


@pytest.mark.parametrize("change", ["denoise", "mean", "resample", "gaussian"])
def test_pairs_that_do_not_fit_are_taken_in_lots(change: str):
    model, measure = grown(TASK, SHAPES["rotary"], 3, 12.0), Patching(n=9, by=("head", "role"), change=change)
    whole = pd.DataFrame(list(measure(Planted(TASK, model, model=model.spec))))
    subject = Planted(TASK, model, model=model.spec)
    subject.memory = 2**17
    parts = pd.DataFrame(list(measure(subject)))
    pd.testing.assert_frame_equal(whole, parts, atol=1e-5, rtol=0)


def test_masked_scores_stay_masked_whatever_takes_their_place():
    model, pairs = grown(TASK, SHAPES["rotary"], 3, 12.0), TASK.pairs(stream("mask"), 4)
    sweep, site = Sweep([model], pairs.clean, pairs.position), "blocks.0.attn.hook_attn_scores"
    held = sweep.hold(pairs.clean, [site])
    for source in (zero(held), gaussian(held), mean(held), resample(held)):
        assert torch.equal((source[site] == -torch.inf)[:, :1], (held[site] == -torch.inf)[:, :1])
        assert sweep([Place("attn_scores", 0)], source, difference(pairs)).isfinite().all()


def test_clamped_models_are_judged_each_by_its_own():
    """KL of clean into clean is 0 for every member, also where the model takes a batch in pieces."""
    models = [grown(TASK, SHAPES["rotary"], seed, 12.0, edits=(PreviousToken(),), memory=2**12) for seed in range(3)]
    pairs = TASK.pairs(stream("kl"), 5)
    sweep = Sweep(models, pairs.clean, pairs.position)
    source = sweep.hold(pairs.clean, ["blocks.1.attn.hook_z"])
    kl = kl_from(sweep.unedited(lambda logits: logits))
    assert sweep([Place("z", 1)], source, kl).abs().max() < 1e-6
    changed = sweep([Place("z", 1, 0)], zero(source), kl)
    alone = Sweep(models[1:2], pairs.clean, pairs.position)
    there = alone([Place("z", 1, 0)], zero(alone.hold(pairs.clean, source)), kl_from(alone.unedited(lambda x: x)))
    assert (changed[1] - there[0]).abs().max() < 1e-6 and changed.max() > 1e-3


BAD = {
    "head of blocks.0.attn.hook_z = 2 is out of range: 0 to 1": Place("z", 0, 2),
    "head of blocks.0.attn.hook_z = -1": Place("z", 0, -1),
    "pos of blocks.0.hook_resid_pre = 10 is out of range: 0 to 9": Place("resid_pre", 0, pos=10),
    "pos of blocks.0.hook_resid_pre = -1": Place("resid_pre", 0, pos=-1),
    "5 positions from 0 to 9": Place("resid_pre", 0, pos=(1, 2)),
    "key of blocks.1.attn.hook_pattern = -1": Place("pattern", 1, 0, 3, -1),
    "neuron of blocks.0.mlp.hook_post = 32": Place("post", 0, neuron=32),
    "no site of this model 'blocks.2.attn.hook_z'": Place("z", 2),
}


@pytest.mark.parametrize("said", BAD)
def test_places_that_a_model_does_not_have_are_refused(said: str):
    pairs = TASK.pairs(stream("bad"), 5)
    sweep, place = Sweep([grown(TASK, SHAPES["rotary"])], pairs.corrupt, pairs.position), BAD[said]
    held = dict.fromkeys([place.name], torch.zeros(1, 5, *[10] * 3))
    if "2.attn" not in place.name:
        held = sweep.hold(pairs.clean, [place.name])
    with pytest.raises(ValueError, match=re.escape(said)):
        sweep([place], held, difference(pairs))


def test_sources_and_models_that_do_not_fit_are_refused():
    pairs, spec = TASK.pairs(stream("bad"), 5), SHAPES["rotary"]
    sweep = Sweep([grown(TASK, spec)], pairs.corrupt, pairs.position)
    larger = Sweep([grown(TASK, spec)], TASK.pairs(stream("bad"), 8).clean)
    place = Place("resid_pre", 0, pos=3)
    source = larger.hold(larger.base, [place.name])
    with pytest.raises(ValueError, match="has the shape .1, 8, 10, 16.: it must be .1, 5"):
        sweep([place], source, difference(pairs))
    middle = sweep([place], mean(source), difference(pairs))  # a mean over another split serves any base
    assert (
        middle
        - sweep.one_by_one([(place,)], {place.name: mean(source)[place.name].expand(1, 5, -1, -1)}, difference(pairs))
    ).abs().max() < 1e-5
    for bad in (torch.zeros(1, 5, 10, 1, 8), torch.zeros(1, 5, 10, 16), torch.zeros(1, 5, 3, 2, 8)):
        with pytest.raises(ValueError, match="has the shape .*: it must be .1, 5, 10, 2, 8."):
            sweep([Place("v", 0, head=0)], {Place("v", 0).name: bad}, difference(pairs))
    with pytest.raises(ValueError, match="longer than the model's context of 10"):
        sweep.hold(Batch(np.zeros((5, 11), int), np.zeros((5, 11), int)), [place.name])
    with pytest.raises(ValueError, match="tokens from -7 to"):
        Sweep([grown(TASK, spec)], pairs.corrupt, pairs.position).beside(
            Batch(np.where(np.arange(10) == 4, -7, pairs.clean.tokens), pairs.clean.targets), [place.name]
        )
    with pytest.raises(ValueError, match="no site in the source"):
        sweep([Place("z", 0)], source, difference(pairs))
    with pytest.raises(ValueError, match="models = .* of one spec"):
        Sweep([grown(TASK, spec), grown(TASK, replace(spec, scaled=False))], pairs.corrupt)
    for read in (-pairs.position, pairs.position[:3], pairs.position + 10):
        with pytest.raises(ValueError, match="a position from 0 to 9 for each of 5"):
            Sweep([grown(TASK, spec)], pairs.corrupt, read)
    with pytest.raises(ValueError, match="one or more"):
        sweep([], source, difference(pairs))
    with pytest.raises(ValueError, match="at least 2"):
        resample({"site": torch.zeros(1, 1, 3)})


def test_pairs_without_a_role_are_left_out():
    measure = Patching(by=("role",), n=4)
    has = np.array([[[True, True, False, False]]])
    found = Found(np.array([[[1.0, 3.0, 9.0, 9.0]]]), np.ones((1, 4)) * 2, np.zeros((1, 4)), has)
    rows = pd.DataFrame(list(measure.rows([dict(layer=0, role="x")], found.of(0)))).set_index("metric")["value"]
    assert rows["effect"] == 2 and rows["recovery"] == 1


def test_recovery_is_a_ratio_of_means_and_unknown_where_there_is_no_gap():
    model = induction(TASK)
    table = rows_of(Patching(by=("head",), n=16), model, grown(TASK, model.spec, 0, 1e-6))
    at = table.set_index(["step", "metric"])
    gap = at.loc[(0, "clean"), "value"].item() - at.loc[(0, "corrupt"), "value"].item()
    assert at.loc[(0, "recovery"), "value"].to_numpy() == pytest.approx(at.loc[(0, "effect"), "value"].to_numpy() / gap)
    assert at.loc[(1, "recovery"), "value"].isna().all()


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        (dict(site="zz"), "did you mean"),
        (dict(by=("head", "neuron")), "head"),
        (dict(site="resid_pre", by=("head",)), "parts of the site resid_pre apart: position, role"),
        (dict(change="denoising"), "did you mean 'denoise'"),
        (dict(metric="logit"), "no metric"),
        (dict(by=("position", "role")), "not both"),
        (dict(n=1), "at least two"),
        (dict(by=("head", "head")), "each axis once"),
        (dict(site="readout"), "no site 'readout'"),
    ],
)
def test_bad_dials_are_refused(dials: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Patching(**dials)


def test_bad_places_are_refused():
    with pytest.raises(ValueError, match="has the axes batch pos"):
        Place("resid_pre", head=1)
    with pytest.raises(ValueError, match="did you mean 'pattern'"):
        Place("patern")
