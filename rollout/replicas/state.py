"""What the driver knows of one replica, and what run.json says of it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rollout.engine.protocol import NO_STATS, EngineStats
from rollout.records import Outcome
from rollout.replicas.messages import Job, Ready, Report
from rollout.store.run_record import ReplicaRecord

_QUIET_SECONDS, QUIET_IN_WORDS = 120.0, "two minutes"
"""A replica that has samples to work on and makes no token for so long may hang."""


@dataclass
class ReplicaState:
    """One replica, through all its engines: when one dies, it gets another."""

    job: Job
    ready: Ready | None = None
    """None until its engine is loaded."""
    newest: Ready | None = None
    """`ready`, or while that is None, the one of the engine before."""
    stats: EngineStats = NO_STATS
    samples: int = 0
    """How many have finished here and are not lost."""
    tokens: int = 0
    """Their generated tokens."""
    unscored: int = 0
    """Samples that are with the scorer, not with the engine."""
    tokens_before: int = 0
    """`tokens` when the present engine began."""
    preemptions_before: int = 0
    """Preemptions of the engines before the present one."""
    restarts: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When it last made progress, on the monotonic clock."""
    is_quiet: bool = False
    """Whether that was longer ago than _QUIET_SECONDS."""

    @property
    def generated_tokens(self) -> int:
        """All tokens so far, of unfinished samples too."""
        return max(self.tokens, self.tokens_before + self.stats.generated_tokens)

    @property
    def preemptions(self) -> int:
        """Preemptions of all its engines."""
        return self.preemptions_before + self.stats.preemptions

    def hear(self, report: Report) -> None:
        """Take in a report about the engine."""
        if report.ready is not None and self.ready is None:
            self.ready = self.newest = report.ready
            self._gets_on()
        if report.stats.generated_tokens != self.stats.generated_tokens:
            self._gets_on()
        self.stats, self.unscored = report.stats, report.unscored

    def falls_quiet(self, num_owed: int) -> bool:
        """Whether it has just become quiet, with `num_owed` samples to make: true only once until it makes progress."""
        if self.ready is None or not num_owed:
            self._gets_on()
        was_quiet, self.is_quiet = self.is_quiet, time.monotonic() - self.moved > _QUIET_SECONDS
        return self.is_quiet and not was_quiet

    def _gets_on(self) -> None:
        self.moved, self.is_quiet = time.monotonic(), False

    def record(self, seconds: float) -> ReplicaRecord:
        """What run.json says of it after `seconds` of generating."""
        about = ReplicaRecord(
            restarts=self.restarts,
            samples=self.samples,
            generated_tokens=self.generated_tokens,
            output_tok_s=round(self.generated_tokens / seconds, 1) if seconds else None,
        )
        if (ready := self.newest) is not None:
            about.host, about.gpus = ready.host, ready.gpus
            about.safer, about.reloaded = list(ready.safer), ready.reloaded
            about.sampler, about.kv_cache_tokens = ready.sampler, ready.kv_cache_tokens
            about.load_seconds = round(ready.seconds, 3)
        return about

    def restart(self, job: Job) -> None:
        """Its engine is gone; the next one begins with `job`."""
        self.job, self.ready = job, None
        self.restarts += 1
        self.tokens_before, self.preemptions_before = self.tokens, self.preemptions
        self.stats, self.unscored = NO_STATS, 0

    def count(self, outcome: Outcome, times: int) -> None:
        """One more sample has finished here, or (-1) is lost."""
        self.samples += times
        self.tokens += times * outcome.num_generated_tokens


def total_stats(states: Sequence[ReplicaState], held: Iterable[int]) -> EngineStats:
    """The numbers of all replicas together; `held` is how many unfinished samples each has been given.

    A replica's own numbers are a moment old, and what it holds is known here: it runs no more than that.
    """
    tokens = tuple(state.generated_tokens for state in states)
    running = sum(min(state.stats.running, most) for state, most in zip(states, held, strict=True))
    waiting = sum(state.stats.waiting for state in states) if running else 0
    return EngineStats(running, waiting, sum(tokens), sum(state.preemptions for state in states), tokens)
