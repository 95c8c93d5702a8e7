"""A trajectory's reward from its parts: the paper's rule, or the released code's.

    paper    R = λ_F1·R_F1 + λ_fmt·R_fmt − λ_search·1[R_F1 ≥ γ]·N_search, largest one-to-one pairing
    release  R = (1 − p)·(R_F1 − penalty) + p·R_fmt, greedy pairing, each gold box an entity of its own

Knows nothing of Ray or files. Always holds: every part of a reward is in it; an episode without a
readable answer has F1 0.0 (it is the policy's failure), anything wrong with gold or config raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.entities import Claim, Gold, mentions
from rewards.f1 import NOTHING, TaskScores, mixed_f1, task_scores
from rewards.format import released_format, trajectory_format
from rewards.matching import greedy_pairs, maximum_pairs
from rewards.parsing import read_answer
from rewards.replay import replay
from rewards.retrieval import paper_penalty, released_penalty
from sake_ray.data.images import Size, processed_size, scale_box
from sake_ray.trajectory import Trajectory
from sake_ray.types import Answer, Entity, Reward, StopReason

if TYPE_CHECKING:  # the configuration reads YAML; a scorer needs only one of its sections
    from sake_ray.config import RewardConfig


@dataclass(frozen=True, slots=True)
class Sizes:
    """(width, height) of the picture as the policy saw it, and of the original that gold boxes are in."""

    processed: Size
    original: Size


@dataclass(frozen=True, slots=True)
class PaperRule:
    """The paper's reward. `mode` is "EM" or "MultiEM"; `mix` weighs MNER, EEG and GMNER F1 in the latter."""

    mode: str = "EM"
    f1_weight: float = 0.9
    format_weight: float = 0.1
    search_weight: float = 0.05
    gamma: float = 0.9
    iou_threshold: float = 0.5
    mix: tuple[float, float, float] = (0.25, 0.25, 0.5)

    def total(self, scores: TaskScores, form: int, searches: int) -> Reward:
        """The reward of an episode with these parts."""
        f1 = mixed_f1(scores, self.mode, self.mix)
        penalty = paper_penalty(f1, searches, weight=self.search_weight, gamma=self.gamma)
        total = self.f1_weight * f1 + self.format_weight * form - penalty
        return Reward(total, f1, scores.mner, scores.eeg, scores.gmner, float(form), searches, penalty)

    def score_responses(self, responses: Sequence[str], gold: Sequence[Gold], sizes: Sizes | None = None) -> Reward:
        """Score raw turns as the environment would have run them; `gold` has one row per box.

        Without `sizes` no box is scaled.
        """
        episode = replay(responses)
        claims = None if episode.answer is None else to_original(claims_of(episode.answer), sizes)
        return self.total(self._f1(claims, mentions(gold)), episode.form, episode.searches)

    def score_trajectory(self, trajectory: Trajectory, sizes: Sizes | None) -> Reward:
        """Score a finished episode from its parsed actions; only searches that were answered count."""
        claims = None
        if trajectory.stop_reason is StopReason.ANSWER:
            action = trajectory.turns[-1].action
            if not isinstance(action, Answer):
                raise ValueError(f"it stopped with an answer, but its last action is {type(action).__name__}")
            claims = to_original(claims_of(action), sizes)
        scores = self._f1(claims, [gold_of(entity) for entity in trajectory.example.entities])
        searches = sum(turn.observation is not None for turn in trajectory.turns)
        return self.total(scores, trajectory_format(trajectory), searches)

    def _f1(self, claims: Sequence[Claim] | None, gold: Sequence[Gold]) -> TaskScores:
        return NOTHING if claims is None else task_scores(claims, gold, self.iou_threshold, maximum_pairs)


@dataclass(frozen=True, slots=True)
class ReleaseRule:
    """The released code's reward, exactly; `format_penalty` is the p above."""

    mode: str = "EM"
    format_penalty: float = 0.1
    use_search_count_penalty: bool = False
    iou_threshold: float = 0.5
    mix: tuple[float, float, float] = (0.25, 0.25, 0.5)

    def score_responses(self, responses: Sequence[str], gold: Sequence[Gold], sizes: Sizes | None = None) -> Reward:
        """Score raw turns; `gold` has one row per box.

        Raises:
            ValueError: no turn, or more than three.
        """
        form, searches = released_format(responses)
        claims = read_answer(responses[-1])
        if claims is None:
            scores = NOTHING
        else:
            scores = task_scores(to_original(claims, sizes), gold, self.iou_threshold, greedy_pairs)
        f1 = mixed_f1(scores, self.mode, self.mix)
        penalty = released_penalty(f1, searches, enabled=self.use_search_count_penalty)
        total = (1 - self.format_penalty) * (f1 - penalty) + self.format_penalty * form
        return Reward(total, f1, scores.mner, scores.eeg, scores.gmner, float(form), searches, penalty)

    def score_trajectory(self, trajectory: Trajectory, sizes: Sizes | None) -> Reward:
        """Score the turns' texts, as the released code does.

        Raises:
            ValueError: no turn, or more than three.
        """
        rows = [row for entity in trajectory.example.entities for row in gold_rows(entity)]
        return self.score_responses([turn.text for turn in trajectory.turns], rows, sizes)


