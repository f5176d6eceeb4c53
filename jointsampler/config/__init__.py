"""One validated configuration: the schema, and how a YAML file with overrides becomes it."""

from .schema import (
    Config,
    CorpusConfig,
    EstimateConfig,
    EvaluateConfig,
    PretrainConfig,
    Range,
    RunConfig,
    SamplerConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
    changed,
    known_keys,
    load_config,
)

__all__ = [
    "Config",
    "CorpusConfig",
    "EstimateConfig",
    "EvaluateConfig",
    "PretrainConfig",
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
