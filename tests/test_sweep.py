"""Sweeps of interventions: every way of computing them gives what one whole pass a cell gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probelab import model
from probelab.model import readout
from probelab.places import SITES, Place
from probelab.prefixes import Rows
from probelab.spec import Transformer
from probelab.subject import Model
from probelab.sweep import Sweep
from synthetic_tasks import Batch, Classification, Pairs, Repeats, stream
from tests.planted import grown

TASK = Repeats(tokens=12, length=10)
SPECS = {
    "rotary": Transformer(layers=2, heads=2, d_model=16, d_mlp=32),
    "learned": Transformer(layers=2, heads=2, d_model=16, positions="learned", norm="plain", biases=False),
    "relative": Transformer(layers=2, heads=2, d_model=16, d_mlp=16, positions="relative", norm="none", scaled=False),
    "three layers": Transformer(layers=3, heads=(2, 4, 1), d_model=16, d_mlp=16, readout=(8,)),
    "one layer": Transformer(layers=1, heads=2, d_model=16, d_mlp=16, positions="sinusoidal", activation="relu"),
}


def models(spec: Transformer, members: int = 2, **how: Any) -> list[Model]:
    """Random models whose heads look sharply and whose layers write much."""
    return [grown(TASK, spec, seed, 12.0, dtype=torch.float64, **how) for seed in range(members)]


def difference(pairs: Pairs) -> Any:
    """Answer minus foil, of logits `[... batch vocab]`."""
    answer, foil = torch.as_tensor(pairs.answer), torch.as_tensor(pairs.foil)
    rows = torch.arange(len(answer))
    return lambda logits: logits[..., rows, answer] - logits[..., rows, foil]


def everywhere(spec: Transformer, site: str, sites: list[str], pairs: Pairs) -> list[Place]:
    """All kinds of places of a site: heads, positions (also one a sequence), keys, neurons, and all of them."""
    full, axes = SITES[site]
    length, found = pairs.clean.tokens.shape[1], []
    each = tuple(int(at) for at in pairs.position)
    for layer in range(spec.layers if "{}" in full else 1):
        if full.format(layer) not in sites:
            continue
        for head in [None, *range(spec.heads_of(layer))] if "head" in axes else [None]:
            for pos in (None, 0, 3, length - 2, each, (-1, *each[1:])):
                keys = [None, 1, 3] if "key" in axes else [None]
                neurons = [None, 2] if "key" not in axes and (head is None or site == "z") else [None]
                found += [Place(site, layer, head, pos, key) for key in keys]
                found += [Place(site, layer, head, pos, neuron=neuron) for neuron in neurons[1:]]
    return found


@pytest.mark.parametrize("name", SPECS)
def test_every_way_gives_what_one_pass_a_cell_gives(name: str):
    """At every site and kind of place, for two models at once, in float64; and the fast ways are taken."""
    spec, taken = SPECS[name], {}
    pairs = TASK.pairs(stream("sweep"), 5)
    sweep = Sweep(models(spec), pairs.corrupt, pairs.position)
    metric = difference(pairs)
    before = sweep.unedited(metric)
    for site in SITES:
        cells = everywhere(spec, site, sweep.models[0].sites, pairs)
        if not cells:
            continue
        source = sweep.hold(pairs.clean, [cell.name for cell in cells])
        found, wanted = sweep(cells, source, metric), sweep.one_by_one([(cell,) for cell in cells], source, metric)
        assert (found - wanted).abs().max() < 1e-9, site
        rows = sweep.hold(pairs.clean, source, sweep.read)
        assert (sweep(cells, rows, metric) - wanted).abs().max() < 1e-9, site
        taken[site] = {sweep.kind((cell,))[0] for cell in cells}, (wanted - before[:, None]).abs().max().item()
    ways = {"reach", "ripple"} if spec.layers > 1 else {"reach"}
    assert all(ways <= way for site, (way, _) in taken.items() if site in ("z", "q", "k", "v", "pattern", "attn_out"))
    assert all("onward" in way for site, (way, _) in taken.items() if site in ("embed", "pre", "mlp_in", "k_input"))
    assert sum(effect > 0.01 for _, effect in taken.values()) > 10  # what agrees is not all zero


@pytest.mark.parametrize("name", SPECS)
def test_what_one_row_holds_is_that_row_of_all(name: str):
    """At every site: one row of the last layer where it is not read itself, and everything elsewhere."""
    pairs, spec = TASK.pairs(stream("row"), 5), SPECS[name]
    sweep = Sweep(models(spec), pairs.corrupt, pairs.position)
    cells = {cell.name: cell for site in SITES for cell in everywhere(spec, site, sweep.models[0].sites, pairs)}
    alone, narrow = sweep.hold(pairs.clean, cells, sweep.read), set()
    for site, whole in sweep.hold(pairs.clean, cells).items():
        axis = 2 + cells[site].axes.index("pos")
        if alone[site].shape != whole.shape:
            whole, _ = sweep.reading(whole.movedim(axis, 2)).unsqueeze(2).movedim(2, axis), narrow.add(site)
        assert torch.allclose(alone[site], whole, rtol=0, atol=1e-12), site
    last = f"blocks.{spec.layers - 1}"
    assert {f"{last}.attn.hook_z", f"{last}.attn.hook_result", f"{last}.hook_resid_post", "logits"} <= narrow
    assert not {f"{last}.{name}" for name in ("hook_resid_pre", "hook_q_input", "attn.hook_k", "attn.hook_v")} & narrow


@pytest.mark.parametrize("name", [*SPECS, "vectors"])
def test_two_inputs_in_one_pass_hold_what_two_passes_find(name: str):
    """Base and source at every site, up to the position read; what both begin with is computed once, and no row behind.

    Effects of cells are those of one whole pass a cell.
    """
    task, spec = (Classification(), SPECS["rotary"]) if name == "vectors" else (TASK, SPECS[name])
    pairs = task.pairs(stream("beside"), 5)
    if pairs.clean.vectors is not None:  # what differs first is a vector
        speaks = (pairs.clean.tokens < 0) & (np.arange(pairs.clean.tokens.shape[1]) >= 4)
        moved = pairs.clean.vectors + stream("moved").normal(size=pairs.clean.vectors.shape) * speaks[..., None]
        pairs = pairs._replace(clean=replace(pairs.clean, vectors=moved.astype("float32")))
    members = [grown(task, spec, seed, 12.0, dtype=torch.float64) for seed in range(2)]
    sweep, plain = (Sweep(members, pairs.corrupt, pairs.position) for _ in range(2))
    cells = [cell for site in SITES for cell in everywhere(spec, site, sweep.models[0].sites, pairs)]
    cells = [cell for cell in cells if not cell.name.endswith("_input")]
    sites = {cell.name: cell.axes.index("pos") + 2 for cell in cells}
    beside = sweep.beside(pairs.clean, sites)
    assert not sweep._held and sweep.held("logits")
    read, length = torch.as_tensor(pairs.position), pairs.clean.tokens.shape[1]
    upto = torch.arange(length) <= read[:, None]
    for batch, found in ((pairs.clean, beside), (pairs.corrupt, dict(zip(sites, sweep.held(*sites), strict=True)))):
        for site, whole in plain.hold(batch, sites, plain.read).items():
            one, other = (value.movedim(sites[site], 2) for value in (found[site], whole))
            one, other = (value[:, upto] if value.shape[2] > 1 else value for value in (one, other))
            assert torch.allclose(one, other, rtol=0, atol=1e-12), site
    alike = (pairs.clean.tokens == pairs.corrupt.tokens) & (
        True if pairs.clean.vectors is None else (pairs.clean.vectors == pairs.corrupt.vectors).all(-1)
    )
    parted = [int(row.argmin()) if not row.all() else length for row in alike]
    needed = sum(at + 1 + max(0, at + 1 - part) for at, part in zip(pairs.position, parted, strict=True))
    rows = Rows(pairs.corrupt, pairs.clean, read, words=True)
    assert len(rows.rows) == needed < 2 * upto.numel()
    said = np.unique(np.concatenate([part.tokens[upto.numpy()] for part in (pairs.corrupt, pairs.clean)]))
    for layer, reads in enumerate([None if name == "vectors" else len(said), None]):  # tokens once, then every row
        some = rows.read_by(layer)[0]
        assert reads == (None if some is None else len(some))
    some, metric = cells[:: max(1, len(cells) // 100)], difference(pairs)
    wanted = plain.one_by_one([(cell,) for cell in some], plain.hold(pairs.clean, sites), metric)
    assert (sweep(some, beside, metric) - wanted).abs().max() < 1e-9
    assert (wanted - plain.unedited(metric)[:, None]).abs().max() > 0.01


@pytest.mark.parametrize("count", [5, 1])
@pytest.mark.parametrize("name", ["rotary", "relative", "three layers"])
def test_the_other_input_goes_no_further_than_it_is_asked(name: str, count: int, monkeypatch: pytest.MonkeyPatch):
    """Keys and values of the last layer are all that most sweeps want; the base has everything all the same."""
    spec, pairs, read_out = SPECS[name], TASK.pairs(stream("early"), count), []
    sweep, plain = (Sweep(models(spec), pairs.corrupt, pairs.position) for _ in range(2))
    last, sites = f"blocks.{spec.layers - 1}", sweep.models[0].sites
    early = [*sites[: sites.index(f"{last}.hook_resid_pre") + 1], f"{last}.attn.hook_k", f"{last}.attn.hook_v"]
    early = [site for site in early if not site.endswith("_input")]
    monkeypatch.setattr(model, "readout", lambda *given: read_out.append(given[2].shape[1]) or readout(*given))
    beside, upto = (
        sweep.beside(pairs.clean, early),
        torch.arange(TASK.length) <= torch.as_tensor(pairs.position)[:, None],
    )
    assert read_out == [count if count > 1 else 2]
    for site, whole in plain.hold(pairs.clean, early, plain.read).items():
        at = 3 if site.endswith(("pattern", "scores")) else 2
        one, other = (value.movedim(at, 2)[:, upto] for value in (beside[site], whole))
        assert torch.allclose(one, other, rtol=0, atol=1e-12), site
    assert torch.allclose(sweep.held("logits")[0], plain.held("logits")[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rotary", "learned"])
def test_one_row_is_enough(name: str):
    """One sequence, read at its first token, which both inputs share: one row is all that there is to compute."""
    tokens = np.array([[1, 2, 3]]), np.array([[1, 4, 5]])
    base, other = (Batch(part, np.full_like(part, -1)) for part in tokens)
    sweep, plain = (Sweep(models(SPECS[name]), base, np.array([0])) for _ in range(2))
    found, wanted = sweep.beside(other, ["logits"]), plain.hold(other, ["logits"], plain.read)
    assert torch.allclose(found["logits"], wanted["logits"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
@pytest.mark.parametrize("layer", [0, 1])
def test_patterns_that_look_ahead_see_what_is_there(site: str, layer: int):
    """`beside` computes nothing behind the position read, where a pattern that is even over all keys looks, too."""
    pairs, metric = (drawn := TASK.pairs(stream("ahead"), 5)), difference(drawn)
    sweep, plain = (Sweep(models(SPECS["rotary"]), pairs.corrupt, pairs.position) for _ in range(2))
    sweep.beside(pairs.clean, ["blocks.0.attn.hook_z"])
    even = torch.full((2, 5, 2, 10, 10), 0.1 if site == "pattern" else 0.0, dtype=torch.float64)
    place = Place(site, layer)
    wanted = plain.one_by_one([(place,)], {place.name: even}, metric)
    assert torch.allclose(sweep([place], {place.name: even}, metric), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("site", ["z", "k", "pattern", "attn_scores", "post"])
def test_a_source_at_all_positions_may_part_from_the_base_anywhere(site: str):
    """At one position of one sequence, for one of two models; where it never does, nothing changes at all."""
    pairs, spec = TASK.pairs(stream("parts"), 5), SPECS["rotary"]
    sweep = Sweep(models(spec), pairs.corrupt, pairs.position)
    cells, metric = [Place(site, layer) for layer in range(2)], difference(pairs)
    base = sweep.hold(pairs.corrupt, [cell.name for cell in cells])
    before, source = sweep.unedited(metric), {name: value.clone() for name, value in base.items()}
    assert torch.equal(sweep(cells[:1], base, metric)[:, 0], before) or site == "attn_scores"  # masked: all rows anew
    early = [slice(None)] * cells[0].axes.index("pos") + [2]
    for value in source.values():
        value[1, 3][tuple(early)] += torch.rand(value[1, 3][tuple(early)].shape, dtype=torch.float64)
    found, wanted = sweep(cells, source, metric), sweep.one_by_one([(cell,) for cell in cells], source, metric)
    assert (found - wanted).abs().max() < 1e-9
    changed = (wanted - before[:, None]).abs() > 1e-6
    assert changed[1, 0, 3] and changed.sum() == changed[1, :, 3].sum()


def test_a_metric_may_read_every_position():
    """The mean loss of all positions, of single places and of two together."""
    spec, pairs = SPECS["rotary"], TASK.pairs(stream("all"), 4)
    sweep, targets = Sweep(models(spec), pairs.corrupt), torch.as_tensor(pairs.corrupt.targets)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        nats = -logits.log_softmax(-1)
        return nats.gather(-1, targets.clamp(min=0).expand(logits.shape[:-1])[..., None])[..., 0].mean(-1)

    cells = [Place("z", 0, 1), Place("resid_pre", 1, pos=4), (Place("k", 0, 0, 2), Place("post", 1, neuron=3))]
    source = sweep.hold(
        pairs.clean, [place.name for cell in cells for place in (cell if isinstance(cell, tuple) else (cell,))]
    )
    wanted = sweep.one_by_one([cell if isinstance(cell, tuple) else (cell,) for cell in cells], source, loss)
    assert (sweep(cells, source, loss) - wanted).abs().max() < 1e-9
    assert (wanted - sweep.unedited(loss).unsqueeze(1)).abs().max() > 1e-3


@st.composite
def settings_of(draw: Any) -> tuple[Transformer, int, list[Place]]:
    """Any transformer, any length, and some places of it."""
    layers = draw(st.integers(1, 3))
    heads = tuple(draw(st.sampled_from((1, 2, 4))) for _ in range(layers))
    spec = Transformer(
        layers=layers,
        heads=heads,
        d_model=16,
        d_head=draw(st.sampled_from((None, 4, 6))),
        d_mlp=draw(st.sampled_from((0, 8))),
        positions=draw(st.sampled_from(("rotary", "learned", "relative", "sinusoidal", "none"))),
        norm=draw(st.sampled_from(("layer", "plain", "none"))),
        biases=draw(st.booleans()),
        scaled=draw(st.booleans()),
        readout=draw(st.sampled_from(((), (8,)))),
    )
    length, found = draw(st.integers(8, 12)), []
    for _ in range(6):
        site = draw(st.sampled_from([site for site in SITES if spec.d_mlp or site not in OF_MLP]))
        if site in ("readout", "pos_embed") or (site.startswith("rot") and spec.positions != "rotary"):
            continue
        layer, axes = draw(st.integers(0, layers - 1)), SITES[site][1]
        at = {"pos": length, "key": length, "head": heads[layer], "neuron": 8 if site in ("pre", "post") else 0}
        chosen = {
            axis: draw(st.one_of(st.none(), st.integers(0, most - 1))) for axis, most in at.items() if axis in axes
        }
        found.append(Place(site, layer if "{}" in SITES[site][0] else 0, **chosen))
    return spec, length, found


OF_MLP = ("resid_mid", "mlp_in", "mlp_out", "pre", "post")


@given(settings_of())
@settings(max_examples=60, deadline=None)
def test_any_shape_any_place(drawn: tuple[Transformer, int, list[Place]]):
    spec, length, cells = drawn
    if not cells:
        return
    task = Repeats(tokens=12, length=length)
    pairs = task.pairs(stream("any"), 3)
    members = [grown(task, spec, seed, 12.0, dtype=torch.float64) for seed in range(2)]
    sweep, metric = Sweep(members, pairs.corrupt, pairs.position), difference(pairs)
    source = sweep.hold(pairs.clean, [cell.name for cell in cells])
    both = [*cells, tuple(cells)]
    wanted = sweep.one_by_one([cell if isinstance(cell, tuple) else (cell,) for cell in both], source, metric)
    assert (sweep(both, source, metric) - wanted).abs().max() < 1e-9 * max(1.0, wanted.abs().max().item())
