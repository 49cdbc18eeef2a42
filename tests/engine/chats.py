"""Chats and templates in which what vLLM does to a chat before its template sees it makes a difference."""

import json
from typing import Any

from tests.tiny_model import TEMPLATE


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "get", "arguments": arguments}, **more}


def calling(*calls: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", "content": "", "tool_calls": [*calls], **more}, USER]


def said(content: Any, role: str = "user", **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content, **more}]


def parts(*texts: Any) -> list[Any]:
    return [{"type": "text", "text": text} for text in texts]


USER = {"role": "user", "content": "hi"}
RESULT = {"role": "tool", "tool_call_id": "c1"}

CHATS: dict[str, list[dict[str, Any]]] = {
    "one message": said("hi"),
    "system": [*said("Be brief.", "system"), USER],
    "system later": [USER, *said("Be brief.", "system")],
    "turns": [USER, *said("yo", "assistant"), *said("again")],
    "other script": said(" 北京 \n"),
    "one part": said(parts("hi")),
    "two parts": said(parts("a", "b")),
    "parts of text": said(["a", "b"]),
    "a part without text": said(parts("a", None)),
    "an empty part": said(parts("", "a")),
    "parts with more": said([{"type": "text", "text": "a", "cache": {"x": 1}}]),
    "other kinds of text": said([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}]),
    "thinking": [USER, *said([{"type": "thinking", "thinking": "hm"}, *parts("yo")], "assistant"), USER],
    "refusal": [USER, *said([{"type": "refusal", "refusal": "no"}], "assistant"), USER],
    "parts of a system message": [*said(parts("a", "b"), "system"), USER],
    "arguments as JSON text": calling(call(json.dumps({"city": "Paris"}))),
    "arguments as an object": calling(call({"city": None, "days": [1]})),
    "arguments that are no JSON": calling(call("{city")),
    "arguments that are no object": calling(call("[1]")),
    "arguments that are a number": calling(call(7)),
    "empty arguments": calling(call("")),
    "null arguments": calling(call(None)),
    "two calls": calling(call("{}"), call('{"a": 1}'))[1:2],
    "no calls": calling(),
    "null calls": [*calling(), {"role": "assistant", "content": "yo", "tool_calls": None}, USER],
    "a call of another type": calling(call("{}", type="custom")),
    "calls without a content": [USER, {"role": "assistant", "tool_calls": [call("{}")]}, USER],
    "calls with a null content": [USER, {"role": "assistant", "content": None, "tool_calls": [call("{}")]}, USER],
    "a result": [*calling(call("{}"))[:-1], {**RESULT, "content": "sunny"}],
    "a result in parts": [*calling(call("{}"))[:-1], {**RESULT, "content": parts("sun", "ny")}],
    "a result that is empty": [*calling(call("{}"))[:-1], {**RESULT, "content": []}],
    "reasoning": [USER, *said("yo", "assistant", reasoning="hm"), USER],
    "reasoning_content": [USER, *said("yo", "assistant", reasoning_content="hm"), USER],
    "names": said("hi", name="Ann"),
    "a name that is no text": said("hi", name=7),
    "developer": [*said("Be brief.", "developer"), USER],
    "developer and system": [*said("a", "system"), *said("b", "developer"), USER],
    "developer with tools": [*said("Be brief.", "developer", tools=[{"name": "get"}]), USER],
    "a role of one's own": said("hi", "human"),
    "a role that is refused": said("hi", "robot"),
    "a field of one's own": said("hi", weight=1),
}

TEMPLATES = {
    "plain": TEMPLATE,
    "tojson": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<call>"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}<assistant>",
    "items": "{% for m in messages %}<{{ m['role'] }}>{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}"
    "{% for k, v in m.tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
    "{% else %}{{ m['content'] | trim }}{% endif %}{% endfor %}",
    "parts": "{% for m in messages %}<{{ m.role }}>{% for part in m['content'] %}"
    "[{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{{ part['cache'] }}]{% endfor %}{% endfor %}",
    "everything": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "fields": "{% for m in messages %}<{{ m.role }}>{{ m.name }}{{ m.reasoning_content }}{{ m.tool_call_id }}"
    "{{ m.content }}{% endfor %}{% if messages[0].role == 'developer' %}{{ messages[0].tools | tojson }}{% endif %}",
}
