"""The sampling settings of each row (`data.sampling_key`, a column of objects), and its number of samples."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollout.config import RunConfig, SamplingConfig
from rollout.config.check import sampling_problems
from rollout.config.limits import value_problems
from rollout.config.thinking import budget_problems
from rollout.data.arrow import NOT_UTF8, cells, is_text, stored, without_nulls
from rollout.data.json_text import load_json
from rollout.data.tables import Table
from rollout.errors import PromptError

_OF_THE_RUN = {"seed", "logprobs", "order", "extra"}
"""Fields of SamplingConfig that a row cannot set: they must be the same for the whole run."""

_STRUCTURES = {"structured_outputs", "repetition_detection"}
"""Fields that are objects: a row's object replaces that of the run, and may have every field of vLLM's class."""

_TYPED = {item.name: item for item in dataclasses.fields(SamplingConfig) if item.name not in _OF_THE_RUN | _STRUCTURES}

_WORDS = {int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class RowSampling:
    """The settings of one row: values by the field names of SamplingConfig and vLLM, and what is wrong with them."""

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_row_sampling(value: Any, column: str) -> RowSampling:
    """The settings in a cell of `column`; an empty cell has none. Fields that only vLLM has are not checked."""
    if value is NOT_UTF8:
        return RowSampling(problems=[f"{column}: not UTF-8"])
    try:
        given = _given(_cell(value), column)
    except PromptError as error:
        return RowSampling(problems=[str(error)])
    found = RowSampling()
    for name, item in given.items():
        try:
            found.values[name] = _value(name, item, f"{column}.{name}")
        except PromptError as error:
            found.problems.append(str(error))
    return found


def sampling_of_row(values: Mapping[str, Any] | None, run: RunConfig) -> SamplingConfig:
    """`run.sampling` with the values of a row. Raises PromptError for values that contradict each other."""
    if not values:
        return run.sampling
    typed = {name: value for name, value in values.items() if name in _TYPED}
    others = {name: value for name, value in values.items() if name not in _TYPED}
    replaced = {name: type(getattr(run.sampling, name))() for name in _STRUCTURES & others.keys()}
    own = dataclasses.replace(run.sampling, **typed, **replaced, extra=run.sampling.extra | others)
    key = str(run.data.sampling_key)
    problems = [*sampling_problems(own, key, key), *budget_problems(own, run.model, run.hardware, key)]
    if problems:
        raise PromptError("; ".join(problems))
    return own


@dataclass(frozen=True)
class SampleCounts:
    """How many samples each row has. The place of a sample is its number when counted row by row."""

    places: npt.NDArray[np.int64]
    """The place of the first sample of each row, then the number of all samples."""
    first_row: int = 0
    """The row_id of the first row."""

    @classmethod
    def equal(cls, num_rows: int, n_samples: int, first_row: int = 0) -> "SampleCounts":
        """Counts with the same number of samples for every row."""
        return cls(np.arange(num_rows + 1, dtype=np.int64) * n_samples, first_row)

    @classmethod
    def of_each(cls, counts: npt.NDArray[np.int64], first_row: int) -> "SampleCounts":
        """Counts with a given number of samples for each row."""
        return cls(np.concatenate([[0], np.cumsum(counts)]), first_row)

    @property
    def num_rows(self) -> int:
        return len(self.places) - 1

    @property
    def total(self) -> int:
        """The number of samples of all rows."""
        return int(self.places[-1])

    def of(self, row_id: int) -> int:
        """The number of samples of one row."""
        first, end = self.places[row_id - self.first_row : row_id - self.first_row + 2]
        return int(end - first)

    def of_rows(self, row_id: int, num_rows: int) -> "SampleCounts":
        """The counts of `num_rows` rows beginning with `row_id`; places begin at 0."""
        places = self.places[row_id - self.first_row : row_id - self.first_row + num_rows + 1]
        return SampleCounts(places - places[0], row_id)

    def rows_within(self, row_id: int, num_samples: int) -> int:
        """How many rows, beginning with `row_id`, have at most `num_samples` samples together; at least 1."""
        row = row_id - self.first_row
        return max(1, int(np.searchsorted(self.places, self.places[row] + num_samples, "right")) - 1 - row)

    def asks_for(self, samples: pa.Table) -> npt.NDArray[np.bool_]:
        """Which of `samples` the run asks for, by their columns row_id and sample_idx."""
        rows, index = self._rows(samples), samples.column("sample_idx").to_numpy()
        is_there = (rows >= 0) & (rows < self.num_rows)
        rows = np.where(is_there, rows, 0)
        asked: npt.NDArray[np.bool_] = is_there & (index < self.places[rows + 1] - self.places[rows])
        return asked

    def places_of(self, samples: pa.Table) -> npt.NDArray[np.int64]:
        """The places of `samples`; the run must ask for all of them."""
        index: npt.NDArray[np.int32] = samples.column("sample_idx").to_numpy()
        return self.places[self._rows(samples)] + index

    def _rows(self, samples: pa.Table) -> npt.NDArray[np.int64]:
        row_ids: npt.NDArray[np.int64] = samples.column("row_id").to_numpy()
        return row_ids - self.first_row


def sample_counts(table: Table, run: RunConfig) -> SampleCounts:
    """The number of samples that `run` asks for in each row of `table`; reads a column if rows may set their own.

    With `adaptive.until` it is the maximum for a row: `rollout.store.judged` has the actual number.
    """
    n_samples, column = run.sampling.n_samples, run.data.sampling_key
    if column is None:
        return SampleCounts.equal(table.num_rows, n_samples, table.first_row)
    asked = (
        read_row_sampling(value, column).values for batch in table.batches() for value in cells(batch.column(column))
    )
    counts = np.fromiter((values.get("n_samples", n_samples) for values in asked), np.int64, table.num_rows)
    return SampleCounts.of_each(counts, table.first_row)


def sampling_column_problems(table: Table, column: str) -> Iterator[str]:
    """Why `column`, which is in `table`, cannot hold objects with sampling settings: one line or none."""
    kind = stored(table.schema.field(column).type)
    if not (is_text(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_null(kind)):
        yield f"data.sampling_key={column}: the column holds {kind}; it must hold objects, or JSON text of them"


def _cell(value: Any) -> Any:
    """A cell for `_given`; an empty one becomes null."""
    if isinstance(value, str):
        return value if value.strip() else {}
    return {} if value is None or value == [] else without_nulls(value)


def _of_json(text: str, key: str) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise PromptError(f"{key}={text}: not JSON ({error})") from error


def _value(name: str, value: Any, key: str) -> Any:
    """One value with its type in SamplingConfig or vLLM. Raises PromptError if it does not fit."""
    if name in _OF_THE_RUN:
        raise PromptError(f"{key}={value}: no row has its own; it is a value of the whole run")
    if name in _STRUCTURES:
        return _structure(name, value, key)
    if name not in _TYPED:
        return value
    typed = _typed(_TYPED[name].type, value, key)
    if problems := list(value_problems(key, typed, _TYPED[name].metadata)):
        raise PromptError("; ".join(problems))
    return typed


def _structure(name: str, value: Any, key: str) -> dict[str, Any]:
    """An object for vLLM; its JSON schema is an object too, not a file name: a row cannot have files read."""
    given = _given(value, key)
    if name == "structured_outputs" and "json" in given:
        given["json"] = _loaded(given["json"], f"{key}.json")
    return given


def _given(value: Any, key: str) -> dict[str, Any]:
    """The fields that are not null, of an object or its JSON text. Raises PromptError for anything else."""
    return {name: item for name, item in _loaded(value, key).items() if item is not None}


def _loaded(value: Any, key: str) -> dict[Any, Any]:
    value = _of_json(value, key) if isinstance(value, str) else value
    if isinstance(value, list) and value and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)  # a map
    if not isinstance(value, dict | None):
        raise PromptError(f"{key}={value}: must be an object")
    return value or {}


def _typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`, one of the types in SamplingConfig."""
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return [_typed(item, one, key) for one in (value if isinstance(value, list) else [value])]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int and is_number and value == value // 1:  # a column with nulls often holds floats
        return int(value)
    if kind is float and is_number and (isinstance(value, float) or abs(value) <= sys.float_info.max):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise PromptError(f"{key}={value}: must be {_WORDS[kind]}")
