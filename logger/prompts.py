# SPDX-License-Identifier: Apache-2.0
"""Prompts as rows of a dataset: which are plain text, which are the same, and which side of a split they are on."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, str]


def why_not_plain(messages: Sequence[Mapping[str, Any]] | None, *, tools: bool) -> str | None:
    """Why a prompt cannot be trained on as it was recorded, or None.

    Args:
        messages: the prompt, as the log has it.
        tools: whether the request offered tools.
    """
    if tools or any(_uses_tools(message) for message in messages or ()):
        return "request used tools"
    if not messages or not all(isinstance(message.get("content"), str) for message in messages):
        return "prompt is not plain text"
    return None


def plain(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Role and content of each message, of a prompt that is plain."""
    return [{"role": str(message["role"]), "content": message["content"]} for message in messages]


def normalised(messages: Sequence[Message]) -> str:
    """The prompt as compared for repeats: Unicode NFKC, case and runs of white space do not matter."""
    texts = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)


def position(group: str) -> float:
    """Where a group falls in [0, 1), the same in every job and every export."""
    return int.from_bytes(hashlib.sha256(group.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64


def _uses_tools(message: Mapping[str, Any]) -> bool:
    """Whether the engine rendered this message with what is not in its role and content."""
    return message.get("role") in ("tool", "function") or any(
        message.get(name) for name in ("tool_calls", "tool_call_id", "function_call")
    )
