"""The one transformers model in memory: it is filled with one checkpoint after another and scored pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.blocks import workers
from rejuvenation.memory import forward_bytes, how_many_fit
from rejuvenation.pairs import TokenPair
from rejuvenation.spread import device_of, is_spread, placement, read_from

Item = TypeVar("Item")
Result = TypeVar("Result")

ENTROPY_POSITIONS = 256
"""Positions whose logits are computed and normalised at once."""

HEAD_ALONE = ("qwen2", "qwen3", "llama", "mistral")
"""Model types whose logits are their lm_head's output and nothing else; others scale or cap them."""


def is_language_model(directory: Path) -> bool:
    """Whether transformers loads a checkpoint as a causal language model: one with a vision tower, say, it may not."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    return type(AutoConfig.from_pretrained(str(directory))) in MODEL_FOR_CAUSAL_LM_MAPPING


def load_model(directory: Path, config: RejuvenationConfig) -> nn.Module:
    """The model of a checkpoint directory, frozen, with eager attention (exact hooks, batched gradients).

    Raises:
        ConfigError: the configured device does not exist, or nothing is installed that spreads the model.
    """
    placed = placement(config)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        device = scoring_device(config.device)
        dtype = scoring_dtype(config.scoring_dtype, device)
        model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype, attn_implementation="eager", **placed)
    finally:
        if bars:
            logging.enable_progress_bar()
    model = model if placed else model.to(device)
    return model.eval().requires_grad_(False)


def put_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the model's weights in place with named checkpoint tensors of its shapes.

    Modules that keep no weights of their own (`rejuvenation.spread`) read them from there as long as they are not
    filled anew.

    Raises:
        ValueError: a weight of the model is not among them.
    """
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    if missing := unstored(model, weights):
        raise ValueError(f"the checkpoint stores no tensor {missing[0]}, which its config.json asks for.")
    tied = _is_tied(model, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.device.type != "meta" and not (tied and name == "lm_head.weight"):
                parameter.copy_(weights[name])
    read_from(model, weights)


def unstored(model: nn.Module, names: Collection[str]) -> list[str]:
    """Weights of the model that are not among the names of a checkpoint's tensors, sorted.

    A mixture of experts computes with stacked weights that are stored expert by expert: it has such weights.
    """
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tied = _is_tied(model, parameters)
    return sorted(name for name in parameters if name not in names and not (tied and name == "lm_head.weight"))


def map_deterministically(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device,
    *,
    item_bytes: int = 0,
    spread: bool = False,
) -> list[Result]:
    """Apply `function` to each item, with results that depend on no thread count and no neighbour.

    On a CPU a reduction's rounding depends on how many threads share it, so each item runs on one thread, and as many
    items run at once as torch has threads and as fit into memory.

    Args:
        function: what to apply.
        items: to what.
        device: where the model is; on a GPU items run one after another.
        item_bytes: memory that the largest item needs while it runs; 0 leaves memory out of account.
        spread: whether the model reads weights while an item runs: then items run one after another.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [function(item) for item in items]
    with workers(1 if spread else how_many_fit(item_bytes, threads)) as pool:
        return list(pool.map(function, items))


def entropies(model: Any, pairs: Sequence[TokenPair], checkpoint: str = "scored") -> list[torch.Tensor]:
    """Token entropy at every response position, teacher-forced.

    Args:
        model: a causal language model of transformers.
        pairs: prompts and responses.
        checkpoint: whose weights the model holds (base, sft, fused, rejuvenated); an error names it.

    Returns:
        Per pair [response tokens] float32, nats, on the CPU.

    Raises:
        ValueError: an entropy is not finite.
    """
    weight, device = next(model.parameters()), device_of(model)

    @torch.no_grad()
    def of_pair(pair: TokenPair) -> torch.Tensor:
        token_ids = torch.tensor([pair.token_ids[:-1]], device=device)
        parts = []
        for chunk in _logits(model, token_ids, len(pair.response_ids)):
            logprobs = chunk.to(torch.promote_types(chunk.dtype, torch.float32)).log_softmax(-1)
            parts.append(torch.special.entr(logprobs.exp()).sum(-1))  # entr(0) is 0: a masked logit has no share
        entropy = torch.cat(parts).float().cpu()
        if not torch.isfinite(entropy).all():
            raise ValueError(
                f"the {checkpoint} checkpoint gives no finite entropy on the calibration pairs: its weights hold NaN "
                "or infinity, or its activations overflow. Check how it was saved, or score it in float32 "
                "(rejuvenation.scoring_dtype)."
            )
        return entropy

    longest = max((len(pair.token_ids) for pair in pairs), default=0)
    num_logits = ENTROPY_POSITIONS if model.config.model_type in HEAD_ALONE else longest
    needed = forward_bytes(model.config, longest, min(longest, num_logits), max(4, weight.element_size()))
    return map_deterministically(of_pair, pairs, device, item_bytes=needed, spread=is_spread(model))


def _logits(model: Any, token_ids: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Logits of the last `count` positions, chunk by chunk: [at most ENTROPY_POSITIONS, V]."""
    if model.config.model_type not in HEAD_ALONE:
        logits = model(input_ids=token_ids, use_cache=False, logits_to_keep=count).logits[0]
        yield from logits.split(ENTROPY_POSITIONS)
        return
    hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[0, -count:]
    for part in hidden.split(ENTROPY_POSITIONS):
        yield model.lm_head(part)


def _is_tied(model: Any, parameters: dict[str, torch.Tensor]) -> bool:
    head = parameters.get("lm_head.weight")
    if head is not None and head.device.type == "meta":  # all of these lie at address 0
        return bool(model.config.get_text_config().tie_word_embeddings)
    return any(
        head is not None and name.endswith("embed_tokens.weight") and tensor.data_ptr() == head.data_ptr()
        for name, tensor in parameters.items()
    )


def scoring_device(name: str) -> torch.device:
    """The device that `rejuvenation.device` names; `auto` is a GPU where there is one.

    Raises:
        ConfigError: there is no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        rule = "must be a device that torch sees; it sees no GPU"
        raise ConfigError("rejuvenation.device", rule, name, "Set it to auto or cpu.")
    return torch.device(name)


def scoring_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `rejuvenation.scoring_dtype` names; `auto` is float32 on a CPU, bfloat16 on a GPU."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[name]