Rule = PaperRule | ReleaseRule


class ScoringError(RuntimeError):
    """Scoring a trajectory crashed; the message names the trajectory, the cause is chained."""


class Scorer:
    """Scores finished trajectories of pictures that were sized between `min_pixels` and `max_pixels`."""

    def __init__(self, rule: Rule, *, min_pixels: int, max_pixels: int) -> None:
        self._rule = rule
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}

    @classmethod
    def from_config(cls, reward: RewardConfig, *, min_pixels: int, max_pixels: int) -> Scorer:
        """The scorer that the configuration's reward section describes.

        Raises:
            ValueError: an unknown preset, or settings that the preset cannot follow.
        """
        return cls(rule_of(reward), min_pixels=min_pixels, max_pixels=max_pixels)

    def score(self, trajectory: Trajectory) -> Reward:
        """The trajectory's reward, all parts in it.

        Raises:
            ScoringError: the trajectory cannot be scored; it is never 0.0 instead.
        """
        try:
            if not trajectory.done:
                raise ValueError("it has not ended")
            image = trajectory.example.image
            original = (image.width, image.height)
            sizes = Sizes(processed_size(*original, **self._pixels), original)
            return self._rule.score_trajectory(trajectory, sizes)
        # The boundary that adds which of thousands of trajectories it was; everything is raised again.
        except Exception as error:
            raise ScoringError(f"trajectory {trajectory.id} (post {trajectory.example.id}): {error}") from error

    def score_batch(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        """One reward a trajectory, in order.

        Raises:
            ScoringError: as `score`.
        """
        return [self.score(trajectory) for trajectory in trajectories]


def rule_of(reward: RewardConfig) -> Rule:
    """The rule a reward section describes.

    Raises:
        ValueError: an unknown preset, or settings that the preset has no place for.
    """
    mix = (reward.mner_weight, reward.eeg_weight, reward.gmner_weight)
    if reward.preset == "paper":
        if reward.use_search_count_penalty:
            raise ValueError(
                "reward.use_search_count_penalty=true: the paper's rule has reward.search_weight instead; leave it out"
            )
        return PaperRule(
            mode=reward.mode,
            f1_weight=reward.f1_weight,
            format_weight=reward.format_weight,
            search_weight=reward.search_weight,
            gamma=reward.gamma,
            iou_threshold=reward.iou_threshold,
            mix=mix,
        )
    if reward.preset != "release":
        raise ValueError(f"reward.preset={reward.preset!r} is not one of paper, release")
    if abs(reward.f1_weight + reward.format_weight - 1.0) > 1e-9:
        raise ValueError(
            f"reward.f1_weight={reward.f1_weight} and reward.format_weight={reward.format_weight}: the release "
            "preset has one weight, so they must add up to 1; change one, or use reward.preset=paper"
        )
    return ReleaseRule(
        mode=reward.mode,
        format_penalty=reward.format_weight,
        use_search_count_penalty=reward.use_search_count_penalty,
        iou_threshold=reward.iou_threshold,
        mix=mix,
    )


def claims_of(answer: Answer) -> list[Claim]:
    """What an answer claims, boxes in the pixels the policy saw."""
    return [Claim(entity.text, entity.type, entity.box) for entity in answer.entities]


def to_original(claims: Sequence[Claim], sizes: Sizes | None) -> list[Claim]:
    """Claims with their boxes in original pixels (scaled and truncated); unchanged without sizes."""
    if sizes is None:
        return list(claims)
    return [
        claim
        if claim.box is None
        else Claim(claim.text, claim.type, scale_box(claim.box, sizes.processed, sizes.original))
        for claim in claims
    ]


def gold_of(entity: Entity) -> Gold:
    """An example's entity with all its boxes."""
    return Gold(entity.text, entity.type, tuple((b.x1, b.y1, b.x2, b.y2) for b in entity.boxes))


def gold_rows(entity: Entity) -> list[Gold]:
    """An example's entity as the release writes it: one row per box, one without a box when it has none."""
    whole = gold_of(entity)
    return [Gold(whole.text, whole.type, (box,)) for box in whole.boxes] or [whole]
