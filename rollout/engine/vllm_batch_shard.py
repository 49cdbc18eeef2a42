"""Batch-sharded sampling for vLLM 0.26: each GPU of a tensor-parallel group draws the tokens of a part of the batch.

vLLM 0.26 gathers the logits of all requests on every GPU, and every GPU draws all tokens. Here each GPU receives only
the logits of its own requests, and sends the tokens to the others. Later versions of vLLM do the same with
`enable_batch_sharded_sampling` (`vllm/v1/worker/gpu/sample/batch_shard.py`). A row does not depend on the others, so
the tokens are the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

_FEWEST = 16
"""The fewest rows per rank: with fewer, nothing is gained."""
_ALIGNED = 4
"""Shards begin at multiples of this many rows, of 4 bytes or more each: Triton compiles a kernel a second time for
pointers that are not aligned to 16 bytes."""

Shards = Sequence[slice]
"""The rows of a batch for which each rank draws; all shards but the last have the same size."""


def shards(rows: int, ranks: int) -> Shards | None:
    """One shard per rank, or None for a batch with too few rows."""
    most = -(-rows // (ranks * _ALIGNED)) * _ALIGNED
    if rows < ranks * _FEWEST or most * (ranks - 1) >= rows:
        return None
    return [slice(start, min(start + most, rows)) for start in range(0, most * ranks, most)]


def scatter_logits(logits: torch.Tensor, of_ranks: Shards, rank: int, group: dist.ProcessGroup) -> torch.Tensor:
    """From (all rows, the vocabulary of this rank) to (rows of this rank, whole vocabulary)."""
    sizes = [one.stop - one.start for one in of_ranks]
    received = logits.new_empty(len(sizes) * sizes[rank], logits.shape[1])
    dist.all_to_all_single(received, logits.contiguous(), [sizes[rank]] * len(sizes), sizes, group=group)
    return received.view(len(sizes), sizes[rank], -1).transpose(0, 1).reshape(sizes[rank], -1)


def gather_rows(values: torch.Tensor, of_ranks: Shards, tp: Any) -> torch.Tensor:
    """From (rows of this rank, n) to (all rows, n); `tp` is vLLM's GroupCoordinator."""
    padded = pad(values, (0, 0, 0, of_ranks[0].stop - len(values)))
    gathered: torch.Tensor = tp.all_gather(padded, dim=0)
    return gathered[: of_ranks[-1].stop]


