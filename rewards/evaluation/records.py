"""What evaluation knows of one post: gold, what was claimed, and, where a policy ran, how it came to it.

One line of `posts.jsonl` (an evaluation's) is one of these, and so is one of a run's `eval_trajectories.jsonl` and
`trajectories.jsonl` once its answer has been read. Knows nothing of scores or pages. Always holds: boxes are in
original pixels; a post that was not answered has no claims; what a row leaves out is None or empty, never made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.entities import Claim, Gold
from sake_ray.data.boxes import Quad


@dataclass(frozen=True, slots=True)
class GoldEntity:
    """One gold entity. `hits` of `samples` samples without tools had it right (stage 1a), where that is known.

    `seen` tells whether its surface form occurs in the training split, where a data set says so.
    """

    text: str
    type: str
    boxes: tuple[Quad, ...] = ()
    coarse: str = ""
    difficulty: str | None = None
    hits: int | None = None
    samples: int | None = None
    seen: bool | None = None

    @property
    def gold(self) -> Gold:
        """As scoring takes it."""
        return Gold(self.text, self.type, self.boxes)


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One query of a search turn: `kind` text or image, `status` as in `QueryResult`."""

    kind: str
    query: str
    status: str
    text: str = ""
    reason: str | None = None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn: what was said, the action's name, the searches answered, and seconds."""

    text: str
    action: str
    searches: tuple[SearchRecord, ...] = ()
    generate_s: float = 0.0
    search_s: float | None = None


@dataclass(frozen=True, slots=True)
class PostRecord:
    """One answer to one post; `sample` counts the answers of a post where there are several, from 0.

    `extra["gold_rows"]` holds gold row by row as `[text, type, box or []]`, where the released protocol would count
    the rows of the file in another way than those that `gold` gives; `reward` has the parts of `sake_ray.types.Reward`.
    """

    id: str
    text: str
    gold: tuple[GoldEntity, ...]
    claims: tuple[Claim, ...]
    image: str = ""
    image_size: tuple[int, int] | None = None
    sample: int = 0
    turns: tuple[TurnRecord, ...] = ()
    stop_reason: str = ""
    reward: Mapping[str, float] | None = None
    advantage: float | None = None
    tokens: int = 0
    sampled_tokens: int = 0
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def searches(self) -> int:
        """Search turns that were answered."""
        return sum(bool(turn.searches) for turn in self.turns)
