"""One validated configuration: the schema, and how a YAML file with overrides becomes it."""

from .load import changed, known_keys, load_config
from .schema import (
    Config,
    CorpusConfig,
    EstimateConfig,
    EvaluateConfig,
    Range,
    RefreshConfig,
    RunConfig,
    SamplerConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "Config",
    "CorpusConfig",
    "EstimateConfig",
    "EvaluateConfig",
    "Range",
    "RefreshConfig",
    "RunConfig",
    "SamplerConfig",
    "SweepConfig",
    "TeacherConfig",
    "TrainConfig",
    "changed",
    "known_keys",
    "load_config",
]
