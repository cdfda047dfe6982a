"""How much each neuron of the SFT checkpoint adds to the logit of the gold token (arXiv 2606.09932, Eq. 2 and 3).

Notation: t is a position, y = token[t + 1] the gold token it predicts, h(t) the residual stream before the final norm,
d = s_rms(t) * (gamma * W_U[y]) the direction in which h(t) moves y's logit while the norm's scale stays frozen.
N targets of one pair share the forward pass; their gradients go back together, one layer at a time, so that memory
holds the gradients of one layer only.

Shapes: N targets, T tokens, D hidden size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.neurons import KINDS, WRITERS, NeuronTable
from rejuvenation.pairs import TokenPair


@dataclass(frozen=True, slots=True)
class Attribution:
    """Scores of all neurons at the target tokens of one pair, on the CPU."""

    scores: torch.Tensor
    """[N, neurons] in the table's order."""
    logits: torch.Tensor
    """[N] the model's logit z of each gold token."""
    reconstructed: torch.Tensor
    """[N] z~ of Eq. 2; differs from z by rounding only."""


def target_tokens(gap: torch.Tensor, count: int) -> list[int]:
    """The `count` response tokens with the largest |H_sft - H_base|, in order of position.

    Args:
        gap: [response tokens] entropy of the SFT checkpoint minus that of Base, in nats.
        count: tokens wanted; a shorter response gives all it has. Of equal gaps the earlier token is taken.
    """
    order = torch.sort(gap.abs(), descending=True, stable=True).indices[:count]
    return sorted(order.tolist())


