"""What the driver knows of one replica, and what run.json says of it."""

from dataclasses import dataclass, field

from rollout.engine.protocol import EngineStats
from rollout.records import Outcome
from rollout.replicas.messages import Job, Ready
from rollout.store.run_record import ReplicaRecord


@dataclass
class Known:
    """One replica, through all its engines."""

    job: Job
    ready: Ready | None = None
    newest: Ready | None = None
    """Of the engine that is there, or else of the one that was."""
    stats: EngineStats = field(default_factory=lambda: EngineStats(0, 0, 0))
    samples: int = 0
    tokens: int = 0
    """Of the samples that have finished here and are not lost."""
    unscored: int = 0
    """Samples that wait for their scores here, and not for the engine."""
    tokens_before: int = 0
    """`tokens` when the engine that is there now began."""
    preemptions_before: int = 0
    """Those of its engines before the one that is there now."""
    restarts: int = 0

    @property
    def generated_tokens(self) -> int:
        """Those of samples that have not finished included."""
        return max(self.tokens, self.tokens_before + self.stats.generated_tokens)

    @property
    def preemptions(self) -> int:
        """Of all its engines."""
        return self.preemptions_before + self.stats.preemptions

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

    def count(self, outcome: Outcome, times: int) -> None:
        """One more sample has finished here, or (-1) is lost."""
        self.samples += times
        self.tokens += times * outcome.num_generated_tokens
