"""Decides whether a teacher's trajectory may be learnt from, and says by name what is wrong with it.

Knows nothing of teachers, models or files. Always holds: a trajectory without a problem is well-formed, asked for
every unknown entity and for no known one, ended in exactly the gold answer, and says nothing of its instructions;
what an episode that broke off might still have done is not held against it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sake_ray.coldstart.teacher_prompt import leaks
from sake_ray.coldstart.teaching import Brief, Need
from sake_ray.data.images import Size, processed_size, to_processed
from sake_ray.trajectory import Trajectory
from sake_ray.types import Answer, Entity, ImageSearch, Malformed, PredictedEntity, StopReason, TextSearch

BOX_TOLERANCE = 1.0
"""Pixels a side of an answered box may differ from gold: what rounding to whole pixels can do."""

_WORD = re.compile(r"\w+|[^\w\s]")


class Reason(enum.StrEnum):
    """Why a trajectory is rejected."""

    FORMAT = "format"
    TOOL_ORDER = "tool_order"
    UNKNOWN_NOT_SEARCHED = "unknown_not_searched"
    KNOWN_SEARCHED = "known_searched"
    SEARCH_FAILED = "search_failed"
    WRONG_ANSWER = "wrong_answer"
    BOX_OUTSIDE = "box_outside"
    LEAKED = "leaked"
    TOO_LONG = "too_long"
    NO_TURN = "no_turn"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: its name, and a sentence a teacher can act on."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class CheckRules:
    """What the checker holds trajectories to.

    Attributes:
        min_pixels, max_pixels: how the picture was sized for the policy, whose pixels answers are in.
        image_first: whether an image search after a text search is out of order (the released reward's rule).
    """

    min_pixels: int
    max_pixels: int
    image_first: bool = False


def check(
    trajectory: Trajectory, brief: Brief, rules: CheckRules, *, hidden: str = "", shown: str = ""
) -> list[Problem]:
    """Everything wrong with a finished trajectory; nothing when it may be learnt from.

    Args:
        trajectory: the episode the teacher played.
        brief: what the teacher was told.
        rules: see `CheckRules`.
        hidden: the instructions the policy must never hear of.
        shown: the text the policy does see, which a turn may repeat.
    """
    problems = list(_ending(trajectory))
    problems += _order(trajectory, rules)
    problems += _searches(trajectory, brief)
    problems += _leak(trajectory, hidden, shown)
    if trajectory.stop_reason is StopReason.ANSWER:
        action = trajectory.turns[-1].action
        assert isinstance(action, Answer)
        image = brief.example.image
        size = processed_size(image.width, image.height, min_pixels=rules.min_pixels, max_pixels=rules.max_pixels)
        problems += _boxes(action, size)
        problems += _answer(action, brief, size)
    return problems


def _ending(trajectory: Trajectory) -> Iterator[Problem]:
    last = trajectory.turns[-1].action if trajectory.turns else None
    match trajectory.stop_reason:
        case StopReason.ANSWER:
            return
        case StopReason.TRUNCATED:
            yield Problem(
                Reason.TOO_LONG, "the trajectory does not fit into the tokens or pictures an episode may have"
            )
        case StopReason.MALFORMED:
            why = last.reason if isinstance(last, Malformed) else "unreadable"
            yield Problem(
                Reason.FORMAT, f"turn {len(trajectory.turns)} is not one action in the form asked for ({why})"
            )
        case StopReason.DEADLINE:
            yield Problem(Reason.TOO_LONG, "the trajectory was cut off by the clock")
        case _:
            yield Problem(Reason.TOOL_ORDER, f"turn {len(trajectory.turns)} is a search where none is left to make")


def _order(trajectory: Trajectory, rules: CheckRules) -> Iterator[Problem]:
    kinds = [type(turn.action) for turn in trajectory.turns]
    if rules.image_first and TextSearch in kinds and ImageSearch in kinds[kinds.index(TextSearch) :]:
        yield Problem(Reason.TOOL_ORDER, "the image search must come before the text search")


def _searches(trajectory: Trajectory, brief: Brief) -> Iterator[Problem]:
    asked: dict[type, set[int]] = {TextSearch: set(), ImageSearch: set()}
    names = [entity.text for entity in brief.example.entities]
    count = 0
    for turn in trajectory.turns:
        action = turn.action
        if not isinstance(action, TextSearch | ImageSearch):
            continue
        count += 1
        for query in action.queries:
            asked[type(action)] |= about(query, names)
        if turn.observation is not None and any(result.status == "failed" for result in turn.observation.results):
            yield Problem(Reason.SEARCH_FAILED, "a search got no answer; nothing is wrong with the turn itself")
    answered = trajectory.stop_reason is StopReason.ANSWER
    # A query cannot tell two entities of one name apart: asking for the unknown one is asking for both.
    may_ask = {_words(names[i]) for i, need in enumerate(brief.needs) if need is not Need.NONE or i in brief.free}
    for index, (name, need) in enumerate(zip(names, brief.needs, strict=True)):
        if answered and need.text and index not in asked[TextSearch]:
            yield Problem(Reason.UNKNOWN_NOT_SEARCHED, f"{name!r} is unknown, but no text search asks for it")
        if answered and need.image and index not in asked[ImageSearch]:
            yield Problem(Reason.UNKNOWN_NOT_SEARCHED, f"what {name!r} looks like is unknown, but no image search asks")
        if _words(name) not in may_ask and (index in asked[TextSearch] or index in asked[ImageSearch]):
            yield Problem(Reason.KNOWN_SEARCHED, f"{name!r} is known and must not be searched for")
    if count and not brief.searches and not brief.free:
        yield Problem(Reason.KNOWN_SEARCHED, "every entity is known: answer without a search")


def about(query: str, names: Sequence[str]) -> set[int]:
    """Which of the names a query asks for, by whole words; the York of a New York that is a name too does not count."""
    text = _words(query)
    places = [
        (at, at + len(words), index)
        for index, words in enumerate(map(_words, names))
        for at in range(len(text) - len(words) + 1)
        if words and text[at : at + len(words)] == words
    ]
    return {
        index
        for start, end, index in places
        if not any(left <= start and end <= right and right - left > end - start for left, right, _ in places)
    }


def _words(text: str) -> tuple[str, ...]:
    """Words as they are compared: case aside, and blanks, so that `B . B . King` is `B.B. King`."""
    return tuple(_WORD.findall(text.casefold()))


def _leak(trajectory: Trajectory, hidden: str, shown: str) -> Iterator[Problem]:
    visible = f"{shown}\n{trajectory.example.text}"
    for number, turn in enumerate(trajectory.turns, start=1):
        found = leaks(turn.text, hidden, visible)
        if found is not None:
            yield Problem(Reason.LEAKED, f"turn {number} betrays the instructions: {found!r}")
            return
        results = turn.observation.results if turn.observation is not None else ()
        visible = "\n".join([visible, *(result.text for result in results)])


def _boxes(answer: Answer, size: Size) -> Iterator[Problem]:
    for entity in answer.entities:
        if entity.box is None:
            continue
        x1, y1, x2, y2 = entity.box
        if not (0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
            shown = [round(side) for side in entity.box]
            yield Problem(Reason.BOX_OUTSIDE, f"box {shown} of {entity.text!r} is no box inside {size[0]} x {size[1]}")


def _answer(answer: Answer, brief: Brief, size: Size) -> Iterator[Problem]:
    """Gold and answer must pair up one to one; the pickiest gold entity chooses first among what is equal to it."""
    image = brief.example.image
    left = list(answer.entities)
    equal = {
        index: [said for said in answer.entities if _equal(said, gold, (image.width, image.height), size)]
        for index, gold in enumerate(brief.example.entities)
    }
    for index in sorted(equal, key=lambda index: len(set(equal[index]))):
        match = next((said for said in equal[index] if said in left), None)
        if match is None:
            gold = brief.example.entities[index]
            yield Problem(Reason.WRONG_ANSWER, f"the answer lacks {gold.text!r} with its type and box")
        else:
            left.remove(match)
    for said in left:
        yield Problem(
            Reason.WRONG_ANSWER, f"the answer has {said.text!r} ({said.type}), which is not in gold like that"
        )


def _equal(said: PredictedEntity, gold: Entity, original: Size, shown: Size) -> bool:
    if said.text != gold.text or said.type != gold.type:
        return False
    if said.box is None or not gold.boxes:
        return said.box is None and not gold.boxes
    return any(
        all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(said.box, to_processed(box, original, shown), strict=True))
        for box in gold.boxes
    )
