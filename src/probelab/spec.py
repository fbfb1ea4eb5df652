"""What was chosen: model, optimiser, task and seeds as frozen data, with one canonical text and one digest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from probelab.clamps import Clamp, clamp_of
from probelab.kinds import build, dials, differing, digest, plain, settle, written
from synthetic_tasks import TASKS, Task
from synthetic_tasks.task import choose, choose_from, require

Positions = Literal["learned", "rotary", "sinusoidal", "relative", "none"]


@dataclass(frozen=True)
class Transformer:
    """A decoder-only transformer. Vocabulary, context and feature sizes come from the task.

    heads       heads in every layer, or a tuple with the heads of each layer
    d_head      size of a head; d_model / heads if None
    d_mlp       hidden units of each block's MLP; 0 leaves attention only
    norm        "layer" (with weight and bias), "plain" (parameter-free) or "none"; before each part and the readout
    positions   "relative" adds a learned vector per offset to the keys (Edelman et al. 2024), the others are usual
    base        wavelength base of rotary and sinusoidal positions (Chan et al. 2022 use 30 for the latter)
    scaled      divide scores by sqrt(d_head); Reddy 2023 does not
    dropout     on the embedding, the attention pattern and what each part writes to the residual stream
    init        a row of `probelab.model.INITS`
    readout     widths of ReLU layers between the last block and the logits (Reddy 2023 has three of 128)
    attention   "fused" takes the fused kernel where nothing is recorded or edited; "explicit" never does
    """

    layers: int = 2
    heads: int | tuple[int, ...] = 1
    d_model: int = 64
    d_head: int | None = None
    d_mlp: int = 0
    activation: Literal["gelu", "relu"] = "gelu"
    norm: Literal["layer", "plain", "none"] = "layer"
    positions: Positions = "rotary"
    base: float = 10_000.0
    biases: bool = True
    scaled: bool = True
    dropout: float = 0.0
    tied: bool = False
    init: str = "gpt2"
    readout: tuple[int, ...] = ()
    attention: Literal["fused", "explicit"] = "fused"

    def __post_init__(self) -> None:
        settle(self)
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        require(self.d_model >= 1, "d_model", self.d_model, "at least 1")
        require(self.d_mlp >= 0, "d_mlp", self.d_mlp, "0 (attention only) or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 up to, not including, 1")
        require(self.base > 1, "base", self.base, "above 1")
        require(self.d_head is None or self.d_head >= 1, "d_head", self.d_head, "at least 1, or None")
        require(all(width >= 1 for width in self.readout), "readout", self.readout, "widths of at least 1")
        if isinstance(self.heads, tuple):
            require(len(self.heads) == self.layers, "heads", self.heads, f"one number, or {self.layers} (one a layer)")
        for layer in range(self.layers):
            heads = self.heads_of(layer)
            require(heads >= 1, "heads", self.heads, "at least 1")
            require(
                self.d_head is not None or self.d_model % heads == 0,
                "heads",
                heads,
                f"a divisor of d_model = {self.d_model}, or set d_head",
            )
            require(
                self.positions != "rotary" or self.head_size(layer) % 2 == 0,
                "d_head",
                self.head_size(layer),
                "even, for rotary positions",
            )
        require(
            self.positions != "sinusoidal" or self.d_model % 2 == 0,
            "d_model",
            self.d_model,
            "even, for sinusoidal positions",
        )
        require(
            not (self.tied and self.readout),
            "tied",
            self.tied,
            "False when there is a readout: its last width is not d_model",
        )

    def heads_of(self, layer: int) -> int:
        """Number of heads in a layer."""
        return self.heads if isinstance(self.heads, int) else self.heads[layer]

    def head_size(self, layer: int) -> int:
        """Size of a head in a layer."""
        return self.d_head or self.d_model // self.heads_of(layer)

    def score_scale(self, layer: int) -> float:
        """What scores are multiplied by: 1 / sqrt(d_head), or 1."""
        return self.head_size(layer) ** -0.5 if self.scaled else 1.0


@dataclass(frozen=True)
class Recurrent:
    """What the recurrent controls share: an embedding, a stack of layers, a linear readout (Chan et al. 2022).

    A layer reads what the one below gives out; there is no residual stream, no norm, no position and no dropout.

    d_model  width of the embedding and of every layer's state
    init     a row of `probelab.model.INITS`; lecun draws the matrices with a standard deviation of 1/sqrt(d_model)
    """

    layers: int = 2
    d_model: int = 64
    init: str = "lecun"

    # What a transformer may have, for those who read specs of any kind.
    positions: ClassVar[Literal["none"]] = "none"
    dropout: ClassVar[float] = 0.0
    d_mlp: ClassVar[int] = 0
    tied: ClassVar[bool] = False
    readout: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        settle(self)
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        require(self.d_model >= 1, "d_model", self.d_model, "at least 1")


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory. A constant 1 is added to the forget gate's input (Jozefowicz et al. 2015)."""


