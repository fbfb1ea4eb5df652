"""The dials of frozen dataclasses: what kind each is declared, values stored as declared, as JSON, and its digest."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from synthetic_tasks.task import choose, require

T = TypeVar("T")
READY = (int, float, str, bool, type(None))  # what JSON takes as it is


def dials(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass as a plain dict."""
    return {f.name: getattr(thing, f.name) for f in fields(thing)}


@cache
def declared(kind: type) -> dict[str, Any]:
    """The declared kinds of a dataclass's dials; none where Python cannot resolve them."""
    try:
        return get_type_hints(kind)
    except NameError:
        return {}


def settle(thing: Any) -> None:
    """Store the dials of a frozen dataclass as they are declared, and refuse a value of another kind."""
    for f in fields(thing):
        kind = declared(type(thing))[f.name]
        value = settled(getattr(thing, f.name), kind)
        check_kind(f.name, value, kind)
        object.__setattr__(thing, f.name, value)


def settled(value: Any, kind: Any) -> Any:
    """A value as its dial declares it: lists as tuples, numpy's numbers as Python's, 1 as 1.0 for a float."""
    options = options_of(kind)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None and "none" in get_args(kind):
        return "none"  # as the command line cannot tell them apart
    if isinstance(value, (list, tuple)):
        kinds = next((kinds_of(option, len(value)) for option in options if get_origin(option) is tuple), ())
        return tuple(map(settled, value, kinds)) if len(kinds) == len(value) else tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in options and int not in options:
        return float(value)
    return value


@cache
def options_of(kind: Any) -> tuple[Any, ...]:
    """The kinds that a declared kind allows: two for `int | None`."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def fits(value: Any, kind: Any) -> bool:
    """Is a value of a declared kind? Floats must be finite, and True is no number."""
    if len(options_of(kind)) > 1:
        return any(fits(value, option) for option in options_of(kind))
    if get_origin(kind) is tuple:
        kinds = kinds_of(kind, len(value)) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and len(kinds) == len(value) and all(map(fits, value, kinds))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return not isinstance(kind, type) or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))


def kinds_of(kind: Any, length: int) -> tuple[Any, ...]:
    """The kinds of a tuple's items: `tuple[int, ...]` has as many as there are items."""
    kinds = get_args(kind)
    return kinds[:1] * length if kinds[1:] == (...,) else kinds


def build(what: str, kind: type[T], values: dict[str, Any]) -> T:
    """`kind(**values)`; an unknown dial or a value of another kind is refused by name."""
    kinds, known = declared(kind), [f.name for f in fields(kind) if f.init]  # pyright: ignore[reportArgumentType]
    values = {choose(f"dial of {what}", dial, known): settled(v, kinds.get(dial, Any)) for dial, v in values.items()}
    for dial, value in values.items():
        check_kind(dial, value, kinds.get(dial, Any))
    return kind(**values)


def check_kind(dial: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of its dial's kind."""
    if get_origin(kind) is Literal:
        choose(dial, value, get_args(kind))
    spoken = kind.__name__ if isinstance(kind, type) else kind
    require(fits(value, kind), dial, value, f"it is of kind {spoken}")


def plain(thing: Any) -> Any:
    """JSON-ready: dataclasses become dicts, tuples lists, and what is declared float is one: 1 and 1.0 are equal."""
    if type(thing) in READY:
        return thing
    if is_dataclass(thing) and not isinstance(thing, type):
        kinds = declared(type(thing))
        return {dial: plain(settled(value, kinds.get(dial, Any))) for dial, value in dials(thing).items()}
    if isinstance(thing, (list, tuple)):
        return [plain(item) for item in thing]
    if isinstance(thing, dict):
        return {str(key): plain(value) for key, value in thing.items()}
    return thing.item() if isinstance(thing, np.generic) else thing


def differing(thing: Any) -> list[str]:
    """The dials that differ from their defaults, as `states=3` or `heads=1+2`; without `world`, which is a seed."""
    differ = [f.name for f in fields(thing) if f.name != "world" and getattr(thing, f.name) != f.default]
    values = plain(thing)
    return [f"{dial}={'+'.join(map(str, v)) if isinstance(v := values[dial], list) else v}" for dial in differ]


def canonical(value: Any) -> str:
    """The one text of a value as JSON: sorted keys, no spaces."""
    return written(plain(value))


def written(value: Any) -> str:
    """The same of what is JSON already."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, size: int = 5) -> str:
    """Hash of the canonical text, in hexadecimal."""
    return hashed(canonical(value), size)


def hashed(words: str, size: int = 5) -> str:
    """Hash of a text, in hexadecimal."""
    return blake2b(words.encode(), digest_size=size).hexdigest()
