"""Model text to action: one `<reason>` block, then exactly one search or answer, in JSON.

What the environment runs by, and what saved turns are scored by. Knows nothing of engines, tools or rewards.
Always holds: `parse_action` raises on no text at all, works
in time linear in the text, and what it returns is bounded in size and count; whatever is not exactly
an action is `Malformed` with one of the words in `MalformedReason`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.types import Action, Answer, ImageSearch, Malformed, PredictedEntity, TextSearch

ACTION_TAGS = ("answer", "text_search", "image_search")
# Where the engine stops; each closes one kind of action.
STOP_STRINGS = tuple(f"</{tag}>" for tag in ACTION_TAGS)

_TAG = re.compile(r"<(/?)(reason|answer|text_search|image_search)>")
_SURROGATE = re.compile("[\ud800-\udfff]")
# No picture is this large; it also keeps huge whole numbers away from float().
_MAX_COORDINATE = 1_000_000


class MalformedReason(enum.StrEnum):
    """Every reason a text is no action."""

    TOO_LONG = "too_long"
    NO_REASON = "no_reason"
    NO_ACTION = "no_action"
    MANY_BLOCKS = "many_blocks"
    STRAY_TEXT = "stray_text"
    BAD_JSON = "bad_json"
    TOO_DEEP = "too_deep"
    NOT_A_LIST = "not_a_list"
    NO_QUERY = "no_query"
    BAD_QUERY = "bad_query"
    TOO_MANY_QUERIES = "too_many_queries"
    BAD_ENTITY = "bad_entity"
    TOO_MANY_ENTITIES = "too_many_entities"
    BAD_BOX = "bad_box"


@dataclass(frozen=True, slots=True)
class ActionLimits:
    """What an action may be at most: characters of the whole text, JSON depth, counts, characters a string."""

    max_chars: int = 32_768
    max_depth: int = 8
    max_queries: int = 5
    max_query_chars: int = 256
    max_entities: int = 64
    max_field_chars: int = 256


DEFAULT_LIMITS = ActionLimits()


class _NoActionError(Exception):
    """Carries the reason out of the readers below; never leaves this file."""

    def __init__(self, reason: MalformedReason) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_action(text: str, limits: ActionLimits = DEFAULT_LIMITS) -> Action:
    """The action a policy turn stands for.

    The text is `<reason>…</reason>`, free words without tags, then one `<answer>`, `<text_search>` or
    `<image_search>` block, and nothing but blanks around. Queries are `{"query": "…"}` (also
    `{"q": "…"}` or a bare string), entities `{"entity": "…", "type": "…", "box2d": [x1, y1, x2, y2] or []}`.
    Never raises.
    """
    try:
        tag, body = _split(text, limits)
        return _read(tag, body, limits)
    except _NoActionError as error:
        return Malformed(error.reason.value)


def _split(text: str, limits: ActionLimits) -> tuple[str, str]:
    """The action's tag and what stands inside it."""
    if len(text) > limits.max_chars:
        raise _NoActionError(MalformedReason.TOO_LONG)
    tags: list[re.Match[str]] = []
    for match in _TAG.finditer(text):
        tags.append(match)
        if len(tags) > 4:
            raise _NoActionError(MalformedReason.MANY_BLOCKS)
    names = [match.group(1) + match.group(2) for match in tags]
    if names[:2] != ["reason", "/reason"]:
        raise _NoActionError(MalformedReason.NO_REASON)
    if text[: tags[0].start()].strip():
        raise _NoActionError(MalformedReason.STRAY_TEXT)
    if len(tags) < 4:
        raise _NoActionError(MalformedReason.NO_ACTION)
    opening, closing = names[2], names[3]
    if opening not in ACTION_TAGS or closing != f"/{opening}":
        raise _NoActionError(MalformedReason.MANY_BLOCKS)
    if text[tags[3].end() :].strip():
        raise _NoActionError(MalformedReason.STRAY_TEXT)
    return opening, text[tags[2].end() : tags[3].start()]


def _read(tag: str, body: str, limits: ActionLimits) -> Action:
    try:
        value = parse_json(body, max_chars=limits.max_chars, max_depth=limits.max_depth)
    except JsonRefused as error:
        raise _NoActionError(MalformedReason(error.why)) from error
    if not isinstance(value, list):
        raise _NoActionError(MalformedReason.NOT_A_LIST)
    if tag == "answer":
        if len(value) > limits.max_entities:
            raise _NoActionError(MalformedReason.TOO_MANY_ENTITIES)
        return Answer(tuple(_entity(item, limits) for item in value))
    if not value:
        raise _NoActionError(MalformedReason.NO_QUERY)
    if len(value) > limits.max_queries:
        raise _NoActionError(MalformedReason.TOO_MANY_QUERIES)
    queries = tuple(_query(item, limits) for item in value)
    return TextSearch(queries) if tag == "text_search" else ImageSearch(queries)


def _query(item: object, limits: ActionLimits) -> str:
    raw = item
    if isinstance(item, Mapping):
        raw = item["query"] if "query" in item else item.get("q")
    return _string(raw, limits.max_query_chars, MalformedReason.BAD_QUERY)


def _entity(item: object, limits: ActionLimits) -> PredictedEntity:
    if not isinstance(item, Mapping):
        raise _NoActionError(MalformedReason.BAD_ENTITY)
    text = _string(item.get("entity"), limits.max_field_chars, MalformedReason.BAD_ENTITY)
    kind = _string(item.get("type"), limits.max_field_chars, MalformedReason.BAD_ENTITY)
    return PredictedEntity(text, kind, _box(item.get("box2d")))


def _string(value: object, max_chars: int, reason: MalformedReason) -> str:
    """A stripped, non-empty, encodable string (a lone surrogate would break every later UTF-8 step)."""
    if not isinstance(value, str) or len(value) > max_chars or _SURROGATE.search(value):
        raise _NoActionError(reason)
    stripped = value.strip()
    if not stripped:
        raise _NoActionError(reason)
    return stripped


def _box(value: object) -> tuple[float, float, float, float] | None:
    if not isinstance(value, list):
        raise _NoActionError(MalformedReason.BAD_BOX)
    if not value:
        return None
    if len(value) != 4:
        raise _NoActionError(MalformedReason.BAD_BOX)
    x1, y1, x2, y2 = (_coordinate(side) for side in value)
    return x1, y1, x2, y2


def _coordinate(value: object) -> float:
    # bool is an int to Python, but no coordinate; the comparison is also false for "1e999", which JSON reads as inf.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_COORDINATE:
        raise _NoActionError(MalformedReason.BAD_BOX)
    return float(value)
