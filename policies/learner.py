"""The learner: one DeepSpeed rank that turns scored samples into optimizer steps.

Legend: B sequences, T tokens, N loss-mask tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.learner import LearnerConfig
from policies import optimizer_parts, zero
from policies.batching import Sample, collate, split
from policies.logprobs import ScoredPolicy
from policies.losses import LOSSES, Loss, LossInputs
from policies.neuron_reset import Masks, neuron_resets

PREFIX = "model."
"""`ScoredPolicy` puts this before the checkpoint's parameter names."""


class Learner:
    """One rank of the learner group; a plain class, so that a debugger can step through it.

    The caller sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. All methods but `close` are collective:
    every rank calls them in the same order with the same arguments (the WHOLE minibatch, all sequences), and each
    returns the same figures. So ranks agree on micro-batches and token counts without talking.
    """

    def __init__(self, config: LearnerConfig, model_dir: str, *, seed: int, load_weights: bool = False) -> None:
        """Join the process group and, with `load_weights`, build the policy from `model_dir`.

        Args:
            config: the `learner` section.
            model_dir: Hugging Face directory; without `load_weights` only its config.json is read.
            seed: of torch's generators on this rank.
            load_weights: read the weights here; otherwise `load_weights()` or `load()` must come next.
        """
        self.config = config
        self.model_dir = str(model_dir)
        torch.set_num_threads(config.threads)
        self.rank, self.ranks, self.device = zero.join_process_group(config)
        torch.manual_seed(seed)
        self.steps = 0
        """Optimizer steps since the weights were loaded."""
        self._engine: Any = None
        self._reference: list[Tensor] | None = None
        if load_weights:
            self._start(self._make_model(pretrained=True))

    # -- weights --------------------------------------------------------------------------------------------------

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Take all weights from `named` (checkpoint names, full tensors) and start over with a fresh optimizer.

        DeepSpeed keeps float32 copies and partitions of its own; the engine is made anew around the weights, which is
        right for every ZeRO stage. The reference, if any, is dropped.

        Raises:
            ValueError: a tensor is missing, unknown, or of the wrong shape.
        """
        model = self._make_model(pretrained=False)
        targets = dict(model.named_parameters())
        tied = set(model.state_dict()) - set(
            targets
        )  # lm_head.weight of tied embeddings: some checkpoints hold it twice
        missing = set(targets)
        for name, tensor in named:
            if name in tied:
                continue
            if name not in targets or targets[name].shape != tensor.shape:
                wanted = list(targets[name].shape) if name in targets else "no such parameter"
                raise ValueError(
                    f"weights do not fit {self.model_dir}/config.json: {name} is {list(tensor.shape)}, wanted {wanted}"
                )
            with torch.no_grad():
                targets[name].copy_(tensor)
            missing.discard(name)
        if missing:
            raise ValueError(f"weights do not fit {self.model_dir}/config.json: missing {', '.join(sorted(missing))}")
        self._reference = None
        self._start(model)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield checkpoint names and full tensors in `config.dtype`; tied embeddings once.

        A collective under ZeRO-3: every rank must iterate to the end. Copy what is to outlive the next step.
        """
        for name, tensor in zero.full_parameters(self._ready().module, self.config.zero_stage):
            yield name.removeprefix(PREFIX), tensor

    def snapshot_reference(self) -> None:
        """Keep the present weights as the reference of the KL term.

        Each rank keeps what it holds of them: its partition under ZeRO-3, else all.
        """
        self._reference = zero.shards(self._ready())

    def reset_neurons(
        self, masks: Masks, targets: Iterable[tuple[str, Tensor]] | None = None, strength: float = 1.0
    ) -> None:
        """Overwrite neurons between two updates, and forget what the optimizer knows of them.

        The chosen entries of the float32 master weights go `strength` of the way to their targets, the weights follow,
        and both of Adam's moments become zero there. Nothing else changes: no other entry, no step count (so the first
        step at these entries is up to (1 - beta1) / sqrt(1 - beta2) learning rates long), not the reference.

        Args:
            masks: the neurons, by checkpoint name; `rejuvenation.neurons.NeuronTable.masks` makes them.
            targets: checkpoint names and full tensors, such as the base checkpoint's; only those with a mask are
                looked at. None resets to zero.
            strength: omega, in [0, 1]; 1 copies the target.

        Raises:
            ValueError: a name, mask or target does not fit the model, or the strength is out of bounds; nothing has
                changed then.
        """
        engine = self._ready()
        parameters = {name.removeprefix(PREFIX): p for name, p in engine.module.named_parameters()}
        shapes = {name: zero.full_shape(parameter) for name, parameter in parameters.items()}
        resets = neuron_resets(masks, targets, strength, shapes)
        with zero.weights_apart(engine):
            for name, reset in resets.items():
                optimizer_parts.overwrite(engine, parameters[name], reset)

    # -- scoring --------------------------------------------------------------------------------------------------

    def logprobs(
        self, sequences: Sequence[list[int]], temperature: float
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Score every token but the first of each sequence under the current policy.

        Args:
            sequences: B token-id lists.
            temperature: of the distribution scored.

        Returns:
            logprobs and entropies, B lists [T] each; the first entry of a list is 0.0.
        """
        samples = [Sample(list(ids), [0] + [1] * (len(ids) - 1)) for ids in sequences]
        return self._score(samples, temperature)

    def reference_logprobs(self, samples: Sequence[Sample], temperature: float) -> list[list[float]]:
        """Score the loss-mask tokens of each sample under the reference; B lists [T], 0.0 where loss_mask is 0.

        Raises:
            ValueError: `snapshot_reference` was never called.
        """
        if self._reference is None:
            raise ValueError("reference log-probabilities need snapshot_reference() at the starting checkpoint")
        with zero.swapped_weights(self._ready(), self._reference):
            return self._score(samples, temperature)[0]

    def _score(self, samples: Sequence[Sample], temperature: float) -> tuple[list[list[float]], list[list[float]]]:
        engine = self._ready()
        lengths = [len(s.token_ids) for s in samples]
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        scores = torch.zeros(2, starts[-1], device=self.device)
        engine.eval()
        with torch.no_grad():
            plan = split(lengths, self.config.micro_batch_tokens, self.ranks)
            for chosen, pieces in zip(plan[self.rank], self._pieces(samples, plan), strict=True):
                batch = collate(samples, chosen).to(self.device)
                found = engine(batch.input_ids, batch.positions, batch.targets, temperature, pieces)
                where = [starts[i] + t for i in chosen for t, flag in enumerate(samples[i].loss_mask) if flag]
                if where:  # a dummy has no place in the result
                    scores[:, torch.tensor(where, device=self.device)] = torch.stack(found)
        engine.train()
        self._sum(scores)
        rows = scores.tolist()
        logprobs, entropies = ([row[a:b] for a, b in pairwise(starts)] for row in rows)
        return logprobs, entropies

    # -- training -------------------------------------------------------------------------------------------------

    def update(self, samples: Sequence[Sample], loss: Loss) -> dict[str, float]:
        """Take one optimizer step on the global minibatch `samples`.

        Returns:
            Means over loss-mask tokens (`loss`, `entropy`, and what the loss reports: docs/metrics.md), and `grad_norm`
            (global, before clipping), `lr`, `tokens` (loss-mask tokens), `padded_share`, `skipped` (1.0 where no token
            had loss_mask 1 and no step was taken), `rollout_logprob_gap_mean` / `_max` (|policy - rollout| before this
            step: zero up to rounding as long as the rollout's weights are the learner's).

        Raises:
            ValueError: the loss lacks something it needs of the samples.
            RuntimeError: the loss or the gradient is not finite. A loss is noticed before the step, a gradient after
                it, when the weights may be spoilt: continue from the last checkpoint.
        """
        metrics = self.backward(samples, loss)
        if metrics["skipped"]:
            return metrics
        if math.isfinite(metrics["loss"]):
            metrics |= self.step()
        if not math.isfinite(metrics.get("grad_norm", math.nan)):
            raise RuntimeError(f"optimizer step {self.steps}: loss or gradient is not finite: {metrics}")
        return metrics

    def backward(self, samples: Sequence[Sample], loss: Loss) -> dict[str, float]:
        """Accumulate the gradient of `sum over loss-mask tokens / number of them` over all micro-batches and ranks.

        DeepSpeed averages gradients over ranks; multiplying the loss by their number undoes it.
        """
        engine = self._ready()
        tokens = sum(sum(s.loss_mask) for s in samples)
        if tokens == 0:
            return {"skipped": 1.0, "tokens": 0.0}
        if loss.kl_coef > 0.0 and any(s.ref_logprobs is None for s in samples):
            scored = self.reference_logprobs(samples, loss.temperature)
            samples = [replace(s, ref_logprobs=ref) for s, ref in zip(samples, scored, strict=True)]
        plan = split([len(s.token_ids) for s in samples], self.config.micro_batch_tokens, self.ranks)
        sums: dict[str, Tensor] = {}
        gap = torch.zeros((), device=self.device)
        for index, (chosen, pieces) in enumerate(zip(plan[self.rank], self._pieces(samples, plan), strict=True)):
            batch = collate(samples, chosen).to(self.device)
            engine.set_gradient_accumulation_boundary(index == len(plan[self.rank]) - 1)
            policy_logprobs, entropies = engine(
                batch.input_ids, batch.positions, batch.targets, loss.temperature, pieces
            )
            inputs = LossInputs(
                policy_logprobs, entropies, batch.advantages, batch.rollout_logprobs, batch.ref_logprobs, loss
            )
            total, found = LOSSES[loss.name](inputs)
            engine.backward(total * (batch.scale * self.ranks / tokens), scale_wrt_gas=False)
            found |= {"loss": total.detach(), "entropy": entropies.sum()}
            if batch.rollout_logprobs is not None and batch.scale:
                difference = (policy_logprobs.detach() - batch.rollout_logprobs).abs()
                found["rollout_logprob_gap_mean"] = difference.sum()
                gap = torch.maximum(gap, difference.max())
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.double() * batch.scale
        metrics = self._means(sums, gap, tokens, with_gap=all(s.rollout_logprobs is not None for s in samples))
        real = sum(len(s.token_ids) for s in samples)
        padded = sum(len(c) * max(len(samples[i].token_ids) for i in c) for part in plan for c in part if c)
        return metrics | {"tokens": float(tokens), "padded_share": 1.0 - real / padded, "skipped": 0.0}

    def step(self) -> dict[str, float]:
        """Clip the accumulated gradient and apply AdamW; returns `grad_norm` (before clipping) and `lr`."""
        engine = self._ready()
        lr = self.config.lr * min(1.0, (self.steps + 1) / max(1, self.config.warmup_steps))
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        if zero.clips_gradients(self.config):
            engine.step()
            norm = float(engine.get_global_grad_norm())
        else:
            limit = self.config.grad_clip or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(engine.module.parameters(), limit))
            engine.step()
        self.steps += 1
        return {"grad_norm": norm, "lr": lr}

    def _means(self, sums: dict[str, Tensor], gap: Tensor, tokens: int, *, with_gap: bool) -> dict[str, float]:
        """Global sums over ranks, divided by the number of tokens; the gap's maximum where there is a rollout."""
        names = sorted(sums.keys() | ({"rollout_logprob_gap_mean"} if with_gap else set()))
        zeros = torch.zeros((), dtype=torch.float64, device=self.device)
        flat = torch.stack([sums.get(name, zeros) for name in names])
        self._sum(flat)
        metrics = {name: value / tokens for name, value in zip(names, flat.tolist(), strict=True)}
        if with_gap:
            if self.ranks > 1:
                torch.distributed.all_reduce(gap, op=torch.distributed.ReduceOp.MAX)
            metrics["rollout_logprob_gap_max"] = float(gap)
        return metrics

    def _pieces(self, samples: Sequence[Sample], plan: Sequence[Sequence[tuple[int, ...]]]) -> list[int]:
        """For each micro-batch of `plan`, in how many pieces every rank's lm_head runs.

        As many as the rank with most positions needs: ranks that run it another number of times hang under ZeRO-3.
        """
        counts = [sum(s.loss_mask) for s in samples]
        largest = [max(sum(counts[i] for i in chosen) for chosen in together) for together in zip(*plan, strict=True)]
        return [self._ready().module.pieces_needed(count) for count in largest]

    def _sum(self, tensor: Tensor) -> None:
        """Sum `tensor` over ranks, in place."""
        if self.ranks > 1:
            torch.distributed.all_reduce(tensor)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        """Write all that an exact resume needs: weights, optimizer, step count, RNG states, reference.

        Every rank writes its own part; the caller makes the directory atomic and records the files' hashes.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._ready().save_checkpoint(str(directory), tag=zero.TAG)
        state: dict[str, Any] = {
            "ranks": self.ranks,
            "zero_stage": self.config.zero_stage,
            "steps": self.steps,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "reference": self._reference,
        }
        torch.save(state, directory / f"rank_{self.rank}.pt")
        self._barrier()

    def load(self, directory: str | Path) -> None:
        """Continue exactly where `save` was called.

        DeepSpeed unpickles its files, which can run code: call this only on a directory whose files the caller has
        checked against the hashes recorded when this project wrote them.

        Raises:
            ValueError: the checkpoint was written by another number of ranks or ZeRO stage.
        """
        path = Path(directory) / f"rank_{self.rank}.pt"
        found = {"learner.ranks": None, "learner.zero_stage": None}
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = {"learner.ranks": state["ranks"], "learner.zero_stage": state["zero_stage"]}
        wanted = {"learner.ranks": self.ranks, "learner.zero_stage": self.config.zero_stage}
        if found != wanted:
            raise ValueError(f"{directory} was written with {found}, this learner has {wanted}: resume with the same")
        self._start(self._make_model(pretrained=False))
        self._engine.load_checkpoint(str(directory), tag=zero.TAG)
        self.steps = state["steps"]
        reference = state["reference"]
        self._reference = None if reference is None else [t.to(self.device) for t in reference]
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self._barrier()

    def close(self) -> None:
        """Free the engine. The process group is left to whoever else uses it, and ends with the process."""
        if self._engine is not None:
            zero.destroy_engine(self._engine)
        self._engine, self._reference = None, None

    # -- private --------------------------------------------------------------------------------------------------

    def _make_model(self, *, pretrained: bool) -> Any:
        """The causal language model on the CPU; without `pretrained` its weights are not initialised."""
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.initialization import no_init_weights
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        options: dict[str, Any] = {"dtype": getattr(torch, self.config.dtype), "attn_implementation": "sdpa"}
        if pretrained:
            model = AutoModelForCausalLM.from_pretrained(self.model_dir, **options)
        else:
            with no_init_weights():
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.model_dir), **options)
            model.tie_weights()
        if self.config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False, "determinism_check": "none"})
        return model

    def _start(self, model: Any) -> None:
        """Make a DeepSpeed engine with a fresh optimizer around `model`, in place of the present one."""
        if self._engine is not None:
            zero.destroy_engine(self._engine)
        self._engine = zero.make_engine(ScoredPolicy(model), self.config)
        self._engine.train()
        self.steps = 0

    def _ready(self) -> Any:
        assert self._engine is not None, "the learner has no weights yet: call load_weights() or load() first"
        return self._engine

    def _barrier(self) -> None:
        if self.ranks > 1:
            torch.distributed.barrier()
