"""vLLM's worker for two GPUs that share a model, with `PairSum` for the two all-reduces of each layer.

The kernel must be in its place before vLLM records CUDA graphs. So it comes with a worker (`worker_cls`), not with a
method that is called once the engine is ready.
"""

from typing import Any

import torch
import torch.distributed as dist
from vllm.distributed import get_tp_group
from vllm.v1.worker.gpu_worker import Worker

from rollout.engine.pair_sum import FLAGS, MAILBOXES, PairSum

_CHECKED = (8, 50_008, 1 << 20)
"""Numbers of elements of the tensors that are added to check the kernel: a few, no multiple of its blocks, many."""


class PairWorker(Worker):  # type: ignore[misc]  # vLLM is not looked into
    """Adds with `PairSum` where it fits; else as vLLM does."""

    def init_device(self) -> None:
        super().init_device()
        is_fused = self.vllm_config.compilation_config.pass_config.fuse_allreduce_rms  # then little is left to add
        self._is_put = not is_fused and put(get_tp_group(), self.model_config.dtype)

    def adds_with_ours(self) -> bool:
        """Whether `PairSum` is in use; for `LLM.collective_rpc`."""
        return self._is_put


def put(tp: Any, dtype: torch.dtype) -> bool:
    """Add tensors of this type with `PairSum` from now on, if NVLink connects two NVIDIA GPUs and both get what vLLM's
    kernel gives. Returns whether that is so.

    To be called on both ranks at the same time; `tp` is vLLM's GroupCoordinator.
    """
    comm = getattr(tp.device_communicator, "ca_comm", None)
    if comm is None or comm.disabled:
        return False
    if comm.world_size != 2 or not comm.fully_connected or torch.version.hip is not None:
        return False
    add, vllms = _pair_sum(comm), comm.custom_all_reduce
    agreed: list[bool] = [False, False]
    dist.all_gather_object(agreed, _agrees(add, comm, dtype), group=tp.cpu_group)
    if all(agreed):
        comm.custom_all_reduce = lambda values: add(values) if values.dtype == dtype else vllms(values)
    return all(agreed)


def _pair_sum(comm: Any) -> PairSum:
    """With memory that both GPUs see, as vLLM's kernel has; `comm` is its CustomAllreduce."""
    mine, other = comm.rank, 1 - comm.rank
    mailboxes = comm.create_shared_buffer(MAILBOXES * comm.max_size, group=comm.group)
    flags = comm.create_shared_buffer(FLAGS * torch.int32.itemsize, group=comm.group)  # vLLM fills it with 0
    return PairSum((mailboxes[mine], mailboxes[other]), (flags[mine], flags[other]), comm.max_size, comm.device)


def _agrees(add: PairSum, comm: Any, dtype: torch.dtype) -> bool:
    """Whether this rank gets bit by bit what vLLM's kernel gives. Compiles the kernel, too."""
    noise = torch.Generator(comm.device).manual_seed(comm.rank)
    tensors = [torch.randn(numel, generator=noise, device=comm.device).to(dtype) for numel in _CHECKED]
    equal = [torch.equal(add(values), comm.all_reduce(values)) for values in tensors]  # both ranks make all calls
    return all(equal)
