"""Cells of the prompt column -> chats, for every form that files use; and the text of a chat's messages."""

import json
import re
from typing import Any

from rollout.data.arrow import NOT_UTF8, without_nulls
from rollout.data.json_text import load_json
from rollout.errors import PromptError
from rollout.records import Message

_IN_PYTHON = re.compile(
    r"""\s*(?:array\()?[\[(]\s*\{\s*'\w+'\s*:.*'(?:role|content|from|value)'\s*:|"""
    r"""\s*(?:array\()?[\[(]?\s*\{\s*'(?:role|content|from|value)'\s*:""",
    re.DOTALL,
)
"""The beginning of a chat that was written as `str(chat)`, for example by pandas to a CSV file."""

_IN_JSON = re.compile(r'\s*[\[{]\s*(?:\{\s*)?"(?:role|content|messages|conversations)"\s*:')
"""The beginning of a chat that was written as JSON."""

_ANSWERS = ("tool_calls", "reasoning", "reasoning_content", "function_call")
"""Fields with which a message is not empty, even without content."""

KNOWN_ROLES = ("system", "user", "assistant", "tool", "developer")


def parse_chat(value: Any) -> list[Message]:
    """A cell of the prompt column -> messages.

    Takes a list of {role, content}, the same as a JSON string, or plain text, which becomes one user message. Raises
    PromptError for a cell that is none of these or is blank.
    """
    if value is None or (not isinstance(value, str | list | dict) and value != value):  # NaN and NaT from pandas
        raise PromptError("the prompt is null")
    if value is NOT_UTF8:
        raise PromptError("the prompt is not UTF-8")
    value = _of_text(value) if isinstance(value, str) else without_nulls(value)
    if isinstance(value, dict):
        raise PromptError(_no_list(value))
    if not isinstance(value, list):
        raise PromptError(f"the prompt is a {type(value).__name__}, neither text nor a list of messages")
    messages = [_message(turn, number) for number, turn in enumerate(value)]
    if all(_is_blank(message) for message in messages):
        raise PromptError("the prompt is empty")
    return messages


def last_message(value: Any) -> str:
    """The text to show for a cell of the prompt column: the last message of its chat or, without a chat, the cell."""
    try:
        return message_text(parse_chat(value)[-1])
    except PromptError:
        return "" if value is NOT_UTF8 else str(value)


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """`messages` after a system message, unless they begin with one."""
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def message_text(message: Message) -> str:
    """What a message says: its content or the texts of its parts; if it only calls tools, the calls as JSON."""
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


def _of_text(text: str) -> Any:
    """The chat that `text` encodes as JSON; any other text becomes a single user message.

    Raises PromptError for a chat in another notation: the model would read it as the user's words.
    """
    if _IN_PYTHON.match(text):
        raise PromptError("the prompt is a chat in Python's notation; write it with json.dumps, or as a list")
    value: Any = None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = load_json(text)
        except ValueError as error:  # a text may well begin with a bracket
            if _IN_JSON.match(text):
                raise PromptError(f"the prompt begins as a chat in JSON, but is not JSON ({error})") from error
    if value == [] or _is_chat(value):
        return value
    return [{"role": "user", "content": text}]


def _is_chat(value: Any) -> bool:
    """Whether a JSON value is meant as a chat: it has messages, or a form that is rare elsewhere."""
    if isinstance(value, dict):
        roles = value.get("role") in KNOWN_ROLES, value.get("from") in (*KNOWN_ROLES, "human", "gpt")
        return any(roles) or {"role", "content"} <= value.keys() or _chat_in(value) is not None
    if not isinstance(value, list) or not value:
        return False
    inner = value[0] if isinstance(value[0], list) else value
    return _has_message(inner) or all(turn is None or turn == [] or isinstance(turn, dict) for turn in value)


def _chat_in(value: dict[str, Any]) -> str | None:
    """The field that holds the chat, if `value` is a whole row of a data set."""
    for name, item in value.items():
        if isinstance(item, list) and (_has_message(item) or (not item and name in ("messages", "conversations"))):
            return name
    return None


def _has_message(turns: list[Any]) -> bool:
    return any(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in turns)


def _no_list(value: dict[str, Any]) -> str:
    """The error about a prompt that is a single object."""
    if (name := _chat_in(value)) is not None:
        return f"the prompt is an object with the messages in its field {name}; give that list alone"
    return "the prompt is one message, not a list of them; put [ ] around it"


def _message(turn: Any, number: int) -> Message:
    if isinstance(turn, list) and turn and all(isinstance(pair, tuple) for pair in turn):
        turn = dict(turn)  # a map
    if not isinstance(turn, dict):
        raise PromptError(f"message {number} is not {{role, content}} but {type(turn).__name__}")
    message: Message = dict(turn)
    if not isinstance(message.get("role"), str):
        named = " but from and value; rename them to role and content" if {"from", "value"} <= turn.keys() else ""
        raise PromptError(f"message {number} has no role{named}")
    if message.setdefault("content", None) is None and not any(message.get(name) for name in _ANSWERS):
        raise PromptError(f"message {number} has no content")
    return message


def _is_blank(message: Message) -> bool:
    return not message_text(message).strip()
