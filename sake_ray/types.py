"""The messages that travel between parts: frozen dataclasses in the field's own terms.

Knows nothing of models, Ray or files. Always holds: every value here is immutable once made, and a
`Box` is in pixels of the *original* image (only `sake_ray.data.images` converts to and from the
processed image a model sees).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in original-image pixels, `x1 <= x2`, `y1 <= y2`."""

    x1: int
    y1: int
    x2: int
    y2: int

    def as_list(self) -> list[int]:
        """The box as `[x1, y1, x2, y2]`."""
        return [self.x1, self.y1, self.x2, self.y2]


class Difficulty(enum.StrEnum):
    """How well the base model knows an entity (method stage 1a)."""

    KNOWN = "known"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entity:
    """One gold entity: its text span, type and every gold box (none when it is not visible).

    `coarse_type` is the FMNERG parent type ("" elsewhere). `seen` tells whether the surface form
    occurs in the training split (None when nobody looked).
    """

    text: str
    type: str
    boxes: tuple[Box, ...] = ()
    coarse_type: str = ""
    difficulty: Difficulty | None = None
    seen: bool | None = None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by reference: where it lies and its original size in pixels.

    `standin` holds labelled boxes to draw in place of a picture that is not at hand; when it is not
    None, `path` is not read. `data` holds encoded bytes for images that came without a file.
    """

    path: str
    width: int
    height: int
    standin: tuple[tuple[Box, str], ...] | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Example:
    """One post: id (unique in its split), tokens joined by spaces, image and gold entities."""

    id: str
    text: str
    image: ImageRef
    entities: tuple[Entity, ...]


# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PredictedEntity:
    """One entity of an answer. `box` is in pixels of the *processed* image, or None."""

    text: str
    type: str
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The final action: the entities the policy claims."""

    entities: tuple[PredictedEntity, ...]


@dataclass(frozen=True, slots=True)
class TextSearch:
    """Ask the text search tool, one short summary a query."""

    queries: tuple[str, ...]

    @property
    def kind(self) -> SearchKind:
        """The tool that is asked."""
        return SearchKind.TEXT


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Ask the image search tool, up to k reference images a query."""

    queries: tuple[str, ...]

    @property
    def kind(self) -> SearchKind:
        """The tool that is asked."""
        return SearchKind.IMAGE


@dataclass(frozen=True, slots=True)
class Malformed:
    """Text that is no action; `reason` is one of a fixed set of short words."""

    reason: str


Action = Answer | TextSearch | ImageSearch | Malformed


# --- observations and completions ----------------------------------------------------------------


class SearchKind(enum.StrEnum):
    """The two search tools of the method."""

    TEXT = "text"
    IMAGE = "image"


class SearchFailure(enum.StrEnum):
    """Why a search got no answer; the policy is told by one fixed sentence a reason."""

    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    """No more calls may be made: every key is spent, or the budget of the day is."""
    BROKEN = "broken"
    """The service fails, cannot be reached, or answers nonsense."""
    REFUSED = "refused"
    """The service takes no such query."""
    NOT_RECORDED = "not_recorded"
    """Replaying a cache that does not hold it."""
    LOST = "lost"
    """The search worker died, twice."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What one query gave. `status` is "success", "no_result" or "failed"; `reason` says why it failed."""

    query: str
    status: str
    text: str = ""
    images: tuple[ImageRef, ...] = ()
    cached: bool = False
    reason: SearchFailure | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment answers to a search: one result a query, and the seconds it took."""

    kind: SearchKind
    results: tuple[QueryResult, ...]
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine sampled: `token_ids` and `logprobs` have one length.

    `text` is cut at the stop string, `token_ids` keep the whole last token: parse text, train ids.
    `finish_reason` is "stop", "length" or "abort". `policy_version` is the oldest that sampled any of them; `versions`
    names each token's where they differ, and is empty where they do not.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    policy_version: int
    versions: tuple[int, ...] = ()

    @property
    def token_versions(self) -> tuple[int, ...]:
        """The version that sampled each token."""
        return self.versions or (self.policy_version,) * len(self.token_ids)


class StopReason(enum.StrEnum):
    """Why a trajectory ended."""

    ANSWER = "answer"
    MALFORMED = "malformed"
    SEARCH_LIMIT = "search_limit"
    TURN_LIMIT = "turn_limit"
    TRUNCATED = "truncated"
    DEADLINE = "deadline"
    """Cut off by the clock: says nothing of the policy, so it is not trained on."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A trajectory's reward and the parts it is made of (F1 parts in 0..1)."""

    total: float
    f1: float
    mner_f1: float
    eeg_f1: float
    gmner_f1: float
    format: float
    searches: int
    retrieval_penalty: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; saved in every checkpoint."""

    step: int = 0
    policy_version: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
