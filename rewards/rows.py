"""A run's `trajectories.jsonl`, row by row, as the trajectories it tells of: to score them under another reward.

Knows nothing of rewards. Always holds: what comes back scores as the original did, since it has the post's entities
with all their boxes, the picture's size, every turn's text, which searches were answered, and how the episode ended;
what the policy was shown is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.fields import list_at, object_at, text_at
from sake_ray.actions import ActionLimits, parse_action
from sake_ray.data.gold import MAX_ROWS, check_box, check_size, need
from sake_ray.data.problems import FieldError
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Answer, Entity, Example, ImageRef, Malformed, Observation, StopReason

MAX_TURNS = 1_000
# The run's own limit is not in the row, and need not be: a turn over it ended the episode as malformed.
_LIMITS = ActionLimits(max_queries=1_000)


def is_row(value: object) -> bool:
    """Whether a parsed value looks like a row of `trajectories.jsonl`, not like a case of `rewards.cases`."""
    return isinstance(value, dict) and "turns" in value


def read_row(value: object) -> Trajectory:
    """The finished trajectory a row tells of; fields that do not matter here are left alone.

    Raises:
        FieldError: a field is missing, of another form, or contradicts another.
    """
    row = object_at(value, "row")
    size = check_size(need(row, "image_size"))
    if size is None:
        raise FieldError("image_size", "is null, and boxes cannot be scaled without it")
    gold = list_at(need(row, "gold"), "gold", MAX_ROWS)
    entities = tuple(_entity(item, size, f"gold[{index}]") for index, item in enumerate(gold))
    example = Example(text_at(need(row, "example"), "example"), "", ImageRef("", *size), entities)
    trajectory = Trajectory(text_at(need(row, "id"), "id"), example)
    turns = list_at(need(row, "turns"), "turns", MAX_TURNS)
    trajectory.turns.extend(_turn(item, f"turns[{index}]") for index, item in enumerate(turns))
    reason = row.get("stop_reason")
    if not isinstance(reason, str) or reason not in set(StopReason):
        raise FieldError("stop_reason", f"{reason!r:.60} is not one of {', '.join(StopReason)}")
    trajectory.finish(StopReason(reason))
    return trajectory


def _entity(value: object, size: tuple[int, int], where: str) -> Entity:
    row = object_at(value, where)
    text, kind = (text_at(need(row, name, f"{where}."), f"{where}.{name}") for name in ("entity", "type"))
    boxes = list_at(need(row, "boxes", f"{where}."), f"{where}.boxes", MAX_ROWS)
    checked = [check_box(box, size, f"{where}.boxes[{index}]") for index, box in enumerate(boxes)]
    if None in checked:
        raise FieldError(f"{where}.boxes", "holds an empty box; an entity that is not visible has no boxes")
    return Entity(text, kind, tuple(box for box in checked if box is not None))


def _turn(value: object, where: str) -> Turn:
    row: Mapping[str, Any] = object_at(value, where)
    text = text_at(need(row, "text", f"{where}."), f"{where}.text")
    action = parse_action(text, _LIMITS)
    if need(row, "results", f"{where}.") is None:
        return Turn(text, action)
    if isinstance(action, Answer | Malformed):
        raise FieldError(f"{where}.results", f"are those of a search, but the text is none: {text!r:.80}")
    return Turn(text, action, Observation(action.kind, ()))
