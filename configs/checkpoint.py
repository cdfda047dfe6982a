"""Look at a checkpoint directory without importing torch: is it one, what shape has it, do two match."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.model import ModelConfig, ShapeConfig
from configs.near_path import did_you_mean
from configs.rejuvenation import RejuvenationConfig
from configs.user_model import UserModelConfig

ARCHITECTURE_KEYS = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
)
"""config.json keys in which base and SFT checkpoint must agree where both state them."""
EXACT_ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")
"""Architectures that the attribution of the reset treats exactly."""
SHAPE_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(location: str) -> bool:
    """Whether `location` reads `organisation/name` and there is no such path, nor its first folder, on this machine."""
    return bool(HUB_NAME.fullmatch(location)) and not Path(location).parent.exists()


def read_config(field: str, location: str) -> dict[str, Any]:
    """The `config.json` of a checkpoint directory.

    Raises:
        ConfigError: the directory is missing or is no Hugging Face checkpoint with safetensors weights.
    """
    directory = Path(location)
    fix = "Give a Hugging Face checkpoint directory, or a hub name `organisation/name`."
    if not directory.exists():
        rule = "must be an existing directory or a hub name"
        raise ConfigError(field, rule, location, did_you_mean(directory, fix))
    if not directory.is_dir():
        raise ConfigError(field, "must be a directory", location, fix)
    try:
        config = json.loads((directory / "config.json").read_text())
    except FileNotFoundError:
        raise ConfigError(field, "must hold a config.json", location, fix) from None
    except (OSError, json.JSONDecodeError):
        raise ConfigError(field, "must hold a readable config.json", location, "Write the checkpoint again.") from None
    if not isinstance(config, dict) or "architectures" not in config:
        raise ConfigError(field, "must hold a config.json that names architectures", location, fix)
    if not any(directory.glob("*.safetensors")):
        raise ConfigError(
            field,
            "must hold weights as *.safetensors",
            location,
            "Save it again with safetensors (pickle is not read).",
        )
    return config


def shape_of(config: dict[str, Any], field: str = "model") -> ShapeConfig:
    """Shape of the model from its `config.json`.

    Raises:
        ConfigError: a size is not stated there, as in multimodal checkpoints.
    """
    for theirs in SHAPE_KEYS.values():
        if theirs != "num_key_value_heads" and not config.get(theirs):
            raise ConfigError(
                field,
                f"must state {theirs} in its config.json",
                config["architectures"],
                "Give a text-only decoder checkpoint.",
            )
    sizes = {ours: int(config.get(theirs) or 0) for ours, theirs in SHAPE_KEYS.items()}
    sizes["num_kv_heads"] = sizes["num_kv_heads"] or sizes["num_heads"]
    return ShapeConfig(**sizes, tied_embeddings=bool(config.get("tie_word_embeddings", False)))


def check_pair(base: dict[str, Any], sft: dict[str, Any]) -> None:
    """Raise `ConfigError` unless both checkpoints are of one architecture and shape (vocabularies may differ)."""
    for key in ARCHITECTURE_KEYS:
        if base.get(key) is not None and sft.get(key) is not None and base[key] != sft[key]:
            raise ConfigError(
                "model.sft",
                f"must match model.base in {key} ({base.get(key)!r})",
                sft.get(key),
                "Give the base checkpoint that this SFT checkpoint was trained from.",
            )


def check_model(model: ModelConfig) -> ShapeConfig:
    """Check both checkpoints of a run as far as they lie on this machine.

    Returns:
        The model's shape, from the checkpoints or else from `model.shape`.

    Raises:
        ConfigError: a directory that is no checkpoint, two that do not match, or hub names without `model.shape`.
    """
    local = {}
    for name, location in (("base", model.base), ("sft", model.sft)):
        if not is_hub_name(location):
            local[name] = read_config(f"model.{name}", location)
    if len(local) == 2:
        check_pair(local["base"], local["sft"])
    for name, found in local.items():
        return shape_of(found, f"model.{name}")
    if model.shape is None:
        raise ConfigError(
            "model.shape",
            "must be given where both checkpoints are hub names",
            None,
            "Copy the sizes from the model's config.json, so that `plan` can count without downloading.",
        )
    return model.shape


def check_rejuvenation(model: ModelConfig, rejuvenation: RejuvenationConfig) -> None:
    """Check what the repair of a run needs, as far as it lies on this machine.

    Raises:
        ConfigError: the calibration file is missing, or the reset cannot treat the architecture.
    """
    if model.start != "rejuvenated":
        return
    if rejuvenation.calibration is not None and not Path(rejuvenation.calibration).is_file():
        raise ConfigError(
            "rejuvenation.calibration",
            "must be an existing JSONL file",
            rejuvenation.calibration,
            "Check the path, or set it to null to take the environment's own demonstrations.",
        )
    if rejuvenation.criterion is None or is_hub_name(model.sft):
        return
    architectures = read_config("model.sft", model.sft)["architectures"]
    if not set(architectures) <= set(EXACT_ARCHITECTURES):
        raise ConfigError(
            "rejuvenation.steps",
            f"must hold no reset for architectures other than {', '.join(EXACT_ARCHITECTURES)}",
            architectures,
            "Set rejuvenation.steps=[fusion.linear]: fusion works for every architecture.",
        )


def check_user_model(user_model: UserModelConfig | None, *, used: bool) -> None:
    """Check the model that a run is to serve, as far as it lies on this machine.

    Args:
        user_model: the section; None where nothing is to be served.
        used: whether an environment of the run talks to it.

    Raises:
        ConfigError: it is needed and missing or the other way round, no checkpoint, or one without a chat template.
    """
    field = "user_model.checkpoint"
    if user_model is None:
        if used:
            fix = "Give the checkpoint of the model, or leave it out: then a script plays the user."
            raise ConfigError(field, "must be given: the environment asks for a user that the run serves", None, fix)
        return
    if not used:
        rule = "must be left out where no environment of the run talks to it"
        fix = "Set environment.kwargs.user=served for the service desk; others declare uses_user_model = True."
        raise ConfigError("user_model", rule, user_model.checkpoint, fix)
    if is_hub_name(user_model.checkpoint):
        return
    read_config(field, user_model.checkpoint)
    if not has_chat_template(Path(user_model.checkpoint)):
        fix = "Give an instruction-tuned model, or put its chat_template.jinja there."
        raise ConfigError(field, "must hold a chat template", user_model.checkpoint, fix)


def has_chat_template(directory: Path) -> bool:
    """Whether a checkpoint directory holds a chat template, in any of the places where transformers looks."""
    if any((directory / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return bool(json.loads((directory / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False
