"""Chats as people look at them."""

import json
from typing import Any


def last_message(prompt: Any) -> str:
    """The prompt as a reader knows it: a chat's last message, or the text itself."""
    if isinstance(prompt, list) and prompt:
        content = prompt[-1].get("content")
        return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return str(prompt)
