"""The two sides of the rollout benchmark: our rollout worker, and vLLM alone on the very same requests.

Each side has an engine in a process of its own and works only when it is asked to. Seeds, sampling parameters, the
number of sequences at once, threads and weights are equal, so both sample the same tokens: `bench` compares
their number, and `fault_of` looks at the episodes of every round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.relay import LAST_TURN
from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from policies.trajectory import FAILED, Trajectory

PROMPTS, SIBLINGS = 128, 8
MATH = EnvironmentConfig("rejuvenate/Arithmetic-v0", {"operations_min": 3, "operations_max": 3, "operand_max": 99})
TURNS = EnvironmentConfig("benchmarks.relay:RelayEnv", {})


@dataclass(frozen=True)
class Task:
    """What one rollout benchmark runs."""

    environment: EnvironmentConfig
    max_tokens: int
    """Longest turn."""
    turns: int
    """Of an episode that no limit cut short."""
    end_tokens: int
    """How many of the 64 tokens end a turn."""


TASKS = {
    "math": Task(MATH, max_tokens=48, turns=1, end_tokens=1),
    # Eight, so that few turns are cut and most episodes have all three.
    "multi-turn": Task(TURNS, max_tokens=24, turns=LAST_TURN, end_tokens=8),
}


def rollout_config(threads: int) -> RolloutConfig:
    """Equal on both sides."""
    return RolloutConfig(threads=threads, max_model_len=256, max_tokens=48, max_num_seqs=256)


def serve_worker(connection: Connection, model_dir: str, threads: int, _: Any) -> None:
    """Our side: `RolloutWorker.run` with environments, rendering and trajectories."""
    from orchestrator.episode import EpisodeJob, Sampling
    from orchestrator.rejuvenating import read_tensors
    from orchestrator.rollout import RolloutWorker
    from orchestrator.transport import InProcessTransport, publish

    transport = InProcessTransport()
    worker = RolloutWorker(rollout_config(threads), model_dir, transport)
    handles = publish(transport, read_tensors(model_dir), 1 << 26, 0)
    worker.update_weights(handles, 0)
    jobs = [EpisodeJob(g, s, g, g * SIBLINGS + s) for g in range(PROMPTS) for s in range(SIBLINGS)]
    connection.send("ready")
    while (task := connection.recv()) is not None:
        wanted = TASKS[task]
        start = time.perf_counter()
        trajectories = worker.run(jobs, wanted.environment, Sampling(1.0, wanted.max_tokens))
        seconds = time.perf_counter() - start
        worker.update_weights(handles, 0)  # empties the prefix cache, as after every training step
        fault = fault_of(task, trajectories)
        tokens = sum(sum(t.loss_mask) for t in trajectories)
        connection.send(RuntimeError(fault) if fault else (tokens, seconds))
        # What the bare side is to do again: every turn's prompt, seed and limit.
        if connection.recv():
            connection.send([[(turn.prompt_token_ids, turn.token_ids) for turn in t.turns] for t in trajectories])


def fault_of(task: str, trajectories: Sequence[Trajectory]) -> str | None:
    """What makes a round of `task` no measurement: an episode that failed, or one of another length; or None."""
    turns = TASKS[task].turns
    for t in trajectories:
        if t.status in FAILED:
            return f"{task}: episode {t.group}-{t.sample} failed as {t.status}: {t.error}"
        if len(t.turns) != turns and not (t.status == "truncated" and len(t.turns) < turns):
            return f"{task}: episode {t.group}-{t.sample} ended as {t.status} after {len(t.turns)} turns, not {turns}"
    return None


def serve_bare(connection: Connection, model_dir: str, threads: int, requests: dict[str, list]) -> None:
    """The limit: `vllm.LLM` on the recorded prompts. A next turn is submitted the moment the last one ends."""
    from orchestrator.seeding import derive
    from policies.checkpoint_shapes import end_of_turn_ids
    from policies.engine import set_environment

    set_environment(rollout_config(threads), in_process=True, log_path=None)
    from vllm import LLM, SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    config = rollout_config(threads)
    llm = LLM(
        model=model_dir, skip_tokenizer_init=True, dtype=config.dtype, max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs, enforce_eager=True, kv_cache_memory_bytes=config.kv_cache_bytes,
        logprobs_mode="processed_logprobs", enable_prefix_caching=True,
        enable_chunked_prefill=False, max_num_batched_tokens=8192,  # vLLM on CPU cannot split a seeded request
    )  # fmt: skip
    stop = sorted(end_of_turn_ids(model_dir))

    def params(episode: int, turn: int, max_tokens: int) -> SamplingParams:
        return SamplingParams(
            temperature=1.0, seed=derive(episode, "turn", turn), max_tokens=max_tokens, stop_token_ids=stop,
            logprobs=0, flat_logprobs=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip

    connection.send("ready")
    while (task := connection.recv()) is not None:
        turns, max_tokens = requests[task], TASKS[task].max_tokens
        start = time.perf_counter()
        tokens = 0
        if task == "math":
            prompts = [{"prompt_token_ids": episode[0][0]} for episode in turns]
            outputs = llm.generate(prompts, [params(i, 0, max_tokens) for i in range(len(turns))], use_tqdm=False)
            tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        else:
            engine = llm.llm_engine
            for i, episode in enumerate(turns):
                engine.add_request(f"{i}-0", tokens_input(episode[0][0]), params(i, 0, max_tokens))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    tokens += len(output.outputs[0].token_ids)
                    i, number = (int(part) for part in output.request_id.split("-"))
                    if number + 1 < len(turns[i]):
                        prompt = tokens_input(turns[i][number + 1][0])
                        engine.add_request(f"{i}-{number + 1}", prompt, params(i, number + 1, max_tokens))
        seconds = time.perf_counter() - start
        llm.reset_prefix_cache()
        connection.send((tokens, seconds))
