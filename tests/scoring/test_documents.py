"""The table of docs/post-processing.md: what each scorer does with each form."""

import json
import re
from pathlib import Path

import pytest

from rollout.config import ScoreConfig
from rollout.scoring.scorers import scorer_of

PAGE = Path(__file__).parent.parent.parent / "docs/post-processing.md"
HEAD = "| form | ground truth | response | `exact_match` | `numeric_match` | `math` |"
SCORERS = ("exact_match", "numeric_match", "math")


def rows() -> list[list[str]]:
    """The cells of the table, without the backticks of code."""
    table = PAGE.read_text(encoding="utf-8").partition(f"{HEAD}\n")[2].partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return [[re.sub(r"^`(.*)`$", r"\1", cell) for cell in line] for line in lines]


def said(scorer: str, ground_truth: str, response: str) -> str:
    truth = json.loads(ground_truth) if ground_truth.startswith('["') else ground_truth
    try:
        return f"{scorer_of(ScoreConfig(scorer))(response, truth, {}).score:g}"
    except ValueError:
        return "-"


def test_the_table_is_found_and_has_every_kind_of_form() -> None:
    forms = " ".join(form for form, *_ in rows())
    assert len(rows()) > 40
    assert all(kind in forms for kind in ("percent", "unit", "list", "fraction", "currency", "groups", "thinking"))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[2]}")
def test_a_row_says_what_the_scorers_do(row: list[str]) -> None:
    _, ground_truth, response, *scores = row
    assert [said(scorer, ground_truth, response) for scorer in SCORERS] == scores
