"""The driver's side of watching and scaling a running job.

Knows the pools only as `ScalablePool` and the trainer by what its view says. Always holds: a look at a pool that
fails or hangs is shown as such and never stops training, while a bug here stops the run with its own traceback; what
cannot be scaled is refused with a sentence that reaches whoever asked; `RUN/ray.json` says where the job runs, while
it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayActorError

from actors.actor_state import ActorState, ScalablePool
from actors.control import own_name, start_control
from launch.control_metrics import TrainerGauges
from launch.pools import Pools
from sake_ray.config.config import Config
from sake_ray.data.json_files import write_json
from sake_ray.trainer.autoscale import Autoscaler, AutoscaleSettings

log = logging.getLogger(__name__)
Result = TypeVar("Result")
NOTE = "ray.json"
EVERY_S = 2.0
LOOK_S = 10.0
MOST_WORKERS = 4096


class Watched(Protocol):
    """Actors that can be looked at and not scaled: the learner ranks."""

    async def states(self) -> Sequence[ActorState]:
        """Each rank."""
        ...


@dataclass
class JobControl:
    """Publishes the status every `every_s` seconds and carries out commands."""

    run_dir: Path
    pools: Mapping[str, ScalablePool]
    learner: Watched
    view: Callable[[], Mapping[str, Any]] = dict  # of the trainer, once there is one
    autoscale: AutoscaleSettings | None = None
    name: str = field(default_factory=own_name)
    make_board: Callable[[str], Any] = start_control
    every_s: float = EVERY_S

    def __post_init__(self) -> None:
        self._board = self.make_board(self.name)
        self._gauges = TrainerGauges()
        self._autoscaler = None if self.autoscale is None else Autoscaler(self.autoscale)
        self._resizing: asyncio.Task[None] | None = None

    async def beside(self, work: Coroutine[Any, Any, Result]) -> Result:
        """`work`, with the job watched meanwhile; whichever breaks first ends both, with its own traceback."""
        task = asyncio.ensure_future(work)
        own = [asyncio.ensure_future(self._publish()), asyncio.ensure_future(self._obey())]
        try:
            await asyncio.wait({task, *own}, return_when=asyncio.FIRST_COMPLETED)
            for side in own:
                if side.done():
                    side.result()  # raises: it has no other end
            return await task
        finally:
            for each in (task, *own):
                each.cancel()
            await asyncio.gather(task, *own, return_exceptions=True)

    def stepped(self, metrics: Mapping[str, float]) -> None:
        """A step has ended: the autoscaler may change the rollout pool."""
        self._gauges.step(metrics)
        if self._autoscaler is None:
            return
        pool = self.pools["rollout"]
        size = self._autoscaler.next(metrics["time/wait_share"], metrics["time/held_share"], pool.size)
        if size != pool.size:
            log.info(
                "rollout workers: %d -> %d (the learner waited %.0f %% of the step, the budget held %.0f %%)",
                pool.size, size, 100 * metrics["time/wait_share"], 100 * metrics["time/held_share"],
            )  # fmt: skip
            self._resizing = asyncio.create_task(pool.resize(size))

    async def status(self) -> dict[str, Any]:
        """The status as it is published; its fields are in docs/operations.md."""
        looks = {name: self._look(pool) for name, pool in self.pools.items()} | {"learner": self._look(self.learner)}
        seen = dict(zip(looks, await asyncio.gather(*looks.values()), strict=True))
        return {
            "job": self.name,
            "run_dir": str(self.run_dir),
            "time": time.time(),
            "trainer": dict(self.view()),
            "pools": {name: {"size": pool.size, **seen[name]} for name, pool in self.pools.items()},
            "learner": seen["learner"],
        }

    async def scale(self, sizes: Mapping[str, Any]) -> str:
        """Carry out a command; returns what became of it.

        Raises:
            ValueError: a pool that is none, or a size it cannot have; nothing was changed.
        """
        for name, size in sizes.items():
            self._check(name, size)
        for name, size in sizes.items():
            log.info("%s: %d -> %d, as asked from outside", name, self.pools[name].size, size)
            await self.pools[name].resize(size)
        return ", ".join(f"{name}={size}" for name, size in sizes.items())

    def _check(self, name: str, size: Any) -> None:
        if name == "learner":
            raise ValueError("learner: its ranks are fixed while a run runs; stop it, and go on with learner.ranks=N")
        if name not in self.pools:
            raise ValueError(f"{name}: no such pool; there are {', '.join(self.pools)}")
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST_WORKERS:
            raise ValueError(f"{name}={size}: must be a whole number from 1 to {MOST_WORKERS}")
        bounds = self.autoscale
        if name == "rollout" and bounds is not None and not bounds.low <= size <= bounds.high:
            raise ValueError(
                f"rollout={size}: rollout.autoscale={bounds.low}:{bounds.high} would take it back; stay within"
            )

    async def _look(self, actors: Watched) -> dict[str, Any]:
        try:
            async with asyncio.timeout(LOOK_S):
                return {"actors": [asdict(state) for state in await actors.states()]}
        except TimeoutError:
            return {"actors": [], "error": f"no answer in {LOOK_S:.0f} s"}
        except RayActorError as error:
            return {"actors": [], "error": str(error).splitlines()[0]}

    async def _publish(self) -> None:
        while True:
            status = await self.status()
            self._gauges.view(status["trainer"])
            await self._at_board("publish", json.dumps(status))
            await asyncio.sleep(self.every_s)

    async def _obey(self) -> None:
        while True:
            command = await self._at_board("next_command", 30.0)
            if command is None:
                continue
            number, text = command
            try:
                answer = {"ok": True, "text": await self.scale(_sizes(text))}
            except ValueError as error:
                answer = {"ok": False, "text": str(error)}
            await self._at_board("answer", number, json.dumps(answer))

    async def _at_board(self, method: str, *arguments: Any) -> Any:
        """Call the notice board; one that was killed is back in a moment, without what it held."""
        try:
            return await getattr(self._board, method).remote(*arguments)
        except RayActorError as error:
            log.warning("%s is gone or restarting (%s)", self.name, str(error).splitlines()[0])
            await asyncio.sleep(1.0)
            return None


def _sizes(text: str) -> dict[str, Any]:
    command = json.loads(text)
    if not isinstance(command, dict) or not isinstance(command.get("scale"), dict) or not command["scale"]:
        raise ValueError("no such command; there is scale")
    return dict(command["scale"])


@asynccontextmanager
async def watched(config: Config, run_dir: Path, pools: Pools) -> AsyncIterator[JobControl]:
    """A job that people can watch and scale; `RUN/ray.json` says where, as long as it runs."""
    bounds = config.rollout.bounds()
    control = JobControl(
        run_dir,
        {"rollout": pools.rollout, "search": pools.search, "reward": pools.rewards},
        pools.learner,
        autoscale=None if bounds is None else AutoscaleSettings(*bounds),
    )
    note = run_dir / NOTE
    write_json(note, {"address": ray.get_runtime_context().gcs_address, "job": control.name})
    try:
        yield control
    finally:
        note.unlink(missing_ok=True)
