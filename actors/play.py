"""How one episode is to be played on a rollout worker, and who follows it.

Knows nothing of engines. Always holds: what a follower is told does not change what is played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from envs.episode import EpisodeLimits, EpisodeWatch


class PlayWatch(EpisodeWatch, Protocol):
    """Whoever follows an episode on a worker."""

    def heard(self, turn: int, text: str) -> None:
        """More text of turn `turn`, which is being written."""
        ...

    def restarted(self, reason: str) -> None:
        """What was shown so far is void: the engine was lost, and the episode begins anew."""
        ...


@dataclass(frozen=True, slots=True)
class Play:
    """How one episode is to be played.

    `temperature` None is the engine's own, 0 greedy. `streamed`: its watch is told the text as it comes.
    """

    seed: int
    limits: EpisodeLimits
    temperature: float | None = None
    watch: PlayWatch | None = None
    streamed: bool = False
