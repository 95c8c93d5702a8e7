"""What a pool asks of Ray about its actors, in one place, and what Ray's errors say of them.

Knows nothing of what the actors do. Always holds: an actor that finds no room is waited for, with a warning now and
then that says what it asks for, and is no failure unless the caller sets a limit; an actor's name is waited for where
its predecessor still has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from actors.placement import Resources

logger = logging.getLogger(__name__)

LOST = (RayActorError, ActorUnavailableError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
"""What Ray says when an actor, and not its input, is at fault."""

NOT_MADE = (RuntimeEnvSetupError, ActorUnschedulableError)
"""What Ray says when an actor could not even be made where it was placed: another attempt may find another node."""

WARN_EVERY_S = 30.0


class NoRoomError(RuntimeError):
    """The cluster had no room for an actor in the time that was set."""


class ActorHost(Protocol):
    """What a pool needs to place actors and to be rid of them; `RayHost`, or a fake in tests."""

    def spawn(self, index: int) -> Any:
        """Place actor `index` and return its handle at once; ValueError "already taken" while its name is."""
        ...

    def ready(self, handle: Any) -> Awaitable[Any]:
        """Ends when the actor has its place and is made; raises what kept it from it."""
        ...

    def kill(self, handle: Any) -> None:
        """End the actor's process."""
        ...

    def cancel(self, call: Any) -> None:
        """Cancel a call that is under way."""
        ...

    def put(self, value: Any) -> Any:
        """What to hand to many actors instead of `value`, so that it is copied once a node."""
        ...

    def room(self) -> str:
        """What the actors ask for, and what the cluster has."""
        ...


class RayHost:
    """`ActorHost` over Ray; `spawn(index)` makes an actor of what each of them takes, `resources`."""

    def __init__(self, spawn: Callable[[int], Any], resources: Resources | None = None) -> None:
        self._spawn = spawn
        self._resources = resources

    def spawn(self, index: int) -> Any:
        """See `ActorHost.spawn`."""
        return self._spawn(index)

    def ready(self, handle: Any) -> Awaitable[Any]:
        """See `ActorHost.ready`."""
        ready: Awaitable[Any] = handle.__ray_ready__.remote()
        return ready

    def kill(self, handle: Any) -> None:
        """See `ActorHost.kill`."""
        ray.kill(handle)

    def cancel(self, call: Any) -> None:
        """See `ActorHost.cancel`."""
        ray.cancel(call)

    def put(self, value: Any) -> Any:
        """See `ActorHost.put`; a reference stays what it is."""
        return value if isinstance(value, ray.ObjectRef) else ray.put(dict(value))

    def room(self) -> str:
        """See `ActorHost.room`."""
        asked = self._resources
        wants = "" if asked is None else f"it asks for {asked.cpus:g} CPUs and {asked.gpus:g} GPUs; "
        return f"{wants}the cluster has {_listed(ray.cluster_resources())}, free {_listed(ray.available_resources())}"


async def until_ready(host: ActorHost, handle: Any, name: str, *, limit_s: float | None = None) -> None:
    """Wait until an actor has its place and is made.

    Raises:
        NoRoomError: it did not have it after `limit_s`; says what was asked for and what the cluster has.
    """
    waiting = asyncio.ensure_future(host.ready(handle))
    begin = time.monotonic()
    try:
        while True:
            passed = time.monotonic() - begin
            left = WARN_EVERY_S if limit_s is None else min(WARN_EVERY_S, limit_s - passed)
            await asyncio.wait({waiting}, timeout=max(left, 0.0))
            if waiting.done():
                waiting.result()
                return
            passed = time.monotonic() - begin
            room = await asyncio.to_thread(host.room)
            if limit_s is not None and passed >= limit_s:
                raise NoRoomError(f"{name} found no room in {passed:.0f} s: {room}; ask for less, or add nodes")
            logger.warning("%s has been waiting for room for %.0f s: %s", name, passed, room)
    finally:
        waiting.cancel()


async def spawn_when_free(host: ActorHost, index: int, name: str, *, limit_s: float | None = None) -> Any:
    """Spawn actor `index`; its predecessor's name is free only a moment after it died.

    Raises:
        ValueError: the name was still taken after `limit_s`.
    """
    begin = warned = time.monotonic()
    while True:
        try:
            return host.spawn(index)
        except ValueError as error:
            now = time.monotonic()
            if "already taken" not in str(error) or (limit_s is not None and now - begin > limit_s):
                raise
            if now - warned > WARN_EVERY_S:
                warned = now
                logger.warning("%s: the name is still taken after %.0f s", name, now - begin)
        await asyncio.sleep(0.2)


def actor_is_lost(error: BaseException, handle: Any) -> bool:
    """Whether `error`, one of `LOST`, means the actor `handle` and not some other actor.

    A search worker that died, or the rank that should have given the weights, shows up as the same types.
    """
    if isinstance(error, RayTaskError):  # raised by code inside the actor, which therefore lives
        return False
    actor_id = getattr(error, "actor_id", None)
    return actor_id is None or actor_id == handle._actor_id.hex()


def node_is_gone(error: BaseException) -> bool:
    """Whether an actor ended because its node did, as far as Ray knows by then."""
    return isinstance(error, NodeDiedError) or "node has died" in str(error) or "node was terminated" in str(error)


def argument_is_gone(error: BaseException, handle: Any) -> bool:
    """Whether a call failed because what it was handed by reference is lost, or was never made."""
    return isinstance(error, ObjectLostError) or (isinstance(error, LOST) and not actor_is_lost(error, handle))


def brief(error: BaseException | None) -> str:
    """The last line of an error's text: Ray's carry whole tracebacks."""
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else type(error).__name__


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0.0):g} {kind}s" for kind in ("CPU", "GPU"))
