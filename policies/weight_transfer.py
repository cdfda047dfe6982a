"""Weights into a running vLLM engine, in place: the only module that knows vLLM's weight-transfer API (0.32).

vLLM asks for a `WeightTransferEngine` in its worker; ours loads named checkpoint tensors through vLLM's layerwise
reload. Worker processes import this module through `worker_extension_cls`, which registers the engine there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from policies.buckets import Bucket, pack, unpack

BACKEND = "rejuvenate_buckets"
WORKER_EXTENSION = "policies.weight_transfer.WorkerExtension"
BUCKET_BYTES = 64 << 20  # between an engine and vLLM's own worker processes


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing to agree on: the weights arrive with each call."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One part of an update: tensors of this process, or a bucket as a message to another."""

    named: list[tuple[str, Tensor]] | None = None
    message: dict[str, Any] | None = None


class BucketTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """The worker's side: receives checkpoint-named tensors and loads them into the model in place."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Do nothing: there is no connection to open."""

    def start_weight_update(self) -> None:
        """Put the parameters into the layout of a checkpoint; the packed ones stay aside until replaced."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load one part; a bucket's checksum is verified where it arrives."""
        named = update_info.named
        if named is None:
            assert update_info.message is not None, "an update carries tensors or a bucket"
            named = unpack(Bucket.from_message(update_info.message))
        self.model.load_weights(named)

    def finish_weight_update(self) -> None:
        """Process what was loaded and, on CPU, pack the tied lm_head again, which the reload leaves stale."""
        finalize_layerwise_reload(self.model, self.model_config)
        lm_head = getattr(self.model, "lm_head", None)
        if self.device.type == "cpu" and self.model_config.hf_config.tie_word_embeddings and lm_head is not None:
            lm_head.weight = self.model.model.embed_tokens.weight
            dispatch_cpu_unquantized_gemm(lm_head, remove_weight=False)

    def shutdown(self) -> None:
        """Do nothing: there is no connection to close."""


class WorkerExtension:
    """Methods that vLLM adds to its worker class; importing this class registers the transfer engine."""

    model_runner: Any

    def held_weights(self) -> list[dict[str, Any]]:
        """Return the weights that the worker computes with, under checkpoint names, as bucket messages."""
        return [bucket.to_message() for bucket in pack(held_weights(self.model_runner.model), BUCKET_BYTES)]


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, BucketTransferEngine)


def send(vllm_engine: Any, parts: Iterable[list[tuple[str, Tensor]]], version: int, *, in_process: bool) -> None:
    """Update the weights of `vllm_engine` in place, set their version and drop the prefix cache.

    Args:
        vllm_engine: vLLM's `LLMEngine`, without unfinished requests.
        parts: all tensors of the checkpoint, in lists of any size.
        version: policy_version of the weights.
        in_process: whether the worker lives in this process and takes tensors as they are.
    """
    vllm_engine.collective_rpc("start_weight_update")
    for info in _update_infos(parts, version, in_process):
        vllm_engine.collective_rpc("update_weights", kwargs={"update_info": info})
    vllm_engine.collective_rpc("finish_weight_update")
    vllm_engine.set_weight_version(str(version))
    if not vllm_engine.reset_prefix_cache():
        raise RuntimeError(f"vLLM could not drop its prefix cache after the update to version {version}")


def receive(vllm_engine: Any) -> dict[str, Tensor]:
    """Return the weights that the worker of `vllm_engine` computes with, under checkpoint names, on the CPU."""
    (messages,) = vllm_engine.collective_rpc("held_weights")
    return {name: tensor for message in messages for name, tensor in unpack(Bucket.from_message(message))}


def held_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what `model` (vLLM's) holds, under checkpoint names.

    vLLM fuses projections and, on CPU, keeps a linear layer's weight only inside a packed matrix product. Such a
    weight is read by multiplying with the identity: exact, since every product is with 0 or 1.
    """
    fused = {key: parts for key, parts in getattr(model, "packed_modules_mapping", {}).items() if len(parts) > 1}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            tied = name == "weight" and module_name == "lm_head" and model.config.tie_word_embeddings
            if id(parameter) in seen or tied:
                continue
            seen.add(id(parameter))
            tensor = _unpacked(module) if name == "weight" else parameter.detach()
            prefix, _, leaf = module_name.rpartition(".")
            if leaf not in fused:
                yield f"{module_name}.{name}", tensor[: getattr(module, "org_vocab_size", None)]
                continue
            for part, piece in zip(fused[leaf], tensor.split(list(module.output_sizes)), strict=True):
                yield f"{prefix}.{part}.{name}", piece


def _unpacked(module: Any) -> Tensor:
    weight = module.weight.detach()
    if not hasattr(module, "cpu_linear"):
        return weight
    columns = getattr(module, "input_size", None) or module.embedding_dim
    identity = torch.eye(columns, dtype=weight.dtype)
    return module.cpu_linear(identity, module.weight, None).detach().T.contiguous()


def _update_infos(
    parts: Iterable[list[tuple[str, Tensor]]], version: int, in_process: bool
) -> Iterator[dict[str, Any]]:
    if in_process:
        yield from ({"named": part} for part in parts)
    else:
        named = (pair for part in parts for pair in part)
        yield from ({"message": bucket.to_message()} for bucket in pack(named, BUCKET_BYTES, version))
