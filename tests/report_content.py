"""Content for report.html that fills every section with as little as it can, and texts that try to break out of it."""

from typing import Any

from rollout.pages.report_content import Message, Replica, ReportPage, Response, Row, Run

HOSTILE = (
    "<script>window.broken = 1</script>",
    "</script><img src=x onerror='window.broken = 1'>",
    "<!--<script>",
    "]]> &lt;b&gt; \u2028 \u2029 ${window.broken = 1} `+`",
    "javascript:window.broken=1",
    '" onmouseover="window.broken = 1',
)


def response(sample_idx: int = 0, text: str | None = "an answer", **changes: Any) -> Response:
    fields: dict[str, Any] = {
        "finish_reason": "stop",
        "tokens": 3,
        "score": None,
        "answer": None,
        "error": None,
        "looping": False,
    }
    return Response(**{"sample_idx": sample_idx, "text": text, **fields, **changes})  # type: ignore[typeddict-item]


def row(row_id: int, question: str, *responses: Response, **changes: Any) -> Row:
    fields: dict[str, Any] = {"ground_truth": None, "fields": {}, "prompt": [Message(role="user", content=question)]}
    return Row(**{"row_id": row_id, "responses": list(responses), **fields, **changes})  # type: ignore[typeddict-item]


def run(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "status": "done",
        "started": "2026-11-22T18:10:25.239+00:00",
        "ended": "2026-11-22T18:13:25.239+00:00",
        "command": "python -m rollout data.path=questions.parquet",
        "run_dir": "outputs/2026-11-22/18-10-25-239818",
        "facts": [("model", "SmolLM2-135M-Instruct"), ("temperature", "0.7")],
        "config": {"sampling.temperature": "0.7", "data.path": "questions.parquet"},
        "provenance": {"vllm": "0.32.0", "git commit": "8466b28"},
        "totals": {"rows": 2, "samples": 4, "failed": 1, "prompt_tokens": 20, "generated_tokens": 1_234_567},
        "throughput": {"samples": 4, "generated_tokens": 1_234_567, "output_tok_s": 25_400.4, "samples_s": 12.3},
        "seconds": {"load": 42.1, "generate": 120.0, "finalize": 0.3},
        "replicas": [],
    }
    return Run(**{**fields, **changes})  # type: ignore[typeddict-item]


def replica(**changes: Any) -> Replica:
    made = {"samples": 2, "generated_tokens": 600, "output_tok_s": 5.0, "restarts": 0}
    return Replica(**{"host": "node-1", "gpus": "0", "load_seconds": 61.5, **made, **changes})  # type: ignore[typeddict-item]


def replicated_report(*replicas: Replica, **changes: Any) -> ReportPage:
    """A run on two engines or those given, and how fast two of them were over time."""
    points = [{**point, "replica_tok_s_now": [40.0 + place, 30.0]} for place, point in enumerate(report()["series"])]
    engines = replicas or (replica(), replica(host="node-2", output_tok_s=10.0, restarts=1))
    fields = {"run": run(replicas=[*engines]), "series": points, "replica_lines": ["replica 0", "replica 1"]}
    return report(**{**fields, **changes})


def distribution(*counts: int) -> dict[str, Any]:
    quantiles = {"mean": 1.5, "std": 0.5, "min": 0, "p50": 1.0, "p90": 2.0, "p99": 2.0, "max": len(counts)}
    return {**quantiles, "histogram": {"edges": list(range(len(counts) + 1)), "counts": list(counts)}}


def scores(**changes: Any) -> dict[str, Any]:
    histogram = {"edges": [0.0, 0.5, 1.0], "counts": [2, 1]}
    rates: dict[str, Any] = {"pass_at_k": {"1": 0.333, "2": 0.5}, "majority_at_k": {"1": 0.333, "2": 0.25}}
    totals = {"scored": 3, "no_answer": 1, "cut_off": 2, "unscored": 0, "mean": 0.333, "pass_rate": 0.333}
    rates["estimates"] = {
        name: {"value": 0.333, "se": 0.1, "interval": [0.15, 0.5126], "n": 40, "trusted": name != "pass@2"}
        for name in ("mean", "pass_rate", "pass@1", "pass@2", "majority@1", "majority@2")
    }
    return {**totals, **rates, "histogram": histogram, "row_pass_rates": histogram, **changes}


