"""How far a run is and how fast: the numbers behind the progress bar, metrics.jsonl and the totals in run.json."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest

from rollout.engine.protocol import NO_STATS, EngineStats
from rollout.records import Outcome, Sample
from rollout.store.run_record import Throughput

_NOW_SECONDS = 10.0  # "now" is the average over this time


@dataclass(frozen=True)
class Snapshot:
    """The state of the generation stage at one moment. Rates are in tokens per second and leave loading out."""

    elapsed_seconds: float
    samples_done: int
    samples_total: int
    samples_generated: int
    samples_failed: int
    prompt_tokens: int
    generated_tokens: int
    output_tok_s: float
    output_tok_s_now: float
    eta_seconds: float | None
    running: int
    waiting: int
    preemptions: int = 0
    """How often a sample was put back because the KV cache was full, and computed again."""
    replica_tok_s_now: tuple[float, ...] = ()
    """Tokens per second of each engine, if there are several."""


def throughput_of(now: Snapshot) -> Throughput:
    """The throughput of a session so far, for run.json; some time must have passed."""
    return Throughput(
        samples=now.samples_generated,
        generated_tokens=now.generated_tokens,
        output_tok_s=round(now.output_tok_s, 1),
        samples_s=round(now.samples_generated / now.elapsed_seconds, 3),
        preemptions=now.preemptions,
    )


class Progress:
    """Counts samples as they finish, in addition to those of earlier sessions of the run.

    Tokens and rates are for this session only; tokens include those of unfinished samples.
    """

    def __init__(self, samples_owed: int, samples_before: int, samples_open: int = 0) -> None:
        """`samples_open` is how many of the owed samples are in rows that may stop before they have them all; see
        `settle`.
        """
        self._stats: Callable[[], EngineStats] = lambda: NO_STATS
        self._start: float | None = None  # the clock's time, while it runs
        self._elapsed_before = 0.0
        self._tokens_before = self._preemptions = self._preemptions_before = 0
        # (elapsed, generated tokens, generated tokens of each replica), for "now"
        self._recent: deque[tuple[float, int, tuple[int, ...]]] = deque([(0.0, 0, ())])
        self._total, self._before = samples_owed, samples_before
        self._open = samples_open
        self._spared = self._settled = 0
        self._done = self._failed = self._prompt_tokens = self._finished_tokens = 0
        self._lengths = Counter[int]()  # of finished responses

    @contextmanager
    def watching(self, stats: Callable[[], EngineStats]) -> Iterator[None]:
        """Run the clock in the body; `stats` returns the engine's numbers. To be used once for each engine.

        After the body the engine is not asked any more: it may be gone.
        """
        self._stats, self._start = stats, time.monotonic()
        begin = stats()
        self._tokens_before = begin.generated_tokens - self._finished_tokens
        self._preemptions_before = begin.preemptions - self._preemptions
        try:
            yield
        finally:
            self._elapsed_before, self._start = self._elapsed(), None
            last = replace(stats(), running=0, waiting=0)
            self._stats = lambda: last

    def count(self, sample: Sample | Outcome, times: int = 1) -> None:
        """Count a sample that has finished; with `times=-1`, take back one that is lost."""
        self._done += times
        self._failed += times * (sample.error is not None)
        self._prompt_tokens += times * (sample.num_prompt_tokens or 0)
        self._finished_tokens += times * sample.num_generated_tokens
        if sample.error is None:
            self._lengths[sample.num_generated_tokens] += times

    def settle(self, spared: int, settled: int) -> None:
        """A row that could have had `settled` samples has enough; `spared` of its owed samples need not be generated.

        Both are negative if a row is open again.
        """
        self._spared += spared
        self._settled += settled

    @property
    def _total_expected(self) -> int:
        """How many samples this session will generate, if the open rows spare as many as the others."""
        left = self._total - self._spared
        rest = self._spared * (self._open - self._settled) / self._settled if self._settled > 0 else 0.0
        return max(self._done, left - round(rest))

    def snapshot(self) -> Snapshot:
        """Ask the engine, if the clock runs (about a millisecond), and compute the state."""
        stats, elapsed = self._stats(), self._elapsed()
        generated = max(stats.generated_tokens - self._tokens_before, self._finished_tokens)
        self._preemptions = max(self._preemptions, stats.preemptions - self._preemptions_before)
        self._recent.append((elapsed, generated, stats.tokens_of_replicas))
        while len(self._recent) > 2 and elapsed - self._recent[1][0] >= _NOW_SECONDS:
            self._recent.popleft()
        then, generated_then, of_replicas_then = self._recent[0]
        overall = generated / elapsed if elapsed else 0.0
        of_replicas = tuple(
            max(0.0, (tokens - tokens_then) / (elapsed - then)) if elapsed > then else 0.0
            for tokens, tokens_then in zip_longest(stats.tokens_of_replicas, of_replicas_then, fillvalue=0)
        )
        now = (generated - generated_then) / (elapsed - then) if elapsed > then else overall
        if of_replicas and elapsed > then:  # a lost replica took tokens with it, which are not generated again yet
            now = sum(of_replicas)
        return Snapshot(
            elapsed_seconds=elapsed,
            samples_done=self._before + self._done,
            samples_total=self._before + self._total_expected,
            samples_generated=self._done,
            samples_failed=self._failed,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=generated,
            output_tok_s=overall,
            output_tok_s_now=now,
            eta_seconds=self._eta(generated - self._finished_tokens, stats.running, overall, now),
            running=stats.running,
            waiting=stats.waiting,
            preemptions=self._preemptions,
            replica_tok_s_now=of_replicas,
        )

    def _elapsed(self) -> float:
        return self._elapsed_before + (0.0 if self._start is None else time.monotonic() - self._start)

    def _eta(self, unfinished_tokens: int, running: int, overall: float, now: float) -> float | None:
        """Seconds to the end, if the remaining responses are as long as the finished ones.

        None while more samples are running than have finished: the first to finish are the short ones, and say too
        little.

        The larger of two bounds counts: all remaining tokens at the overall rate, and the rest of one running sample at
        the rate of one sample, which is what the end of a run waits for.
        """
        if not self._lengths or self._done < running or not overall or not now:
            return None
        rest = self._expected_rest(unfinished_tokens / running) if running else 0.0
        begun = self._lengths.total() + running
        mean = (self._finished_tokens + unfinished_tokens + running * rest) / begun
        not_begun = max(0, self._total_expected - self._done - running)
        return max((not_begun * mean + running * rest) / overall, rest * running / now)

    def _expected_rest(self, age: float) -> float:
        """How many more tokens to expect of a sample with `age` tokens: the mean over longer finished ones."""
        longer = {length: count for length, count in self._lengths.items() if length > age}
        if not longer:
            return age  # no finished one was longer: expect as much again
        return sum((length - age) * count for length, count in longer.items()) / sum(longer.values())
