"""Every key for how the progress of a run is recorded."""

from dataclasses import dataclass, field


@dataclass
class TrackingConfig:
    """Weights & Biases, and how often it gets data."""

    mode: str = field(default="offline", metadata={"choices": ("online", "offline", "disabled")})
    """Weights & Biases: online, offline (upload later with `wandb sync`), or not at all."""
    project: str = "rollout"
    """W&B project."""
    entity: str | None = None
    """W&B team or user. null: the logged-in user's default."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    interval_seconds: float = field(default=5.0, metadata={"gt": 0.0})
    """Seconds between two lines of metrics.jsonl and two points in W&B."""
    sample_rows: int = field(default=20, metadata={"ge": 0, "le": 100})
    """Rows of the W&B table of samples: one per sample, at most four samples of a prompt."""
    artifact: bool = False
    """Log a W&B artifact that refers to the output files by their path; their content is not uploaded."""
    init_timeout: float = field(default=8.0, metadata={"gt": 0.0, "le": 600.0})
    """Seconds to wait for the W&B server before continuing offline."""
    finish_timeout: float = field(default=8.0, metadata={"gt": 0.0, "le": 600.0})
    """Seconds to wait at the end for data that is not uploaded yet; `wandb sync` uploads the rest."""
