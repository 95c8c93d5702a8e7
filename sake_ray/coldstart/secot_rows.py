"""What a search answered, as JSON and back.

Knows nothing of trajectories or data sets. Always holds: what comes back equals what went in but for how it was got
(`latency_s`, `cached`), pictures by reference; a picture that is only in memory has no reference and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sake_ray.data.problems import FieldError
from sake_ray.types import ImageRef, Observation, QueryResult, SearchKind

STATUSES = ("success", "no_result", "failed")


def observation_row(observation: Observation | None) -> dict[str, Any]:
    """`{kind, results}`; kind "" and no results for a turn that was no search.

    Raises:
        ValueError: a picture is not in a file.
    """
    if observation is None:
        return {"kind": "", "results": []}
    results = [
        {"query": r.query, "status": r.status, "text": r.text, "images": [_image_row(image) for image in r.images]}
        for r in observation.results
    ]
    return {"kind": str(observation.kind), "results": results}


def observation_of(row: Mapping[str, Any], where: str) -> Observation | None:
    """What `observation_row` wrote.

    Raises:
        FieldError: the row has another form.
    """
    kind, results = row.get("kind"), row.get("results")
    if kind == "":
        return None
    if not isinstance(kind, str) or kind not in set(SearchKind) or not isinstance(results, list):
        raise FieldError(f"{where}.kind", f"{kind!r:.40} is no kind of search with results")
    return Observation(
        SearchKind(kind), tuple(_result(item, f"{where}.results[{i}]") for i, item in enumerate(results))
    )


def _result(item: Any, where: str) -> QueryResult:
    if not isinstance(item, dict):
        raise FieldError(where, "is no object")
    query, status, text = item.get("query"), item.get("status"), item.get("text")
    images = item.get("images")
    if not isinstance(query, str) or status not in STATUSES or not isinstance(text, str):
        raise FieldError(where, "needs query and text, and a status of success, no_result or failed")
    if not isinstance(images, list):
        raise FieldError(f"{where}.images", "is no list")
    return QueryResult(query, status, text, tuple(_image(image, f"{where}.images") for image in images))


def _image_row(image: ImageRef) -> dict[str, Any]:
    if image.data is not None or image.standin is not None:
        raise ValueError(f"picture {image.path} of a search result is not in a file")
    return {"path": image.path, "width": image.width, "height": image.height}


def _image(row: Any, where: str) -> ImageRef:
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise FieldError(where, "is no picture with path, width and height")
    width, height = row.get("width"), row.get("height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise FieldError(where, "is no picture with path, width and height")
    return ImageRef(row["path"], width, height)
