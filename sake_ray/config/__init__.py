"""The configuration: typed sections, presets, `key=value` overrides.

Knows nothing of Ray, vLLM or torch; light to import. `Config` is immutable and checked; see docs/configuration.md.
"""

from sake_ray.config.cli import config_or_exit, load_config
from sake_ray.config.config import Config, section_hash
from sake_ray.config.load import absolute_paths
from sake_ray.config.plan import PlanRow, describe_plan
from sake_ray.config.sections import (
    AlgorithmConfig,
    DataConfig,
    EpisodeConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    PromptsConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SearchConfig,
    SftConfig,
    TrackingConfig,
    TrainerConfig,
    WorldConfig,
)
from sake_ray.config.values import ConfigError, Section

__all__ = [
    "AlgorithmConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EpisodeConfig",
    "EvalConfig",
    "LearnerConfig",
    "ModelConfig",
    "PlanRow",
    "PromptsConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SearchConfig",
    "Section",
    "SftConfig",
    "TrackingConfig",
    "TrainerConfig",
    "WorldConfig",
    "absolute_paths",
    "config_or_exit",
    "describe_plan",
    "load_config",
    "section_hash",
]