@dataclass(frozen=True)
class RNN(Recurrent):
    """The plain recurrent net: `h = tanh(x W_in + h W_rec + b)`."""


MODELS: dict[str, type] = {"transformer": Transformer, "lstm": LSTM, "rnn": RNN}
PARTS = ("task", "model", "optimizer")
GROUPS = ("embedding", "positions", "attention", "mlp", "norm", "bias", "readout", "recurrent")


@dataclass(frozen=True)
class Optimizer:
    """How weights move. `weight_decay` acts on the groups in `decayed`: decoupled in AdamW, as L2 in Adam and SGD.

    schedule   of the learning rate after `warmup` linear steps: "constant", "cosine" (to zero at step `horizon`) or
               "inverse_sqrt" (lr * sqrt(warmup / step), Chan et al. 2022)
    clip       largest norm of the gradient of one member, or None
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.01
    decayed: tuple[str, ...] = ("attention", "mlp", "readout")
    clip: float | None = None
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "constant"
    warmup: int = 0
    horizon: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        for group in self.decayed:
            choose("parameter group", group, GROUPS)
        require(self.horizon is None or self.horizon >= 1, "horizon", self.horizon, "at least 1, or None")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers from 0 up to, not including, 1")
        require(self.eps > 0, "eps", self.eps, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 up to, not including, 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.clip is None or self.clip > 0, "clip", self.clip, "above 0, or None")
        require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        if self.schedule == "cosine":
            require(
                self.horizon is not None and self.horizon > self.warmup,
                "horizon",
                self.horizon,
                "a step after the warm-up, for a cosine schedule",
            )
        if self.schedule == "inverse_sqrt":
            require(self.warmup > 0, "warmup", self.warmup, "at least 1, for an inverse square root schedule")


@dataclass(frozen=True)
class Spec:
    """One trajectory: everything its weights depend on. The world's seed is the task's own `world` dial.

    `edits` are clamps: what every forward pass overwrites while the rest learns.
    """

    task: Task
    model: Transformer | LSTM | RNN = field(default_factory=Transformer)
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch: int = 64
    data: int = 0
    init: int = 0
    edits: tuple[Clamp, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        for dial, value in dials(self.task).items():
            require(not isinstance(value, float) or math.isfinite(value), dial, value, "a finite number")
        for clamp in self.edits:
            clamp.check(self.model)

    def seeded(self, seed: int) -> Spec:
        """The same choice with all three seeds set."""
        return replace_all(self, {"task.world": seed, "data": seed, "init": seed})

    @property
    def seed(self) -> int:
        """The seed of the data stream, which names the run."""
        return self.data

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits of the trajectory."""
        return digest(to_json(self))

    @property
    def name(self) -> str:
        """`<task>-<dials that differ>-<seed>-<digest>`, so that a human can read a listing of run folders.

        The kind of model stands after the task where it is not a transformer; then clamps, as `match.head=3`.
        """
        clamps = [".".join([clamp.name, *differing(clamp)]) for clamp in self.edits]
        texts = [*clamps, *differing(self.task), *differing(self.model)]
        text = re.sub(r"[^\w.=+-]", "_", "-".join(texts))[:80].rstrip("-")
        kind = "" if isinstance(self.model, Transformer) else kind_of(self.model)
        return "-".join(part for part in (self.task.name, kind, text, str(self.seed), self.digest) if part)


