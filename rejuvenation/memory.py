"""How many calibration pairs are scored at once without running out of memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SHARE = 0.5
"""Share of the available memory that the estimate may fill; the rest is for what it misses."""


def available_bytes() -> int:
    """Memory that processes may still take: MemAvailable on Linux, elsewhere all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def how_many_fit(item_bytes: int, most: int) -> int:
    """How many items of `item_bytes` run at once: `most` or what fits, and one in any case."""
    return max(1, min(most, int(SHARE * available_bytes()) // max(1, item_bytes)))


def forward_bytes(config: Any, num_tokens: int, num_logits: int, itemsize: int) -> int:
    """Estimate of what one forward pass without gradients holds at its peak, the weights apart.

    Of the layer at work 10 [T, D] (residual stream, its norm in float32, q, k, v, o), 4 [T, I] (gate, its
    activation, up, their product) and 3 [heads, T, T] (scores, mask added, softmax); of the logits at work 4 [R, V]
    (themselves, float32, log-probabilities, their shares in the entropy).

    Args:
        config: the model's, of transformers.
        num_tokens: T of the longest pair.
        num_logits: R, positions whose logits are held at once.
        itemsize: bytes of one activation.
    """
    return itemsize * (_layer(config, num_tokens) + 4 * num_logits * config.get_text_config().vocab_size)


def attribution_bytes(config: Any, num_tokens: int, num_targets: int, itemsize: int) -> int:
    """Estimate of what the scoring of one pair holds at its peak, the weights apart.

    The activations of all L layers (as in `forward_bytes`), which are kept; the same once more per target for the
    gradients, of one layer at a time; and per target and neuron 20 bytes of scores and ranking.

    Args:
        config: the model's, of transformers.
        num_tokens: T of the longest pair.
        num_targets: N.
        itemsize: bytes of one activation.
    """
    text = config.get_text_config()
    neurons = text.num_hidden_layers * (4 * text.hidden_size + 3 * _intermediate(text))
    layers = text.num_hidden_layers + num_targets
    return itemsize * layers * _layer(config, num_tokens) + 20 * num_targets * neurons


def _layer(config: Any, num_tokens: int) -> int:
    """Numbers that one layer makes of T tokens: 10 [T, D] + 4 [T, I] + 3 [heads, T, T]."""
    text = config.get_text_config()
    per_token = 10 * text.hidden_size + 4 * _intermediate(text) + 3 * text.num_attention_heads * num_tokens
    return num_tokens * per_token


def _intermediate(text: Any) -> int:
    return getattr(text, "intermediate_size", None) or 4 * text.hidden_size
