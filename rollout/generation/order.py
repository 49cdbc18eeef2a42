"""The order in which an engine gets samples (`sampling.order`). `turns` decides which row is the longest."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

from rollout.config import RunConfig, SamplingConfig
from rollout.data.row_sampling import SampleCounts
from rollout.engine.protocol import Engine
from rollout.generation.loop import WINDOW, Source, as_it_is
from rollout.generation.turns import ROWS, SAMPLES, Turns
from rollout.records import Lengths, Request, Sample
from rollout.store.lengths import row_lengths

_MAX_PROMPT_TOKENS = 4_000_000  # in prompts of the rows in the window: about 150 MB
_WAITING = 4  # max_num_seqs divided by this: how many more samples may wait in the engine, which keeps their order


def in_order(run: RunConfig, engine: Engine, run_dir: Path, counts: SampleCounts) -> Callable[[Source], Source]:
    """A function that puts a source in the order that `run` asks for.

    The journal in `run_dir` shows which of the samples in `counts` had finished before.
    """
    if run.sampling.order == "input":
        return as_it_is
    known = row_lengths(run_dir, counts)
    return lambda source: LongestFirst(source, engine, known)


def nothing_known(_row_id: int) -> Lengths:
    """The finished lengths of a row in a run that begins: none."""
    return Lengths()


def most_held(sampling: SamplingConfig, slots: int) -> int:
    """How many samples an engine with this many slots gets at most: those that it works on, and some that wait."""
    return WINDOW * slots if sampling.order == "input" else most_given(slots)


def most_given(slots: int) -> int:
    """As `most_held`, for `longest_first`: few may wait in the engine, because their order is fixed."""
    return slots + max(2, slots // _WAITING)


class LongestFirst:
    """A source that takes from another as much as fits in its window, and gives the longest first."""

    def __init__(self, source: Source, engine: Engine, known: Callable[[int], Lengths] = nothing_known) -> None:
        """`known(row_id)` is what had finished of a row before this session."""
        slots = engine.max_num_seqs
        self._source, self._known = source, known
        self._most_rows, self._most_samples, self._most_given = ROWS * slots, SAMPLES * slots, most_given(slots)
        self._turns = Turns(lambda: engine.steps)
        self._turns.set_slots(slots)
        self._waiting: dict[int, deque[Request]] = {}
        self._num_waiting = self._num_tokens = self._num_given = 0

    @property
    def ended(self) -> bool:
        return self._source.ended and not self._num_waiting

    def take(self, wait: bool) -> Request | Sample | None:
        failed = self._fill(wait)
        if failed is not None or self._num_given >= self._most_given:
            return failed
        turn = self._turns.next()
        return None if turn is None else self._start(turn.row_id)

    def hear(self, sample: Sample) -> None:
        self._source.hear(sample)
        tokens = sample.num_generated_tokens if sample.error is None else None
        self._num_given -= self._turns.finish(sample.row_id, sample.sample_idx, tokens)

    def _fill(self, wait: bool) -> Sample | None:
        """Fill the window from the source. Returns a sample that failed before it became a request, to be passed on."""
        while (
            len(self._waiting) < self._most_rows
            and self._num_waiting < self._most_samples
            and self._num_tokens < _MAX_PROMPT_TOKENS
        ):
            item = self._source.take(wait and not self._num_waiting)
            if not isinstance(item, Request):
                return item
            self._hold(item)
        return None

    def _hold(self, request: Request) -> None:
        if request.row_id not in self._waiting:
            self._waiting[request.row_id] = deque()
            self._num_tokens += len(request.prompt_token_ids)
        self._waiting[request.row_id].append(request)
        self._num_waiting += 1
        self._turns.add(request.row_id, 1, self._known(request.row_id))

    def _start(self, row_id: int) -> Request:
        requests = self._waiting[row_id]
        request = requests.popleft()
        if not requests:
            del self._waiting[row_id]
            self._num_tokens -= len(request.prompt_token_ids)
        self._num_waiting -= 1
        self._num_given += 1
        self._turns.start(row_id, request.sample_idx)
        return request
