"""What connects a running job with people: its newest status, and what they ask of it.

Knows nothing of pools or training: texts in, texts out. Always holds: texts are JSON and bounded in size; an asker gets
an answer or a timeout, and a command that nobody waits for any more is not carried out.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import ray

NAMESPACE = "sake_ray"
PREFIX = "control-"
MAX_TEXT = 4 * 2**20
MAX_COMMANDS = 16


class Control:
    """A job's notice board; a plain class that `start_control` makes an actor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._status = ""
        self._numbers = itertools.count()
        self._asked: asyncio.Queue[tuple[int, str]] = asyncio.Queue(MAX_COMMANDS)
        self._answers: dict[int, asyncio.Future[str]] = {}

    def __repr__(self) -> str:
        return self.name

    async def publish(self, status: str) -> None:
        """Replace the status."""
        self._status = _bounded(status)

    async def status(self) -> str:
        """The newest status; "" before the first."""
        return self._status

    async def ask(self, command: str, timeout_s: float) -> str:
        """Hand a command to the job and wait for its answer.

        Raises:
            TimeoutError: the job did not answer in time; the command is withdrawn.
            RuntimeError: too many commands wait already.
        """
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        if self._asked.full():
            raise RuntimeError(f"{self.name}: {MAX_COMMANDS} commands wait for the job already")
        self._answers[number] = answer
        self._asked.put_nowait((number, _bounded(command)))
        try:
            async with asyncio.timeout(timeout_s):
                return str(await answer)
        finally:
            del self._answers[number]

    async def next_command(self, timeout_s: float) -> tuple[int, str] | None:
        """The job takes a command; None when there is none for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while (command := await self._asked.get())[0] not in self._answers:
                    pass  # nobody waits for it any more
                return command
        except TimeoutError:
            return None

    async def answer(self, number: int, text: str) -> None:
        """The job answers a command."""
        waiting = self._answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(_bounded(text))


def start_control(name: str) -> Any:
    """The notice board of a job as an actor that others find by name; Ray restarts it, and it ends with the job."""
    actor: Any = ray.remote(Control)
    return actor.options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=100
    ).remote(name)


def own_name() -> str:
    """The name of this job's notice board."""
    return f"{PREFIX}{ray.get_runtime_context().get_job_id()}"


def find_controls() -> list[str]:
    """The notice boards of all jobs in the cluster."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(a["name"] for a in named if a["namespace"] == NAMESPACE and a["name"].startswith(PREFIX))


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} characters; {MAX_TEXT} are the most that is kept")
    return text
