"""The Protocols between the trainer, the episode and whatever runs them.

Knows nothing of Ray, vLLM or torch; `actors/` implements these, tests use small fakes beside the
real ones. Always holds: every call that can wait is `async`, and an implementation raises rather than
returning a made-up value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sake_ray.trajectory import Segment, Trajectory, TrajectoryGroup
from sake_ray.types import Completion, Example, ImageRef, ImageSearch, Observation, Reward, TextSearch


class GroupLost(RuntimeError):
    """Every attempt at a group lost its rollout worker; another attempt may do better."""


class LearnerLost(RuntimeError):
    """A learner rank is gone, and the state of the ranks with it; a checkpoint brings it back."""


class PolicyClient(Protocol):
    """Samples from the current policy; what an episode needs of an engine."""

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """Continue `short_ids` (one pad an image) by at most `max_tokens` tokens."""
        ...


class SearchClient(Protocol):
    """Answers a search; limits, caches and retries are behind it."""

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """One result a query, each with the query it answers; a failed tool is a result, a bug of ours raises.

        Release matching of the offline tool alone may leave a query out (see `envs.tools.base.SearchTool`).
        """
        ...


class CountedSearch(Protocol):
    """A search pool that says what it did; what the trainer needs."""

    async def counts(self) -> Mapping[str, float]:
        """Counts since it was started, by name; `pending` alone may fall. See `sake_ray.search_metrics`."""
        ...


class Codec(Protocol):
    """Turns prompts and observations into token ids and back, without ever touching sampled ids."""

    def prompt(self, example: Example) -> Segment:
        """The first user turn (instruction, image, post) up to the assistant's first token."""
        ...

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        """The user turn that answers a search; `after_ids` are the ids it follows."""
        ...


class RolloutClient(Protocol):
    """Runs episodes; the rollout pool as the evaluator sees it."""

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        """Run one episode per seed for a post; the group is complete or the call raises."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """What a rollout pool has counted since it was started; no count ever falls. `workers`: those serving now."""

    workers: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    rebuilds: int = 0
    respawns: int = 0


class CountedRollout(RolloutClient, Protocol):
    """A rollout pool that also says what its engines did; what the trainer needs."""

    async def counts(self) -> RolloutCounts:
        """The counts at this moment."""
        ...


class RewardClient(Protocol):
    """The reward pool as the trainer sees it."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        """One reward a trajectory, in order. A crash in scoring raises; it is never 0.0."""
        ...


class LearnerClient(Protocol):
    """The learner ranks as the trainer sees them."""

    async def update(self, trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
        """One optimiser step over trajectories with advantages; returns `train/…` metrics."""
        ...

    async def publish(self, version: int) -> Mapping[str, float]:
        """Give the current weights to every rollout worker as `version`; returns `time/…` metrics."""
        ...

    async def save(self, folder: Path) -> None:
        """Write model and optimiser state so that any number of ranks can load it."""
        ...

    async def load(self, folder: Path) -> None:
        """Load what `save` wrote."""
        ...

    async def export(self, folder: Path) -> None:
        """Write a Hugging Face folder that vLLM and transformers load."""
        ...


class Tracker(Protocol):
    """Where metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step's metrics."""
        ...


class Stateful(Protocol):
    """Something whose state is in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...
