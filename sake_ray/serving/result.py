"""What clients are shown of an episode: turns, searches, and the result with spans and boxes.

Knows nothing of HTTP. Always holds: boxes are in pixels of the picture as the client has it, spans in code points of
the post as it was sent; an entity counts as searched when a query of its episode names it; all values are JSON's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sake_ray.data.images import ImageError, processed_size, scale_box
from sake_ray.pages.thumbs import REFERENCE_SIDE, thumbnail
from sake_ray.serving.messages import Order, PolicyCard
from sake_ray.serving.spans import find_spans
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Answer, ImageRef, ImageSearch, Malformed, Observation, TextSearch

_REASON = re.compile(r"<reason>(.*?)</reason>", re.DOTALL)
_WORDS = re.compile(r"\w+")


def turn_shown(
    index: int, turn: Turn, prompt_tokens: int, tokens: int, search: dict[str, Any] | None
) -> dict[str, Any]:
    """One turn; `search` is what `search_shown` made of its observation."""
    reason = _REASON.search(turn.text)
    return {
        "index": index,
        "text": turn.text,
        "reasoning": reason.group(1).strip() if reason else "",
        "action": _action(turn),
        "malformed": turn.action.reason if isinstance(turn.action, Malformed) else None,
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "generate_s": round(turn.generate_s, 4),
        "search": search,
    }


def search_shown(observation: Observation, thumbnails: bool) -> dict[str, Any]:
    """What a search gave. Takes milliseconds a picture with `thumbnails`: not for an event loop."""
    return {
        "kind": observation.kind.value,
        "seconds": round(observation.latency_s, 4),
        "results": [
            {
                "query": result.query,
                "status": result.status,
                "reason": None if result.reason is None else result.reason.value,
                "text": result.text,
                "cached": result.cached,
                "images": [_picture(image, thumbnails) for image in result.images],
            }
            for result in observation.results
        ],
    }


def entities_shown(trajectory: Trajectory, order: Order, *, min_pixels: int, max_pixels: int) -> list[dict[str, Any]]:
    """The entities of the answer; none where the episode ended without one."""
    answer = trajectory.answer
    if answer is None:
        return []
    image = trajectory.example.image
    seen = processed_size(image.width, image.height, min_pixels=min_pixels, max_pixels=max_pixels)
    spans = find_spans(trajectory.example.text, [entity.text for entity in answer.entities])
    asked = [_WORDS.findall(query.casefold()) for turn in trajectory.turns for query in _queries(turn)]
    return [
        {
            "text": entity.text,
            "type": entity.type,
            "span": None if span is None else list(span),
            "box": None if entity.box is None else list(scale_box(entity.box, seen, (order.width, order.height))),
            "searched": any(_names(query, _WORDS.findall(entity.text.casefold())) for query in asked),
        }
        for entity, span in zip(answer.entities, spans, strict=True)
    ]


def result_shown(
    trajectory: Trajectory,
    order: Order,
    card: PolicyCard,
    turns: Sequence[dict[str, Any]],
    *,
    seconds: float,
    min_pixels: int,
    max_pixels: int,
) -> dict[str, Any]:
    """The whole result; `turns` are those of `turn_shown`, `seconds` how long the episode took."""
    searches = [turn["search"] for turn in turns if turn["search"] is not None]
    generate = sum(turn["generate_s"] for turn in turns)
    search = sum(each["seconds"] for each in searches)
    return {
        "id": order.id,
        "policy": card.shown(),
        "text": trajectory.example.text,
        "image": {"width": order.width, "height": order.height},
        "entities": entities_shown(trajectory, order, min_pixels=min_pixels, max_pixels=max_pixels),
        "stop": str(trajectory.stop_reason),
        "turns": list(turns),
        "usage": {
            "prompt_tokens": sum(turn["prompt_tokens"] for turn in turns),
            "generated_tokens": trajectory.trained_tokens,
            "searches": len(searches),
            "queries": sum(len(each["results"]) for each in searches),
        },
        "seconds": {
            "wait": 0.0, "generate": round(generate, 4), "search": round(search, 4), "total": round(seconds, 4)
        },
        "seed": order.seed,
    }  # fmt: skip


def _action(turn: Turn) -> str:
    match turn.action:
        case Answer():
            return "answer"
        case TextSearch():
            return "text_search"
        case ImageSearch():
            return "image_search"
        case _:
            return "malformed"


def _queries(turn: Turn) -> tuple[str, ...]:
    return turn.action.queries if isinstance(turn.action, TextSearch | ImageSearch) and turn.observation else ()


def _names(query: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the words of `name` stand in `query` one after another."""
    return bool(name) and any(list(query[at : at + len(name)]) == list(name) for at in range(len(query)))


def _picture(image: ImageRef, thumbnails: bool) -> dict[str, Any]:
    shown = {"width": image.width, "height": image.height, "thumbnail": None}
    if not thumbnails:
        return shown
    try:
        return {**shown, "thumbnail": thumbnail(image, REFERENCE_SIDE)}
    except ImageError:  # it was there when the policy saw it; a cache may have let go of it since
        return shown
