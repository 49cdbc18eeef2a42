"""Who samples what on several engines: nothing lost, nothing doubled, whatever the order and whoever dies."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rollout.records import Lengths, Outcome, Prompt, SampleKey
from rollout.replicas.dispatcher import Dispatcher, InInputOrder, Task, Tasks
from rollout.replicas.longest import LongestFirst
from tests.conftest import chat


def outcome(place: SampleKey, tokens: int = 2) -> Outcome:
    return Outcome(*place, num_prompt_tokens=1, num_generated_tokens=tokens, error=None)


def places(tasks: list[Task]) -> list[SampleKey]:
    return [(task.prompt.row_id, index) for task in tasks for index in task.sample_indices]


def dispatcher(
    rows: int, n_samples: int, replicas: int, order: Callable[[Iterator[Task]], Tasks] = InInputOrder
) -> Dispatcher:
    """For a new run of equal rows."""
    prompts = (Prompt(row, chat("a")) for row in range(rows))
    return Dispatcher(prompts, lambda _: list(range(n_samples)), rows * n_samples, replicas, order)


class Run(RuleBasedStateMachine):
    """Replicas that take, finish, store, tell and die in any order; what is where is noted here a second time."""

    order: type[Tasks] = InInputOrder

    @initialize(owed=st.lists(st.sets(st.integers(0, 9)), max_size=12), num_replicas=st.integers(1, 4))
    def begin(self, owed: list[set[int]], num_replicas: int) -> None:
        self.owed = {(row, index) for row, indices in enumerate(owed) for index in indices}
        self.held: list[list[SampleKey]] = [[] for _ in range(num_replicas)]
        self.in_memory: list[list[SampleKey]] = [[] for _ in range(num_replicas)]
        self.stored: list[set[SampleKey]] = [set() for _ in range(num_replicas)]  # by the replica that is there now
        self.durable = Counter[SampleKey]()
        prompts = (Prompt(row, []) for row in range(len(owed)))
        self.dispatcher = Dispatcher(prompts, lambda row: sorted(owed[row]), len(self.owed), num_replicas, self.order)
        for replica in range(num_replicas):
            self.dispatcher.join(replica, 2)

    def any_replica(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.held) - 1), label="replica")

    @property
    def unfinished(self) -> set[SampleKey]:
        return self.owed - self.durable.keys() - {told for memory in self.in_memory for told in memory}

    @property
    def to_be_given(self) -> set[SampleKey]:
        return self.unfinished - {held for replica in self.held for held in replica}

    @rule(data=st.data(), capacity=st.integers(1, 30))
    def take(self, data: st.DataObject, capacity: int) -> None:
        self.take_by(self.any_replica(data), capacity)

    def take_by(self, replica: int, capacity: int) -> None:
        before, share = len(self.held[replica]), ceil(len(self.unfinished) / len(self.held))
        free = self.to_be_given
        given = places(self.dispatcher.take(replica, capacity))
        assert len(given) == len(set(given))
        assert set(given) <= free
        self.held[replica] += given
        assert len(self.held[replica]) <= max(before, min(capacity, share))
        assert self.held[replica] or not free  # none stays idle while there is something to do

    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        replica = self.any_replica(data)
        order = data.draw(st.permutations(self.held[replica]), label="order")
        told = order[: data.draw(st.integers(0, len(order)), label="told")]
        self.finish(replica, told)
        self.store(replica, data.draw(st.integers(0, len(self.in_memory[replica])), label="durable"))

    def finish(self, replica: int, told: list[SampleKey]) -> None:
        self.dispatcher.finished(replica, [outcome(each) for each in told])
        self.in_memory[replica] += told
        self.held[replica] = [each for each in self.held[replica] if each not in told]

    def store(self, replica: int, count: int) -> None:
        self.dispatcher.durable(replica, count)
        self.stored[replica] |= set(self.in_memory[replica][:count])
        self.durable.update(self.in_memory[replica][:count])
        del self.in_memory[replica][:count]

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        replica = self.any_replica(data)
        given = self.held[replica] + self.in_memory[replica]
        found = set(data.draw(st.permutations(given), label="order")[: data.draw(st.integers(0, len(given)))])
        journal = [outcome(each) for each in self.stored[replica] | found]
        lost_says, found_says = self.dispatcher.requeue(replica, journal)
        assert Counter(each.key for each in lost_says) == Counter(set(self.in_memory[replica]) - found)
        assert Counter(each.key for each in found_says) == Counter(found & set(self.held[replica]))
        self.durable.update(found)
        self.held[replica], self.in_memory[replica], self.stored[replica] = [], [], set()

    @invariant()
    def it_knows_where_every_sample_is(self) -> None:
        for replica, held in enumerate(self.held):
            assert self.dispatcher.held(replica) == len(held)
        assert self.dispatcher.all_finished == (not self.unfinished)
        assert self.dispatcher.is_done == (self.durable.keys() == self.owed)
        assert not [each for each, times in self.durable.items() if times > 1]

    def teardown(self) -> None:
        """Whatever has happened, replicas that go on working come to an end, with everything durable once."""
        for _ in range(2 * len(self.owed) + 1):
            for replica in range(len(self.held)):
                self.take_by(replica, capacity=7)
                self.finish(replica, list(self.held[replica]))
                self.store(replica, len(self.in_memory[replica]))
        assert self.dispatcher.is_done
        assert self.durable == Counter(self.owed)


class LongestFirstRun(Run):
    """The same in another order."""

    order = LongestFirst


TestEverySampleIsDurableExactlyOnce = pytest.mark.long(Run.TestCase)
TestEverySampleIsDurableExactlyOnce.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)

TestSoItIsWithTheLongestFirst = pytest.mark.long(LongestFirstRun.TestCase)
TestSoItIsWithTheLongestFirst.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_the_longest_rows_are_handed_out_first_once_a_sample_of_each_has_told_how_long_they_are() -> None:
    run = dispatcher(4, 5, replicas=2, order=LongestFirst)
    for replica in (0, 1):
        run.join(replica, 8)
    probes = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]  # of every fourth row two
    assert places(run.take(0, 5)) == probes
    lengths = {0: 10, 1: 40, 2: 30, 3: 20}
    run.finished(0, [outcome(each, lengths[each[0]]) for each in probes])
    assert places(run.take(1, 20)) == [(row, index) for row in (1, 2) for index in range(1, 5)]
    assert places(run.take(0, 20)) == [(3, 1), (3, 2), (3, 3), (3, 4), (0, 2), (0, 3), (0, 4)]


def test_what_had_finished_before_tells_the_order_at_once() -> None:
    run = dispatcher(3, 4, replicas=1, order=partial(LongestFirst, known=lambda row_id: Lengths(2, 20 + row_id)))
    run.join(0, 8)
    assert [task.prompt.row_id for task in run.take(0, 12)] == [2, 1, 0]


def test_nothing_owed_is_done_at_once() -> None:
    nothing = dispatcher(0, 4, replicas=3)
    assert nothing.is_done
    assert nothing.all_finished
    assert nothing.take(1, 100) == []


def test_rows_of_which_nothing_is_owed_are_passed_over() -> None:
    owed = {0: [1], 1: [], 2: [0, 3]}
    run = Dispatcher((Prompt(row, []) for row in range(3)), owed.__getitem__, 3, 1)
    assert places(run.take(0, 100)) == [(0, 1), (2, 0), (2, 3)]


@pytest.mark.parametrize(("replicas", "shares"), [(2, [20, 20]), (3, [14, 14, 12]), (4, [10, 10, 10, 10])])
def test_equal_work_is_shared_equally_at_once_even_by_the_first_to_ask(replicas: int, shares: list[int]) -> None:
    run = dispatcher(40, 1, replicas)
    assert [len(places(run.take(replica, 1000))) for replica in range(replicas)] == shares


def test_replicas_that_have_no_place_get_no_share() -> None:
    run = dispatcher(40, 1, replicas=8)
    assert len(places(run.take(0, 1000, num_connected=2))) == 20
    assert len(places(run.take(1, 1000, num_connected=2))) == 20
    assert run.take(2, 1000, num_connected=3) == []


def test_a_replica_never_holds_more_than_its_capacity_and_is_filled_up_again_as_samples_finish() -> None:
    run = dispatcher(1000, 1, replicas=2)
    first = places(run.take(0, 16))
    assert len(first) == 16
    assert run.take(0, 16) == []
    run.finished(0, [outcome(each) for each in first[:5]])
    assert places(run.take(0, 16)) == [(row, 0) for row in range(16, 21)]


def test_towards_the_end_a_fast_replica_is_given_no_more_than_its_share_of_what_is_left() -> None:
    run = dispatcher(100, 1, replicas=2)
    assert len(places(run.take(1, 10))) == 10
    most = []
    while mine := places(run.take(0, 30)):
        most.append(len(mine))
        run.finished(0, [outcome(each) for each in mine])
        run.durable(0, len(mine))
    assert most == [30, 30, 20, 10]  # of 100, 70, 40 and 20 that are not finished, half, and there are 90 for it
    assert run.held(1) == 10


def test_the_samples_of_a_row_stay_together() -> None:
    run = dispatcher(100, 4, replicas=2)
    assert [len(task.sample_indices) for task in run.take(0, 18)] == [4, 4, 4, 4]
    assert [task.prompt.row_id for task in run.take(1, 18)] == [4, 5, 6, 7]


def test_a_row_that_is_large_against_what_a_replica_holds_is_split() -> None:
    run = dispatcher(100, 5, replicas=2)
    assert [len(task.sample_indices) for task in run.take(0, 18)] == [5, 5, 5, 3]
    assert places(run.take(1, 18))[:3] == [(3, 3), (3, 4), (4, 0)]


def test_a_row_with_more_samples_than_the_replicas_hold_is_split_over_them() -> None:
    run = dispatcher(1, 100, replicas=3)
    parts = [places(run.take(replica, 10)) for replica in range(3)]
    assert parts == [[(0, index) for index in range(10 * replica, 10 * replica + 10)] for replica in range(3)]


def test_one_row_keeps_all_replicas_busy() -> None:
    run = dispatcher(1, 8, replicas=4)
    assert [len(places(run.take(replica, 1000))) for replica in range(4)] == [2, 2, 2, 2]


def test_what_a_dead_replica_held_comes_before_new_rows_and_in_its_order() -> None:
    run = dispatcher(100, 2, replicas=2)
    run.take(0, 8)
    assert places(run.take(1, 4)) == [(4, 0), (4, 1), (5, 0), (5, 1)]
    run.requeue(0, stored=[outcome((1, 0)), outcome((2, 0)), outcome((2, 1))])
    assert places(run.take(1, 12)) == [(0, 0), (0, 1), (1, 1), (3, 0), (3, 1), (6, 0), (6, 1)]


def test_a_replica_that_is_gone_tells_what_was_lost_and_what_was_found() -> None:
    run = dispatcher(4, 1, replicas=1)
    run.take(0, 4)
    run.finished(0, [outcome((1, 0)), outcome((0, 0)), outcome((2, 0))])
    run.durable(0, 1)
    lost, found = run.requeue(0, stored=[outcome((1, 0)), outcome((0, 0)), outcome((3, 0))])
    assert (lost, found) == ([outcome((2, 0))], [outcome((3, 0))])
    assert places(run.take(0, 4)) == [(2, 0)]


def test_finished_is_not_durable() -> None:
    run = dispatcher(2, 1, replicas=1)
    run.take(0, 2)
    run.finished(0, [outcome((1, 0)), outcome((0, 0))])
    assert run.all_finished
    run.durable(0, 1)
    assert not run.is_done
    run.durable(0, 1)
    assert run.is_done


class Chat(list[dict[str, str]]):
    """A prompt's messages, of which one can know whether anybody still holds them."""


def test_prompts_are_read_when_they_are_given_and_forgotten_once_durable() -> None:
    seen: list[weakref.ref[Chat]] = []

    def prompts() -> Iterator[Prompt]:
        for row in range(5000):
            messages = Chat()
            seen.append(weakref.ref(messages))
            yield Prompt(row, messages)
            del messages

    run = Dispatcher(prompts(), lambda _: [0, 1], 10_000, num_replicas=2)
    alive = list[int]()
    while not run.is_done:
        assert len(alive) < 1000, "there is no end to it"
        for replica in (0, 1):
            mine = places(run.take(replica, 20))
            run.finished(replica, [outcome(each) for each in mine])
            alive.append(sum(ref() is not None for ref in seen[-100:]))
            run.durable(replica, len(mine))
    assert len(seen) == 5000
    assert 10 <= max(alive) <= 22  # what two replicas hold, and the row that is looked at
