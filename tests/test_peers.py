"""nnsight and pyvene on the weights that TransformerLens gets: they read what we read, and move what we move.

They come with the extra `peers`; without them these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probelab.bridge import to_transformer_lens
from probelab.edit import Edit
from probelab.places import Place, site_of
from probelab.spec import Transformer
from probelab.subject import Model, as_batch
from probelab.sweep import Sweep, replacing
from synthetic_tasks import Repeats, stream
from tests.planted import grown

TASK = Repeats(tokens=12, length=10)
CLEAN, CORRUPT = (torch.as_tensor(TASK.sample(stream("peers", name), 4).tokens) for name in ("clean", "corrupt"))
SPECS = {
    "rotary": Transformer(layers=2, heads=4, d_model=24, d_mlp=32, activation="relu"),
    "learned": Transformer(layers=2, heads=3, d_model=24, d_mlp=32, positions="learned", norm="plain", biases=False),
}
# our site -> the module of a bridge's block that takes it in or gives it out
PARTS = {
    "resid_pre": ("", "input"),
    **{name: (f".attn.{name}", "output") for name in "qkv"},
    "z": (".attn.o", "input"),
    "attn_out": (".attn.o", "output"),
    "pre": (".mlp.in", "output"),
    "post": (".mlp.out", "input"),
    "mlp_out": (".mlp", "output"),
    "resid_post": (".hook_out", "output"),  # the block itself gives a tuple
}
HEADS = ("q", "k", "v", "z")


class NNsight:
    """Reads and writes in the body of a `with`, which nnsight runs along with the forward pass."""

    def __init__(self, library: Any, bridge: Any):
        self.save, self.net, self.heads = library.save, library.NNsight(bridge), bridge.cfg.n_heads

    def read(self, site: str, layer: int) -> Tensor:
        room, side = PARTS[site]
        part = self.net.get(f"blocks.{layer}{room}")
        with self.net.trace(CLEAN):
            held = self.save(getattr(part, side))
        return held

    def interchange(self, place: Place) -> Tensor:
        room, side = PARTS[place.site]
        part, clean = self.net.get(f"blocks.{place.layer}{room}"), self.read(place.site, place.layer)
        at = torch.arange(len(CLEAN)), torch.as_tensor(place.pos).expand(len(CLEAN))
        size = clean.shape[-1] // self.heads
        mine = slice(None) if place.head is None else slice(place.head * size, (place.head + 1) * size)
        with self.net.trace(CORRUPT):
            getattr(part, side)[*at, mine] = clean[*at, mine]
            logits = self.save(self.net.output)
        return logits


class Pyvene:
    """Is told what to do where, then called on a base and its sources."""

    def __init__(self, library: Any, bridge: Any):
        self.library, self.bridge, kind = library, bridge, type(bridge)
        bridge.config, bridge.device = bridge.cfg, CLEAN.device  # it expects both of any model
        split = (library.models.constants.split_head_and_permute, "n_heads")
        hooks = {"input": "register_forward_pre_hook", "output": "register_forward_hook"}
        library.type_to_dimension_mapping[kind] = {"n_heads": ("n_heads",)}
        library.type_to_module_mapping[kind] = {
            site: (f"blocks[%s]{room}", hooks[side], *[split] * (site in HEADS)) for site, (room, side) in PARTS.items()
        }

    def told(self, what: str, site: str, layer: int) -> Any:
        unit, kind = "h.pos" if site in HEADS else "pos", getattr(self.library, f"{what}Intervention")
        how = dict(layer=layer, component=site, unit=unit, intervention_type=kind)
        return self.library.IntervenableModel(how, model=self.bridge)

    def at(self, site: str, heads: list[Any], positions: list[list[int]]) -> list[Any]:
        """Where the one intervention acts: lists of positions, one a sequence, beside as many lists of heads."""
        return [[[heads] * len(positions), positions] if site in HEADS else positions]

    def read(self, site: str, layer: int) -> Tensor:
        everywhere = self.at(site, [*range(self.bridge.cfg.n_heads)], [[*range(CLEAN.shape[1])]] * len(CLEAN))
        (_, (held,)), _ = self.told("Collect", site, layer)({"input": CLEAN}, unit_locations={"base": everywhere})
        return held.transpose(1, 2).flatten(2) if site in HEADS else held

    def interchange(self, place: Place) -> Tensor:
        here = self.at(place.site, [place.head], torch.as_tensor(place.pos).expand(len(CLEAN))[:, None].tolist())
        told = self.told("Vanilla", place.site, place.layer)
        return told({"input": CORRUPT}, [{"input": CLEAN}], {"sources->base": (here, here)})[1]


@pytest.fixture(scope="module", params=[NNsight, Pyvene], ids=["nnsight", "pyvene"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Imported here, because nnsight, which pyvene imports too, gives every object a `save` and replaces `backward`."""
    config, backward = tmp_path_factory.mktemp("nnsight") / "config.yaml", torch.Tensor.backward
    config.write_text("APP: {PYMOUNT: false}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNSIGHT_CONFIG", str(config))
        patch.setattr(torch.Tensor, "backward", backward)
        found = pytest.importorskip(request.param.__name__.lower())
        yield lambda bridge: request.param(found, bridge)
    assert not hasattr(object, "save") and torch.Tensor.backward is backward


@pytest.fixture(params=SPECS)
def model(request: pytest.FixtureRequest) -> Model:
    return grown(TASK, SPECS[request.param], 0, 12.0, dtype=torch.float64)


def test_they_read_what_we_read(library: Callable, model: Model):
    theirs = library(to_transformer_lens(model).requires_grad_(False))
    for site, layer in product(PARTS, range(2)):
        name = site_of(site, layer)
        held = theirs.read(site, layer)
        assert held.dtype == torch.float64
        assert (held - model.cache(CLEAN, [name])[name].flatten(2)).abs().max() < 1e-9, name


def test_an_interchange_gives_the_same_logits(library: Callable, model: Model):
    """From clean into corrupt, at one position for all and at one for each sequence, of one head where there are."""
    theirs, before = library(to_transformer_lens(model).requires_grad_(False)), model(CORRUPT)
    read = np.array([3, 8, 5, 9])  # sweeps have faster ways to what is read at one position
    sweep = Sweep([model], as_batch(CORRUPT), read)
    for site, layer, pos in product(PARTS, range(2), (3, (1, 8, 5, 3))):
        place = Place(site, layer, 2 if site in HEADS else None, pos)
        source = sweep.hold(as_batch(CLEAN), [place.name])
        found = theirs.interchange(place)
        edited = model(CORRUPT, [Edit(place.name, replacing(place, source[place.name][0]))])
        swept = sweep([place], source, lambda logits: logits[..., 0])[0, 0]
        assert (found - edited).abs().max() < 1e-9, place
        assert (found[torch.arange(len(read)), read, 0] - swept).abs().max() < 1e-9, place
        assert (found - before).abs().amax((1, 2)).min() > 1e-3, place
