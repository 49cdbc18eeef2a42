"""Two ranks that add their tensors with `PairSum`: on the CPU in Triton's interpreter, or on two GPUs.

    TRITON_INTERPRET=1 python -m tests.engine.pair_ranks FOLDER cpu
    python -m tests.engine.pair_ranks FOLDER cuda

On the CPU, files in the folder take the place of the GPUs' memory, and torch that of vLLM's kernel. Prints JSON, a line
for each rank: whether `put` took our kernel, whether it did where one rank found a difference, and in how many rounds a
sum was not what vLLM's gives.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from rollout.engine import pair_sum, vllm_pair_worker
from tests.engine.ranks import run_ranks

RANKS, ROUNDS = 2, {"cpu": 5, "cuda": 2000}
ROOM = 1 << 21


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


def be_late(rank: int) -> None:
    """Let this rank be late now and then between two steps of the kernel, as a program on a GPU can be.

    One program only: the interpreter runs them one after the other, so none gets ahead by a whole call.
    """
    from triton.runtime.interpreter import interpreter_builder

    pair_sum._PROGRAMS = 1
    builder, drawn = type(interpreter_builder), random.Random(rank)

    def late(step: Callable[..., Any]) -> Callable[..., Any]:
        def after_a_while(*arguments: Any) -> Any:
            time.sleep(drawn.choice((0, 0, 0.05)))
            return step(*arguments)

        return after_a_while

    for name in ("create_barrier", "create_atomic_rmw"):
        setattr(builder, name, late(getattr(builder, name)))


def tensors(device: torch.device, dtype: torch.dtype, rank: int, rounds: int) -> Iterator[list[torch.Tensor]]:
    """Of each round several that differ, in size and type too, to be added without waiting for the other rank."""
    noise, sizes = torch.Generator(device).manual_seed(10 + rank), random.Random(0)
    for number in range(rounds):
        size = 8 * sizes.randint(1, 400 if number % 4 else ROOM // 16)
        values = torch.randn(size, generator=noise, device=device).to(dtype)
        yield [values, -2 * values, values.float()[: size // 2], 3 * values, values + 1]


def rank_main(rank: int, folder: Path, device: str) -> None:
    """What this rank finds, see `run_ranks`."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    dtype = torch.float16 if device == "cpu" else torch.bfloat16  # which the interpreter does not round as a GPU does
    comm = communicator(rank, folder, device)
    tp = SimpleNamespace(device_communicator=SimpleNamespace(ca_comm=comm), cpu_group=dist.group.WORLD)
    found = {"put": vllm_pair_worker.put(tp, dtype)}
    vllms = comm.custom_all_reduce
    comm.all_reduce, right = lambda values: vllms(values) + rank, comm.all_reduce  # only one rank finds a difference
    found |= {"wrong put": vllm_pair_worker.put(tp, dtype), "left": comm.custom_all_reduce is vllms}
    comm.all_reduce = right
    if device == "cpu":
        be_late(rank)
        del comm.custom_all_reduce
        assert vllm_pair_worker.put(tp, dtype)
    unequal = 0
    for number, values in enumerate(tensors(comm.device, dtype, rank, ROUNDS[device])):
        if device == "cuda" and number % 3 == rank:
            torch.cuda._sleep(200_000)
        sums = [comm.custom_all_reduce(one) for one in values]
        expected = [right(one) for one in values]
        unequal += not all(map(torch.equal, sums, expected))
    (folder / f"{rank}.json").write_text(json.dumps(found | {"unequal": unequal}))


def main() -> None:
    """Run both ranks, and print what each found, a line for each."""
    folder, device = Path(sys.argv[1]), sys.argv[2]
    run_ranks(rank_main, folder, device, start="fork" if device == "cpu" else "spawn")  # a fork cannot use CUDA


if __name__ == "__main__":
    main()
