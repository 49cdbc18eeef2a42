"""Who samples what when several engines work on one run.

There is no static split. Each replica is given as much as keeps it busy, and never more than its fair share of what is
left, so that none runs dry while another still has a queue. What is given is remembered until it is durable: the
samples of a replica that dies go to the others.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rollout.records import Outcome, Prompt

SampleKey = tuple[int, int]
"""(row_id, sample_idx)."""

_WHOLE_ROWS = 4
"""A row is split over replicas only when its samples are more than this fraction (1/4) of what a replica holds: on one
replica the samples of a row share the computation of their prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some samples of one row, for one replica."""

    prompt: Prompt
    sample_indices: list[int]


class Dispatcher:
    """Hands out what is owed, and knows at every moment where each sample is.

    A sample is first owed, then held by a replica, then finished there but in memory only, then durable. Memory is
    bounded by what the replicas hold and have not made durable.
    """

    def __init__(
        self, prompts: Iterable[Prompt], owed: Callable[[int], list[int]], num_owed: int, num_replicas: int
    ) -> None:
        """`owed(row_id)` gives the sample indices to be generated, `num_owed` their number over all `prompts`, with
        what `add` is going to bring.
        """
        self._tasks = (Task(prompt, indices) for prompt in prompts if (indices := owed(prompt.row_id)))
        self._returned: deque[Task] = deque()
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

    def held(self, replica: int) -> int:
        """Samples that a replica has been given and that have not finished."""
        return len(self._given[replica]) - len(self._in_memory[replica])

    def take(self, replica: int, capacity: int, num_connected: int | None = None) -> list[Task]:
        """More for a replica that may hold `capacity` samples; nothing if it has its share of what is left.

        Shares are for the `num_connected` replicas that have a place, also while they load their engines. None: all.
        """
        most = min(capacity, -(-self._unfinished // (num_connected or len(self._given))))
        tasks: list[Task] = []
        while (room := most - self.held(replica)) > 0 and (task := self._next()) is not None:
            if len(task.sample_indices) > room:
                if len(task.sample_indices) * _WHOLE_ROWS <= most:
                    self._returned.appendleft(task)
                    break
                self._returned.appendleft(Task(task.prompt, task.sample_indices[room:]))
                task = Task(task.prompt, task.sample_indices[:room])
            row_id = task.prompt.row_id
            self._given[replica] |= {(row_id, index): task.prompt for index in task.sample_indices}
            tasks.append(task)
        return tasks

    def add(self, task: Task) -> None:
        """More samples of a row, which are among what was said to be owed."""
        self._returned.append(task)

    def owe(self, more: int) -> None:
        """So many more samples are owed than was said; fewer where it is negative."""
        self._unfinished += more

    def prompts_of(self, replica: int) -> dict[int, Prompt]:
        """By row, of the samples that a replica has been given and that are not durable."""
        return {row_id: prompt for (row_id, _), prompt in self._given[replica].items()}

    def finished(self, replica: int, outcomes: Collection[Outcome]) -> None:
        """Note what has finished, in this order; until it is `durable` it can be lost with the replica."""
        self._unfinished -= len(outcomes)
        self._in_memory[replica].extend(outcomes)

    def durable(self, replica: int, count: int) -> None:
        """Note that the `count` samples that finished first, of those in the replica's memory, are durable."""
        for _ in range(count):
            del self._given[replica][_sample_key(self._in_memory[replica].popleft())]

    def requeue(self, replica: int, stored: Iterable[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
        """A replica is gone: owe again what it was given, but for what its journal holds, `stored`.

        Returns what it had reported and is lost, and what is stored but it had not reported yet.
        """
        given, reported = self._given[replica], {_sample_key(outcome): outcome for outcome in self._in_memory[replica]}
        safe = {place: outcome for outcome in stored if (place := _sample_key(outcome)) in given}
        lost = [outcome for place, outcome in reported.items() if place not in safe]
        found = [outcome for place, outcome in safe.items() if place not in reported]
        self._unfinished += len(lost) - len(found)
        again: dict[int, Task] = {}
        for (row_id, index), prompt in given.items():
            if (row_id, index) not in safe:
                again.setdefault(row_id, Task(prompt, [])).sample_indices.append(index)
        self._returned.extendleft(reversed(again.values()))
        given.clear()
        self._in_memory[replica].clear()
        return lost, found

    def _next(self) -> Task | None:
        return self._returned.popleft() if self._returned else next(self._tasks, None)


def _sample_key(outcome: Outcome) -> SampleKey:
    return outcome.row_id, outcome.sample_idx
