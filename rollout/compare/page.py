"""compare.html: the numbers of a comparison, and the rows that differ most with all their responses."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rollout.compare.comparison import Comparison
from rollout.compare.notes import matched_line
from rollout.compare.sides import Side
from rollout.pages.compare_content import ComparePage, CompareRow
from rollout.pages.report_content import Row
from rollout.pages.write import write_page
from rollout.postprocess.report import typed_command
from rollout.postprocess.sample_rows import PAGE_BYTES, sample_rows
from rollout.store.layout import REPORT

_TEMPLATE = "compare.html"
_MARK = b"<title>rollout comparison</title>"
_MOST_IN_TITLE = 4
_HEAD = 2000  # bytes at the beginning of the page, among which the mark is


def write_comparison_page(path: Path, sides: Sequence[Side], comparison: Comparison, notes: Sequence[str]) -> None:
    """Write the page to `path`. The sides are read again, up to the last row that is shown."""
    content: ComparePage = {
        "title": _title(sides),
        "command": typed_command(sys.orig_argv),
        "matched": [matched_line(pair, comparison.matched_by) for pair in comparison.pairs],
        "notes": list(notes),
        "reports": {side.name: report for side in sides if (report := _report(side, path.parent)) is not None},
        "comparison": asdict(comparison) | {"rows": []},
        "rows": _rows(sides, comparison),
    }
    write_page(path, _TEMPLATE, content)


def _title(sides: Sequence[Side]) -> str:
    more = f" and {len(sides) - _MOST_IN_TITLE} more" if len(sides) > _MOST_IN_TITLE else ""
    return " · ".join(f"{side.name} {side.label}" for side in sides[:_MOST_IN_TITLE]) + more


def is_page_of_ours(path: Path) -> bool:
    """Whether the file is a comparison page of this program."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_HEAD)
    except OSError:
        return False


def _report(side: Side, folder: Path) -> str | None:
    """The relative path from `folder` to the report of the side's run."""
    report = side.path / REPORT
    return os.path.relpath(report, folder) if report.exists() else None


def _rows(sides: Sequence[Side], comparison: Comparison) -> list[CompareRow]:
    """The rows for the page, without those for which not all sides have room."""
    found = {side.name: _rows_of(side, comparison, PAGE_BYTES // len(sides)) for side in sides}
    rows = []
    for differing in comparison.rows:
        of_sides = {name: found[name].get(at) for name, at in differing.positions.items()}
        there = {name: row for name, row in of_sides.items() if row is not None}
        if len(there) == len(sides):
            first = there[sides[0].name]
            rows.append(
                CompareRow(
                    row_id=first["row_id"],
                    row_ids=differing.row_ids,
                    prompt=first["prompt"],
                    ground_truth=first["ground_truth"],
                    values=differing.values,
                    responses={name: row["responses"] for name, row in there.items()},
                )
            )
    return rows


def _rows_of(side: Side, comparison: Comparison, most_bytes: int) -> dict[int, Row]:
    positions = sorted(row.positions[side.name] for row in comparison.rows)
    rows = sample_rows(side.source, positions, side.data, side.truth, most_bytes)
    return dict(zip(positions, rows, strict=False))
