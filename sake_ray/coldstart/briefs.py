"""From tagged posts to what a teacher is told: which entities it must search for, and with which tool.

Knows nothing of teachers or files. Always holds: an unknown entity is searched for, a known one is not, and an
ambiguous one is as the settings say; a post is left out only as ambiguous or untagged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from sake_ray.coldstart.difficulty import EntityTag, post_difficulty
from sake_ray.coldstart.tag_files import PostTags, tags_of
from sake_ray.coldstart.teaching import Brief, Need
from sake_ray.types import Difficulty, Example

_ONE_TOOL = {"text": Need.TEXT, "image": Need.IMAGE}


def make_briefs(
    examples: Sequence[Example], tags: Mapping[str, PostTags], source: str, *, tools: str, ambiguous: str
) -> list[Brief]:
    """The briefs of the posts to be taught, in order.

    Args:
        examples: posts whose entities have a difficulty; others are left out.
        tags: their tags, for `tools="tags"`; a post without one counts as tagged `both` for what is unknown.
        source: where the tags come from, for messages.
        tools: "tags", "text" or "image" (secot.tools).
        ambiguous: "skip", "search" or "answer" (secot.ambiguous).

    Raises:
        DataError: tags are of other data.
    """
    briefs = []
    for example in examples:
        hardest = post_difficulty(example)
        if example.entities and hardest is None:
            continue
        if hardest is Difficulty.AMBIGUOUS and ambiguous == "skip":
            continue
        found = tags_of(example, tags, source) if example.id in tags else (None,) * len(example.entities)
        needs, free = [], set()
        for index, (entity, tag) in enumerate(zip(example.entities, found, strict=True)):
            searched = entity.difficulty is Difficulty.UNKNOWN
            if entity.difficulty is Difficulty.AMBIGUOUS:
                searched = ambiguous == "search"
                if ambiguous == "skip":
                    free.add(index)
            needs.append(_tool(tag, tools) if searched else Need.NONE)
        briefs.append(Brief(example, tuple(needs), frozenset(free)))
    return briefs


def draw(briefs: Sequence[Brief], count: int, seed: int, search_share: float = 0.0) -> list[Brief]:
    """`count` of the briefs (0: all), in a seeded order.

    With a `search_share` above 0 searches, or direct answers where those are too many, are left out until the share
    of briefs that search is at most, or at least, that.
    """
    order = list(briefs)
    random.Random(f"secot-{seed}").shuffle(order)
    if search_share > 0:
        order = _mixed(order, search_share)
    return order[: count or None]


def _mixed(order: Sequence[Brief], share: float) -> list[Brief]:
    searching = sum(brief.searches for brief in order)
    direct = len(order) - searching
    if searching > share * len(order):
        searching = round(direct * share / (1 - share))
    else:
        direct = round(searching * (1 - share) / share)
    room = {True: searching, False: direct}
    kept = []
    for brief in order:
        if room[brief.searches] > 0:
            room[brief.searches] -= 1
            kept.append(brief)
    return kept


def _tool(tag: EntityTag | None, tools: str) -> Need:
    if tools in _ONE_TOOL:
        return _ONE_TOOL[tools]
    # Each half was right in some sample, though not both in all: nothing says which to trust.
    return Need.BOTH if tag is None or tag.is_search is Need.NONE else tag.is_search
