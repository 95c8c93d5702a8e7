"""The form in which hits and shown answers are kept in the store, and under which key.

Knows nothing of stores, services or fetching. Always holds: what was written is read back equal; a value of another
form is an error, never an odd answer; everything that shapes an answer is in its key, and nothing secret is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.answers.key import AnswerKey
from envs.answers.stored import Stored
from envs.tools.provider import ImageHits, Snippet, TextHits
from sake_ray.types import ImageRef, QueryResult, SearchFailure, SearchKind

FORMAT = 1
STATUSES = ("success", "no_result", "failed")


class ShownError(ValueError):
    """A stored value that is not of our form; the message names the key."""


@dataclass(frozen=True, slots=True)
class ShownSettings:
    """What shapes the answers that a policy is shown.

    `images_per_query` does not count the picture of the knowledge graph; pictures over `max_pixels` are shrunk.
    """

    summary: str = "snippets"
    summary_model: str = ""
    max_chars: int = 2_000
    text_results: int = 5
    images_per_query: int = 1
    image_results: int = 10
    graph_image: bool = False
    max_pixels: int = 672 * 672 * 2


def shown_key(provider: str, kind: SearchKind, query: str, settings: ShownSettings) -> AnswerKey:
    """The key of a shown answer."""
    options: dict[str, Any] = {"shown": FORMAT}
    if kind is SearchKind.TEXT:
        options |= {
            "summary": settings.summary,
            "model": settings.summary_model if settings.summary == "llm" else "",
            "max_chars": settings.max_chars,
            "text_results": settings.text_results,
        }
    else:
        options |= {
            "images_per_query": settings.images_per_query,
            "image_results": settings.image_results,
            "max_pixels": settings.max_pixels,
            "graph_image": settings.graph_image,
        }
    return AnswerKey.of(provider, str(kind), query, options)


def hits_key(provider: str, kind: SearchKind, query: str, settings: ShownSettings) -> AnswerKey:
    """The key of what a service said."""
    if kind is SearchKind.TEXT:
        return AnswerKey.of(provider, "text_hits", query, {"results": settings.text_results})
    options = {"results": settings.image_results, "graph_image": settings.graph_image}
    return AnswerKey.of(provider, "image_hits", query, options)


def hits_value(hits: TextHits | ImageHits) -> dict[str, Any]:
    """Hits as JSON."""
    if isinstance(hits, ImageHits):
        return {"urls": list(hits.urls), "graph_url": hits.graph_url}
    graph = None if hits.graph is None else [hits.graph.title, hits.graph.text, hits.graph.url]
    return {"snippets": [[item.title, item.text, item.url] for item in hits.snippets], "graph": graph}


def text_hits(value: Mapping[str, Any], key: AnswerKey) -> TextHits:
    """Text hits from JSON.

    Raises:
        ShownError: it is of another form.
    """
    rows, graph = value.get("snippets"), value.get("graph")
    if not isinstance(rows, list):
        raise _broken(key, "snippets")
    return TextHits(tuple(_snippet(row, key) for row in rows), None if graph is None else _snippet(graph, key))


def image_hits(value: Mapping[str, Any], key: AnswerKey) -> ImageHits:
    """Image hits from JSON.

    Raises:
        ShownError: it is of another form.
    """
    urls, graph_url = value.get("urls"), value.get("graph_url")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls) or not isinstance(graph_url, str):
        raise _broken(key, "urls")
    return ImageHits(tuple(urls), graph_url)


def shown_value(result: QueryResult) -> dict[str, Any]:
    """A shown answer as JSON; its pictures are kept beside it."""
    return {
        "status": result.status,
        "text": result.text,
        "reason": "" if result.reason is None else str(result.reason),
        "query": result.query,
    }


def shown_result(stored: Stored, key: AnswerKey, query: str, *, cached: bool) -> QueryResult:
    """A stored answer as a result of `query`, in the words it was asked in this time.

    Raises:
        ShownError: it is of another form.
    """
    status, text, reason = (stored.value.get(name) for name in ("status", "text", "reason"))
    if status not in STATUSES or not isinstance(text, str) or reason not in ("", *SearchFailure):
        raise _broken(key, "status, text or reason")
    images = tuple(ImageRef(str(picture.path), picture.width, picture.height) for picture in stored.pictures)
    return QueryResult(query, str(status), text, images, cached, SearchFailure(reason) if reason else None)


def _snippet(row: object, key: AnswerKey) -> Snippet:
    if not isinstance(row, Sequence) or len(row) != 3 or not all(isinstance(part, str) for part in row):
        raise _broken(key, "snippets")
    return Snippet(*row)


def _broken(key: AnswerKey, what: str) -> ShownError:
    return ShownError(f"the stored {key.kind} answer to {key.query[:80]!r} has no valid {what}: remove it or the cache")
