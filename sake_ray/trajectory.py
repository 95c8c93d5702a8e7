"""The record of one episode, and the only two ways it grows.

Knows nothing of text, parsing or rewards. Always holds: `token_ids`, `loss_mask`, `logprobs` and
`versions` have one length; sampled tokens have mask 1, a log-prob and the version that sampled them,
context tokens have mask 0, log-prob 0.0 and version -1; the ids carry exactly as many expanded image
pads as `images` need. What was sampled is what is trained: nothing is re-tokenised or edited.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sake_ray.types import Action, Answer, Completion, Example, ImageRef, Observation, Reward, StopReason

CONTEXT_VERSION = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of context, encoded: short ids (one pad an image) and expanded ids, and its images."""

    short_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    images: tuple[ImageRef, ...] = ()


@dataclass(slots=True)
class Turn:
    """One policy turn: its text (for people and rewards), the action read from it and the answer.

    `began_s` and `search_began_s` are when its generation and its search began, in seconds since the epoch by the
    worker's clock, and None where nobody looked or nothing was searched. Nothing depends on them.
    """

    text: str
    action: Action
    observation: Observation | None = None
    generate_s: float = 0.0
    began_s: float | None = None
    search_began_s: float | None = None


@dataclass(slots=True)
class Trajectory:
    """One episode as it happened; `short_ids` is the engine's request state, `token_ids` is trained.

    `worker` ran it; scoring its group began at `score_began_s` (seconds since the epoch) and took `score_s`.
    """

    id: str
    example: Example
    short_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    images: list[ImageRef] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason | None = None
    reward: Reward | None = None
    advantage: float | None = None
    worker: str = ""
    score_began_s: float | None = None
    score_s: float | None = None

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self.stop_reason is not None

    @property
    def answer(self) -> Answer | None:
        """The answer the episode ended with; None where it ended otherwise."""
        action = self.turns[-1].action if self.turns else None
        return action if self.stop_reason is StopReason.ANSWER and isinstance(action, Answer) else None

    @property
    def trained_tokens(self) -> int:
        """How many tokens the policy sampled."""
        return sum(self.loss_mask)

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that sampled a token of this trajectory (-1 without any)."""
        return min((v for v in self.versions if v != CONTEXT_VERSION), default=CONTEXT_VERSION)

    def append_completion(self, completion: Completion) -> None:
        """Add sampled tokens (mask 1).

        Raises:
            ValueError: the trajectory has ended, or tokens, log-probs and versions differ in number.
        """
        self._check_open()
        n = len(completion.token_ids)
        if len(completion.logprobs) != n or len(completion.token_versions) != n:
            raise ValueError(
                f"trajectory {self.id}: {n} sampled tokens came with {len(completion.logprobs)} log-probs and "
                f"{len(completion.token_versions)} versions"
            )
        self.short_ids.extend(completion.token_ids)
        self.token_ids.extend(completion.token_ids)
        self.loss_mask.extend([1] * n)
        self.logprobs.extend(completion.logprobs)
        self.versions.extend(completion.token_versions)

    def append_observation(self, segment: Segment) -> None:
        """Add context the policy was shown (mask 0), with the images its pads stand for."""
        self._check_open()
        n = len(segment.token_ids)
        self.short_ids.extend(segment.short_ids)
        self.token_ids.extend(segment.token_ids)
        self.loss_mask.extend([0] * n)
        self.logprobs.extend([0.0] * n)
        self.versions.extend([CONTEXT_VERSION] * n)
        self.images.extend(segment.images)

    def finish(self, reason: StopReason) -> None:
        """End the episode; nothing can be appended afterwards."""
        self._check_open()
        self.stop_reason = reason

    def _check_open(self) -> None:
        if self.done:
            raise ValueError(f"trajectory {self.id} has ended ({self.stop_reason}); it cannot grow")


@dataclass(slots=True)
class TrajectoryGroup:
    """The n trajectories of one post: what a group-relative advantage is computed over."""

    example: Example
    trajectories: list[Trajectory]

    @property
    def oldest_version(self) -> int:
        """The oldest policy version in the group."""
        return min(t.oldest_version for t in self.trajectories)

    @property
    def trainable(self) -> list[Trajectory]:
        """The members that train: one that its deadline cut off says nothing of the policy."""
        return [t for t in self.trajectories if t.stop_reason is not StopReason.DEADLINE]

    @property
    def rewards(self) -> list[float]:
        """The total rewards of the members that train, in order.

        Raises:
            ValueError: one of them has not been scored.
        """
        totals = []
        for trajectory in self.trainable:
            if trajectory.reward is None:
                raise ValueError(f"trajectory {trajectory.id} has no reward yet")
            totals.append(trajectory.reward.total)
        return totals
