"""The toy's model shape and its checkpoint directories: ordinary Hugging Face ones, of 1.46 MB each."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from examples.toy.tokenizer import build_tokenizer, save_tokenizer


def model_config() -> Qwen2Config:
    """Return the shape of all toy models: Qwen2, 4 layers of 128, 723,072 parameters, tied embeddings."""
    tokenizer = build_tokenizer()
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=336,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_model(seed: int) -> Qwen2ForCausalLM:
    """Return a freshly initialised float32 model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(model_config()).float()


def load_model(directory: Path) -> Qwen2ForCausalLM:
    """Load a toy checkpoint in float32, for training."""
    model: Qwen2ForCausalLM = Qwen2ForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    return model


def save_checkpoint(model: Qwen2ForCausalLM, directory: Path) -> None:
    """Write the model in bfloat16, with its generation config and tokenizer.

    Args:
        model: left as it is; a copy is cast.
        directory: made if missing; files of the same names are replaced.
    """
    config = model_config()
    config.dtype = torch.bfloat16
    copy = Qwen2ForCausalLM(config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=True
    )
    copy.save_pretrained(str(directory))
    save_tokenizer(directory)
