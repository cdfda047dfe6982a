"""How curved the loss is around the weights: largest Hessian eigenvalue, trace, and the loss under weight noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.diagnostics.batches import Batch, response_logprobs, text_loss, trainable
from rejuvenation.diagnostics.matrix_free import Product, hutchinson, top_eigenvalue
from rejuvenation.diagnostics.statistics import mean, standard_error


@dataclass(frozen=True, slots=True)
class Sharpness:
    """Curvature of the mean -log p per response token on one fixed text.

    A saturated model has a small gradient and a small Hessian on text that it predicts with p ~ 1, so its own training
    data make it look flat: measure on held-out text and on its own rollouts. Memory: about ten times the weights.
    """

    loss: float
    """Nats per token."""
    eigenvalue: float
    """Largest Hessian eigenvalue, nats per squared unit of weight."""
    eigenvalue_residual: float
    """Its relative residual (see `Eigenvalue`): above 0.1 the value is only a lower bound."""
    eigenvalue_products: int
    """Hessian-vector products spent on it."""
    trace: float
    """Hessian trace, the sum of all eigenvalues, by Hutchinson's estimate."""
    trace_error: float
    """Its standard error over the probes."""
    perturbations: list[float]
    """Relative sizes of weight noise."""
    loss_increases: list[float]
    """Mean rise of the loss under noise of each size, nats per token; infinite where it overflows."""
    loss_increase_errors: list[float]
    """Standard errors over the draws of the noise."""
    num_tokens: int
    """Response tokens of the text."""


def sharpness(
    model: Any,
    batches: Sequence[Batch],
    *,
    lanczos_iterations: int,
    trace_probes: int,
    perturbations: Sequence[float],
    perturbation_seeds: int,
    seed: int,
) -> Sharpness:
    """Measure the curvature of the loss on batches.

    Cost: at most `lanczos_iterations` + `trace_probes` products of about four forward passes each, and
    len(perturbations) * perturbation_seeds + 1 forward passes.

    Args:
        model: a frozen causal language model.
        batches: the text.
        lanczos_iterations: products at most for the eigenvalue.
        trace_probes: products for the trace.
        perturbations: sizes of the weight noise.
        perturbation_seeds: draws of the noise.
        seed: of all that is drawn.
    """
    weight = next(model.parameters())
    size = sum(parameter.numel() for parameter in model.parameters())
    with trainable(model) as parameters:
        product = hessian_product(model, parameters, batches)
        eigenvalue = top_eigenvalue(product, size, lanczos_iterations, seed, weight.dtype, weight.device)
        probes = hutchinson(product, size, trace_probes, seed, weight.dtype, weight.device)
    loss = text_loss(model, batches)
    rises = loss_increases(model, batches, perturbations, perturbation_seeds, seed)
    return Sharpness(
        loss=loss,
        eigenvalue=eigenvalue.value,
        eigenvalue_residual=eigenvalue.residual,
        eigenvalue_products=eigenvalue.products,
        trace=mean(probes),
        trace_error=standard_error(probes),
        perturbations=list(perturbations),
        loss_increases=[mean(of_size) for of_size in rises],
        loss_increase_errors=[standard_error(of_size) for of_size in rises],
        num_tokens=sum(batch.num_tokens for batch in batches),
    )


def hessian_product(model: Any, parameters: Sequence[torch.Tensor], batches: Sequence[Batch]) -> Product:
    """H v of the mean -log p per response token, by differentiating <gradient, v> (Pearlmutter 1994).

    Args:
        model: its parameters require gradients.
        parameters: whose Hessian it is; v is their concatenation.
        batches: one graph is alive at a time.
    """
    num_tokens = sum(batch.num_tokens for batch in batches)
    shapes = [parameter.shape for parameter in parameters]
    sizes = [parameter.numel() for parameter in parameters]

    def product(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        total = torch.zeros_like(vector)
        for batch in batches:
            loss = -response_logprobs(model, batch).sum() / num_tokens
            first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
            inner = sum((gradient * part).sum() for gradient, part in zip(first, parts, strict=True))
            second = torch.autograd.grad(inner, parameters, materialize_grads=True)
            for part, gradient in zip(total.split(sizes), second, strict=True):
                part += gradient.reshape(-1)
            del first, inner, second  # before the next batch makes its own
        return total

    return product


def loss_increases(
    model: Any, batches: Sequence[Batch], sizes: Sequence[float], draws: int, seed: int
) -> list[list[float]]:
    """Rise of the loss when every tensor w moves by Gaussian noise of norm size * ||w||, in nats per token.

    Relative noise does not depend on how large the weights are, unlike the Hessian. All sizes share a draw's
    directions. The weights are put back bit for bit.

    Args:
        model: a frozen causal language model.
        batches: the text.
        sizes: ||noise|| / ||w||.
        draws: how often.
        seed: of the noise.

    Returns:
        [sizes][draws].
    """
    parameters = list(model.parameters())
    kept = [parameter.detach().clone() for parameter in parameters]
    before = text_loss(model, batches)
    found: list[list[float]] = [[] for _ in sizes]
    try:
        for draw in range(draws):
            for place, size in enumerate(sizes):
                generator = torch.Generator().manual_seed((seed << 16) + draw)
                with torch.no_grad():
                    for parameter, weight in zip(parameters, kept, strict=True):
                        noise = torch.randn(weight.shape, generator=generator).to(weight)
                        length = noise.norm().item()
                        scale = size * weight.norm().item() / length if length else 0.0
                        parameter.copy_(weight + scale * noise)
                found[place].append(text_loss(model, batches) - before)
    finally:
        with torch.no_grad():
            for parameter, weight in zip(parameters, kept, strict=True):
                parameter.copy_(weight)
    return found
