"""Is an episode well-formed? 1 or 0.

Knows nothing of gold. Always holds: a well-formed episode ends with an answer, and every turn before it
is one search.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.parsing import answers_only, mentions_search, search_kind, searches_only
from sake_ray.trajectory import Trajectory
from sake_ray.types import Answer, ImageSearch, SearchKind, StopReason, TextSearch

RELEASED_MAX_TURNS = 3


def trajectory_format(trajectory: Trajectory) -> int:
    """1 when the episode ended with an answer after nothing but searches.

    How many searches of each kind there may be is the environment's rule: it would have ended the episode.
    """
    if trajectory.stop_reason is not StopReason.ANSWER:
        return 0
    *earlier, last = (turn.action for turn in trajectory.turns)
    return int(isinstance(last, Answer) and all(isinstance(a, TextSearch | ImageSearch) for a in earlier))


def released_format(responses: Sequence[str]) -> tuple[int, int]:
    """(format, search turns) as the released code judges them.

    Well-formed: an answer; one search, then an answer; image search, text search, answer in this order
    only. Two turns count as one search and three as two, whatever they hold; a single turn counts as one
    when it opens a search.

    Raises:
        ValueError: no turn, or more than three, which the released code refuses too.
    """
    if not 1 <= len(responses) <= RELEASED_MAX_TURNS:
        raise ValueError(f"{len(responses)} responses: the release preset scores 1 to {RELEASED_MAX_TURNS} turns")
    *earlier, last = responses
    searches = len(earlier) if earlier else int(mentions_search(last))
    if len(earlier) < 2:
        asked = all(search_kind(turn) is not None for turn in earlier)
    else:
        asked = searches_only(earlier[0], SearchKind.IMAGE) and searches_only(earlier[1], SearchKind.TEXT)
    return int(asked and answers_only(last)), searches
