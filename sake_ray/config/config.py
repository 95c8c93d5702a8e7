"""The whole configuration of a job: one field a section, and what identifies it.

Knows nothing of where the values came from. Always holds: immutable, every section checked, and `to_dict` holds only
what JSON can carry.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.config import sections as s
from sake_ray.config.values import Section


@dataclass(frozen=True)
class Config:
    """All sections of a job; pass a component its section, not this."""

    job: str = "job"
    preset: str = "mini"
    run: s.RunConfig = dataclasses.field(default_factory=s.RunConfig)
    data: s.DataConfig = dataclasses.field(default_factory=s.DataConfig)
    world: s.WorldConfig = dataclasses.field(default_factory=s.WorldConfig)
    model: s.ModelConfig = dataclasses.field(default_factory=s.ModelConfig)
    prompts: s.PromptsConfig = dataclasses.field(default_factory=s.PromptsConfig)
    episode: s.EpisodeConfig = dataclasses.field(default_factory=s.EpisodeConfig)
    search: s.SearchConfig = dataclasses.field(default_factory=s.SearchConfig)
    reward: s.RewardConfig = dataclasses.field(default_factory=s.RewardConfig)
    rollout: s.RolloutConfig = dataclasses.field(default_factory=s.RolloutConfig)
    learner: s.LearnerConfig = dataclasses.field(default_factory=s.LearnerConfig)
    algorithm: s.AlgorithmConfig = dataclasses.field(default_factory=s.AlgorithmConfig)
    trainer: s.TrainerConfig = dataclasses.field(default_factory=s.TrainerConfig)
    guard: s.GuardConfig = dataclasses.field(default_factory=s.GuardConfig)
    eval: s.EvalConfig = dataclasses.field(default_factory=s.EvalConfig)
    tracking: s.TrackingConfig = dataclasses.field(default_factory=s.TrackingConfig)
    tags: s.TagsConfig = dataclasses.field(default_factory=s.TagsConfig)
    secot: s.SecotConfig = dataclasses.field(default_factory=s.SecotConfig)
    sft: s.SftConfig = dataclasses.field(default_factory=s.SftConfig)
    serve: s.ServeConfig = dataclasses.field(default_factory=s.ServeConfig)

    @property
    def run_dir(self) -> Path:
        """The run's folder: run.dir, or runs/JOB-PRESET, then the data set's name and the seed where they matter."""
        if self.run.dir:
            return Path(self.run.dir)
        name = f"{self.job}-{Path(self.preset).stem}"
        if self.data.root:
            name += f"-{Path(self.data.root).resolve().name}"
        return Path("runs") / (f"{name}-seed{self.run.seed}" if self.run.seed else name)

    def to_dict(self) -> dict[str, Any]:
        """`{"job": …, "preset": …, section: {field: value}}`, ready for JSON."""
        return dataclasses.asdict(self)

    @property
    def config_hash(self) -> str:
        """12 hex digits over every setting but run.dir: two runs with one hash were asked for the same thing."""
        return settings_hash(self.to_dict())


def settings_hash(content: Mapping[str, Any]) -> str:
    """The `config_hash` of a run's config.json, read."""
    run = content.get("run")
    kept = {name: value for name, value in run.items() if name != "dir"} if isinstance(run, Mapping) else run
    return _digest({**content, "run": kept})


def section_hash(*parts: Section) -> str:
    """12 hex digits over some sections, to name a cache by exactly what it depends on."""
    return _digest({part.NAME: dataclasses.asdict(part) for part in parts})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
