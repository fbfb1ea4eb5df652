"""How a model knows where a token stands: added to the embedding, turning queries and keys, or added to the scores."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=32)
def sinusoids(context: int, width: int, base: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fixed positions `[pos d]`: sines of falling frequency, then cosines (Vaswani et al. 2017)."""
    angles = torch.outer(
        torch.arange(context, dtype=torch.float64), base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    )
    return torch.cat([angles.sin(), angles.cos()], -1).to(device, dtype)


@lru_cache(maxsize=32)
def turns(context: int, heads: int, width: int, base: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The turn of each pair of a head's coordinates, as a complex number of length 1: `[pos head d/2]`.

    All heads turn alike; a product with an axis that is only broadcast would take three times as long.
    """
    angles = torch.outer(
        torch.arange(context, dtype=torch.float32),
        1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width),
    )
    alike = torch.complex(angles.cos().to(dtype), angles.sin().to(dtype))
    return alike[:, None].repeat(1, heads, 1).to(device)


def rotate(x: Tensor, base: float) -> Tensor:
    """Turn neighbouring pairs of `x [... pos head d]`, as complex numbers, by their position (Su et al. 2021, RoPE)."""
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns(*x.shape[-3:], base, x.dtype, x.device)).flatten(-2)


def rotate_at(x: Tensor, base: float, at: Tensor, length: int) -> Tensor:
    """The same for `x [... head d]` at positions `at [...]` (trailing axes of x's), below `length`."""
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns(length, *x.shape[-2:], base, x.dtype, x.device)[at]).flatten(-2)


def relative_scores(q: Tensor, offsets: Tensor) -> Tensor:
    """What relative keys add: `q_i . r_(i-j)`, for `q [member batch head pos d]`, `offsets [member head context d]`.

    Edelman et al. 2024 add a learned vector per offset on the key side only. Entries with j > i mean nothing and must
    be masked. Instead of gathering, the product over offsets is sheared by padding one column (Huang et al. 2018).
    """
    length = q.shape[-2]
    by_offset = q @ offsets[:, None, :, :length].flip(-2).transpose(-1, -2)
    return (
        F.pad(by_offset, (1, 0))
        .unflatten(-1, (1, length + 1))
        .flatten(-3)
        .unflatten(-1, (length + 1, length))[..., 1:, :]
    )


@lru_cache(maxsize=32)
def future(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Added to scores `[q k]`: 0 where a query may look, minus infinity where the key lies in its future."""
    return torch.full((length, length), -torch.inf, dtype=dtype, device=device).triu(1)
