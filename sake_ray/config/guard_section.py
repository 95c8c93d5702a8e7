"""The settings of the collapse guard: from which values on a step counts as one of a run that goes wrong.

Knows nothing of metrics' names, files or the command line, nor of how any of it works. Always holds: 0 turns a rule
off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sake_ray.config.values import Section, setting


@dataclass(frozen=True)
class GuardConfig(Section):
    """When a run warns that its policy collapses, or stops (in every rule 0 is off)."""

    NAME: ClassVar[str] = "guard"
    action: str = setting(
        "warn",
        "warn: say so in the log and in alerts.jsonl; stop: save a checkpoint and end the run as well; off",
        choices=("warn", "stop", "off"),
    )
    patience: int = setting(3, "steps in a row that must be bad before it is said, once until a good one", low=1)
    first_steps: int = setting(5, "steps at the start whose mean the later ones are compared with", low=1)
    search_low: float = setting(
        0.01, "share searched of the posts with an unknown entity, at or below which searching died", low=0.0, high=1.0
    )
    search_high: float = setting(
        0.98, "share searched of the posts with known entities only, from which everything is searched",
        low=0.0, high=1.0,
    )  # fmt: skip
    no_signal: float = setting(
        0.9, "share of groups whose rewards are all equal, from which rewards stopped varying", low=0.0, high=1.0
    )
    entropy_low: float = setting(0.01, "entropy of a sampled token, in nats, below which it collapsed", low=0.0)
    entropy_fall: float = setting(10.0, "times that the entropy may be lower than in the first steps", low=0.0)
    mismatch_high: float = setting(
        0.1, "mean difference of learner's and engine's log-probs, in nats, above which they drift apart", low=0.0
    )
    kl_high: float = setting(2.0, "KL to the cold-start policy, in nats a token, above which it runs away", low=0.0)
    answers_low: float = setting(
        0.2, "share of episodes with a valid answer, below which the format is lost", low=0.0, high=1.0
    )
    answers_fall: float = setting(2.0, "times that this share may be lower than in the first steps", low=0.0)
    length_change: float = setting(
        4.0, "times that an episode's sampled tokens may be more or fewer than in the first steps", low=0.0
    )
    failed_high: float = setting(
        0.5, "share of queries whose search failed, from which the policy learns without its tool", low=0.0, high=1.0
    )
    not_finite: bool = setting(True, "say which number was not finite when a step breaks on one, at once; false: off")
