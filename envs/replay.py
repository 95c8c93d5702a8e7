"""A demonstration run again as an episode: its turns as the policy's, its recorded results as the search tool's.

Knows nothing of Ray, models or who wrote the demonstration. Always holds: the trajectory comes from `run_episode` and
the one codec, so its ids, masks and images are those an episode that was played the same way would have; a
demonstration that no longer runs to its answer as it was recorded is refused, never trained in part.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.episode import EpisodeLimits, run_episode
from sake_ray.coldstart.teaching import Demonstration
from sake_ray.data.codec import ChatCodec
from sake_ray.trajectory import Trajectory
from sake_ray.types import Completion, Example, ImageRef, ImageSearch, Observation, StopReason, TextSearch


class ReplayError(ValueError):
    """A demonstration that cannot be trained on; names the post and what happened."""


async def replay(demonstration: Demonstration, *, codec: ChatCodec, limits: EpisodeLimits) -> Trajectory:
    """The finished trajectory of a demonstration; its log-probs are 0 and its policy version is 0.

    Raises:
        ReplayError: it does not run to its answer with all its turns and results: too long, malformed, or recorded
            under other limits.
    """
    post = demonstration.example.id
    if not demonstration.turns:
        raise ReplayError(f"post {post}: the demonstration has no turns")
    reciter = _Reciter(demonstration, codec, limits)
    try:
        trajectory = await run_episode(
            demonstration.example,
            policy=reciter,
            codec=codec,
            search=reciter,
            limits=limits,
            seed=0,
            trajectory_id=f"{post}/demonstration",
        )
    except ReplayError:
        raise
    except ValueError as error:
        raise ReplayError(f"post {post}: the demonstration cannot be replayed: {error}") from error
    _check_whole(demonstration, trajectory)
    return trajectory


def _check_whole(demonstration: Demonstration, trajectory: Trajectory) -> None:
    post, taught, played = demonstration.example.id, demonstration.turns, trajectory.turns
    where = f"turn {len(played)} of {len(taught)}"
    if trajectory.stop_reason is StopReason.TRUNCATED:
        raise ReplayError(
            f"post {post}: the result shown after {where} does not fit into episode.max_tokens or episode.max_images "
            f"({len(trajectory.token_ids)} tokens and {len(trajectory.images)} images before it); raise them"
        )
    if trajectory.stop_reason is not StopReason.ANSWER:
        raise ReplayError(
            f"post {post}: the demonstration ends as {trajectory.stop_reason} at {where}, not in an answer"
        )
    if len(played) != len(taught):
        raise ReplayError(f"post {post}: the demonstration answers at {where}; nothing may follow an answer")
    for number, (turn, shown) in enumerate(zip(taught, played, strict=True), start=1):
        if turn.observation != shown.observation:
            raise ReplayError(
                f"post {post}: turn {number} is not shown the recorded result whole (episode.max_images?); "
                "use the limits the demonstrations were made with"
            )


class _Reciter:
    """Policy and search tool of one episode: says each turn's text, and answers with its recorded result."""

    def __init__(self, demonstration: Demonstration, codec: ChatCodec, limits: EpisodeLimits) -> None:
        self._post = demonstration.example.id
        self._turns = demonstration.turns
        self._tokenizer = codec.tokenizer
        self._limits = limits
        self._said = 0

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """The next turn as it was written."""
        where = f"turn {self._said + 1} of {len(self._turns)}"
        if self._said == len(self._turns):
            raise ReplayError(f"post {self._post}: the demonstration ends in a search, not in an answer")
        text = self._turns[self._said].text
        self._said += 1
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        markers = [token for token, number in self._tokenizer.get_added_vocab().items() if number in ids]
        if any(token.startswith("<|") for token in markers):
            raise ReplayError(f"post {self._post}: {where} has words that stand for chat marks: {', '.join(markers)}")
        if len(ids) > max_tokens:
            limit = "max_turn_tokens" if max_tokens == self._limits.max_turn_tokens else "max_tokens"
            raise ReplayError(
                f"post {self._post}: {where} takes {len(ids)} tokens and {max_tokens} are left of "
                f"episode.{limit}={getattr(self._limits, limit)}; raise it"
            )
        return Completion(ids, (0.0,) * len(ids), text, "stop", 0)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """What the search of the turn just said was answered with."""
        observation = self._turns[self._said - 1].observation
        if observation is None:
            raise ReplayError(f"post {self._post}: turn {self._said} searches, but no result was recorded for it")
        return observation
