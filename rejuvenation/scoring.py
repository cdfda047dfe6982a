"""Scores of all neurons of the SFT checkpoint at target tokens, by any criterion (arXiv 2606.09932, Eq. 2 and 3).

Notation: t is a position, y = token[t + 1] the gold token it predicts, h(t) the residual stream before the final norm,
d = s_rms(t) * (gamma * W_U[y]) the direction in which h(t) moves y's logit while the norm's scale stays frozen.
N targets of one pair share the forward pass; their gradients go back together (`rejuvenation.backward`), one layer at a
time, so that memory holds the gradients of one layer only.

Shapes: N targets, T tokens, R rows of all prefixes, D hidden size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.backward import Activations, Prefixes, layer_gradients
from rejuvenation.criteria.attribution import Attribution
from rejuvenation.criteria.criterion import Criterion, ModuleView
from rejuvenation.neurons import KINDS, WRITERS, Module, NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.spread import at_hand, device_of


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all neurons at the target tokens of one pair, on the CPU."""

    scores: torch.Tensor
    """[N, neurons] in the table's order."""
    logits: torch.Tensor
    """[N] the model's logit z of each gold token."""
    reconstructed: torch.Tensor
    """[N] z~ of Eq. 2, which differs from z by rounding only."""


def target_tokens(gap: torch.Tensor, count: int) -> list[int]:
    """The `count` response tokens with the largest |H_sft - H_base|, in order of position.

    Args:
        gap: [response tokens] entropy of the SFT checkpoint minus that of Base, in nats.
        count: tokens wanted; a shorter response gives all it has. Of equal gaps the earlier token is taken.
    """
    order = torch.sort(gap.abs(), descending=True, stable=True).indices[:count]
    return sorted(order.tolist())


