"""Finished trajectories as JSON values and back, for checkpoints: what was played need not be played again.

Knows nothing of files. Always holds: what is read equals what was written, to the last bit of every log-prob; a post
is named, not copied; a row that is no trajectory, or shows pictures that are gone, is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import (
    Action,
    Answer,
    Box,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    PredictedEntity,
    QueryResult,
    Reward,
    SearchFailure,
    SearchKind,
    StopReason,
    TextSearch,
)

_LISTS = ("short_ids", "token_ids", "loss_mask", "logprobs", "versions")
_PLAIN = ("id", "worker", "score_began_s", "score_s")


def to_json(trajectory: Trajectory) -> dict[str, Any]:
    """A finished trajectory, less its post and its advantage."""
    return {
        **{name: getattr(trajectory, name) for name in _PLAIN},
        **{name: list(getattr(trajectory, name)) for name in _LISTS},
        "images": [_image_to(image) for image in trajectory.images],
        "turns": [_turn_to(turn) for turn in trajectory.turns],
        "stop_reason": trajectory.stop_reason,
        "reward": None if trajectory.reward is None else asdict(trajectory.reward),
    }


def from_json(row: Mapping[str, Any], example: Example) -> Trajectory:
    """The trajectory of a row that `to_json` made, for its post.

    Raises:
        ValueError: it is no such row, or a picture it shows is gone.
    """
    try:
        return Trajectory(
            id=str(row["id"]),
            example=example,
            short_ids=list(row["short_ids"]),
            token_ids=list(row["token_ids"]),
            loss_mask=list(row["loss_mask"]),
            logprobs=list(row["logprobs"]),
            versions=list(row["versions"]),
            images=[_image_from(image) for image in row["images"]],
            turns=[_turn_from(turn) for turn in row["turns"]],
            stop_reason=StopReason(row["stop_reason"]),
            reward=None if row["reward"] is None else Reward(**row["reward"]),
            worker=str(row["worker"]),
            score_began_s=row["score_began_s"],
            score_s=row["score_s"],
        )
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"this is no trajectory ({error!r}): {dict(row)!r:.200}") from error


def _turn_to(turn: Turn) -> dict[str, Any]:
    observation = turn.observation
    return {
        "text": turn.text,
        "action": {"kind": type(turn.action).__name__, **asdict(turn.action)},
        "generate_s": turn.generate_s,
        "began_s": turn.began_s,
        "search_began_s": turn.search_began_s,
        "observation": None
        if observation is None
        else {
            "kind": observation.kind,
            "latency_s": observation.latency_s,
            "results": [
                {**asdict(result), "images": [_image_to(image) for image in result.images]}
                for result in observation.results
            ],
        },
    }


def _turn_from(row: Mapping[str, Any]) -> Turn:
    seen = row["observation"]
    return Turn(
        text=row["text"],
        action=_action_from(row["action"]),
        observation=None
        if seen is None
        else Observation(SearchKind(seen["kind"]), tuple(map(_result_from, seen["results"])), seen["latency_s"]),
        generate_s=row["generate_s"],
        began_s=row["began_s"],
        search_began_s=row["search_began_s"],
    )


def _action_from(row: Mapping[str, Any]) -> Action:
    match row["kind"]:
        case "Answer":
            return Answer(
                tuple(
                    PredictedEntity(e["text"], e["type"], None if e["box"] is None else tuple(e["box"]))
                    for e in row["entities"]
                )
            )
        case "TextSearch":
            return TextSearch(tuple(row["queries"]))
        case "ImageSearch":
            return ImageSearch(tuple(row["queries"]))
        case "Malformed":
            return Malformed(row["reason"])
        case kind:
            raise ValueError(f"{kind!r} is no kind of action")


def _result_from(row: Mapping[str, Any]) -> QueryResult:
    reason = row["reason"]
    images = tuple(_image_from(image) for image in row["images"])
    return QueryResult(**{**row, "images": images, "reason": None if reason is None else SearchFailure(reason)})


def _image_to(image: ImageRef) -> dict[str, Any]:
    return {
        "path": image.path,
        "size": [image.width, image.height],
        "standin": None if image.standin is None else [[box.as_list(), label] for box, label in image.standin],
        "data": None if image.data is None else base64.b64encode(image.data).decode("ascii"),
    }


def _image_from(row: Mapping[str, Any]) -> ImageRef:
    standin, data = row["standin"], row["data"]
    if standin is None and data is None and not Path(row["path"]).is_file():
        raise ValueError(f"the picture {row['path']} is gone")
    width, height = row["size"]
    return ImageRef(
        str(row["path"]),
        int(width),
        int(height),
        standin=None if standin is None else tuple((Box(*box), str(label)) for box, label in standin),
        data=None if data is None else base64.b64decode(data, validate=True),
    )