class Attributor:
    """Scores the neurons of one model; a context manager that holds hooks on it.

    Args:
        model: of one of `configs.checkpoint.EXACT_ARCHITECTURES`, frozen, with eager attention.
        table: its neurons.
        frozen_norm: whether the gradients of q, k, v, gate, up take the final norm's scale as a constant. The exact
            scores of o and down always do.
    """

    def __init__(self, model: Any, table: NeuronTable, *, frozen_norm: bool = True) -> None:
        self.model = model
        self.table = table
        self.frozen_norm = frozen_norm
        self._record = threading.local()  # pairs are scored by several threads at once
        self._hooks: list[Any] = []

    def __enter__(self) -> Attributor:
        decoder = self.model.model
        residual = [*decoder.layers, decoder.norm]
        for layer, module in enumerate(residual):
            self._hooks.append(module.register_forward_pre_hook(self._save_input("residual", layer), with_kwargs=True))
        for layer, block in enumerate(decoder.layers):
            for kind, path in KINDS.items():
                module = block.get_submodule(path)
                self._hooks.append(module.register_forward_hook(self._save_output(kind, layer)))
                if kind in WRITERS:
                    save = self._save_input(f"{kind} input", layer)
                    self._hooks.append(module.register_forward_pre_hook(save, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _save_input(self, what: str, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record.tensors[what, layer] = args[0] if args else kwargs["hidden_states"]

        return hook

    def _save_output(self, what: str, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            self._record.tensors[what, layer] = output

        return hook

    def scores(self, pair: TokenPair, targets: Sequence[int]) -> Attribution:
        """Score every neuron at some tokens of a response.

        Args:
            pair: prompt and response; tokens after the last target are not looked at.
            targets: [N] indices of response tokens.

        Raises:
            RuntimeError: a score is not finite.
        """
        device = self.model.lm_head.weight.device
        positions = torch.tensor([pair.positions[target] for target in targets], device=device)
        gold = torch.tensor([pair.response_ids[target] for target in targets], device=device)
        token_ids = torch.tensor([pair.token_ids[: int(positions.max()) + 1]], device=device)
        self._record.tensors = {}
        with torch.enable_grad():
            # The parameters are frozen: the graph is of activations only, and no weight gets a gradient.
            embeddings = self.model.get_input_embeddings()(token_ids).detach().requires_grad_(True)
            last = self.model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        with torch.no_grad():
            logits = self.model.lm_head(last[0, positions]).gather(1, gold[:, None])[:, 0]
            attribution = self._score(positions, gold, logits)
        self._record.tensors = {}
        if not torch.isfinite(attribution.scores).all():
            raise RuntimeError("a neuron's score is not finite: the SFT checkpoint overflows on the calibration pairs")
        return attribution

    def _score(self, positions: torch.Tensor, gold: torch.Tensor, logits: torch.Tensor) -> Attribution:
        tensors = self._record.tensors
        wide = torch.promote_types(logits.dtype, torch.float32)
        final = tensors["residual", self.table.num_layers][0, positions].to(wide)
        direction, scale = self._direction(final, gold)
        reconstructed = (tensors["residual", 0][0, positions].to(wide) * direction).sum(1)
        if self.model.lm_head.bias is not None:
            reconstructed += self.model.lm_head.bias[gold].to(wide)
        scores = torch.empty(len(gold), self.table.total, dtype=wide)
        above = direction if self.frozen_norm else through_norm(final, direction, scale)
        for layer in reversed(range(self.table.num_layers)):
            gradients = self._gradients(layer, positions, above)
            above = gradients["residual"]
            for module in (module for module in self.table.modules if module.layer == layer):
                output = tensors[module.kind, layer][0].to(wide)
                if module.kind in WRITERS:
                    weight = self.model.get_submodule(module.path).weight.to(wide)
                    activation = tensors[f"{module.kind} input", layer][0, positions].to(wide)
                    score = activation * (direction @ weight)  # Eq. 3
                    reconstructed += (output[positions] * direction).sum(1)
                else:
                    score = gradient_times_activation(module.kind, output, gradients[module.kind].to(wide), positions)
                scores[:, module.neurons] = score.cpu()
        return Attribution(scores, logits.to(wide).cpu(), reconstructed.cpu())

    def _direction(self, final: torch.Tensor, gold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The direction d = s_rms * (gamma * W_U[y]) as [N, D], and s_rms as [N, 1]."""
        norm = self.model.model.norm
        scale = torch.rsqrt(final.pow(2).mean(1, keepdim=True) + norm.variance_epsilon)
        unembedding = self.model.lm_head.weight[gold].to(final.dtype)
        return scale * (norm.weight.to(final.dtype) * unembedding), scale

    def _gradients(self, layer: int, positions: torch.Tensor, above: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of the N logits one layer down, all at once.

        Args:
            layer: the layer.
            positions: [N] positions of the targets.
            above: gradient at the layer's output: [N, T, D], or at the top [N, D] at the targets' positions alone.

        Returns:
            `residual` [N, T, D] and, for q, k, v, gate, up, [N, T, outputs].
        """
        tensors = self._record.tensors
        top = tensors["residual", layer + 1]
        if above.dim() == 2:
            rows = torch.zeros(len(positions), *top.shape[1:], dtype=above.dtype, device=above.device)
            rows[torch.arange(len(positions)), positions] = above
            above = rows
        kinds = [kind for kind in KINDS if kind not in WRITERS]
        wanted = [tensors["residual", layer], *(tensors[kind, layer] for kind in kinds)]
        seeds = above[:, None].to(top.dtype)
        found = torch.autograd.grad(top, wanted, grad_outputs=seeds, is_grads_batched=True)
        return {name: gradient[:, 0] for name, gradient in zip(["residual", *kinds], found, strict=True)}


def gradient_times_activation(
    kind: str, output: torch.Tensor, gradient: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Gradient x activation of a module's output: at t for q, gate, up; summed over the prefix 0..t for k and v.

    Args:
        kind: the module.
        output: [T, outputs] of the Linear, before rotary embedding.
        gradient: [N, T, outputs] of the N logits.
        positions: [N].

    Returns:
        [N, outputs].
    """
    if kind in ("k", "v"):
        prefix = torch.arange(len(output), device=output.device) <= positions[:, None]
        return torch.einsum("to,nto->no", output, gradient * prefix[:, :, None])
    return output[positions] * gradient[torch.arange(len(positions)), positions]


def through_norm(final: torch.Tensor, direction: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Gradient of the logits in h [N, D] with the norm's scale differentiated too: d - h * s^2 <h, d> / D."""
    return direction - final * scale.pow(2) * (final * direction).mean(1, keepdim=True)
