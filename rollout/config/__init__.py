"""Every key of a run and of the commands: its name, type, default, limits and meaning."""

from rollout.config.adaptive import AdaptiveConfig
from rollout.config.commands import (
    AnalyzeCommand,
    ExportCommand,
    FileCommand,
    FilterCommand,
    FlattenCommand,
    PrepareConfig,
    ScoreCommand,
)
from rollout.config.echo import EchoConfig
from rollout.config.sampling import RepetitionDetectionConfig, SamplingConfig, StructuredOutputsConfig
from rollout.config.schema import (
    EMBEDDED_MODEL,
    STEPS,
    AnalyzeConfig,
    DataConfig,
    EngineConfig,
    ExportConfig,
    ExportFormat,
    FilterConfig,
    HardwareConfig,
    ModelConfig,
    PostprocessConfig,
    ReportConfig,
    RunConfig,
    ScoreConfig,
    StoreConfig,
    SweepConfig,
)
from rollout.config.tracking import TrackingConfig

__all__ = [
    "EMBEDDED_MODEL",
    "STEPS",
    "AdaptiveConfig",
    "AnalyzeCommand",
    "AnalyzeConfig",
    "DataConfig",
    "EchoConfig",
    "EngineConfig",
    "ExportCommand",
    "ExportConfig",
    "ExportFormat",
    "FileCommand",
    "FilterCommand",
    "FilterConfig",
    "FlattenCommand",
    "HardwareConfig",
    "ModelConfig",
    "PostprocessConfig",
    "PrepareConfig",
    "RepetitionDetectionConfig",
    "ReportConfig",
    "RunConfig",
    "SamplingConfig",
    "ScoreCommand",
    "ScoreConfig",
    "StoreConfig",
    "StructuredOutputsConfig",
    "SweepConfig",
    "TrackingConfig",
]
