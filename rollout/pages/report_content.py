"""What report.html shows. A key that is None, or a table that is empty, takes its section off the page.

Texts are shown as they are, whatever is in them. Numbers are finite; a number that does not exist is None.
"""

from typing import Any, NotRequired, TypedDict


class ReportPage(TypedDict):
    """The content of report.html, for `write_page(path, "report.html", content)`."""

    title: str
    """The run folder or the file, as the user wrote it."""
    run: "Run | None"
    """None for a file that was not made by a run of this program."""
    series: list["Point"]
    """In order of time; at most about 600 points, one per pixel."""
    replica_lines: list[str]
    """The lines of `Point.replica_tok_s_now`: each replica, or with many the slowest, the median and the fastest. Empty
    for a run with one engine.
    """
    analysis: dict[str, Any]
    """The content of analysis.json. The page reads:

    - `rows`, `rows_with_errors`, `samples`, `failed`, `truncated_fraction` (null where no finish reason is
      known), `empty`, `duplicates`, `looping`
    - `finish_reasons`: {name: responses}; `errors`: {text: samples}
    - `thinking`: {unclosed: responses, tokens: as below}, or null where thinking was not told from answers
    - `characters`, `tokens`, `distinct_responses` (of a row): {mean, std, min, p50, p90, p99, max, histogram}
    - `scores`: {scored, of those no_answer and cut_off (absent in older files), unscored, mean, pass_rate,
      pass_at_k: {"1": 0.4, ...}, majority_at_k: the same, histogram, row_pass_rates: histogram, pass_score: the score
      from which a response passes, 1 where it is absent, note: what to know of all of them, or null}
    - `by`: a column's name; `groups`: {value of that column: the same of its rows, without groups}

    A histogram is {edges: n + 1 ascending numbers, counts: n integers}.
    """
    rows: list["Row"]
    """A sample of the rows, a hundred or so at most, in input order. All of them are in the page."""
    rows_total: int


class Run(TypedDict):
    """What ran: from run.json, as text for people."""

    status: str
    error: NotRequired[str | None]
    """Why it failed."""
    started: str
    """ISO 8601, like `ended`."""
    ended: str | None
    command: str
    run_dir: str
    facts: list[tuple[str, str]]
    """The few keys that identify the experiment, in order: model, temperature, ..."""
    config: dict[str, str]
    """Every key of the config, flat: {"sampling.temperature": "0.7", ...}."""
    provenance: dict[str, str]
    totals: dict[str, int] | None
    """Totals of the whole run: rows, samples, failed, prompt_tokens, generated_tokens."""
    throughput: dict[str, float] | None
    """The newest session's samples, generated_tokens, output_tok_s, samples_s."""
    seconds: dict[str, float]
    """Seconds of the newest session's stages, in the order in which they happened: load, generate, finalize, ..."""
    replicas: list["Replica"]
    """The engines of the newest session, by number; empty if there was one engine, in the run's process."""


class Replica(TypedDict):
    """One of several engines: `engine.replicas` of run.json."""

    host: str | None
    """None, like `load_seconds`, for a replica that was never ready."""
    gpus: str | None
    """GPU numbers as CUDA has them on the host; None without a GPU."""
    load_seconds: float | None
    restarts: int
    samples: int
    generated_tokens: int
    output_tok_s: float | None
    """Over the whole time in which the session generated, like `Run.throughput`."""


class Point(TypedDict):
    """One interval of metrics.jsonl."""

    seconds: float
    output_tok_s: float
    """Since the start; `output_tok_s_now` is for this interval."""
    output_tok_s_now: float
    samples_done: int
    running: int
    waiting: int
    replica_tok_s_now: NotRequired[list[float]]
    """One for each of `ReportPage.replica_lines`; absent if a session had one engine."""


class Message(TypedDict):
    """One message of a prompt."""

    role: str
    content: str


class Token(TypedDict):
    """A token of a response."""

    position: int
    """Position in the response, from 1."""
    id: int
    text: str | None
    """The text that it adds to the text before it; None if its tokenizer is not known here."""
    probability: float


class Thought(TypedDict):
    """The part of a response before its answer."""

    text: str
    tokens: int | None
    closed: bool
    """Whether the thinking has ended."""


class Response(TypedDict):
    """One sample of a row. `text` is None if it failed, and `error` says why."""

    sample_idx: int
    text: str | None
    finish_reason: str
    tokens: int | None
    score: float | None
    """None if nothing scored it; `answer` is what the scorer read from the text."""
    answer: str | None
    error: str | None
    looping: bool
    thinking: NotRequired["Thought"]
    """The thinking before `text`; absent if thinking was not told from answers, or if there was none."""
    unlikely: NotRequired[list[Token]]
    """Its least likely tokens, the least likely one first; absent if no log-probabilities were kept."""


class Row(TypedDict):
    """One input row with its responses, in the order of `sample_idx`."""

    row_id: int
    prompt: list[Message]
    ground_truth: str | None
    fields: dict[str, str]
    """The other input columns, as text."""
    responses: list[Response]
