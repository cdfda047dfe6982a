"""Gradients of N target tokens of one pair, one layer at a time and all together, each over its own prefix alone.

Three savings over a backward pass through the whole pair, none of which changes a gradient: a target sends nothing to
positions after it; above the last attention only the target itself has a gradient, so that this layer's MLP, o and q
cost one row per target; below the first layer's modules nothing is needed. The prefixes lie one after the other in one
matrix, so that each weight is multiplied once for all targets.

The layer is that of `configs.checkpoint.EXACT_ARCHITECTURES`: x + o(attention(norm(x))), then x + down(act(gate) * up);
q and k are normed by head where the architecture has that, then rotated.

Shapes: N targets, T tokens, R rows of all prefixes, D hidden size, H query heads on K key-value heads of width E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


class Prefixes:
    """The prefixes 0..t of N targets, packed: row r belongs to one target and one position.

    Args:
        positions: [N] positions t.
    """

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions
        lengths = positions + 1
        ends = lengths.cumsum(0)
        self.own = ends - 1
        """[N] the row of each target itself."""
        starts, stops = (ends - lengths).tolist(), ends.tolist()
        self.slices = [slice(*ends) for ends in zip(starts, stops, strict=True)]
        """The rows of each target."""
        self.rows = torch.cat([torch.arange(length, device=positions.device) for length in lengths.tolist()])
        """[R] the position of each row."""

    def to(self, device: torch.device) -> Prefixes:
        """The same on a device."""
        return self if self.positions.device == device else Prefixes(self.positions.to(device))

    def sums(self, values: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Values [T, out] times gradients [R, out], summed over each target's prefix: [N, out]."""
        return torch.stack([(values[: rows.stop - rows.start] * gradients[rows]).sum(0) for rows in self.slices])


@dataclass(frozen=True, slots=True)
class Activations:
    """What one layer computed in the forward pass; all but `probs`, `cos` and `sin` in the dtype of the gradients."""

    residual: torch.Tensor
    """[T, D] the layer's input."""
    middle: torch.Tensor
    """[T, D] after the attention's write."""
    q: torch.Tensor
    """[T, H E] before norm and rotary embedding, as k."""
    k: torch.Tensor
    """[T, K E]."""
    v: torch.Tensor
    """[T, K E]."""
    mixed: torch.Tensor
    """[T, H E] the input of o."""
    gate: torch.Tensor
    """[T, I]."""
    up: torch.Tensor
    """[T, I]."""
    probs: torch.Tensor
    """[H, T, T] attention probabilities."""
    cos: torch.Tensor
    """[T, E] of the rotary embedding."""
    sin: torch.Tensor
    """[T, E]."""


def layer_gradients(
    block: Any, kept: Activations, prefixes: Prefixes, above: torch.Tensor, *, top: bool, bottom: bool
) -> dict[str, torch.Tensor]:
    """Gradients one layer down.

    Args:
        block: the decoder layer of transformers.
        kept: what it computed.
        prefixes: of the targets.
        above: gradient at its output: [R, D], or at the top [N, D] at the targets alone.
        top: whether it is the last layer.
        bottom: whether it is the first layer: then `residual` is left out.

    Returns:
        q, gate, up: [N, out] at the targets; k, v: [R, out]; residual: [R, D].
    """
    rows, own = (prefixes.positions, slice(None)) if top else (prefixes.rows, prefixes.own)
    gate, up = mlp_gradients(block.mlp, kept, prefixes, above, top=top)
    normed = back(gate, block.mlp.gate_proj) + back(up, block.mlp.up_proj)
    middle = above + norm_gradient(normed, kept.middle[rows], block.post_attention_layernorm)
    q, k, v = attention_gradients(block.self_attn, kept, prefixes, back(middle, block.self_attn.o_proj), top=top)
    found = {"q": q[own], "k": k, "v": v, "gate": gate[own], "up": up[own]}
    if not bottom:
        normed = back(k, block.self_attn.k_proj) + back(v, block.self_attn.v_proj)
        at = prefixes.own if top else slice(None)
        normed[at] += back(q, block.self_attn.q_proj)
        found["residual"] = norm_gradient(normed, kept.residual[prefixes.rows], block.input_layernorm)
        found["residual"][at] += middle
    return found


def back(gradient: torch.Tensor, linear: Any) -> torch.Tensor:
    """Gradient of a linear map's input from that of its output, in the gradient's dtype; multiplied in the weight's."""
    return (gradient.to(linear.weight.dtype) @ linear.weight).to(gradient.dtype)


