"""Largest eigenvalue and trace of a symmetric matrix that is only known by its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Product = Callable[[torch.Tensor], torch.Tensor]
"""Multiplies a symmetric matrix with a vector: [P] -> [P]."""
CONVERGED = 1e-3
"""Relative residual at which the largest eigenvalue counts as found."""


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """What the Lanczos recurrence found."""

    value: float
    """The largest eigenvalue; from below, as long as it has not converged."""
    residual: float
    """||H v - value v|| / |value| of the vector found: 0 when converged; an eigenvalue lies that close."""
    products: int
    """Products spent."""


def top_eigenvalue(
    product: Product, size: int, iterations: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Eigenvalue:
    """Largest eigenvalue by the Lanczos recurrence from a Gaussian vector.

    Lanczos takes the best of all vectors that power iteration passes through: it needs fewer products and is not caught
    by an eigenvalue that is negative and larger in magnitude, as the Hessian of a text far from a minimum has.
    Three vectors are kept and none is orthogonalised again: that repeats eigenvalues, but the largest stays right
    (Paige 1980). Any Rayleigh quotient is a lower bound, so the value is one, up to rounding. It stops at a relative
    residual of `CONVERGED`. A product that is not finite gives NaN.

    Args:
        product: multiplies with the matrix.
        size: P.
        iterations: products at most.
        seed: of the first vector.
        dtype: of the vectors.
        device: of the vectors.
    """
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device=device, dtype=dtype)
    vector = vector / vector.norm()
    before = torch.zeros_like(vector)
    diagonal: list[float] = []
    beside: list[float] = []
    found = Eigenvalue(0.0, 0.0, 0)
    for _ in range(min(iterations, size)):
        image = product(vector)
        diagonal.append(vector.dot(image).item())
        if not math.isfinite(diagonal[-1]):
            return Eigenvalue(math.nan, math.nan, len(diagonal))
        image = image - diagonal[-1] * vector - (beside[-1] if beside else 0.0) * before
        length = image.norm().item()
        found = _largest(diagonal, beside, length)
        if found.residual <= CONVERGED or length == 0.0:
            break
        beside.append(length)
        before, vector = vector, image / length
    return found


def _largest(diagonal: Sequence[float], beside: Sequence[float], length: float) -> Eigenvalue:
    """Largest eigenvalue of the tridiagonal matrix; the residual in the full space is length * |last component|."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    value = values[-1].item()
    residual = length * abs(vectors[-1, -1].item())
    return Eigenvalue(value, residual / abs(value) if value else 0.0, len(diagonal))


def hutchinson(
    product: Product, size: int, probes: int, seed: int, dtype: torch.dtype, device: torch.device
) -> list[float]:
    """z^T H z for Rademacher vectors z (+-1): each an unbiased estimate of the trace (Hutchinson 1990).

    Args:
        product: multiplies with the matrix.
        size: P.
        probes: how many.
        seed: of the probes.
        dtype: of the probes.
        device: of the probes.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        vector = signs.to(device=device, dtype=dtype)
        found.append(vector.dot(product(vector)).item())
    return found
