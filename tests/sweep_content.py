"""Content for sweep.html: a grid of jobs with scores, and texts that try to break out of the page."""

from itertools import product
from typing import Any

from rollout.pages.report_content import Message, Response
from rollout.pages.sweep_content import Bar, JobRow, SweepPage, SweepRow
from rollout.scoring.intervals import Estimate
from tests.report_content import response

COMMAND = "python -m rollout -m sampling.temperature=0.3,0.7,1.0 sampling.n_samples=1,4"


def metrics(**changes: Any) -> dict[str, float | None]:
    counts = {"samples": 40, "failed": 0, "generated_tokens": 2000, "generate_seconds": 12.5, "load_seconds": 4.0}
    lengths = {"mean_tokens": 50.0, "p50_tokens": 40.0, "p99_tokens": 160.0, "mean_characters": 200.0}
    shares = {"truncated_fraction": 0.1, "empty_fraction": 0.0, "duplicate_fraction": 0.05, "looping_fraction": 0.0}
    return {"output_tok_s": 149.0, **counts, **lengths, **shares, "distinct_responses": 3.5, **changes}


def scored(**changes: Any) -> dict[str, float | None]:
    """Metrics of a job with four samples per row, scored."""
    rates = {"mean_score": 0.4, "pass_rate": 0.4, "pass@1": 0.4, "pass@2": 0.5, "pass@4": 0.6, "majority@4": 0.45}
    return metrics(**{**rates, **changes})


def job(num: int, overrides: dict[str, str] | None = None, **changes: Any) -> JobRow:
    fields: dict[str, Any] = {
        "run_dir": str(num),
        "report": f"{num}/report.html",
        "status": "done",
        "error": None,
        "overrides": overrides or {},
        "engine": "reused" if num else "loaded",
        "metrics": metrics(),
        "estimates": {},
    }
    return JobRow(**{"num": num, **fields, **changes})  # type: ignore[typeddict-item]


def failed(num: int, overrides: dict[str, str], error: str = "no memory left") -> JobRow:
    return job(num, overrides, status="failed", error=error, report=None, engine=None, metrics={})


def bar(estimate: Estimate) -> Bar:
    return Bar(
        value=estimate.value,
        se=estimate.se,
        interval=estimate.interval,
        n=estimate.n,
        trusted=estimate.trusted,
    )


def sweep_row(row_id: int, question: str, responses: dict[str, list[Response]], **changes: Any) -> SweepRow:
    fields: dict[str, Any] = {"prompt": [Message(role="user", content=question)], "ground_truth": None}
    return SweepRow(**{"row_id": row_id, "responses": responses, **fields, **changes})  # type: ignore[typeddict-item]


def grid() -> list[JobRow]:
    """Three temperatures times two numbers of samples; the last of them failed."""
    jobs = []
    for num, (temperature, n_samples) in enumerate(product(("0.3", "0.7", "1.0"), ("1", "4"))):
        overrides = {"sampling.temperature": temperature, "sampling.n_samples": n_samples}
        figures = {"output_tok_s": 100.0 + num, "truncated_fraction": 0.02 * num, "mean_tokens": 50.0 + num}
        alone = {"pass@2": None, "pass@4": None, "majority@4": None} if n_samples == "1" else {}
        jobs.append(job(num, overrides, metrics=scored(**figures, **{"pass@1": 0.4 - num / 100}, **alone)))
    return [*jobs[:-1], failed(5, jobs[-1]["overrides"])]


def rows() -> list[SweepRow]:
    river = [response(0, "The Seine, in PARIS.", score=1.0, looping=True), response(1, "No idea.", score=0.0)]
    return [
        sweep_row(
            3,
            "What is the capital of France?",
            {
                "0": [response(0, "Paris, of course.", score=1.0, answer="Paris")],
                "1": [response(n, f"Lyon, I think ({n}).", score=0.0, answer="Lyon") for n in range(4)],
                "4": [response(0, "It is Lille.", finish_reason="length", score=0.0, answer="Lille")],
            },
            ground_truth="Paris",
        ),
        sweep_row(12, "Name a river (any).", {"0": [response(0, None, error="too long")], "1": [], "4": river}),
        sweep_row(20, "Only one job has this.", {"1": [response(0, "Indeed.")]}),
    ]


def sweep(**changes: Any) -> SweepPage:
    fields: dict[str, Any] = {
        "title": "outputs/2026-11-23/04-10-00-123456-sweep",
        "command": COMMAND,
        "parameters": ["sampling.temperature", "sampling.n_samples"],
        "jobs": grid(),
        "rows": rows(),
        "best": {},
    }
    return SweepPage(**{**fields, **changes})  # type: ignore[typeddict-item]


def line(values: list[str], parameter: str = "sampling.temperature", **changes: Any) -> SweepPage:
    """A sweep over one parameter, without rows; the n-th job makes n + 1 tokens a second."""
    jobs = [job(num, {parameter: value}, metrics=metrics(output_tok_s=num + 1.0)) for num, value in enumerate(values)]
    return sweep(jobs=jobs, parameters=[parameter], rows=[], **changes)


def hostile_sweep(text: str) -> SweepPage:
    """`text` wherever the content has a text, and as the name of a parameter."""
    changes: dict[str, Any] = {"run_dir": text, "report": text, "engine": text}
    jobs = [job(num, {text: text, "other": str(num)}, metrics=scored(), **changes) for num in range(3)]
    jobs.append(job(3, {text: "plain", "other": "1"}, status=text, error=text, **changes))
    jobs.append(job(4, {text: "plain", "other": "1"}, metrics=scored(), **changes))
    answers = [
        response(0, text, score=1.0, answer=text, finish_reason=text),
        response(1, None, error=text, finish_reason="error"),
    ]
    chat = [Message(role=text, content=text), Message(role="user", content=text)]
    both = {"0": answers, "4": answers}
    return sweep(
        title=text,
        command=text,
        parameters=[text, "other"],
        jobs=jobs,
        rows=[sweep_row(0, text, both, prompt=chat, ground_truth=text)],
    )
