"""Which engine samples what, when several work on one run.

There is no static split. Each replica is given as much as keeps it busy, and never more than its fair share of what is
left, so that none is idle while another has a queue. What was handed out is remembered until it is durable: if a
replica dies, its samples go to the others.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rollout.records import Outcome, Prompt, SampleKey

WHOLE_ROWS = 4
"""A row is split over replicas only when its samples are more than this fraction (1/4) of what a replica holds: on one
replica the samples of a row share the computation of their prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some samples of one row, for one replica."""

    prompt: Prompt
    sample_indices: list[int]


class Tasks(Protocol):
    """What is owed, in the order in which it is to be handed out."""

    def join(self, replica: int, slots: int) -> None:
        """A replica is ready; it generates `slots` samples at a time."""
        ...

    def next(self, replica: int, room: int, most: int, /) -> Task | None:
        """The next task for a replica, which has `room` for more samples and may hold `most`.

        None if there is no task, or none that fits.
        """
        ...

    def add(self, task: Task) -> None:
        """Add more samples of a row."""
        ...

    def again(self, tasks: Iterable[Task]) -> None:
        """Take back tasks that were handed out, to be done again."""
        ...

    def finished(self, outcomes: Collection[Outcome]) -> None:
        """Be told of samples that have finished."""
        ...


class InInputOrder:
    """First tasks that are done again, then those that were added, then row by row."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks, self._returned = tasks, deque[Task]()

    def join(self, replica: int, slots: int) -> None:
        pass

    def next(self, _replica: int, room: int, most: int, /) -> Task | None:
        task = self._returned.popleft() if self._returned else next(self._tasks, None)
        if task is None or len(task.sample_indices) <= room:
            return task
        if len(task.sample_indices) * WHOLE_ROWS <= most:
            self._returned.appendleft(task)
            return None
        self._returned.appendleft(Task(task.prompt, task.sample_indices[room:]))
        return Task(task.prompt, task.sample_indices[:room])

    def add(self, task: Task) -> None:
        self._returned.append(task)

    def again(self, tasks: Iterable[Task]) -> None:
        self._returned.extendleft(reversed(list(tasks)))

    def finished(self, outcomes: Collection[Outcome]) -> None:
        pass


class Dispatcher:
    """Hands out what is owed, and knows at every moment where each sample is.

    A sample is first owed, then held by a replica, then finished there but in memory only, then durable. Memory is
    bounded by what the replicas hold and have not made durable.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt],
        owed: Callable[[int], list[int]],
        num_owed: int,
        num_replicas: int,
        order: Callable[[Iterator[Task]], Tasks] = InInputOrder,
    ) -> None:
        """`owed(row_id)` gives the sample indices to be generated; `num_owed` is their number over all `prompts`, with
        those that `add` will bring. `order` puts the tasks, which come row by row, in the order of handing out.
        """
        self._tasks = order(Task(prompt, indices) for prompt in prompts if (indices := owed(prompt.row_id)))
        self._unfinished = num_owed
        self._given: list[dict[SampleKey, Prompt]] = [{} for _ in range(num_replicas)]  # what is not durable
        self._in_memory: list[deque[Outcome]] = [deque() for _ in range(num_replicas)]  # in the order of finishing

    @property
    def all_finished(self) -> bool:
        """Whether every sample has finished; some may not be durable yet."""
        return self._unfinished == 0

    @property
    def is_done(self) -> bool:
        """Whether every sample is durable."""
        return self.all_finished and not any(self._given)

    def join(self, replica: int, slots: int) -> None:
        """A replica is ready; it generates `slots` samples at a time."""
        self._tasks.join(replica, slots)

    def held(self, replica: int) -> int:
        """Samples that a replica has been given and that have not finished."""
        return len(self._given[replica]) - len(self._in_memory[replica])

    def take(self, replica: int, capacity: int, num_connected: int | None = None) -> list[Task]:
        """Tasks for a replica that may hold `capacity` samples; none if it has its share of what is left.

        Shares are for the `num_connected` replicas that have a process, also while they load (None: all replicas).
        """
        most = min(capacity, -(-self._unfinished // (num_connected or len(self._given))))
        tasks: list[Task] = []
        while (room := most - self.held(replica)) > 0 and (task := self._tasks.next(replica, room, most)) is not None:
            row_id = task.prompt.row_id
            self._given[replica] |= {(row_id, index): task.prompt for index in task.sample_indices}
            tasks.append(task)
        return tasks

    def add(self, task: Task) -> None:
        """Add samples of a row, which are included in what is owed."""
        self._tasks.add(task)

    def owe(self, more: int) -> None:
        """Count so many more samples as owed; fewer if negative."""
        self._unfinished += more

    def prompts_of(self, replica: int) -> dict[int, Prompt]:
        """row_id -> prompt, of the samples that a replica was given and that are not durable."""
        return {row_id: prompt for (row_id, _), prompt in self._given[replica].items()}

    def finished(self, replica: int, outcomes: Collection[Outcome]) -> None:
        """Note samples that have finished, in this order; until they are `durable` they may be lost with it."""
        self._unfinished -= len(outcomes)
        self._in_memory[replica].extend(outcomes)
        self._tasks.finished(outcomes)

    def durable(self, replica: int, count: int) -> None:
        """Note that the `count` samples that finished first, of those in the replica's memory, are durable."""
        for _ in range(count):
            del self._given[replica][self._in_memory[replica].popleft().key]

    def requeue(self, replica: int, stored: Iterable[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
        """A replica is gone: owe again what it was given, except what its journal holds (`stored`).

        Returns the samples that it had reported and that are lost, and those that are stored but were not reported.
        """
        given, reported = self._given[replica], {outcome.key: outcome for outcome in self._in_memory[replica]}
        safe = {outcome.key: outcome for outcome in stored if outcome.key in given}
        lost = [outcome for key, outcome in reported.items() if key not in safe]
        found = [outcome for key, outcome in safe.items() if key not in reported]
        self._unfinished += len(lost) - len(found)
        again: dict[int, Task] = {}
        for (row_id, index), prompt in given.items():
            if (row_id, index) not in safe:
                again.setdefault(row_id, Task(prompt, [])).sample_indices.append(index)
        self._tasks.finished(found)
        self._tasks.again(again.values())
        given.clear()
        self._in_memory[replica].clear()
        return lost, found
