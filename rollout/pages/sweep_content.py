"""What sweep.html shows. A table or a list that is empty takes its section off the page.

Texts are shown as they are, whatever is in them. Numbers are finite; a number that does not exist is None or absent.
"""

from typing import NotRequired, TypedDict

from rollout.pages.report_content import Message, Response


class Bar(TypedDict):
    """A score or share of a job, with its error."""

    value: float
    se: float | None
    interval: tuple[float, float] | None
    """The 95 % confidence interval; None if a single row gives none."""
    n: int
    """The number of rows behind it, or of groups of rows."""
    trusted: bool
    """False if there are too few rows to rely on the interval."""


class Step(TypedDict):
    """The training step in a checkpoint's path."""

    step: int
    of: str
    """The path with `*` in place of the step: equal for all checkpoints of one training."""


class JobRow(TypedDict):
    """One job of the sweep."""

    num: int
    run_dir: str
    """Relative to the sweep folder, like `report`."""
    report: str | None
    """The page that its number links to; None before there is a report."""
    status: str
    """done, failed, running, interrupted or killed; another word is shown as it is."""
    error: str | None
    overrides: dict[str, str]
    """The overrides of the job, at least each of the sweep's `parameters`: {"sampling.temperature": "0.3", ...}."""
    steps: NotRequired[dict[str, Step]]
    """Override -> step, for overrides that name a checkpoint with a step."""
    engine: str | None
    """loaded, reused, or reloaded: reused with other weights."""
    metrics: dict[str, float | None]
    """Of a job that is done; the page reads:

    - `output_tok_s`, `samples`, `failed`, `generated_tokens`, `generate_seconds`, `load_seconds`
    - `mean_tokens`, `p50_tokens`, `p99_tokens`, `mean_characters`: of a response
    - `truncated_fraction`, `empty_fraction`, `duplicate_fraction`, `looping_fraction`: of the responses
    - `distinct_responses`: of a row, the mean
    - `mean_score`, `pass_rate`, and `pass@1`, `pass@4`, `majority@4`, ... for whatever k there are
    """
    estimates: dict[str, Bar]
    """The metrics that are scores or shares, with their error bars; empty for a job that an older version analyzed."""


class SweepRow(TypedDict):
    """One input row with the responses of each job, in the order of `sample_idx`."""

    row_id: int
    prompt: list[Message]
    ground_truth: str | None
    responses: dict[str, list[Response]]
    """Number of a job, as text -> its responses; a job without this row is absent."""


class SweepPage(TypedDict):
    """The content of sweep.html, for `write_page(path, "sweep.html", content)`."""

    title: str
    """The sweep folder, as the user wrote it."""
    command: str
    parameters: list[str]
    """The keys whose values differ between jobs."""
    jobs: list[JobRow]
    """In the order of `num`."""
    best: dict[str, list[int]]
    """Metric with error bars -> the numbers of the best job, and of those that cannot be told from it; empty if fewer
    than two jobs have the metric.
    """
    pass_score: NotRequired[float]
    """A response with at least this score passes; 1 if absent."""
    rows: list[SweepRow]
    """A few tens of rows, in input order. All of them are in the page.

    If jobs gave a row different prompts, as in a sweep over system prompts, each prompt has a SweepRow with the same
    `row_id`.
    """
