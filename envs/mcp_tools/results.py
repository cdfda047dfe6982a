"""A tool's result as the model reads it."""

from __future__ import annotations

import json

from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ResourceLink, TextContent


def as_text(result: CallToolResult, most_characters: int) -> str:
    """Return a result's texts, one a line; what is no text is named, and what is too long is left out.

    Args:
        result: what the server answered.
        most_characters: longest text; a longer one ends in a note of how long it was.
    """
    parts: list[str] = []
    for block in result.content:
        if isinstance(block, TextContent):
            parts.append(block.text)
        elif isinstance(block, ResourceLink):
            parts.append(f"[resource {block.uri}]")
        elif isinstance(block, EmbeddedResource):
            resource = block.resource
            parts.append(f"[resource {resource.uri}]" if isinstance(resource, BlobResourceContents) else resource.text)
        else:
            parts.append(f"[{block.type}]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    text = "\n".join(parts)
    if len(text) > most_characters:
        return f"{text[:most_characters]}\n[cut off: {len(text)} characters in all]"
    return text or "The tool returned nothing."
