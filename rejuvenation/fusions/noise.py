"""Random numbers that belong to a place in a tensor: the same however the tensor is cut and whoever computes it."""

from __future__ import annotations

import math

import torch
import xxhash

from rejuvenation.fusions.fusion import Place

GOLDEN = -7046029254386353131
"""Increment of splitmix64 (0x9E3779B97F4A7C15 as a signed number), Steele et al. 2014, doi 10.1145/2714064.2660195."""
FACTORS = (-4658895280553007687, -7723592293110705685)
"""Its two multipliers, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB."""


def uniform(place: Place, like: torch.Tensor, seed: int, stream: int = 0) -> torch.Tensor:
    """Numbers in (0, 1) for the entries of a block: splitmix64 of seed, tensor name and index.

    Args:
        place: where the block stands.
        like: the block; gives shape and device.
        seed: of the whole draw.
        stream: another one gives independent numbers.
    """
    start = xxhash.xxh3_64_intdigest(place.name.encode(), seed=(seed * 4 + stream) % (1 << 64)) - (1 << 63)
    state = torch.arange(place.first, place.first + like.numel(), device=like.device) * GOLDEN + start
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    state = state ^ ((state >> 31) & ((1 << 33) - 1))
    return (((state >> 40) & ((1 << 24) - 1)).float() + 0.5).mul_(2.0**-24).reshape(like.shape)


def normal(place: Place, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Standard normal numbers for the entries of a block (Box and Muller 1958)."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(place, like, seed, 1)))
    return radius * torch.cos(2.0 * math.pi * uniform(place, like, seed, 2))