class BatchShardedSampling:
    """Replaces `GPUModelRunner.sample` of a tensor-parallel runner."""

    def __init__(self, runner: Any, processor: Any, tp: Any) -> None:
        self._runner, self._tp, self._rank = runner, tp, tp.rank_in_group
        self._vllms, self._vllms_gather = runner.sample, processor._gather_logits
        self._shards: Shards | None = None
        processor._gather_logits = self._gather_logits

    def __call__(self, hidden_states: torch.Tensor, batch: Any, grammar: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
        of_ranks = shards(batch.num_reqs, self._tp.world_size)
        if of_ranks is None or grammar is not None or not self._is_uniform(batch):
            drawn: tuple[Any, torch.Tensor, torch.Tensor] = self._vllms(hidden_states, batch, grammar)
            return drawn
        logits = self.logits(hidden_states[batch.logits_indices], of_ranks)
        output = self._gather(self._runner.sampler(logits, _part(batch, of_ranks[self._rank])), of_ranks)
        return output, output.num_sampled, output.num_rejected

    def logits(self, hidden_states: torch.Tensor, of_ranks: Shards) -> torch.Tensor:
        """Logits of this rank's rows, (its rows, vocabulary), from the hidden states of all rows."""
        self._shards = of_ranks
        try:
            logits: torch.Tensor = self._runner.model.compute_logits(hidden_states)
        finally:
            self._shards = None
        return logits

    def agrees(self) -> bool:
        """Whether every rank gets the logits that vLLM gathers, for a batch of noise. Opens the connections, too."""
        runner, rows = self._runner, self._tp.world_size * _FEWEST
        of_ranks = shards(rows, self._tp.world_size)
        assert of_ranks is not None
        noise = torch.randn(rows, runner.model_config.get_hidden_size(), generator=torch.Generator().manual_seed(0))
        hidden = noise.to(runner.device, runner.dtype)
        mine, whole = self.logits(hidden, of_ranks), self._runner.model.compute_logits(hidden)
        same = torch.tensor([[int(torch.equal(mine, whole[of_ranks[self._rank]]))]], device=runner.device)
        return bool(gather_rows(same.expand(_FEWEST, 1), of_ranks, self._tp).all())

    def _gather_logits(self, logits: torch.Tensor) -> torch.Tensor:
        if self._shards is None:
            gathered: torch.Tensor = self._vllms_gather(logits)
            return gathered
        return scatter_logits(logits, self._shards, self._rank, self._tp.device_group)

    def _is_uniform(self, batch: Any) -> bool:
        """Whether all rows ask for equally many log-probabilities, so that all ranks return tensors of one width."""
        sampler, requests = self._runner.sampler, batch.idx_mapping_np
        asked = sampler.sampling_states.num_logprobs[requests]
        return bool(asked.min() == asked.max()) and not sampler.logprob_token_ids_state.max_num_token_ids(requests)

    def _gather(self, output: Any, of_ranks: Shards) -> Any:
        """The output of all ranks, from that of this one."""
        columns = (output.sampled_token_ids[:, 0], output.num_sampled, output.num_rejected)
        drawn = torch.stack([column.long() for column in columns], dim=1)
        tokens, sampled, rejected = gather_rows(drawn, of_ranks, self._tp).unbind(1)
        logprobs = output.logprobs_tensors
        if logprobs is not None:
            ids, values, ranks = (gather_rows(one.view(len(one), -1), of_ranks, self._tp) for one in logprobs[:3])
            logprobs = logprobs._replace(
                logprob_token_ids=ids, logprobs=values, selected_token_ranks=ranks.view(len(ranks))
            )
        return dataclasses.replace(
            output,
            sampled_token_ids=tokens[:, None].contiguous(),
            logprobs_tensors=logprobs,
            num_sampled=sampled.int(),
            num_rejected=rejected.int(),
        )


def _part(batch: Any, rows: slice) -> Any:
    """The fields of these rows that the sampler reads. Each request has one row of logits."""
    bounds = slice(rows.start, rows.stop + 1)
    return dataclasses.replace(
        batch,
        num_reqs=rows.stop - rows.start,
        idx_mapping=batch.idx_mapping[rows],
        idx_mapping_np=batch.idx_mapping_np[rows],
        expanded_idx_mapping=batch.expanded_idx_mapping[rows],
        expanded_local_pos=batch.expanded_local_pos[rows],
        seq_lens=batch.seq_lens[rows],
        logits_indices=batch.logits_indices[rows],
        cu_num_logits=batch.cu_num_logits[bounds],
        cu_num_logits_np=batch.cu_num_logits_np[bounds],
    )


def put(runner: Any) -> bool:
    """Shard batches from now on, if GPUs share a model and every rank gets the right logits. Returns whether it does.

    To be called on all ranks at the same time.
    """
    from vllm.distributed import get_tp_group

    processor = _processor(runner)
    if processor is None:
        return False
    sampling = BatchShardedSampling(runner, processor, get_tp_group())
    with torch.inference_mode():
        agrees = sampling.agrees()
    if agrees:
        runner.sample = sampling
    else:
        del processor._gather_logits
    return agrees


def take_back(runner: Any) -> None:
    """Sample as vLLM does from now on."""
    if vars(runner).pop("sample", None) is not None:
        del _processor(runner)._gather_logits


def _processor(runner: Any) -> Any:
    """The layer that gathers the logits; None if nothing is gathered, or a row could depend on more than its logits."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    shared = runner.sampler is not None and runner.parallel_config.tensor_parallel_size > 1
    if not shared or runner.lora_config is not None or runner.sampler.compute_nans:
        return None
    found = [layer for layer in runner.model.modules() if isinstance(layer, LogitsProcessor) and layer.use_all_gather]
    return found[0] if len(found) == 1 else None
