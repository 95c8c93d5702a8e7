"""Actors of one role that Ray itself restarts: who serves, who comes, who leaves.

Knows nothing of what they do; the search and the reward pool each have one. Always holds: an actor serves only when it
is made; one that leaves is given nothing new, is seen off by its pool, and ends; where there is no room an actor waits
for it; a bug in a background task is raised by `check`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError

from actors.actor_host import NOT_MADE, ActorHost, brief, spawn_when_free, until_ready
from actors.actor_state import DRAINING, LOST, PLACING, SERVING, STARTING, ActorState
from actors.placement import actor_name

logger = logging.getLogger(__name__)

_LOOK_S = 2.0


@dataclass(slots=True, eq=False)
class Member:
    """A place of the crew and the actor in it, if there is one."""

    index: int
    name: str
    handle: Any = None
    state: str = PLACING
    leaving: bool = False
    given_up: bool = False
    task: asyncio.Task[None] | None = None
    node: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


class Crew:
    """Members 0 to size − 1, and those above that still have something to finish. Made outside or inside of a loop.

    `started(handle)` ends when an actor that is made may serve, `see_off(handle)` when one that got nothing new since
    has nothing left to do; `changed()` is called when the list of those that serve has.
    """

    def __init__(
        self,
        role: str,
        size: int,
        host: ActorHost,
        *,
        started: Callable[[Any], Awaitable[Any]],
        see_off: Callable[[Any], Awaitable[Any]],
        changed: Callable[[], None],
    ) -> None:
        """Spawn them all; each counts as serving at once, so that what calls it waits until it is made."""
        if size < 1:
            raise ValueError(f"{role}.workers={size}: a {role} pool needs at least one worker")
        self.size = size
        self.members: dict[int, Member] = {}
        self._role = role
        self._host = host
        self._started, self._see_off, self._changed = started, see_off, changed
        self._failure: BaseException | None = None
        self._stopped = False
        for index in range(size):
            self.members[index] = Member(index, actor_name(role, index), host.spawn(index), SERVING)

    @property
    def serving(self) -> list[Any]:
        """Those that may be asked, by index."""
        return [self.members[index].handle for index in sorted(self.members) if self.members[index].state == SERVING]

    def resize(self, size: int) -> None:
        """Aim at another size; what was given up is tried again.

        Raises:
            ValueError: fewer than one.
        """
        if size < 1:
            raise ValueError(f"{self._role}={size}: a {self._role} pool needs at least one worker")
        self.check()
        self.size = size
        for index in range(size):
            member = self.members.setdefault(index, Member(index, actor_name(self._role, index)))
            member.leaving = member.given_up = False
        for member in list(self.members.values()):
            if member.index >= size and not member.leaving:
                member.leaving = True
                if member.task is not None and member.state in (PLACING, STARTING):
                    member.task.cancel()
            self._settle(member)

    def check(self) -> None:
        """Raise what a background task died of."""
        if self._failure is not None:
            raise RuntimeError(f"looking after the {self._role} workers failed: {self._failure!r}") from self._failure

    async def states(self, look: Callable[[Any], Awaitable[tuple[str, dict[str, float]]]]) -> list[ActorState]:
        """Each member; `look(handle)` gives its node and numbers, those it told last stand in for a late answer."""

        async def ask(member: Member) -> None:
            try:
                async with asyncio.timeout(_LOOK_S):
                    member.node, member.numbers = await look(member.handle)
            except (TimeoutError, RayActorError) as error:
                logger.debug("%s does not say at once how it stands: %s", member.name, brief(error))

        members = [self.members[index] for index in sorted(self.members)]
        await asyncio.gather(*(ask(member) for member in members if member.state in (SERVING, DRAINING)))
        return [ActorState(m.name, m.state, m.node, dict(m.numbers)) for m in members]

    async def stop(self) -> list[Any]:
        """End all background work; returns the actors that are left."""
        self._stopped = True
        tasks = [member.task for member in self.members.values() if member.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        handles = [member.handle for member in self.members.values() if member.handle is not None]
        self.members.clear()
        return handles

    def _settle(self, member: Member) -> None:
        """Begin what the member needs next, unless something is under way."""
        if self._stopped or self._failure is not None or member.task is not None:
            return
        if member.leaving:
            if member.handle is not None:
                member.state = DRAINING
                self._changed()
                self._begin(member, self._dismiss(member))
            elif self.members.get(member.index) is member:
                del self.members[member.index]
        elif member.handle is None and not member.given_up:
            self._begin(member, self._bring_in(member))

    def _begin(self, member: Member, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            member.task = None
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failure = self._failure or error
                logger.error("%s: %s", member.name, brief(error))
            self._settle(member)

        member.task = asyncio.create_task(work, name=f"{member.name} comes or goes")
        member.task.add_done_callback(ended)

    async def _bring_in(self, member: Member) -> None:
        member.state = PLACING
        handle = await spawn_when_free(self._host, member.index, member.name)
        try:
            await until_ready(self._host, handle, member.name)
            member.state = STARTING
            await self._started(handle)
        except (RayActorError, *NOT_MADE) as error:  # Ray restarts what dies; what cannot be made stays dead
            logger.error("%s cannot be made, and is given up until the next change of size: %s", member.name, error)
            self._host.kill(handle)
            member.state, member.given_up = LOST, True
            return
        except BaseException:
            self._host.kill(handle)
            raise
        member.handle, member.state = handle, SERVING
        self._changed()

    async def _dismiss(self, member: Member) -> None:
        """An actor that leaves and is killed is let go of by whoever sees it off; it may have died before."""
        try:
            await self._see_off(member.handle)
        except RayActorError as error:
            logger.warning("%s did not end by itself: %s", member.name, brief(error))
        self._host.kill(member.handle)
        member.handle, member.node, member.numbers = None, "", {}
