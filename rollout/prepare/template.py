"""A prompt template over columns: `{question}`, `{reward_model.ground_truth}` in a struct, `{{` for a brace.

Only names are looked up, never attributes or items of Python objects, so a template can only read columns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import pyarrow as pa

from rollout.data.arrow import NOT_UTF8, is_bytes
from rollout.data.column_path import ColumnPath, find, names_in, type_at
from rollout.data.floats import is_nan
from rollout.data.text import as_text
from rollout.errors import PromptError, UserError, did_you_mean


@dataclass(frozen=True)
class Template:
    """Texts and columns in alternation: `texts` has one entry more than `columns`."""

    texts: list[str]
    columns: list[ColumnPath]

    def fill(self, values: Sequence[Any]) -> str:
        """The text with `values`, one for each of `columns`, inserted. Raises PromptError if one is null."""
        pieces = [self.texts[0]]
        for path, value, text in zip(self.columns, values, self.texts[1:], strict=True):
            if value is None or is_nan(value):
                raise PromptError(f"{{{'.'.join(path)}}} is null")
            if value is NOT_UTF8:
                raise PromptError(f"{{{'.'.join(path)}}} is not UTF-8")
            pieces += (as_text(value), text)
        return "".join(pieces)


def parse_template(text: str, schema: pa.Schema) -> Template:
    """The parsed template. Raises UserError with every problem: unmatched braces, names that are not in `schema`."""
    texts, columns, problems = [""], list[ColumnPath](), list[str]()
    for literal, name, spec, conversion in _pieces(text):
        texts[-1] += literal
        if name is None:
            continue
        texts.append("")
        if (path := find(schema, name, into_text=False)) is None:
            problems.append(f"template={{{name}}}: no such column, {did_you_mean(name, names_in(schema))}{_hint(name)}")
        elif spec or conversion:
            problems.append(f"template={{{name}}}: a column is inserted as it is; leave out what follows its name")
        elif is_bytes(kind := type_at(schema, path)):
            problems.append(f"template={{{name}}}: holds {kind}, which is not text; use another column")
        else:
            columns.append(path)
    if len(texts) == 1:
        problems.append(f"template={text}: names no column; write one in braces, {_example(schema)}")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return Template(texts, columns)


def _pieces(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"template={text}: {error}; write {{{{ and }}}} for braces that are text") from error


def _hint(name: str) -> str:
    """The cure for braces around a text that is probably not a name; else empty."""
    return "" if re.fullmatch(r"[\w. -]+", name) else "; write {{ and }} for braces that are text"


def _example(schema: pa.Schema) -> str:
    return f"for example {{{schema.names[0]}}}" if schema.names else "but the input has none"
