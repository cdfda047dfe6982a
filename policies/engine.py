"""The rollout engine: vLLM behind a small face. Token ids go in, token ids with log-probabilities come out.

One class for both places: on CPU the engine runs in this process, on GPUs in vLLM's own processes. vLLM is imported
when an `Engine` is made, after the environment variables that it reads at import are set.
"""

from __future__ import annotations

import copy
import functools
import gc
import json
import logging
import logging.config
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.rollout import RolloutConfig
from policies.checkpoint_shapes import check_complete, checkpoint_shapes, end_of_turn_ids

CPU_STEP_TOKENS = 8192  # most tokens of one step on CPU: 256 prompts of 32 tokens go in at once


@dataclass(slots=True)
class GenerationRequest:
    """One assistant turn to sample."""

    request_id: str
    prompt_token_ids: list[int]
    seed: int
    """Seed of this request alone: its tokens do not depend on what else is in the batch."""
    max_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""


@dataclass(slots=True)
class Generation:
    """One sampled turn, as vLLM returned it."""

    request_id: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    """Sampled ids, the end-of-turn token included where it was sampled."""
    logprobs: list[float]
    """Log-probabilities of `token_ids` under the distribution sampled from (temperature, top_p, top_k applied)."""
    finish_reason: str
    """`stop` or `length`."""
    policy_version: int


class Engine:
    """A vLLM engine with a version on its weights.

    Args:
        config: the rollout section.
        model_dir: checkpoint directory; only `config.json` and the like are read unless `load_weights`.
        load_weights: whether to start from the weights in `model_dir`. Otherwise they are random until the first
            `update_weights`, and until then nothing is generated.
        stop_token_ids: ids that end a turn besides the end-of-text ids of the checkpoint.
        log_path: file for vLLM's log; without it only its errors are shown, on stderr.
        in_process: overrides where the engine runs; by default in this process on CPU only.
    """

    def __init__(
        self,
        config: RolloutConfig,
        model_dir: str | Path,
        *,
        load_weights: bool = False,
        stop_token_ids: Sequence[int] = (),
        log_path: str | Path | None = None,
        in_process: bool | None = None,
    ) -> None:
        self.config = config
        self.model_dir = str(model_dir)
        self.log_path = None if log_path is None else Path(log_path)
        self.policy_version = 0 if load_weights else -1
        self.in_process = config.device == "cpu" if in_process is None else in_process
        """Whether `step` computes in this process."""
        self._stop_token_ids = sorted({*end_of_turn_ids(self.model_dir), *stop_token_ids})
        self._shapes, self._duplicates = checkpoint_shapes(self.model_dir)
        self._failure: str | None = None
        set_environment(config, in_process=self.in_process, log_path=self.log_path)
        self._vllm = _start(config, self.model_dir, load_weights)
        self._checked_params = functools.lru_cache(maxsize=16)(self._make_params)
        gc.collect()
        gc.freeze()  # the collector need not look through all of vLLM again and again while tokens are sampled

    # Generation

    def submit(self, request: GenerationRequest) -> None:
        """Queue `request`; `step` returns it when finished.

        Raises:
            ValueError: the prompt leaves no room for a token, or max_tokens is below 1.
        """
        from vllm.inputs.engine import tokens_input

        self._check_usable()
        room = self.config.max_model_len - len(request.prompt_token_ids)
        if room < 1 or request.max_tokens < 1:
            raise ValueError(
                f"request {request.request_id}: a prompt of {len(request.prompt_token_ids)} tokens and max_tokens "
                f"{request.max_tokens} leave nothing to sample in rollout.max_model_len {self.config.max_model_len}"
            )
        params = self._sampling_params(request, min(room, request.max_tokens))
        self._vllm.add_request(request.request_id, tokens_input(request.prompt_token_ids), params)

    def step(self) -> list[Generation]:
        """Run one step of the engine (about one token per sequence) and return what finished in it."""
        return [self._generation(output) for output in self._vllm.step()]

    @property
    def has_unfinished(self) -> bool:
        """Whether submitted requests are still to come back."""
        return self._vllm.has_unfinished_requests()

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget these requests; they never come back."""
        self._vllm.abort_request(list(request_ids))

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache; the engine is idle."""
        self._check_idle("reset_prefix_cache")
        self._vllm.reset_prefix_cache()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Return one generation per request, in their order.

        Raises:
            RuntimeError: they were not back within `rollout.timeout_s`.
        """
        self._check_idle("generate")
        for request in requests:
            self.submit(request)
        found: dict[str, Generation] = {}
        deadline = time.monotonic() + self.config.timeout_s
        while self.has_unfinished:
            for generation in self.step():
                found[generation.request_id] = generation
            if time.monotonic() > deadline:
                missing = [request.request_id for request in requests if request.request_id not in found]
                self.abort(missing)
                raise RuntimeError(
                    f"waited {self.config.timeout_s} s (rollout.timeout_s) for {len(missing)} of {len(requests)} "
                    f"generations, the first of them {missing[:3]}"
                )
        return [found[request.request_id] for request in requests]

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """Return the log-probability of each given token after those before it, at temperature 1.

        Args:
            sequences: token ids, each shorter than `rollout.max_model_len`.

        Returns:
            One list [T] per sequence; the first token, which nothing precedes, has 0.0.
        """
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        self._check_usable()
        self._check_idle("score")
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, flat_logprobs=True)
        for number, token_ids in enumerate(sequences):
            self._vllm.add_request(str(number), tokens_input(token_ids), params)
        scores: dict[str, list[float]] = {}
        while self.has_unfinished:
            for output in self._vllm.step():
                if output.finished:
                    scores[output.request_id] = [0.0, *output.prompt_logprobs.logprobs]
        return [scores[str(number)] for number in range(len(sequences))]

    # Weights

    def update_weights(self, buckets: Iterable[list[tuple[str, Tensor]]], version: int) -> None:
        """Replace all weights in place and drop the prefix cache.

        Everything is received and checked (checksums by whoever unpacks `buckets`, names and shapes here) before any
        weight is touched: a refused update leaves the engine as it was.

        Args:
            buckets: lists of (checkpoint name, tensor), together the whole checkpoint; a tied tensor that comes a
                second time under its other name is passed over.
            version: policy_version of these weights.

        Raises:
            RuntimeError: requests are unfinished, a tensor is missing, unknown or of another shape, or vLLM failed.
        """
        from policies import weight_transfer

        self._check_idle("update_weights")
        kept = ([pair for pair in bucket if pair[0] not in self._duplicates] for bucket in buckets)
        parts = [part for part in kept if part]
        check_complete((pair for part in parts for pair in part), self._shapes, version)
        try:
            weight_transfer.send(self._vllm, parts, version, in_process=self.in_process)
        except Exception as error:
            self._failure = f"its update to version {version} failed half-way: {error}"
            raise
        self._failure = None
        self.policy_version = version

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that the engine computes with, under checkpoint names, on the CPU.

        They are read back from the running model (see `weight_transfer.held_weights`), not remembered from loading.
        """
        from policies import weight_transfer

        if self.config.tensor_parallel > 1:
            raise ValueError(
                f"weights can be read back with rollout.tensor_parallel 1 only, got {self.config.tensor_parallel}"
            )
        self._check_usable()
        return weight_transfer.receive(self._vllm)

    def close(self) -> None:
        """Stop vLLM and free its memory; the engine is of no use afterwards."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._failure = "it was closed"
        vllm_engine, self._vllm = self._vllm, None
        if vllm_engine is not None:
            vllm_engine.engine_core.shutdown()
            del vllm_engine
            if self.in_process:
                cleanup_dist_env_and_memory()
            gc.unfreeze()
            gc.collect()

    def _sampling_params(self, request: GenerationRequest, max_tokens: int) -> Any:
        """A copy of parameters that vLLM has checked: to have it check those of each request takes it longer."""
        params = copy.copy(self._checked_params(request.temperature, request.top_p, request.top_k))
        params.seed, params.max_tokens = request.seed, max_tokens
        return params

    def _make_params(self, temperature: float, top_p: float, top_k: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop_token_ids=self._stop_token_ids,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _generation(self, output: Any) -> Generation:
        completion = output.outputs[0]
        return Generation(
            output.request_id,
            output.prompt_token_ids,
            list(completion.token_ids),
            list(completion.logprobs.logprobs),
            completion.finish_reason,
            self.policy_version,
        )

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"the engine cannot be used: {self._failure}")
        if self.policy_version < 0:
            raise RuntimeError("the engine has no weights yet: call update_weights first")

    def _check_idle(self, what: str) -> None:
        if self.has_unfinished:
            raise RuntimeError(f"{what} needs an idle engine, but submitted requests are unfinished")


def set_environment(config: RolloutConfig, *, in_process: bool, log_path: Path | None) -> None:
    """Set the environment variables that vLLM reads at import or start."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_DO_NOT_TRACK"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    if config.device == "cpu":
        # Unbound threads: bound ones would sit on the same cores as those of the next engine or of the learner.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        if config.enforce_eager:
            # vLLM compiles its count of better tokens even then: seconds at the first step, for a rank nobody reads.
            os.environ["TORCH_COMPILE_DISABLE"] = "1"
        torch.set_num_threads(config.threads)  # torch may have read OMP_NUM_THREADS already
    if log_path is None:
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
        os.environ.pop("VLLM_LOGGING_CONFIG_PATH", None)
        logging.getLogger("vllm").setLevel(logging.ERROR)
    else:
        os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = _logging_config(log_path)