def norm_gradient(gradient: torch.Tensor, inputs: torch.Tensor, norm: Any) -> torch.Tensor:
    """Gradient of an RMSNorm's input: s (w g - x s^2 <x, w g> / D), s = 1 / rms(x), over the last dimension."""
    square = 1.0 / (inputs.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    scaled = gradient * norm.weight.to(gradient.dtype)
    share = (inputs * scaled).mean(-1, keepdim=True) * square
    return scaled.sub_(inputs * share).mul_(square.sqrt())


def mlp_gradients(
    mlp: Any, kept: Activations, prefixes: Prefixes, above: torch.Tensor, *, top: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up, row by row of `above`: down(act(gate) * up)."""
    with torch.enable_grad():
        gate = kept.gate.detach().requires_grad_(True)
        active = mlp.act_fn(gate)
        (slope,) = torch.autograd.grad(active.sum(), gate)
    active, slope = active.detach(), slope.mul_(kept.up)
    hidden = back(above, mlp.down_proj)
    if top:
        return hidden * slope[prefixes.positions], hidden * active[prefixes.positions]
    of_gate = torch.empty_like(hidden)
    for rows in prefixes.slices:
        length = rows.stop - rows.start
        torch.mul(hidden[rows], slope[:length], out=of_gate[rows])
        hidden[rows] *= active[:length]
    return of_gate, hidden


def attention_gradients(
    attention: Any, kept: Activations, prefixes: Prefixes, above: torch.Tensor, *, top: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v before norm and rotary embedding.

    Args:
        attention: the attention of transformers.
        kept: what the layer computed.
        prefixes: of the targets.
        above: gradient of its mixed heads: [R, H E], or [N, H E] at the targets alone.
        top: whether it is that of the targets alone.

    Returns:
        q like `above`; k and v [R, K E].
    """
    width, count, dtype = attention.head_dim, len(kept.q), above.dtype
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    cos, sin, probs = kept.cos.to(dtype), kept.sin.to(dtype), kept.probs.to(dtype)
    k, v = (values.view(count, -1, width) for values in (kept.k, kept.v))
    shape = (k.shape[1], -1, count, width)  # [K, H / K, T, E]: heads by the key-value head that they share
    queries = rotated(normed(kept.q.view(count, -1, width), q_norm), cos, sin).transpose(0, 1).reshape(shape)
    mixed = kept.mixed.view(count, -1, width).transpose(0, 1).reshape(shape)
    keys, values = rotated(normed(k, k_norm), cos, sin).transpose(0, 1), v.transpose(0, 1)
    probs = probs.view(*shape[:2], count, count)
    of_q = torch.empty(len(above), *queries.shape[:2], width, dtype=dtype, device=above.device)
    of_k, of_v = (torch.empty(len(prefixes.rows), len(keys), width, dtype=dtype, device=above.device) for _ in "kv")
    for number, rows in enumerate(prefixes.slices):
        length = rows.stop - rows.start
        first = length - 1 if top else 0
        mine = slice(number, number + 1) if top else rows
        seed = above[mine].view(-1, *queries.shape[:2], width).permute(1, 2, 0, 3)
        flat = seed.reshape(len(keys), -1, width)  # the heads of a key-value head add up in its products
        weights = probs[:, :, first:length, :length].reshape(len(keys), -1, length)
        of_v[rows] = (weights.mT @ flat).transpose(0, 1)
        through = flat @ values[:, :length].mT
        spent = (flat * mixed[:, :, first:length].reshape(flat.shape)).sum(-1, keepdim=True)
        through.sub_(spent).mul_(weights).mul_(attention.scaling)
        of_q[mine] = (through @ keys[:, :length]).view(seed.shape).permute(2, 0, 1, 3)
        of_k[rows] = (through.mT @ queries[:, :, first:length].reshape(flat.shape)).transpose(0, 1)
    at = prefixes.positions if top else prefixes.rows
    of_q = unrotated(of_q.view(len(above), -1, width), cos[at], sin[at])
    of_k = unrotated(of_k, cos[prefixes.rows], sin[prefixes.rows])
    if q_norm is not None:
        of_q = norm_gradient(of_q, kept.q.view(count, -1, width)[at], q_norm)
    if k_norm is not None:
        of_k = norm_gradient(of_k, k[prefixes.rows], k_norm)
    return of_q.flatten(1), of_k.flatten(1), of_v.flatten(1)


def normed(vectors: torch.Tensor, norm: Any) -> torch.Tensor:
    """Heads [T, heads, E] after the qk-norm, where the architecture has one."""
    if norm is None:
        return vectors
    scale = torch.rsqrt(vectors.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return vectors * scale * norm.weight.to(vectors.dtype)


def rotated(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of heads [T, heads, E]: the halves of each head turn in one plane per entry."""
    first, second = vectors.chunk(2, -1)
    return vectors * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def unrotated(gradients: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Gradient of what `rotated` took: its transpose."""
    first, second = (gradients * sin[:, None]).chunk(2, -1)
    return gradients * cos[:, None] + torch.cat([second, -first], -1)
