"""Parsers of tool calls: from an assistant's text to the calls in it, one file per form that models write.

A parser never raises, whatever the text, and takes linear time: it looks for fixed strings, or for tokens that it never
looks at twice. A call that cannot be read is a `ToolCall` with an error.
"""

from __future__ import annotations

from envs.tool_calls.call import MAX_CALL_CHARACTERS, Formatter, Parser, ToolCall
from envs.tool_calls.hermes import format_hermes, parse_hermes
from envs.tool_calls.llama3 import format_llama3, parse_llama3
from envs.tool_calls.mistral import format_mistral, parse_mistral
from envs.tool_calls.pythonic import format_pythonic, parse_pythonic
from envs.tool_calls.qwen3_coder import format_qwen3_coder, parse_qwen3_coder
from envs.tool_calls.react import format_react, parse_react
from envs.tool_calls.templates import form_of

__all__ = [
    "AUTO",
    "FORMATS",
    "MAX_CALL_CHARACTERS",
    "PARSERS",
    "Formatter",
    "Parser",
    "ToolCall",
    "form_of",
    "format_hermes",
    "parse_hermes",
]

AUTO = "auto"
"""In place of a form: the one that the model's chat template asks for, which the orchestrator puts in (`form_of`)."""
PARSERS: dict[str, Parser] = {
    "hermes": parse_hermes,
    "qwen": parse_hermes,
    "qwen3_coder": parse_qwen3_coder,
    "llama3": parse_llama3,
    "mistral": parse_mistral,
    "pythonic": parse_pythonic,
    "react": parse_react,
}
"""Name -> parser; an environment chooses with `tool_parser=`."""
FORMATS: dict[str, Formatter] = {
    "hermes": format_hermes,
    "qwen": format_hermes,
    "qwen3_coder": format_qwen3_coder,
    "llama3": format_llama3,
    "mistral": format_mistral,
    "pythonic": format_pythonic,
    "react": format_react,
}
"""Name -> how a demonstration writes a call in that form."""