def _logging_config(log_path: Path) -> str:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    handler = {"class": "logging.FileHandler", "filename": str(log_path.resolve()), "formatter": "plain"}
    logging_config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"file": handler},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    logging.config.dictConfig(logging_config)  # vLLM applies it when an engine starts, and warns before that
    path = log_path.with_suffix(".logging.json")  # stays: vLLM's own processes read it too
    path.write_text(json.dumps(logging_config))
    return str(path)


def _start(config: RolloutConfig, model_dir: str, load_weights: bool) -> Any:
    set_num_threads = torch.set_num_threads
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from policies import weight_transfer

    on_cpu: dict[str, Any] = {
        "kv_cache_memory_bytes": config.kv_cache_bytes,
        # A prompt goes in whole: vLLM rewinds a request's generator after part of one, which CPU generators cannot do.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(config.max_model_len, config.max_num_seqs, CPU_STEP_TOKENS),
    }
    args = EngineArgs(
        model=model_dir,
        skip_tokenizer_init=True,
        trust_remote_code=False,
        load_format="auto" if load_weights else "dummy",
        dtype=config.dtype,  # type: ignore[arg-type]
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        tensor_parallel_size=config.tensor_parallel,
        # Left to itself vLLM starts Ray actors of its own, for which the bundle of a rollout worker has no room.
        distributed_executor_backend="mp" if config.tensor_parallel > 1 else None,
        gpu_memory_utilization=config.gpu_memory_utilization,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=weight_transfer.BACKEND),
        worker_extension_cls=weight_transfer.WORKER_EXTENSION,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **(on_cpu if config.device == "cpu" else {}),
    )
    try:
        return LLMEngine.from_engine_args(args)
    finally:
        torch.set_num_threads = set_num_threads  # vLLM's CPU worker replaces it by a warning
