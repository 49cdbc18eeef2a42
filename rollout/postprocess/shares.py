"""Which share of the responses is cut off, empty, repeated, ...: with error bars over rows."""

from collections.abc import Iterable, Mapping
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import row_slices, row_sums
from rollout.scoring.intervals import Clusters, Estimate, clusters

Flags = npt.NDArray[np.bool_]


class Shares:
    """Counts flags of samples by name, a batch of whole rows at a time."""

    def __init__(self, grouped: bool) -> None:
        """`grouped`: error bars are over groups of rows."""
        self._none = clusters(grouped)
        """All rows, as if none of their samples had a flag."""
        self._known: dict[str, Clusters] = {}

    def add(self, samples: pa.RecordBatch, flags: Mapping[str, Flags], groups: Mapping[int, str] | None) -> None:
        """Count samples; a flag that is not named has none of them. `groups` has the group of each row."""
        slices = row_slices(samples)
        sizes = np.array([stop - start for start, stop in slices])
        nothing = np.zeros(len(slices))
        of_rows = None if groups is None else [groups[row] for row in _first(samples.column("row_id"), slices)]
        for name in {**self._known, **flags}:
            sums = row_sums(flags[name].astype(np.int64), slices) if name in flags else nothing
            if name not in self._known:
                self._known[name] = deepcopy(self._none)
            self._known[name].add(sums, sizes, groups=of_rows)
        self._none.add(nothing, sizes, groups=of_rows)

    def estimates(self) -> dict[str, Estimate]:
        """The share of each flag."""
        return {name: counted.as_share() for name, counted in self._known.items()}


def reason_flags(responses: pa.RecordBatch) -> dict[str, Flags]:
    """How each response ended, by the name of the share that it is part of. Every one has a finish reason."""
    reasons = responses.column("finish_reason")
    names = {"length", *reasons.unique().to_pylist()}
    return {share_of_reason(name): as_flags(pc.equal(reasons, name)) for name in sorted(names)}


def share_of_reason(reason: str) -> str:
    """The name of the share of responses with this finish reason: `truncated_fraction` is that of `length`."""
    return "truncated_fraction" if reason == "length" else f"{reason}_fraction"


def as_flags(column: pa.BooleanArray) -> Flags:
    """A column without nulls."""
    flags: Flags = column.to_numpy(zero_copy_only=False)
    return flags


def _first(column: pa.Array, slices: Iterable[tuple[int, int]]) -> list[int]:
    return [column[start].as_py() for start, _ in slices]
