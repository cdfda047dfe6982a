"""How much a neuron adds to the logit of the gold token (arXiv 2606.09932, Eq. 3), and two relatives."""

from __future__ import annotations

import torch

from rejuvenation.criteria.criterion import Criterion, ModuleView


class Attribution(Criterion):
    """The paper's: s_i = a_i(t) <W[:, i], d> of o and down (exact, Eq. 3); gradient x activation of the others."""

    def score(self, view: ModuleView) -> torch.Tensor:
        """See `Criterion.score`."""
        if view.is_writer:
            return view.activations() * view.gradients_at_targets()
        return view.dot_gradient(view.outputs)


class EntropyAttribution(Attribution):
    """-a dH/da: how much a neuron lowers the entropy H of the next token, to first order (ours)."""

    def readout(self, logits: torch.Tensor) -> torch.Tensor:
        """-dH/dz = p (log p + H), [N, V]."""
        logprobs = logits.log_softmax(-1)
        probs = logprobs.exp()
        entropy = torch.special.entr(probs).sum(-1, keepdim=True)
        return probs * (logprobs.clamp_min(torch.finfo(logprobs.dtype).min) + entropy)


class DeltaAttribution(Criterion):
    """What SFT's change of a neuron's weights adds to the gold token's logit (ours): a reset takes just that away.

    s_i = a_i(t) <(W - W_base)[:, i], d> of o and down; of the others gradient x the change of the output,
    (W - W_base)[i] x(t) + b_i - b_base_i, at the inputs x of the SFT checkpoint.
    """

    needs_inputs = True

    def score(self, view: ModuleView) -> torch.Tensor:
        """See `Criterion.score`."""
        weight, bias = view.base()
        delta = view.weight - weight
        if view.is_writer:
            return view.activations() * (view.gradients @ delta)
        assert view.inputs is not None
        change = view.inputs @ delta.T
        if view.bias is not None and bias is not None:
            change += view.bias - bias
        return view.dot_gradient(change)
