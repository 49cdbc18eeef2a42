"""The constraint in `sampling.structured_outputs`: one kind of output, with a JSON schema read from its file."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rollout.config.sampling import SamplingConfig, StructuredOutputsConfig
from rollout.errors import UserError
from rollout.files import is_read_once, user_path

KEY = "sampling.structured_outputs"


def is_constrained(config: StructuredOutputsConfig) -> bool:
    """Whether any kind of output is required."""
    return config != StructuredOutputsConfig()


def constraint(config: StructuredOutputsConfig) -> dict[str, Any]:
    """The required kind of output by name, or nothing; a JSON schema is a dictionary.

    Raises UserError for a schema that cannot be read, and for more than one kind.
    """
    given = {name: value for name, value in vars(config).items() if value is not None and value != []}
    if len(given) > 1:
        raise UserError(f"{KEY}: {' and '.join(given)} are given; a response can be one of them, leave out the others")
    return {name: _schema(value) if name == "json" else value for name, value in given.items()}


def with_schema_read(sampling: SamplingConfig) -> SamplingConfig:
    """`sampling` with the JSON schema itself, for a process that may not see the schema's file."""
    own = sampling.structured_outputs
    schema = constraint(own).get("json")
    return replace(sampling, structured_outputs=replace(own, json=schema))


def constraint_problems(config: StructuredOutputsConfig) -> Iterator[str]:
    """Why `constraint` raises: one line or none."""
    try:
        constraint(config)
    except UserError as error:
        yield from error.problems


def _schema(value: Any) -> dict[str, Any]:
    """The JSON schema for `value`: a dictionary, JSON text, or the name of a file."""
    text, shown = value, value
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        path = user_path(value)
        if path.suffix != ".json":
            raise UserError(f"{KEY}.json={value}: give a JSON schema, or the name of a file that ends in .json")
        text = _read(path)
    try:
        schema = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{KEY}.json={shown}: not JSON ({error}); correct it") from error
    if not isinstance(schema, dict):
        raise UserError(f"{KEY}.json={shown}: a JSON schema is an object, and this is {type(schema).__name__}")
    return schema


def _read(path: Any) -> str:
    if is_read_once(path):
        raise UserError(f"{KEY}.json={path}: is a pipe or a device, and it is read more than once; give a file")
    try:
        return str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{KEY}.json={path}: cannot be read ({reason}); check the path") from error
