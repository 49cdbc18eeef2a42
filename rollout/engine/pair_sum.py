"""A Triton kernel with which two GPUs add their tensors: an all-reduce of two ranks, whose result both get.

Each program writes its part of this GPU's tensor into a mailbox in the other GPU's memory, and then a flag. Once its
own flag is there, it adds what it finds in its own mailbox. vLLM's kernel does it the other way round: it waits until
both tensors are there, reads the other GPU's, and waits until both have read. docs/performance.md has both measured.

There are two mailboxes, used in turn, each with a flag for every program. So a mailbox is written again two calls
later. By then the flag of the call in between has come, and the other GPU sent it after its whole kernel of the call
before had ended: that mailbox has been read.
"""

import torch
import triton
import triton.language as tl

_PROGRAMS = 96
"""Programs of every call, however small: each counts the calls on its own. Between 64 and 192, times of tensors of 1 to
8 MB differ by a few percent on two H200s.
"""
_BLOCK = 4096
_WARPS = 16
FLAGS = 2 * _PROGRAMS
"""Flags of a GPU, in int32; all 0 at first."""
MAILBOXES = 2
"""Mailboxes of a GPU, one behind the other."""


@triton.jit
def _pair_sum(
    mine,
    total,
    numel,
    calls,
    mailboxes,
    flags,
    their_mailboxes,
    their_flags,
    room,
    programs: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    call = tl.load(calls + program) + 1
    turn = call & 1
    element = tl.pointer_type(mine.dtype.element_ty)
    received = tl.multiple_of(mailboxes.to(element) + turn * room, 16)
    sent = tl.multiple_of(their_mailboxes.to(element) + turn * room, 16)
    for start in range(program * block, numel, programs * block):
        at = start + tl.arange(0, block)
        inside = at < numel
        tl.store(sent + at, tl.load(mine + at, mask=inside), mask=inside)
    flag = turn * programs + program
    tl.debug_barrier()  # all threads have written, before the one that says so
    tl.atomic_xchg(their_flags.to(tl.pointer_type(tl.int32)) + flag, call, sem="release", scope="sys")
    while tl.atomic_add(flags.to(tl.pointer_type(tl.int32)) + flag, 0, sem="acquire", scope="sys") != call:
        pass
    tl.debug_barrier()
    for start in range(program * block, numel, programs * block):
        at = start + tl.arange(0, block)
        inside = at < numel
        one = tl.load(mine + at, mask=inside).to(tl.float32)
        other = tl.load(received + at, mask=inside, cache_modifier=".cg").to(tl.float32)  # not an old line of L1
        tl.store(total + at, (one + other).to(total.dtype.element_ty), mask=inside)
    tl.store(calls + program, call)


class PairSum:
    """Adds the tensors of this GPU and the other one. Both make the same calls, one after the other."""

    def __init__(
        self, mailboxes: tuple[int, int], flags: tuple[int, int], room: int, device: torch.device | str
    ) -> None:
        """Addresses of memory of this GPU and of the other one: `MAILBOXES` of `room` bytes each, and `FLAGS`."""
        self._mailboxes, self._flags, self._room = mailboxes, flags, room
        self._calls = torch.zeros(_PROGRAMS, dtype=torch.int32, device=device)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """The sum, rounded once to the type of `values`: a contiguous tensor of floats, of at most `room` bytes."""
        total = torch.empty_like(values)
        _pair_sum[(_PROGRAMS,)](
            values,
            total,
            values.numel(),
            self._calls,
            self._mailboxes[0],
            self._flags[0],
            self._mailboxes[1],
            self._flags[1],
            self._room // values.element_size(),
            _PROGRAMS,
            _BLOCK,
            num_warps=_WARPS,
        )
        return total
