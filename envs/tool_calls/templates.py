"""Which form of tool calls a chat template asks for."""

from __future__ import annotations

MARKERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("pythonic", ("[func_name1(",)),
    ("react", ("Action Input:",)),
    ("hermes", ("<tool_call>",)),
    ("llama3", ('"parameters": dictionary of argument name',)),
    ("llama3", ("<|python_tag|>",)),
)
"""Form -> texts that a template of it holds, all of them. The first form that fits is taken. More telling texts come
first: Qwen3-Coder has Hermes' tags, too, and a template that asks for a list of Python calls may show JSON."""


def form_of(template: str) -> str | None:
    """Return the name of the form that a chat template asks for.

    Args:
        template: the text of the template, before it is rendered.

    Returns:
        A name in `envs.tool_calls.PARSERS`; None where the template shows none of the forms.
    """
    return next((form for form, texts in MARKERS if all(text in template for text in texts)), None)