class NeuronScorer:
    """Scores the neurons of one model; a context manager that holds hooks on it.

    Args:
        model: of one of `configs.checkpoint.EXACT_ARCHITECTURES`, frozen, with eager attention.
        table: its neurons.
        criterion: what is scored; the paper's attribution by default.
        alignment: reads the base checkpoint, for criteria that look at it.
        frozen_norm: whether the gradients of q, k, v, gate, up take the final norm's scale as a constant. The exact
            scores of o and down always do.
    """

    def __init__(
        self,
        model: Any,
        table: NeuronTable,
        criterion: Criterion | None = None,
        alignment: Alignment | None = None,
        *,
        frozen_norm: bool = True,
    ) -> None:
        self.model = model
        self.table = table
        self.criterion = criterion or Attribution()
        self.alignment = alignment
        self.frozen_norm = frozen_norm
        self._record = threading.local()  # pairs are scored by several threads at once
        self._hooks: list[Any] = []

    def __enter__(self) -> NeuronScorer:
        decoder = self.model.model
        residual = [*decoder.layers, decoder.norm]
        for layer, module in enumerate(residual):
            self._hooks.append(module.register_forward_pre_hook(self._save_input("residual", layer), with_kwargs=True))
        for layer, block in enumerate(decoder.layers):
            for kind, path in KINDS.items():
                module = block.get_submodule(path)
                self._hooks.append(module.register_forward_hook(self._save_output(kind, layer)))
                if kind in WRITERS or self.criterion.needs_inputs:
                    save = self._save_input(f"{kind} input", layer)
                    self._hooks.append(module.register_forward_pre_hook(save, with_kwargs=True))
            save = self._save_input("middle", layer)
            self._hooks.append(block.post_attention_layernorm.register_forward_pre_hook(save, with_kwargs=True))
            save_attention = self._save_attention(layer)
            self._hooks.append(block.self_attn.register_forward_hook(save_attention, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _save_input(self, what: str, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record.tensors[what, layer] = (args[0] if args else kwargs["hidden_states"])[0]

        return hook

    def _save_output(self, what: str, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            self._record.tensors[what, layer] = output[0]

        return hook

    def _save_attention(self, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[torch.Tensor, ...]) -> None:
            tensors = self._record.tensors
            tensors["probs", layer] = output[1][0]
            tensors["cos", layer], tensors["sin", layer] = (part[0] for part in kwargs["position_embeddings"])

        return hook

    def scores(self, pair: TokenPair, targets: Sequence[int]) -> Scores:
        """Score every neuron at some tokens of a response.

        Args:
            pair: prompt and response; tokens after the last target are not looked at.
            targets: [N] indices of response tokens.

        Raises:
            RuntimeError: a score is not finite.
        """
        device = device_of(self.model)
        positions = torch.tensor([pair.positions[target] for target in targets], device=device)
        gold = torch.tensor([pair.response_ids[target] for target in targets], device=device)
        token_ids = torch.tensor([pair.token_ids[: int(positions.max()) + 1]], device=device)
        self._record.tensors = {}
        with torch.no_grad():
            last = self.model.model(input_ids=token_ids, use_cache=False).last_hidden_state
            logits = self.model.lm_head(last[0, positions.to(last.device)])
            found = self._score(positions, gold, logits.to(torch.promote_types(logits.dtype, torch.float32)))
        self._record.tensors = {}
        if not torch.isfinite(found.scores).all():
            raise RuntimeError("a neuron's score is not finite: the SFT checkpoint overflows on the calibration pairs")
        return found

    def _score(self, positions: torch.Tensor, gold: torch.Tensor, logits: torch.Tensor) -> Scores:
        wide, decoder = logits.dtype, self.model.model
        gold, prefixes = gold.to(logits.device), Prefixes(positions.to(logits.device))
        gold_logits = logits.gather(1, gold[:, None])[:, 0]
        final, embedded = (self._at_targets("residual", layer, prefixes, wide) for layer in (self.table.num_layers, 0))
        with at_hand(self.model.lm_head, decoder.norm):
            toward_gold, direction, scale = self._directions(final, gold, logits)
            reconstructed = (embedded * toward_gold).sum(1)
            if self.model.lm_head.bias is not None:
                reconstructed += self.model.lm_head.bias[gold].to(wide)
        scores = torch.empty(len(gold), self.table.total, dtype=wide)
        above = direction if self.frozen_norm else through_norm(final, direction, scale)
        top = self.table.num_layers - 1
        for layer in range(top, -1, -1):
            kept = self._activations(layer, wide)
            above, direction = above.to(kept.q.device), direction.to(kept.q.device)
            prefixes = prefixes.to(kept.q.device)
            with at_hand(decoder.layers[layer]):
                found = layer_gradients(
                    decoder.layers[layer], kept, prefixes, above, top=layer == top, bottom=layer == 0
                )
                for module in (module for module in self.table.modules if module.layer == layer):
                    view = self._view(module, prefixes, direction if module.kind in WRITERS else found[module.kind])
                    scores[:, module.neurons] = self.criterion.score(view).cpu()
            for kind in WRITERS:
                writes = self._at_targets(kind, layer, prefixes, wide)
                reconstructed += (writes.to(toward_gold.device) * toward_gold).sum(1)
            above = found.get("residual", above)
        return Scores(scores, gold_logits.cpu(), reconstructed.cpu())

    def _directions(
        self, final: torch.Tensor, gold: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions [N, D] of the gold token's logit and of what is attributed, and s_rms [N, 1]."""
        weight = self.model.lm_head.weight
        toward_gold, scale = self._direction(final, weight[gold].to(logits.dtype))
        readout = self.criterion.readout(logits)
        if readout is None:
            return toward_gold, toward_gold, scale
        return toward_gold, self._direction(final, readout @ weight.to(logits.dtype))[0], scale

    def _at_targets(self, what: str, layer: int, prefixes: Prefixes, wide: torch.dtype) -> torch.Tensor:
        """[N, out] of what the forward pass kept, where the prefixes are."""
        kept = self._record.tensors[what, layer]
        found: torch.Tensor = kept[prefixes.positions.to(kept.device)].to(prefixes.positions.device, wide)
        return found

    def _activations(self, layer: int, wide: torch.dtype) -> Activations:
        """What the forward pass kept of one layer, on that layer's device."""
        tensors = self._record.tensors
        device = tensors["q", layer].device
        names = {"residual": "residual", "middle": "middle", "mixed": "o input"}
        names |= {kind: kind for kind in KINDS if kind not in WRITERS}
        values = {field: tensors[name, layer].to(device, wide) for field, name in names.items()}
        return Activations(**values, **{name: tensors[name, layer].to(device) for name in ("probs", "cos", "sin")})

    def _view(self, module: Module, prefixes: Prefixes, gradients: torch.Tensor) -> ModuleView:
        tensors, wide = self._record.tensors, gradients.dtype
        inputs = tensors.get((f"{module.kind} input", module.layer))

        def base() -> tuple[torch.Tensor, torch.Tensor | None]:
            assert self.alignment is not None, "the criterion looks at the base checkpoint"
            names = [f"{module.path}.weight", f"{module.path}.bias"]
            found = [
                self.alignment.base_tensor(name).to(gradients.device, wide) if name in self.alignment.sft else None
                for name in names
            ]
            assert found[0] is not None
            return found[0], found[1]

        return ModuleView(
            module,
            prefixes,
            None if inputs is None else inputs.to(gradients.device, wide),
            tensors[module.kind, module.layer].to(gradients.device, wide),
            gradients,
            self.model.get_submodule(module.path),
            base,
        )

    def _direction(self, final: torch.Tensor, unembedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The direction d = s_rms * (gamma * W_U[y]) as [N, D], and s_rms as [N, 1]."""
        norm = self.model.model.norm
        scale = torch.rsqrt(final.pow(2).mean(1, keepdim=True) + norm.variance_epsilon)
        return scale * (norm.weight.to(final.device, final.dtype) * unembedding), scale


def through_norm(final: torch.Tensor, direction: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Gradient of the logits in h [N, D] with the norm's scale differentiated too: d - h * s^2 <h, d> / D."""
    return direction - final * scale.pow(2) * (final * direction).mean(1, keepdim=True)
