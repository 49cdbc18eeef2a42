"""What sweep.html shows. A table or a list that is empty takes its section off the page.

Texts are shown as they are, whatever is in them. Numbers are finite; a number that does not exist is None or absent.
"""

from typing import NotRequired, TypedDict

from rollout.pages.report_content import Message, Response


class Bar(TypedDict):
    """A score or share of a job, and how far it may be off."""

    value: float
    se: float | None
    interval: tuple[float, float] | None
    """Of 95 % confidence; None where a single row says nothing of it."""
    n: int
    """Rows behind it, or groups of them."""
    trusted: bool
    """False where too few rows make the interval one not to rely on."""


class JobRow(TypedDict):
    """One job of the sweep."""

    num: int
    run_dir: str
    """Relative to the sweep folder, as `report`."""
    report: str | None
    """Where its number leads; None before there is a report."""
    status: str
    """done, failed, running, interrupted or killed; another word is shown as it is."""
    error: str | None
    overrides: dict[str, str]
    """What was typed for the job, at least each of the sweep's `parameters`: {"sampling.temperature": "0.3", ...}."""
    engine: str | None
    """loaded or reused."""
    metrics: dict[str, float | None]
    """Of a job that is done; the page reads:

    - `output_tok_s`, `samples`, `failed`, `generated_tokens`, `generate_seconds`, `load_seconds`
    - `mean_tokens`, `p50_tokens`, `p99_tokens`, `mean_characters`: of a response
    - `truncated_fraction`, `empty_fraction`, `duplicate_fraction`, `looping_fraction`: of the responses
    - `distinct_responses`: of a row, the mean
    - `mean_score`, `pass_rate`, and `pass@1`, `pass@4`, `majority@4`, ... for whatever k there are
    """
    estimates: dict[str, Bar]
    """Those metrics that are scores or shares, with their error bars; none of a job that an older version analyzed."""


class SweepRow(TypedDict):
    """One input row with what the jobs answered, each in the order of `sample_idx`."""

    row_id: int
    prompt: list[Message]
    ground_truth: str | None
    responses: dict[str, list[Response]]
    """By the job's number as text; a job without this row is absent."""


class SweepPage(TypedDict):
    """The content of sweep.html, for `write_page(path, "sweep.html", content)`."""

    title: str
    """The sweep folder, as the user wrote it."""
    command: str
    parameters: list[str]
    """The swept keys, those whose values differ between jobs."""
    jobs: list[JobRow]
    """In the order of `num`."""
    best: dict[str, list[int]]
    """Metric with error bars -> the number of the best job, and of those that cannot be told from it; empty where fewer
    than two jobs have the metric."""
    pass_score: NotRequired[float]
    """The score from which a response passes, 1 where it is absent."""
    rows: list[SweepRow]
    """Some tens of rows, in input order. All of them are in the page.

    Jobs that asked differently for a row, as in a sweep over system prompts, have a SweepRow each, of one `row_id`.
    """
