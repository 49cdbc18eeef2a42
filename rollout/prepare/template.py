"""A prompt template over columns: `{question}`, `{reward_model.ground_truth}` in a struct, `{{` for a brace.

Only names are looked up, never attributes or items of Python objects, so a template cannot reach anything but columns.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.text import as_text, values_of
from rollout.errors import PromptError, UserError, did_you_mean

ColumnPath = tuple[str, ...]
"""A column, and the field of a field of it."""


@dataclass(frozen=True)
class Template:
    """Text and columns in turn: `texts` has one entry more than `columns`."""

    texts: list[str]
    columns: list[ColumnPath]

    def fill(self, values: Sequence[Any]) -> str:
        """The text with `values`, one for each of `columns`, in their places. Raises PromptError when one is null."""
        pieces = [self.texts[0]]
        for path, value, text in zip(self.columns, values, self.texts[1:], strict=True):
            if value is None:
                raise PromptError(f"{{{'.'.join(path)}}} is null")
            pieces += (as_text(value), text)
        return "".join(pieces)


def parse_template(text: str, schema: pa.Schema) -> Template:
    """Raises UserError with every problem: braces that do not match, names that are no columns of `schema`."""
    texts, columns, problems = [""], list[ColumnPath](), list[str]()
    for literal, name, spec, conversion in _pieces(text):
        texts[-1] += literal
        if name is None:
            continue
        texts.append("")
        if (path := _resolve(name, schema)) is None:
            problems.append(f"template={{{name}}}: no such column, {did_you_mean(name, _names(schema))}{_hint(name)}")
        elif spec or conversion:
            problems.append(f"template={{{name}}}: a column is inserted as it is; leave out what follows its name")
        elif _holds_bytes(kind := _type_at(path, schema)):
            problems.append(f"template={{{name}}}: holds {kind}, which is not text; use another column")
        else:
            columns.append(path)
    if len(texts) == 1:
        problems.append(f"template={text}: names no column; write one in braces, {_example(schema)}")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return Template(texts, columns)


def column_values(batch: pa.RecordBatch, path: ColumnPath) -> list[Any]:
    """The values at `path`, one per row; None wherever anything on the way is null."""
    column = batch.column(path[0])
    return values_of(pc.struct_field(column, path[1:]) if len(path) > 1 else column)


def _pieces(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"template={text}: {error}; write {{{{ and }}}} for braces that are text") from error


def _resolve(name: str, fields: Any) -> ColumnPath | None:
    """Where `name` leads in a schema or struct type. Names may have dots of their own, so every split is tried."""
    for field in fields:
        if field.name == name:
            return (name,)
        if name.startswith(f"{field.name}.") and pa.types.is_struct(field.type):
            rest = _resolve(name.removeprefix(f"{field.name}."), field.type)
            if rest is not None:
                return (field.name, *rest)
    return None


def _names(fields: Any, prefix: str = "") -> Iterator[str]:
    for field in fields:
        yield prefix + field.name
        if pa.types.is_struct(field.type):
            yield from _names(field.type, f"{prefix}{field.name}.")


def _type_at(path: ColumnPath, fields: Any) -> pa.DataType:
    kind = fields.field(path[0]).type
    return _type_at(path[1:], kind) if len(path) > 1 else kind


def _holds_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _hint(name: str) -> str:
    """For braces around what hardly was meant as a name."""
    return "" if re.fullmatch(r"[\w. -]+", name) else "; write {{ and }} for braces that are text"


def _example(schema: pa.Schema) -> str:
    return f"for example {{{schema.names[0]}}}" if schema.names else "but the input has none"
