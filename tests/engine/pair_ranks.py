"""Two ranks that add their tensors with `PairSum`: on the CPU in Triton's interpreter, or on two GPUs.

    TRITON_INTERPRET=1 python -m tests.engine.pair_ranks FOLDER cpu
    python -m tests.engine.pair_ranks FOLDER cuda

On the CPU, files in the folder take the place of the GPUs' memory, and torch that of vLLM's kernel. Prints JSON, a line
for each rank: whether `put` took our kernel, how many sums were not what vLLM's gives, and whether `put` took the
kernel where one rank found a difference.
"""

import json
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import vllm

from rollout.engine import vllm_pair_worker

RANKS, CALLS = 2, {"cpu": 8, "cuda": 2000}
ROOM = 1 << 22


class OnCpu:
    """What `put` uses of vLLM's CustomAllreduce."""

    disabled, world_size, fully_connected, max_size, device = False, RANKS, True, ROOM, torch.device("cpu")

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.group, self._folder, self._kept = rank, dist.group.WORLD, folder, list[list[torch.Tensor]]()

    def create_shared_buffer(self, size: int, group: dist.ProcessGroup) -> list[int]:
        files = [self._folder / f"memory-{len(self._kept)}-{rank}" for rank in range(RANKS)]
        own = torch.from_file(str(files[self.rank]), shared=True, size=size, dtype=torch.uint8)  # full of 0
        dist.barrier(group)
        other = torch.from_file(str(files[1 - self.rank]), shared=True, size=size, dtype=torch.uint8)
        self._kept.append([own, other])
        return [(own if rank == self.rank else other).data_ptr() for rank in range(RANKS)]

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        total = values.float()
        dist.all_reduce(total)
        return total.to(values.dtype)

    custom_all_reduce = all_reduce


def communicator(rank: int, folder: Path, device: str) -> Any:
    if device == "cpu":
        return OnCpu(rank, folder)
    from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce

    torch.cuda.set_device(rank)
    return CustomAllreduce(dist.group.WORLD, torch.device(device, rank))


def sizes(calls: int) -> Sequence[int]:
    drawn = torch.Generator().manual_seed(0)
    return [8 * int(torch.randint(1, ROOM // 32, (1,), generator=drawn)) for _ in range(calls)]


def rank_main(rank: int, folder: Path, device: str) -> None:
    """What this rank finds, as JSON in a file of its own."""
    vllm.__version__ = "0.26.0"
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    dtype = torch.float16 if device == "cpu" else torch.bfloat16  # which the interpreter does not round as a GPU does
    comm = communicator(rank, folder, device)
    tp = SimpleNamespace(device_communicator=SimpleNamespace(ca_comm=comm), cpu_group=dist.group.WORLD)
    is_put = vllm_pair_worker.put(tp, dtype)
    noise = torch.Generator(comm.device).manual_seed(10 + rank)
    unequal = 0
    for number, size in enumerate(sizes(CALLS[device])):
        values = torch.randn(size, generator=noise, device=comm.device).to(dtype)
        if device == "cuda" and number % 3 == rank:
            torch.cuda._sleep(200_000)  # one GPU is late
        first, second = comm.custom_all_reduce(values), comm.custom_all_reduce(values)
        expected = comm.all_reduce(values)
        unequal += not (torch.equal(first, expected) and torch.equal(second, expected))
    vllms = comm.custom_all_reduce
    comm.all_reduce = lambda values: vllms(values) + rank  # only one rank finds a difference
    is_wrong_put = vllm_pair_worker.put(tp, dtype)
    left = comm.custom_all_reduce is vllms
    found = {"put": is_put, "unequal": unequal, "wrong put": is_wrong_put, "left": left}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def main() -> None:
    """Run both ranks, and print what each found, a line for each."""
    folder, device = Path(sys.argv[1]), sys.argv[2]
    context = get_context("fork") if device == "cpu" else get_context("spawn")  # a fork cannot use CUDA
    ranks = [context.Process(target=rank_main, args=(rank, folder, device)) for rank in range(RANKS)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    if any(one.exitcode for one in ranks):
        raise SystemExit(1)
    for rank in range(RANKS):
        print((folder / f"{rank}.json").read_text())


if __name__ == "__main__":
    main()
