"""What a Parquet file says of its responses beside their columns."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import RunConfig, ScoreConfig
from rollout.postprocess.origin import NOT_KNOWN, Chats, Origin, Scoring, origin_of, scoring_of

CHATS = Chats("question", "Sei kurz. 简短。", continue_final_message=True)
SCORING = Scoring("math", "answer", after="</think>", pass_score=0.5)


def written(path: Path, footer: dict[str, str]) -> Path:
    pq.write_table(pa.table({"response": ["a"]}).replace_schema_metadata(footer), path)
    return path


@pytest.mark.parametrize("origin", [NOT_KNOWN, Origin(CHATS), Origin(scoring=SCORING), Origin(CHATS, SCORING)])
def test_a_footer_is_read_as_it_was_written(origin: Origin, tmp_path: Path) -> None:
    assert origin_of(written(tmp_path / "flat.parquet", origin.footer())) == origin


@pytest.mark.parametrize("said", ["", "no JSON", "[]", '{"prompt_key": 1}', '{"system_prompt": "without a column"}'])
def test_what_is_not_as_we_write_it_tells_nothing(said: str, tmp_path: Path) -> None:
    footer = {"rollout.chats": said, "rollout.digest": said, "pandas": "{}"}
    assert origin_of(written(tmp_path / "flat.parquet", footer)) == NOT_KNOWN


def test_only_parquet_has_a_place_for_it(tmp_path: Path) -> None:
    assert origin_of(tmp_path / "flat.jsonl") == NOT_KNOWN


def test_the_result_of_a_run_says_it_in_its_digest(tmp_path: Path) -> None:
    digest = {
        "data.prompt_key": "question",
        "data.system_prompt": "Be brief.",
        "model.chat_template_kwargs": {"continue_final_message": True},
    }
    path = written(tmp_path / "rollouts.parquet", {"rollout.digest": json.dumps(digest)})
    assert origin_of(path) == Origin(Chats("question", "Be brief.", continue_final_message=True))


def test_scores_of_earlier_versions_pass_as_the_run_says(tmp_path: Path) -> None:
    run = RunConfig()
    run.postprocess.score = ScoreConfig(scorer="regex", pass_score=0.25)
    path = written(tmp_path / "scores.parquet", {"rollout.scored_by": '{"scorer": "math", "ground_truth": "answer"}'})
    found = scoring_of(origin_of(path), run)
    assert (found.scorer, found.ground_truth, found.pass_score) == ("math", "answer", 0.25)
    assert scoring_of(Origin(scoring=SCORING), run).pass_score == 0.5
