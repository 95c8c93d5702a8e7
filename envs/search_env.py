"""The environment of one episode: which searches are still allowed, and what they answer.

Knows nothing of tokens, prompts or models. Always holds: a search counts against its kind's limit
from the moment it is asked, and no search beyond the limit reaches the tool.
"""

from __future__ import annotations

from sake_ray.interfaces import SearchClient
from sake_ray.types import Action, Example, ImageSearch, Observation, SearchKind, TextSearch


class SearchEnv:
    """Answers the searches of one post, at most so many of each kind."""

    def __init__(self, example: Example, search: SearchClient, *, text_searches: int, image_searches: int) -> None:
        self.example = example
        self._search = search
        self._left = {SearchKind.TEXT: text_searches, SearchKind.IMAGE: image_searches}

    def allows(self, action: Action) -> bool:
        """Whether `action` is a search of which one is left."""
        kind = search_kind(action)
        return kind is not None and self._left[kind] > 0

    async def step(self, action: TextSearch | ImageSearch) -> Observation:
        """Ask the tool.

        Raises:
            ValueError: the limit is spent (ask `allows` first), or the answer is of the other kind.
        """
        kind = search_kind(action)
        if kind is None or not self.allows(action):
            raise ValueError(f"post {self.example.id}: no {kind} search is left; ask allows() before step()")
        self._left[kind] -= 1
        observation = await self._search.search(self.example, action)
        if observation.kind is not kind:
            raise ValueError(f"post {self.example.id}: a {kind} search was answered by a {observation.kind} result")
        return observation


def search_kind(action: Action) -> SearchKind | None:
    """The tool an action asks for; None for an action that is no search."""
    return action.kind if isinstance(action, TextSearch | ImageSearch) else None


class NoSearch:
    """A `SearchClient` for episodes that allow no search."""

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """Never called by an episode whose limits are 0.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"post {example.id}: this job has no search tool; its episode limits must be 0")
