"""Content for compare.html: two sides with scores, and texts that try to break out of the page."""

from dataclasses import asdict
from typing import Any

import numpy as np

from rollout.compare.comparison import Comparison, MetricDifference, Pair, SideSummary
from rollout.compare.matching import Unmatched
from rollout.compare.sides import Cost
from rollout.pages.compare_content import ComparePage, CompareRow
from rollout.pages.report_content import Message
from rollout.scoring.intervals import mean_of, share_of
from rollout.scoring.paired import holm, paired_difference
from tests.report_content import response

SCORES = {
    "A": np.array([0.0, 0.25, 0.5, 0.75] * 10),
    "B": np.array([0.25, 0.5, 0.5, 1.0] * 10),
    "C": np.array([0.25, 0.25, 0.25, 1.0] * 10),
}


def side(name: str, label: str, **changes: Any) -> SideSummary:
    estimates = {"score": mean_of(SCORES[name]), "tokens": mean_of(100 * SCORES[name])}
    estimates |= {f"pass@{k}": share_of(1 - (1 - SCORES[name]) ** k) for k in (1, 2, 4)}
    cost = Cost(
        prompt_tokens=1000,
        generated_tokens=12_345_678,
        tokens_per_pass=500.5,
        seconds=90.0,
        output_tok_s=2000.0,
        machine="2 x H100",
    )
    fields: dict[str, Any] = {"rows": 40, "samples": 160, "failed": 0, "unscored": 0, "scorer": "math", "cost": cost}
    return SideSummary(**{"name": name, "label": label, "estimates": estimates, **fields, **changes})


def pair(earlier: str, later: str) -> Pair:
    metrics = {}
    for name, k in {"score": 1, "pass@1": 1, "pass@4": 4}.items():
        before, now = (1 - (1 - SCORES[side]) ** k for side in (earlier, later))
        metrics[name] = MetricDifference(float(before.mean()), float(now.mean()), paired_difference(before, now))
    unmatched = Unmatched(not_there=0, other_truth=0, more_copies=0, unreadable=0)
    sides = (earlier, later)
    return Pair(earlier, later, 40, dict.fromkeys(sides, unmatched), dict.fromkeys(sides, 0), metrics)


def comparison(*names: str, label: str = "outputs/run") -> dict[str, Any]:
    pairs = [pair(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
    found = asdict(
        Comparison(
            matched_by="prompt and ground truth",
            pass_score=1.0,
            clusters=None,
            metric="score",
            sides=[side(name, f"{label}-{name}" if label == "outputs/run" else label) for name in names],
            pairs=pairs,
            common=40,
        )
    )
    if len(pairs) > 1:
        for metric in ("score", "pass@1", "pass@4"):
            parts = [each["metrics"][metric]["paired"] for each in found["pairs"]]
            for part, p in zip(parts, holm([part["p"] for part in parts]), strict=True):
                part["p_holm"] = p
    return found


def compare_row(row_id: int, question: str, **changes: Any) -> CompareRow:
    fields: dict[str, Any] = {
        "row_ids": {"A": row_id, "B": row_id + 100},
        "prompt": [Message(role="user", content=question)],
        "ground_truth": None,
        "values": {"A": 0.0, "B": 1.0},
        "responses": {
            "A": [response(0, f"no, {question}", score=0.0, finish_reason="length")],
            "B": [response(0, f"yes, {question}", score=1.0)],
        },
    }
    return CompareRow(**{"row_id": row_id, **fields, **changes})  # type: ignore[typeddict-item]


def compare_page(*names: str, **changes: Any) -> ComparePage:
    worse = {"A": [response(0, "right", score=1.0)], "B": [response(0, "wrong", score=0.0)]}
    fields: dict[str, Any] = {
        "title": "A outputs/run-A · B outputs/run-B",
        "command": "python -m rollout compare outputs/run-A outputs/run-B",
        "matched": ["A, B: 40 rows matched by prompt and ground truth"],
        "notes": ["scored differently (A by math, B by regex): differences may be the scorers'"],
        "reports": {"A": "../run-A/report.html"},
        "comparison": comparison(*(names or ("A", "B"))),
        "rows": [compare_row(7, "Seine?"), compare_row(3, "Rhine?", responses=worse, values={"A": 1.0, "B": 0.0})],
    }
    return ComparePage(**{**fields, **changes})  # type: ignore[typeddict-item]


def hostile_comparison(text: str) -> ComparePage:
    """`text` wherever the content has a text."""
    answers = [response(0, text, score=1.0, answer=text, finish_reason=text), response(1, None, error=text)]
    chat = [Message(role=text, content=text), Message(role="user", content=text)]
    row = compare_row(0, text, prompt=chat, ground_truth=text, responses={"A": answers, "B": answers})
    content = comparison("A", "B", label=text)
    content["matched_by"] = content["clusters"] = text
    for each in content["sides"]:
        each["scorer"] = each["cost"]["machine"] = text
    both = {"A": text, "B": text}
    return compare_page(
        title=text, command=text, matched=[text], notes=[text], reports=both, comparison=content, rows=[row]
    )
