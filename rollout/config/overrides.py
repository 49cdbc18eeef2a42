"""Overrides as they were typed: text stays unchanged, however Hydra's grammar would read it; ~ is the home folder.

Hydra reads a value without knowing the type of its key: `2024_01_05` as a number, `true` as a boolean; letters outside
ASCII are an error. Here such a value is put in Hydra's quotes if the schema says that it is a text.
"""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, get_origin

from antlr4 import CommonTokenStream, InputStream
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraErrorListener
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from rollout.config.fields import literal
from rollout.config.keys import type_of, type_of_item
from rollout.errors import UserError
from rollout.files import at_home

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Keys of Hydra that are paths of a run."""

_TEXTS = {*FOLDERS, "hydra.sweep.subdir"}
_OF_THE_SAME = {"choice", "shuffle", "sort", "tag"}
"""Functions of Hydra's grammar whose arguments are values of the key."""

_CONVERTED = {OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL}
_parser = OverridesParser.create()

Edit = tuple[int, int, str]
"""A part of a word (start and end, which is not included), and the text to put there."""


def as_typed(words: list[str], is_sweep: bool = False) -> list[str]:
    """`words`, overrides and options, for Hydra: every text that Hydra would change is quoted.

    Raises UserError for a number with underscores if the key takes both texts and numbers.
    """
    return [word if word.startswith("-") or "=" not in word else _as_typed(word, is_sweep) for word in words]


def key_of(word: str) -> str:
    """The key of an override, without Hydra's `+` and `~`."""
    return word.partition("=")[0].lstrip("+~")


def hydra_word(key: str, text: str) -> str:
    """The override that gives `key` exactly this `text`, quoted for Hydra if needed, but not for the shell."""
    bare = f"{key}={text}"
    if (
        re.fullmatch(r"[\w./~@%+-]+", text, re.ASCII)
        and as_typed([bare]) == [bare]
        and text[0] != "~"
        and text.lower() != "null"
    ):
        return bare
    return f"{key}={quoted(literal(text))}"


def quoted(text: str) -> str:
    """`text` in Hydra's double quotes."""
    return str(QuotedString(text=text, quote=Quote.double).with_quotes())


def _as_typed(word: str, is_sweep: bool) -> str:
    key, _, value = word.partition("=")
    name = key_of(word)
    kind = str if name in _TEXTS else type_of(name)
    if kind is None or not value:
        return word
    try:
        edited = _partly_quoted(word, kind)
    except HydraException:
        edited = f"{key}={_wholly_quoted(value, kind, is_sweep)}"
        with suppress(HydraException):  # Hydra explains the error
            edited = _partly_quoted(edited, kind)
    if kind is str and value != value.strip() and not is_sweep and not value.strip().startswith(('"', "'")):
        edited = f"{key}={quoted(value)}"  # Hydra would strip it
    return _at_home(key, edited) if name in FOLDERS else edited


def _partly_quoted(word: str, kind: Any) -> str:
    """`word` with quotes where texts need them. Raises HydraException if it still cannot be read."""
    edited = _edited(word, list(_edits(_tree(word).value(), kind, word)))
    _parser.parse_overrides([edited])
    return edited


def _tree(word: str) -> Any:
    """The parse tree of an override. Raises HydraException if it cannot be parsed."""
    listener, lexer = HydraErrorListener(), OverrideLexer(InputStream(word))
    parser = OverrideParser(CommonTokenStream(lexer))
    for reader in (lexer, parser):
        reader.removeErrorListeners()
        reader.addErrorListener(listener)
    return parser.override()


