"""The text of chat messages."""

import json
from typing import Any

from rollout.records import Message


def message_text(message: Message) -> str:
    """What a message says: its content, the texts of its parts; of a turn that only calls tools the calls, as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(map(_part_text, content))
    if not content and (calls := message.get("tool_calls") or message.get("function_call")):
        content = calls
    if content is None:
        return ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)


def _part_text(part: Any) -> str:
    if not isinstance(part, dict):
        return "" if part is None else str(part)
    named = part.get("text", part.get(str(part.get("type")), part))
    return named or "" if named is None or isinstance(named, str) else json.dumps(part, default=str)
