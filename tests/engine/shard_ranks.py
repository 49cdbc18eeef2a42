"""Two ranks that share a model on the CPU, each of which samples for a part of the batch, beside one that has it all.

    python -m tests.engine.shard_ranks

A process of its own, as its ranks are forks of it. Prints JSON: for each of ROWS batches whether what both ranks return
is what one draws for the whole batch, and for how many rows they asked their samplers.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from rollout.engine.vllm_batch_shard import BatchShardedSampling
from tests.engine.ranks import run_ranks

RANKS, HIDDEN, VOCABULARY = 2, 8, 101
ROWS = (1, 31, 32, 33, 50, 100)
NO_LOGPROBS = -1


class Logprobs(NamedTuple):
    logprob_token_ids: torch.Tensor
    logprobs: torch.Tensor
    selected_token_ranks: torch.Tensor
    cu_num_generated_tokens: None = None


@dataclass
class Output:
    sampled_token_ids: torch.Tensor
    logprobs_tensors: Logprobs | None
    num_sampled: torch.Tensor
    num_rejected: torch.Tensor


@dataclass
class Batch:
    num_reqs: int
    idx_mapping: torch.Tensor
    idx_mapping_np: np.ndarray[Any, Any]
    expanded_idx_mapping: torch.Tensor
    expanded_local_pos: torch.Tensor
    seq_lens: torch.Tensor
    logits_indices: torch.Tensor
    cu_num_logits: torch.Tensor
    cu_num_logits_np: np.ndarray[Any, Any]


class Sampler:
    """The most probable token, plus what the request of the row is; two log-probabilities where they are asked for."""

    def __init__(self, requests: int, logprobs: int) -> None:
        self.sampling_states = SimpleNamespace(num_logprobs=np.full(requests, logprobs))
        self.logprob_token_ids_state = SimpleNamespace(max_num_token_ids=lambda requests: 0)
        self.rows = 0

    def __call__(self, logits: torch.Tensor, batch: Batch) -> Output:
        assert logits.shape == (batch.num_reqs, VOCABULARY)
        self.rows = batch.num_reqs
        highest = logits.log_softmax(dim=1).topk(2, dim=1)
        logprobs = Logprobs(highest.indices, highest.values, batch.seq_lens.long())
        return Output(
            highest.indices[:, :1] + 1000 * batch.idx_mapping[:, None],
            logprobs if self.sampling_states.num_logprobs[0] != NO_LOGPROBS else None,
            (batch.seq_lens % 2).int(),
            batch.cu_num_logits.diff() - batch.seq_lens % 2,
        )


def all_gather(values: torch.Tensor, dim: int) -> torch.Tensor:
    parts = [torch.empty_like(values) for _ in range(RANKS)]
    dist.all_gather(parts, values)
    return torch.cat(parts, dim=dim)


class Processor:
    """Gathers the logits of all parts of the vocabulary."""

    def _gather_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return all_gather(logits, dim=1)


def runner(rank: int, processor: Processor, sampler: Sampler) -> Any:
    """A model whose output head has a part of the vocabulary on each rank, the last with a column too many."""
    weights = torch.randn(HIDDEN, VOCABULARY + 1, generator=torch.Generator().manual_seed(1)).chunk(RANKS, dim=1)[rank]
    model = SimpleNamespace(compute_logits=lambda x: processor._gather_logits(x @ weights)[:, :VOCABULARY])

    def sample(hidden: torch.Tensor, batch: Batch, grammar: object) -> tuple[Output, torch.Tensor, torch.Tensor]:
        output = sampler(model.compute_logits(hidden[batch.logits_indices]), batch)
        return output, output.num_sampled, output.num_rejected

    return SimpleNamespace(
        model=model,
        sampler=sampler,
        sample=sample,
        device=torch.device("cpu"),
        dtype=torch.float32,
        model_config=SimpleNamespace(get_hidden_size=lambda: HIDDEN),
    )


def batch_of(rows: int) -> Batch:
    requests = torch.randperm(128, generator=torch.Generator().manual_seed(rows))[:rows].int()
    bounds = torch.arange(rows + 1, dtype=torch.int32)
    return Batch(
        rows,
        requests,
        requests.numpy(),
        requests,
        torch.zeros(rows, dtype=torch.int32),
        torch.arange(7, 7 + rows, dtype=torch.int32),
        torch.arange(rows - 1, -1, -1),
        bounds,
        bounds.numpy(),
    )


def same(mine: Output, whole: Output) -> bool:
    """Whether all that two outputs hold is equal, in type too."""
    pairs = [
        (getattr(mine, name), getattr(whole, name)) for name in ("sampled_token_ids", "num_sampled", "num_rejected")
    ]
    if whole.logprobs_tensors is not None:
        assert mine.logprobs_tensors is not None
        pairs += zip(mine.logprobs_tensors[:3], whole.logprobs_tensors[:3], strict=True)
    return all(torch.equal(one, other) and one.dtype == other.dtype for one, other in pairs)


def rank_main(rank: int, folder: Path) -> None:
    """What this rank finds, see `run_ranks`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    tp = SimpleNamespace(rank_in_group=rank, world_size=RANKS, device_group=dist.group.WORLD, all_gather=all_gather)
    found: dict[str, Any] = {}
    for logprobs in (NO_LOGPROBS, 1):
        sampler, processor = Sampler(128, logprobs), Processor()
        made = runner(rank, processor, sampler)
        vllms = made.sample
        sampling = BatchShardedSampling(made, processor, tp)
        assert sampling.agrees()
        for rows in ROWS:
            hidden = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(rows))
            whole = vllms(hidden, batch_of(rows), None)[0]
            mine = sampling(hidden, batch_of(rows), None)[0]
            found[f"{rows} {logprobs}"] = same(mine, whole), sampler.rows
    sampler.sampling_states.num_logprobs[:64] = NO_LOGPROBS
    hidden = torch.randn(100, HIDDEN)
    sampling(hidden, batch_of(100), None)
    found["not alike"] = True, sampler.rows
    (folder / f"{rank}.json").write_text(json.dumps(found))


def main() -> None:
    """Run both ranks, and print what each found, a line for each."""
    with tempfile.TemporaryDirectory() as name:
        run_ranks(rank_main, Path(name), start="fork")


if __name__ == "__main__":
    main()
