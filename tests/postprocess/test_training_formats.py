"""docs/training.md: its commands are done, and what they write is read by the rules of the trainer in the same row.

The rules of trainers that do not install on a machine without a GPU are written out here, each with its source.
"""

import json
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

GUIDE = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `?([\w, -]+?)`? \| `python -m rollout (export \w\S+ (\S+)[^`]*)` \|", GUIDE, re.MULTILINE)
"""Trainer, command, and the file that it writes."""
N_SAMPLES = 4


def code(heading: str) -> str:
    """The Python that stands first behind a heading of the guide."""
    after = GUIDE.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"^```python\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run_code(heading: str) -> dict[str, Any]:
    """The names that it defines, run in the folder of the test."""
    names: dict[str, Any] = {}
    exec(code(heading), names)
    return names


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a scored run is `latest`, with the two files that the guide filters from it."""
    folder = tmp_path_factory.mktemp("training")
    rows = [
        {
            "prompt": chat(f"What is {number} + 1?"),
            "answer": str(number + 1),
            "data_source": "sums",
            "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
        }
        for number in range(12)
    ]
    source = write_input(folder / "input.parquet", rows)
    run_in(
        folder / "outputs/run",
        *(f"data.path={source}", f"sampling.n_samples={N_SAMPLES}", "sampling.logprobs=processed", "sampling.top_p=1"),
        *("postprocess.steps=[score]", "postprocess.score.scorer=regex", "postprocess.score.ground_truth=null"),
        'postprocess.score.pattern="echo .*[02468] word"',
    )
    for words in (
        "filter latest kept.parquet min_score=1 drop_duplicates=true",
        "filter latest mixed.parquet min_pass_rate=0.2 max_pass_rate=0.8",
    ):
        assert words in GUIDE
        done(folder, words)
    (folder / "sft").mkdir()
    return folder


def done(folder: Path, words: str) -> None:
    result = run_here(*shlex.split(words), cwd=folder)
    assert (result.returncode, result.stderr.replace("latest: outputs/run\n", "")) == (0, "")
    assert "warning" not in result.stdout


@pytest.fixture(autouse=True)
def here(scored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(scored)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def flat(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def recorded() -> list[dict[str, Any]]:
    """The samples of the run, as `flatten` writes them."""
    done(Path(), "flatten latest flat.parquet overwrite=true")
    return flat("flat.parquet")


def is_chat(value: Any) -> bool:
    """As TRL's `is_conversational` and prime-rl's `normalize_messages` want it: messages with a role and a content."""
    return isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in value
    )


# verl-project/verl, verl/utils/dataset/multiturn_sft_dataset.py, MultiTurnSFTDataset
def verl_sft(file: str) -> None:
    def plain(value: Any) -> Any:  # convert_nested_value_to_list_recursive
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | np.ndarray) else value

    frame = pd.read_parquet(file, dtype_backend="pyarrow")
    messages = frame["messages"].apply(plain).tolist()
    assert len(messages) == len(flat("kept.parquet"))
    assert all(map(is_chat, messages))
    assert {tuple(message["role"] for message in one) for one in messages} == {("user", "assistant")}


# verl-project/verl, verl/utils/dataset/rl_dataset.py, RLHFDataset; verl/workers/reward_manager reads the other two
def verl_rl(file: str) -> None:
    def check(rows: datasets.Dataset) -> None:
        for row in rows:
            assert is_chat(row["prompt"])
            assert isinstance(row["data_source"], str)
            assert isinstance(row["reward_model"]["ground_truth"], str)
            assert isinstance(row.get("extra_info") or {}, dict)

    rows = datasets.load_dataset("parquet", data_files=file)["train"]
    assert rows["row_id"] == sorted({row["row_id"] for row in flat("mixed.parquet")})
    check(rows)
    run_code("## Prompts, for those who sample by themselves")
    added = datasets.load_dataset("parquet", data_files="verl.parquet")["train"]
    assert set(added["data_source"]) == {"mine"}
    check(added)


# PrimeIntellect-ai/prime-rl, src/prime_rl/trainer/sft/data/dataset.py, SFTDataset._process
def prime_rl(file: str) -> None:
    rows = datasets.load_dataset(str(Path(file).parent), None, split="train")
    assert len(rows) == len(flat("kept.parquet"))
    assert all(row.get("messages") is not None and is_chat(row["messages"]) for row in rows)
    assert all(
        message["role"] in ("system", "user", "assistant", "tool") for row in rows for message in row["messages"]
    )


def any_rows(file: str) -> None:
    rows = datasets.load_dataset("json", data_files=file, split="train").to_list()
    assert [row["response"] for row in rows] == [row["response"] for row in flat("kept.parquet")]
    assert rows[0].keys() == flat("kept.parquet")[0].keys()


def trl(*columns: str) -> Callable[[str], None]:
    """What TRL looks at first; it trains on them below."""

    def check(file: str) -> None:
        rows = datasets.load_dataset("json", data_files=file, split="train")
        assert len(rows) > 0
        assert all(is_chat(row[name]) for row in rows for name in columns)

    return check


# THUDM/slime, slime/utils/data.py, read_file and Dataset
def slime_prompts(file: str) -> None:
    rows = [row.to_dict() for _, row in pd.read_json(file, lines=True, dtype={"label": str}).iterrows()]
    assert all(is_chat(row["prompt"]) and row["answer"] is not None for row in rows)
    assert all(isinstance(row.get("metadata") or {}, dict) for row in rows)


class Status(Enum):
    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass
class SlimeSample:
    """Those fields of `Sample` in slime/utils/types.py that a trainer reads."""

    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, str]] = ""
    tokens: list[int] = field(default_factory=list)
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: float | None = None
    loss_mask: list[int] | None = None
    rollout_log_probs: list[float] | None = None
    status: Status = Status.PENDING
    metadata: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "SlimeSample":
        assert data.keys() <= {field.name for field in fields(SlimeSample)}  # older ones take no other
        return SlimeSample(**data | {"status": Status(data["status"])})


# THUDM/slime, slime/ray/rollout.py: _get_rollout_data, _post_process_rewards, _convert_samples_to_train_data
def slime_dump(file: str) -> None:
    import torch

    dump = torch.load(file.format(rollout_id=0), weights_only=False)
    samples = [SlimeSample.from_dict(sample) for sample in dump["samples"]]
    assert isinstance(dump["rollout_id"], int)
    rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float)
    assert rewards.shape[-1] == N_SAMPLES * 12
    groups = [{sample.group_index for sample in samples[i : i + N_SAMPLES]} for i in range(0, len(samples), N_SAMPLES)]
    assert [len(group) for group in groups] == [1] * 12
    assert [sample.index for sample in samples] == list(range(len(samples)))
    for sample, row in zip(samples, recorded(), strict=True):
        assert sample.loss_mask is not None
        assert sample.rollout_log_probs is not None
        assert len(sample.loss_mask) == len(sample.rollout_log_probs) == sample.response_length
        assert torch.tensor(sample.tokens, dtype=torch.long).tolist() == [
            *row["prompt_token_ids"],
            *row["response_token_ids"],
        ]
        assert sample.rollout_log_probs == row["response_logprobs"]
        assert (sample.reward, sample.response) == (row["score"], row["response"])
        assert (sample.status is Status.TRUNCATED) == (row["finish_reason"] == "length")


def trl_tokens(file: str) -> None:
    """RolloutFunc in trl/trainer/grpo_trainer.py; GRPO trains on it below."""
    done(Path(), "export mixed.parquet prompts.jsonl format=prompts overwrite=true")
    names = run_code("### TRL")
    asked = [row["prompt"] for row in names["prompts"] for _ in range(N_SAMPLES)]
    output = names["rollout_func"](asked, None)
    by_row = {row["row_id"] for row in flat("mixed.parquet")}
    expected = [row for row in recorded() if row["row_id"] in by_row]
    assert output["prompt_ids"] == [row["prompt_token_ids"] for row in expected]
    assert output["completion_ids"] == [row["response_token_ids"] for row in expected]
    assert np.array_equal(
        np.float32(np.concatenate(output["logprobs"])),
        np.concatenate([row["response_logprobs"] for row in expected]).astype(np.float32),
    )
    assert output["reward"] == [row["score"] for row in expected]


# NVIDIA-NeMo/Gym, nemo_gym/openai_utils.py, NeMoGymResponseOutputMessageForTraining; nemo_gym/rollout_collection.py
def nemo_gym(file: str) -> None:
    run_code("### NeMo Gym")
    lines = [json.loads(line) for line in Path("rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    for line, row in zip(lines, recorded(), strict=True):
        assert (line["_ng_task_index"], line["_ng_rollout_index"]) == (row["row_id"], row["sample_idx"])
        assert line["reward"] == row["score"]
        (message,) = line["response"]["output"]
        assert message["type"] == "message"
        assert [part["text"] for part in message["content"]] == [row["response"]]
        assert message["prompt_token_ids"] == row["prompt_token_ids"]
        assert message["generation_token_ids"] == row["response_token_ids"]
        assert message["generation_log_probs"] == row["response_logprobs"]
        assert isinstance(message["id"], str)


# NovaSky-AI/SkyRL, skyrl_train/generators/base.py, GeneratorOutput; utils/trainer_utils.py, validate_generator_output
def skyrl(file: str) -> None:
    output = run_code("### SkyRL")["generator_output"]
    assert output.keys() == {
        *("prompt_token_ids", "response_ids", "rewards", "loss_masks", "stop_reasons", "rollout_logprobs"),
        "rollout_metrics",
    }
    lists = [values for values in output.values() if values is not None]
    assert {len(values) for values in lists} == {N_SAMPLES * 12}
    for ids, mask, logprobs in zip(
        output["response_ids"], output["loss_masks"], output["rollout_logprobs"], strict=True
    ):
        assert len(ids) == len(mask) == len(logprobs)
    assert all(isinstance(reward, float) for reward in output["rewards"])


@pytest.fixture(scope="module")
def model(scored: Path) -> Path:
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(scored / "model")


def write_flat(folder: Path, model: Path) -> Path:
    """Scored responses with the token ids that `model` has for them, which the echo engine's words have in no model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for row_id, sample_idx in product(range(4), range(2)):
        prompt, response = chat(f"quick {row_id}"), ["the quick brown fox", "lazy"][sample_idx]
        ids = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
        of_prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        rows.append(
            {
                "prompt": prompt,
                "row_id": row_id,
                "sample_idx": sample_idx,
                "response": response,
                "finish_reason": "stop",
            }
            | {"prompt_token_ids": of_prompt, "response_token_ids": ids, "response_logprobs": [-1.5] * len(ids)}
            | {"score": float(sample_idx), "pass_rate": 0.5, "extracted_answer": None, "score_error": None}
        )
    return write_input(folder / "theirs.parquet", rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_trl_trains_on_chats_pairs_prompts_and_tokens(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own trainers, a step each, on the files of the guide's commands."""
    import trl as library

    monkeypatch.chdir(write_flat(tmp_path, model).parent)
    commands = {file: command for trainer, command, file in ROWS if trainer.startswith("TRL")}
    for command in commands.values():
        done(tmp_path, re.sub(r"export \S+", "export theirs.parquet", command))

    def loaded(file: str) -> datasets.Dataset:
        return datasets.load_dataset("json", data_files=file, split="train")

    step = {"output_dir": "out", "max_steps": 1, "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no"}
    step |= {"per_device_train_batch_size": 2, "logging_steps": 1, "disable_tqdm": True}
    fine_tuned = library.SFTTrainer(str(model), args=library.SFTConfig(**step), train_dataset=loaded("sft.jsonl"))
    assert len(fine_tuned.train_dataset) == 8
    preferred = library.DPOTrainer(str(model), args=library.DPOConfig(**step), train_dataset=loaded("pairs.jsonl"))
    assert len(preferred.train_dataset) == 4
    names = run_code("### TRL")
    reinforced = library.GRPOTrainer(
        str(model),
        reward_funcs=names["recorded_reward"],
        args=library.GRPOConfig(**step, num_generations=2, max_completion_length=16),
        train_dataset=names["prompts"],
        rollout_func=names["rollout_func"],
    )
    for trainer in (fine_tuned, preferred, reinforced):
        trainer.train()
        assert math.isfinite(trainer.state.log_history[-1]["train_loss"])
    (first, _) = reinforced.state.log_history
    assert (first["rewards/recorded_reward/mean"], first["completions/clipped_ratio"]) == (0.5, 0.0)  # the end is there


READERS: dict[tuple[str, str], Callable[[str], None]] = {
    ("verl, SFT", "sft.parquet"): verl_sft,
    ("TRL, SFT", "sft.jsonl"): trl("messages"),
    ("TRL, DPO", "pairs.jsonl"): trl("prompt", "chosen", "rejected"),
    ("prime-rl, SFT", "sft/train.parquet"): prime_rl,
    ("datasets", "all.jsonl.zst"): any_rows,
    ("verl, RL", "rl.parquet"): verl_rl,
    ("TRL, GRPO", "prompts.jsonl"): trl("prompt"),
    ("slime", "prompts.jsonl"): slime_prompts,
    ("slime", "dump.pt"): slime_dump,
    ("TRL, GRPO", "tokens.jsonl"): trl_tokens,
    ("NeMo Gym", "tokens.parquet"): nemo_gym,
    ("SkyRL", "tokens.parquet"): skyrl,
}


@pytest.mark.parametrize(("trainer", "command", "file"), ROWS, ids=[f"{row[0]} {row[2]}" for row in ROWS])
def test_a_trainer_reads_what_the_command_beside_it_writes(trainer: str, command: str, file: str) -> None:
    done(Path(), f"{command} overwrite=true")
    READERS[trainer, file](file)


def test_every_row_of_the_tables_is_tested() -> None:
    assert sorted((trainer, file) for trainer, _, file in ROWS) == sorted(READERS)
    assert len(ROWS) == GUIDE.count("| `python -m rollout ")
