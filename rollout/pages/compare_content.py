"""What compare.html shows. A list that is empty takes its section off the page.

Texts are shown as they are, whatever is in them. Numbers are finite; a number that does not exist is None.
"""

from typing import Any, TypedDict

from rollout.pages.report_content import Message, Response


class CompareRow(TypedDict):
    """One row that all sides have, with the responses of each, in the order of `sample_idx`."""

    row_id: int
    """The row_id on the first side."""
    row_ids: dict[str, int]
    """Name of a side -> the row_id there."""
    prompt: list[Message]
    ground_truth: str | None
    values: dict[str, float | None]
    """Name of a side -> the value by which the rows are ordered."""
    responses: dict[str, list[Response]]
    """Name of a side -> its responses."""


class ComparePage(TypedDict):
    """The content of compare.html, for `write_page(path, "compare.html", content)`."""

    title: str
    command: str
    matched: list[str]
    """A line for every two sides that are compared: how many rows match, and why others do not."""
    notes: list[str]
    """Notes that a reader needs beside the numbers."""
    reports: dict[str, str]
    """Name of a side -> its report, relative to the page; sides without a report are absent."""
    comparison: dict[str, Any]
    """The content of compare.json. The page reads:

    - `matched_by`, `pass_score`, `clusters`, `metric`, `common`
    - `sides`: [{name, label, rows, samples, failed, unscored, scorer, cost, estimates: {metric: {value, se, interval,
      n, trusted}}}]
    - `pairs`: [{earlier, later, matched, metrics: {metric: {earlier, later, paired: {rows, difference, wins, ties,
      losses, p, test, p_holm}}}}], a `difference` as an estimate
    """
    rows: list[CompareRow]
    """The rows that differ most, the largest difference first. All of them are in the page."""