def analysis(**changes: Any) -> dict[str, Any]:
    counts = {"rows": 2, "rows_with_errors": 1, "samples": 4, "failed": 1, "empty": 0, "duplicates": 1, "looping": 0}
    ended = {"finish_reasons": {"stop": 2, "length": 1}, "truncated_fraction": 0.333, "errors": {"too long": 1}}
    lengths = {"characters": distribution(1, 2), "tokens": distribution(2, 1), "distinct_responses": distribution(1, 1)}
    cut_off = {"value": 0.333, "se": 0.1, "interval": [0.15, 0.5126], "n": 40, "trusted": True}
    groups: dict[str, Any] = {"by": None, "groups": {}, "scores": None, "clusters": "rows"}
    groups["estimates"] = {"truncated_fraction": cut_off}
    return {**counts, **ended, **lengths, **groups, **changes}


def empty_analysis() -> dict[str, Any]:
    """Of a run in which nothing came to be."""
    nothing = {"rows": 0, "rows_with_errors": 0, "samples": 0, "failed": 0, "empty": 0, "duplicates": 0, "looping": 0}
    no_lengths = {"characters": None, "tokens": None, "distinct_responses": None, "scores": None}
    return {**nothing, **no_lengths, "finish_reasons": {}, "truncated_fraction": 0.0, "errors": {}, "by": None}


def report(**changes: Any) -> ReportPage:
    rows = [
        row(
            3,
            "What is the capital of France?",
            response(0, "Paris, of course.", score=1.0, answer="Paris"),
            response(1, "It is Lyon (I think).", finish_reason="length", score=0.0, answer="Lyon"),
            ground_truth="Paris",
            fields={"topic": "capitals"},
        ),
        row(
            12,
            "Name a river (any).",
            response(0, "The Seine flows through Paris. PARIS!", score=0.5, looping=True),
            response(1, None, finish_reason="error", tokens=None, error="too long for the context"),
            fields={"topic": "rivers"},
        ),
    ]
    times = ((5.0, 76.0, 31), (10.0, 140.0, 20), (15.0, 120.0, 0))
    fields: dict[str, Any] = {
        "title": "outputs/2026-11-22/18-10-25-239818",
        "run": run(),
        "series": [
            {
                "seconds": seconds,
                "output_tok_s": rate,
                "output_tok_s_now": rate,
                "samples_done": index,
                "running": running,
                "waiting": 0,
            }
            for index, (seconds, rate, running) in enumerate(times)
        ],
        "replica_lines": [],
        "analysis": analysis(scores=scores(), by="topic", groups={"capitals": analysis(), "rivers": analysis()}),
        "rows": rows,
        "rows_total": 500,
    }
    return ReportPage(**{**fields, **changes})  # type: ignore[typeddict-item]


def hostile_report(text: str) -> ReportPage:
    """`text` wherever the content has a text."""
    rows = [
        row(
            0,
            text,
            response(0, text, score=1.0, answer=text, finish_reason=text),
            response(1, None, error=text, finish_reason="error"),
            ground_truth=text,
            fields={text: text},
            prompt=[Message(role=text, content=text), Message(role="user", content=text)],
        )
    ]
    groups = {"by": text, "groups": {text: analysis()}}
    series = [{**point, "replica_tok_s_now": [1.0, 2.0]} for point in report()["series"]]
    texts: dict[str, Any] = {"facts": [(text, text)], "config": {text: text}, "provenance": {text: text}}
    return report(
        title=text,
        run=run(
            **texts,
            status=text,
            command=text,
            run_dir=text,
            error=text,
            seconds={text: 1.0},
            replicas=[replica(host=text, gpus=text)],
        ),
        series=series,
        replica_lines=[text, text],
        analysis=analysis(**groups, finish_reasons={text: 1}, errors={text: 1}, scores=scores()),
        rows=rows,
    )
