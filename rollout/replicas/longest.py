"""`sampling.order=longest_first` on several engines: one order for all, decided where tasks are handed out.

If each replica ordered its own samples, it would have to hold thousands, and near the end one would have a queue while
another is idle. So a replica holds little more than it works on, in the order in which it was given it.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from rollout.generation.order import nothing_known
from rollout.generation.session import Session
from rollout.generation.turns import ROWS, SAMPLES, Turns
from rollout.records import Lengths, Outcome, Prompt
from rollout.replicas.dispatcher import WHOLE_ROWS, InInputOrder, Task, Tasks
from rollout.store.lengths import row_lengths

_MOST_ROWS = 20_000  # whose prompts the driver holds, with however many replicas


def order_of(session: Session) -> Callable[[Iterator[Task]], Tasks]:
    """What makes of all tasks those that come next, in the order of the session's run."""
    if session.run.sampling.order == "input":
        return InInputOrder
    return partial(LongestFirst, known=row_lengths(session.run_dir, session.counts))


@dataclass
class _Row:
    prompt: Prompt
    indices: list[int] = field(default_factory=list)


class LongestFirst:
    """The tasks of the longest rows first. Of a row whose length is to be found out, a task has one sample or two."""

    def __init__(
        self,
        tasks: Iterator[Task],
        known: Callable[[int], Lengths] = nothing_known,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known(row_id)` is what had finished of a row before."""
        self._tasks, self._known = tasks, known
        self._turns = Turns(clock)
        self._waiting: dict[int, _Row] = {}
        self._num_waiting = 0

    def join(self, replica: int, slots: int) -> None:
        """A replica is ready that generates so many samples at a time."""
        self._turns.set_slots(slots, replica)

    def next(self, replica: int, room: int, most: int, /) -> Task | None:
        self._fill()
        turn = self._turns.next()
        if turn is None or (turn.samples > room and turn.samples * WHOLE_ROWS <= most):
            return None
        row = self._waiting[turn.row_id]
        given, row.indices = row.indices[: min(turn.samples, room)], row.indices[min(turn.samples, room) :]
        if not row.indices:
            del self._waiting[turn.row_id]
        self._num_waiting -= len(given)
        for index in given:
            self._turns.start(turn.row_id, index, replica)
        return Task(row.prompt, given)

    def add(self, task: Task) -> None:
        row_id = task.prompt.row_id
        self._waiting.setdefault(row_id, _Row(task.prompt)).indices.extend(task.sample_indices)
        self._num_waiting += len(task.sample_indices)
        self._turns.add(row_id, len(task.sample_indices), self._known(row_id))

    def again(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            for index in task.sample_indices:
                self._turns.finish(task.prompt.row_id, index, None)
            self.add(task)

    def finished(self, outcomes: Collection[Outcome]) -> None:
        for ended in outcomes:
            tokens = ended.num_generated_tokens if ended.error is None else None
            self._turns.finish(ended.row_id, ended.sample_idx, tokens)

    def _fill(self) -> None:
        slots = self._turns.slots
        most_rows, most_samples = min(ROWS * slots, _MOST_ROWS), SAMPLES * slots
        while len(self._waiting) < most_rows and self._num_waiting < most_samples:
            task = next(self._tasks, None)
            if task is None:
                return
            self.add(task)
