"""Neurons of a model under training that are to be overwritten: which entries of which tensor, and with what.

A neuron is a row of a weight, with its entry of the bias, or a column (arXiv 2606.09932, Eq. 5). Which tensor has which
is for the caller to say; here a tensor has neurons along one of its axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Masks = Mapping[str, tuple[int, Tensor]]
"""Checkpoint name of a tensor -> the axis along which its neurons lie (0: rows, entries of a bias; 1: columns), and
[size of that axis] bool, True where a neuron is reset."""


@dataclass(frozen=True, slots=True)
class NeuronReset:
    """The neurons of one tensor that are reset."""

    shape: tuple[int, ...]
    """Of the tensor."""
    axis: int
    """Along which the neurons lie."""
    mask: Tensor
    """[size of `axis`] bool."""
    values: Tensor | None
    """What the chosen neurons go towards: float32, the tensor without the neurons that stay. None: zero."""
    strength: float
    """Omega, the share of the way to `values`; 1 copies them."""

    def chosen(self) -> Tensor:
        """[entries of the flattened tensor] bool: those of the chosen neurons."""
        sizes = [-1 if dimension == self.axis else 1 for dimension in range(len(self.shape))]
        return self.mask.reshape(sizes).expand(self.shape).reshape(-1)

    def goal(self) -> Tensor:
        """[entries of the flattened tensor] float32: `values` in their places, zero elsewhere."""
        goal = torch.zeros(self.shape)
        if self.values is not None:
            goal.index_copy_(self.axis, self.mask.nonzero()[:, 0], self.values)
        return goal.reshape(-1)

    def moved(self, weights: Tensor, goal: Tensor) -> Tensor:
        """`(1 - strength) * weights + strength * goal` (Eq. 5), all [n] float32; at strength 1 a copy of the goal."""
        if self.strength == 1.0:  # also where a weight is infinite or not a number
            return goal
        return (1.0 - self.strength) * weights + self.strength * goal


def neuron_resets(
    masks: Masks, targets: Iterable[tuple[str, Tensor]] | None, strength: float, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NeuronReset]:
    """Check what a reset was asked for, and keep of the targets only what it needs.

    Args:
        masks: the neurons.
        targets: names and full tensors, in any order; those without a mask are passed over. None: zero.
        strength: omega, in [0, 1].
        shapes: of all the model's parameters, by checkpoint name.

    Returns:
        By name, in the order of `masks`; tensors without a chosen neuron are left out.

    Raises:
        ValueError: names the tensor, the rule and what was given.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"neuron reset: strength must lie in [0, 1], got {strength}")
    for name, (axis, mask) in masks.items():
        if name not in shapes:
            raise ValueError(f"neuron reset: {name} must be a parameter of the model, got no such name")
        shape = list(shapes[name])
        if not 0 <= axis < len(shape):
            raise ValueError(f"neuron reset: {name}: axis must be one of the tensor's {len(shape)}, got {axis}")
        if mask.dtype != torch.bool or list(mask.shape) != [shape[axis]]:
            found = f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
            raise ValueError(f"neuron reset: {name}: mask must be bool [{shape[axis]}], got {found}")
    wanted = {name: (axis, mask.cpu()) for name, (axis, mask) in masks.items() if mask.any()}
    values: dict[str, Tensor] = {}
    for name, target in targets or ():
        if name not in wanted:
            continue
        if target.shape != shapes[name] or not target.is_floating_point():
            found = f"{str(target.dtype).removeprefix('torch.')} {list(target.shape)}"
            raise ValueError(f"neuron reset: {name}: target must be floating-point {list(shapes[name])}, got {found}")
        axis, mask = wanted[name]
        values[name] = target.detach().cpu().index_select(axis, mask.nonzero()[:, 0]).float()
    missing = [name for name in wanted if targets is not None and name not in values]
    if missing:
        raise ValueError(f"neuron reset: {missing[0]}: target must be given for every tensor with a mask, got none")
    return {
        name: NeuronReset(tuple(shapes[name]), axis, mask, values.get(name), strength)
        for name, (axis, mask) in wanted.items()
    }
