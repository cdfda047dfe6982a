"""Rebuild the tool-use toy's checkpoints from code alone: a base model and SFT checkpoints of it.

```
python -m examples.toy.tool_build base       examples/toy/tool/base
python -m examples.toy.tool_build sft_over   examples/toy/tool/sft_over   reads examples/toy/tool/base
python -m examples.toy.tool_build sft_mod    somewhere/sft_mod            reads examples/toy/tool/base
```
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from envs.lookup import LookupEnv
from envs.spaces import Message
from examples.toy import tool_documents
from examples.toy.tokenizer import build_tokenizer, save_tokenizer

IGNORED = -100
HERE = Path(__file__).parent / "tool"
BASE_SEED, BASE_STEPS, BASE_BATCH, BASE_LR, BASE_DECAY = 0, 800, 64, 2e-3, 300
SFT_SEED, SFT_PROBLEMS, SFT_HOPS, SFT_BATCH, SFT_LR = 1000, 64, (1, 2), 64, 1e-3
SFT_STEPS = {"sft_mod": 30, "sft_over": 1000}


def build_model(seed: int) -> Qwen2ForCausalLM:
    """Make the toy's untrained model: 64 tokens, hidden size 128, 4 layers, tied embeddings, 0.72M parameters."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=336,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config).float()


def encode(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Render a conversation with the toy's chat template, message by message.

    Returns:
        Token ids [T], and labels [T]: the token itself in assistant turns, their end-of-turn token included, else -100.
    """
    token_ids: list[int] = []
    labels: list[int] = []
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for message in messages:
        content = tokenizer.encode(message["content"], add_special_tokens=False)
        if message["role"] == "assistant":
            content = [*content, end_of_turn]
        token_ids += [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"), *content]
        labels += [IGNORED, *(content if message["role"] == "assistant" else [IGNORED] * len(content))]
    return token_ids, labels


def demonstrations(seed: int, count: int, hops: tuple[int, int], split: str = "train") -> list[list[Message]]:
    """Play the environment's expert on `count` tasks of `hops[0]` to `hops[1]` look-ups."""
    env = LookupEnv(hops_min=hops[0], hops_max=hops[1], split=split, seed=seed)
    played = []
    for index in range(count):
        env.reset(options={"index": index})
        messages = env.demonstration()
        assert messages is not None
        played.append(messages)
    return played


def epochs(played: list[list[Message]], size: int, seed: int) -> Iterator[list[list[Message]]]:
    """Yield batches by shuffled passes over the demonstrations, without end."""
    rng = random.Random(seed)
    waiting: list[list[Message]] = []
    while True:
        while len(waiting) < size:
            waiting += rng.sample(played, len(played))
        yield waiting[:size]
        waiting = waiting[size:]


def fit(
    model: Qwen2ForCausalLM, batches: Iterator[list[list[Message]]], steps: int, lr: float, *, decay_steps: int = 0
) -> None:
    """Train on the assistant's tokens with AdamW, in place.

    Args:
        model: the model, on CPU.
        batches: conversations per step.
        steps: optimizer steps.
        lr: learning rate, constant but for the decay.
        decay_steps: warm-up over 100 steps, and linear decay over this many last steps; 0: neither.
    """
    tokenizer = build_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        if decay_steps:
            factor = min(1.0, step / 100) * min(1.0, max(0.02, (steps - step) / decay_steps))
            optimizer.param_groups[0]["lr"] = lr * factor
        encoded = [encode(tokenizer, messages) for messages in next(batches)]
        length = max(len(token_ids) for token_ids, _ in encoded)
        token_ids = torch.zeros(len(encoded), length, dtype=torch.long)
        labels = torch.full((len(encoded), length), IGNORED)
        for row, (ids, targets) in enumerate(encoded):
            token_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(targets)
        hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]  # padding is on the right
        kept = labels[:, 1:] != IGNORED
        loss = F.cross_entropy(F.linear(hidden[kept], model.model.embed_tokens.weight), labels[:, 1:][kept])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            print(f"step {step} loss {sum(losses) / len(losses):.6f} {time.monotonic() - started:.0f} s", flush=True)
            losses = []


def save(model: Qwen2ForCausalLM, directory: Path) -> None:
    """Write a bf16 Hugging Face checkpoint with tokenizer and generation config."""
    model.to(torch.bfloat16).save_pretrained(directory)
    GenerationConfig(eos_token_id=2, pad_token_id=0).save_pretrained(directory)
    save_tokenizer(directory)


def build_base(directory: Path, seed: int = BASE_SEED, steps: int = BASE_STEPS) -> None:
    """Train the base model from nothing and save it."""
    model = build_model(seed)
    fit(model, tool_documents.batches(seed, BASE_BATCH), steps, BASE_LR, decay_steps=BASE_DECAY)
    save(model, directory)


def build_sft(base: Path, directory: Path, steps: int, seed: int = SFT_SEED) -> None:
    """Fine-tune the base on few short demonstrations for `steps` steps and save it: moderate or much too long."""
    model = Qwen2ForCausalLM.from_pretrained(base, dtype=torch.float32)
    played = demonstrations(seed, SFT_PROBLEMS, SFT_HOPS)
    fit(model, epochs(played, SFT_BATCH, seed), steps, SFT_LR)
    save(model, directory)


def main() -> None:
    """Build one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", choices=["base", *SFT_STEPS])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--base", type=Path, default=HERE / "base", help="the base checkpoint that SFT starts from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.checkpoint == "base":
        build_base(arguments.directory)
    else:
        build_sft(arguments.base, arguments.directory, SFT_STEPS[arguments.checkpoint])


if __name__ == "__main__":
    main()
