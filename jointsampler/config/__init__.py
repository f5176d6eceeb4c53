"""One validated configuration: the schema, and how a YAML file with overrides becomes it."""

from .load import changed, known_keys, load_config
from .schema import (
    ColumnsConfig,
    Config,
    CorpusConfig,
    EstimateConfig,
    EvaluateConfig,
    Range,
    RunConfig,
    SamplerConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "ColumnsConfig",
    "Config",
    "CorpusConfig",
    "EstimateConfig",
    "EvaluateConfig",
    "Range",
    "RunConfig",
    "SamplerConfig",
    "SweepConfig",
    "TeacherConfig",
    "TrainConfig",
    "changed",
    "known_keys",
    "load_config",
]