def _edits(node: Any, kind: Any, word: str) -> Iterator[Edit]:
    """The quotes for the texts in `node`, a value or a part of one, as values of the type `kind`."""
    match node:
        case OverrideParser.ValueContext() | OverrideParser.SimpleChoiceSweepContext():
            yield from _of_all(node.getChildren(), kind, word)
        case OverrideParser.ElementContext():
            yield from _edits(node.getChild(0), kind, word)
        case OverrideParser.PrimitiveContext():
            yield from _edits_of_primitive(node, kind, word)
        case OverrideParser.ListContainerContext() | OverrideParser.DictContainerContext() if kind is str:
            start, end = _span(node)
            yield start, end, quoted(word[start:end])
        case OverrideParser.ListContainerContext():
            yield from _of_all(node.element(), type_of_item(kind, "") if get_origin(kind) is list else kind, word)
        case OverrideParser.DictContainerContext():
            for pair in node.dictKeyValuePair():
                yield from _edits(pair.element(), type_of_item(kind, pair.dictKey().getText()), word)
        case OverrideParser.FunctionContext() if node.getChild(0).getText() in _OF_THE_SAME:
            yield from _of_all(node.element(), kind, word)


def _of_all(nodes: Any, kind: Any, word: str) -> Iterator[Edit]:
    for node in nodes:
        yield from _edits(node, kind, word)


def _edits_of_primitive(node: Any, kind: Any, word: str) -> Iterator[Edit]:
    tokens = [child.symbol for child in node.getChildren() if child.symbol.type != OverrideLexer.WS]
    is_item = isinstance(node.parentCtx.parentCtx, OverrideParser.ListContainerContext)  # null is none of these
    if len(tokens) != 1 or tokens[0].type not in ({*_CONVERTED, OverrideLexer.NULL} if is_item else _CONVERTED):
        return
    text, start = tokens[0].text, tokens[0].start
    if kind is str and not re.fullmatch(r"0|-?[1-9][0-9]*", text):  # Hydra does not change these
        yield start, tokens[0].stop + 1, quoted(text)
    elif kind is Any and "_" in text:
        number, as_text = (
            shlex.quote(_edited(word, [(start, start + len(text), new)]))
            for new in (text.replace("_", ""), quoted(text))
        )
        raise UserError(f"{word}: {text} may be a number or a text here; write {number} or {as_text}")


def _span(node: Any) -> tuple[int, int]:
    return node.start.start, node.stop.stop + 1


def _edited(word: str, edits: list[Edit]) -> str:
    for start, end, text in sorted(edits, reverse=True):
        word = word[:start] + text + word[end:]
    return word


def _wholly_quoted(value: str, kind: Any, is_sweep: bool) -> str:
    """`value`, which Hydra cannot read, with its texts in quotes; unchanged if `kind` allows no text."""
    is_list = value.startswith("[") and value.endswith("]")
    if is_list and kind is not str and (kind is Any or get_origin(kind) is list):
        lists = _parts(value) if is_sweep else [value]
        return ",".join(f"[{','.join(map(_part_quoted, _parts(each[1:-1])))}]" for each in lists)
    if kind is Any and _is_json_object(value):  # Hydra may not be able to read its keys
        return quoted(literal(value))
    if value.startswith("{") and value.endswith("}") and (kind is Any or get_origin(kind) is dict):
        pairs = [part.partition(":") for part in _parts(value[1:-1])]
        return f"{{{','.join(f'{name}:{_part_quoted(item.strip())}' for name, _, item in pairs)}}}"
    if kind is not str and not (kind is Any and value[0] not in "[{"):
        return value
    if is_sweep:
        return ",".join(map(_part_quoted, _parts(value)))
    is_resolved = re.search(r"\$\{[^}]*\}", value) is not None
    return quoted(value if is_resolved else literal(value))


def _is_json_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def _parts(value: str) -> list[str]:
    """`value`, split at the commas outside quotes and brackets."""
    return [part.strip() for part in re.findall(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^]]*\]|[^,])+""", value)]


def _part_quoted(part: str) -> str:
    try:
        _parser.parse_overrides([f"key={part}"])
    except HydraException:
        return quoted(part)
    return part


def _at_home(key: str, word: str) -> str:
    """Expand `~`; Hydra would take it for the name of a folder."""
    try:
        text = _parser.parse_overrides([word])[0].value()
    except HydraException:
        return word
    if not isinstance(text, str) or not text.startswith("~"):
        return word
    return f"{key}={quoted(str(at_home(text)))}"
