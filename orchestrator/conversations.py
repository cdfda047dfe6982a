"""The conversations that SFT learns from: a JSONL file, or demonstrations of the training environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.run import RunConfig
from orchestrator.demonstrations import demonstrations

Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]] | None]
"""Messages, and the tools' JSON schemas if there are tools."""


def check_conversations(config: RunConfig) -> None:
    """Check, before anything is started, that there will be conversations.

    Raises:
        ConfigError: see `conversations`; of an environment one task is looked at.
    """
    conversations(config, examples=1)


def conversations(config: RunConfig, examples: int | None = None) -> list[Conversation]:
    """Every example: from `sft.data`, or demonstrations of the training environment.

    Args:
        config: of the run.
        examples: demonstrations to draw, in place of `sft.examples`.

    Raises:
        ConfigError: the file is missing or malformed, or the environment has no demonstrations.
    """
    if config.sft.data is not None:
        return read_conversations(Path(config.sft.data))
    found = demonstrations(config.environment, examples or config.sft.examples)
    if not all(demonstration.messages for demonstration in found):
        raise ConfigError(
            "sft.data",
            "must be given: the environment has no demonstrations",
            config.environment.id,
            'Give a JSONL of {"messages": [...]} lines, or define expert_turns in the environment.',
        )
    return [(demonstration.messages or [], demonstration.tools) for demonstration in found]


def read_conversations(path: Path) -> list[Conversation]:
    """Read a JSONL of `{"messages": [...], "tools": [...]}` lines; `tools` is optional.

    Raises:
        ConfigError: no such file, a line that is no conversation (its number is said), or none at all.
    """
    if not path.is_file():
        raise ConfigError("sft.data", "must be an existing JSONL file", str(path), "Check the path.")
    found = []
    for number, line in enumerate(path.read_text().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = [{**message, "role": message["role"]} for message in row["messages"]]
            if not messages or messages[-1]["role"] != "assistant":
                raise ValueError
            found.append((messages, row.get("tools")))
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                "sft.data",
                'must hold {"messages": [...]} that ends with an assistant message on each line',
                f"{path}:{number}",
                "Correct that line.",
            ) from None
    if not found:
        raise ConfigError("sft.data", "must hold at least one conversation", str(path), "Add lines to it.")
    return found