def kind_of(model: Any) -> str:
    """The name of a model's kind in `MODELS`; that of its class, if it is not there."""
    return next((name for name, kind in MODELS.items() if type(model) is kind), type(model).__name__)


def to_json(spec: Spec) -> dict[str, Any]:
    """A spec as JSON-ready data, with the kinds and versions of its parts."""
    edits = [{"name": clamp.name, **plain(clamp)} for clamp in spec.edits]
    return {
        "task": {"name": spec.task.name, "version": spec.task.version, **plain(spec.task)},
        "model": {"kind": kind_of(spec.model), **plain(spec.model)},
        "optimizer": plain(spec.optimizer),
        "batch": spec.batch,
        "data": spec.data,
        "init": spec.init,
        **({"edits": edits} if edits else {}),  # a spec without any has the digest that it had before there were clamps
    }


def from_json(data: dict[str, Any], task: type[Task] | None = None) -> Spec:
    """The spec that `to_json` described. `task` is the class, for tasks that do not ship with the library."""
    described = dict(data["task"])
    name, version = described.pop("name"), described.pop("version")
    if task is not None and task.name != name:
        raise ValueError(f"the run is of the task {name!r}, and task={task.__name__} is {task.name!r}")
    if task is None and name not in TASKS:
        shipped = ", ".join(TASKS)
        raise ValueError(
            f"the task {name!r} does not ship with probelab ({shipped} do): open the run with task=<class>"
        )
    kind = task or TASKS[name]
    if kind.version != version:
        raise ValueError(
            f"the run was made by version {version} of the task {name!r}, this is version {kind.version}: "
            "install the version that made it, or train anew"
        )
    model = dict(data["model"])
    family = choose_from("model kind", model.pop("kind"), MODELS)
    return Spec(
        task=build(name, kind, described),
        model=build("the model", family, model),
        optimizer=build("the optimizer", Optimizer, data["optimizer"]),
        batch=data["batch"],
        data=data["data"],
        init=data["init"],
        edits=tuple(clamp_of(clamp.pop("name"), **clamp) for clamp in map(dict, data.get("edits", ()))),
    )


def replace_all(spec: Spec, settings: dict[str, Any]) -> Spec:
    """The spec with dials turned by their dotted names: `{"task.states": 3, "optimizer.lr": 1e-3, "batch": 32}`.

    `model.kind` comes first: a model of another kind (of `MODELS`) keeps layers and d_model, all else is its default.
    """
    rooms: dict[str, dict[str, Any]] = {}
    if "model.kind" in settings:
        kind = choose_from("model kind", settings["model.kind"], MODELS)
        settings = {path: value for path, value in settings.items() if path != "model.kind"}
        if type(spec.model) is not kind:
            spec = replace(spec, model=kind(layers=spec.model.layers, d_model=spec.model.d_model))
    for path, value in settings.items():
        room, _, dial = path.rpartition(".")
        if room:
            part = getattr(spec, choose("part of a run", room, PARTS))
            choose(f"dial of {spec.task.name if room == 'task' else f'the {room}'}", dial, dials(part))
        else:
            choose("setting", dial, settable(spec))
        rooms.setdefault(room, {})[dial] = value
    for room, turned in rooms.items():  # together: heads of three layers and three layers are one choice
        spec = replace(spec, **({room: replace(getattr(spec, room), **turned)} if room else turned))
    return spec


def settable(spec: Spec) -> list[str]:
    """Every name that `replace_all` knows."""
    return ["batch", "data", "init", *(f"{part}.{dial}" for part in PARTS for dial in dials(getattr(spec, part)))]


def flat(spec: Spec) -> dict[str, Any]:
    """Every dial by its dotted name, as columns of a table: `task.states`, `model.layers`, `optimizer.lr`, `batch`."""
    return columns(to_json(spec))


def columns(described: dict[str, Any]) -> dict[str, Any]:
    """Every dial of what `to_json` gave, by its dotted name."""
    rooms = {room: part for room, part in described.items() if isinstance(part, dict)}
    found = {f"{room}.{dial}": value for room, part in rooms.items() for dial, value in part.items()}
    return {name: written(value) if isinstance(value, list) else value for name, value in found.items()} | {
        "batch": described["batch"]
    }
