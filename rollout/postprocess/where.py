"""`postprocess.filter.where`: conditions COLUMN=VALUE on columns of the input, such as `difficulty=easy`."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import FilterConfig
from rollout.data.column_path import path_problem, texts_at
from rollout.errors import did_you_mean, nearest
from rollout.records import FINISH_REASONS

_FINISH_REASON = "finish_reason"
_MOST_KEPT, _MOST_CHARACTERS = 100, 40
"""How many values of a column are kept for suggestions, and how much of each."""

_MOST_SHOWN = 8
"""A line that suggests nothing names the values that there are, if they are not more."""


def wanted_values(where: Sequence[str]) -> dict[str, list[str]]:
    """Column -> the values of which it must have one."""
    wanted = dict[str, list[str]]()
    for condition in where:
        column, value = _parts(condition)
        wanted.setdefault(column, []).append(value)
    return wanted


def _parts(condition: str) -> tuple[str, str]:
    column, _, value = condition.partition("=")
    return column.strip(), value.strip()


@dataclass
class Seen:
    """The values of the columns that rules look at, as far as a person has to know of them."""

    found: set[tuple[str, str]] = field(default_factory=set)
    """(column, value) for the values that a rule wants, if any response has them."""
    others: dict[str, set[str]] = field(default_factory=dict)
    """Column -> some of its other values, each on one line and not longer than shown."""

    def add(self, column: str, texts: pa.Array, wanted: Sequence[str]) -> None:
        """Count the values `texts` of a column."""
        others = self.others.setdefault(column, set())
        for text in texts.drop_null().unique().to_pylist():
            if text in wanted:
                self.found.add((column, text))
            elif len(others) < _MOST_KEPT:
                others.add(" ".join(text.split())[:_MOST_CHARACTERS])

    def warnings(self, rules: FilterConfig) -> Iterator[str]:
        """One line for each condition that no response satisfies, and for each finish reason that none has; of known
        reasons only if none has any that is wanted.
        """
        for condition in rules.where:
            column, value = _parts(condition)
            if (column, value) not in self.found:
                yield f"where={condition}: no response has this value, {self._cure(column, value)}"
        found = {reason for reason in rules.finish_reasons if (_FINISH_REASON, reason) in self.found}
        may_lack = {*found, *FINISH_REASONS} if found else set()
        for reason in rules.finish_reasons:
            if reason not in may_lack:
                cure = self._cure(_FINISH_REASON, reason, FINISH_REASONS)
                yield f"finish_reasons={reason}: no response has this finish reason, {cure}"

    def _cure(self, column: str, value: str, usual: Collection[str] = ()) -> str:
        """The end of a line about a value that no response has; it may be a slip for one of the `usual` ones too."""
        known = self.others.get(column, set()) | {text for name, text in self.found if name == column}
        if not known:
            return "nor any other; leave it out"
        if value not in usual and nearest(value, usual):
            known |= set(usual)
        if len(known) <= _MOST_SHOWN:
            return did_you_mean(value, known)
        near = nearest(value, known)
        return f"did you mean {' or '.join(near)}?" if near else "but others; look at some with rollout analyze by=..."


def not_where(batch: pa.RecordBatch, where: Sequence[str], seen: Seen | None) -> pa.BooleanArray:
    """Whether each response fails one of the conditions. Its values are added to `seen`."""
    fails = pa.array([False] * batch.num_rows, pa.bool_())
    for column, wanted in wanted_values(where).items():
        texts = pa.array([text.strip() for text in texts_at(batch, column)], pa.string())
        fails = pc.or_(fails, _is_none_of(column, texts, wanted, seen))
    return fails


def not_ended(batch: pa.RecordBatch, reasons: Sequence[str], seen: Seen | None) -> pa.BooleanArray:
    """Whether each response has none of these finish reasons, which are added to `seen`."""
    return _is_none_of(_FINISH_REASON, batch.column(_FINISH_REASON), reasons, seen)


def _is_none_of(column: str, texts: pa.Array, wanted: Sequence[str], seen: Seen | None) -> pa.BooleanArray:
    if seen is not None:
        seen.add(column, texts, wanted)
    return pc.invert(pc.is_in(texts, value_set=pa.array(wanted, pa.string())))


def form_problems(where: Sequence[str]) -> Iterator[str]:
    """Conditions that are none, whatever the columns."""
    for condition in where:
        if not _parts(condition)[0] or "=" not in condition:
            yield (
                f"postprocess.filter.where={condition}: is no condition; write COLUMN=VALUE, and further values of the "
                "column as further conditions, as in where=[level=easy,level=hard]"
            )


def column_problems(where: Sequence[str], schema: pa.Schema) -> Iterator[str]:
    """Conditions on columns that are not there."""
    for condition in where:
        column = _parts(condition)[0]
        if column and "=" in condition and (problem := path_problem(schema, column)):
            yield f"postprocess.filter.where={condition}: {problem}"
