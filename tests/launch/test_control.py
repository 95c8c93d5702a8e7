"""The driver's side of watching and scaling: what is published, what is carried out, and what ends a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.actor_state import SERVING, ActorState
from actors.control import Control
from launch.control import JobControl
from launch.status import NothingToSee, read
from launch.status_view import draw
from sake_ray.trainer.autoscale import AutoscaleSettings


class Board:
    """A notice board without Ray: `board.method.remote(…)` awaits the plain class."""

    def __init__(self, name: str) -> None:
        self.plain = Control(name)

    def __getattr__(self, method: str) -> Any:
        call = getattr(self.plain, method)
        return type("Remote", (), {"remote": staticmethod(call)})


@dataclass
class Pool:
    size: int = 2
    asked: list[int] = field(default_factory=list)
    hangs: bool = False

    async def resize(self, workers: int) -> None:
        self.asked.append(workers)
        self.size = workers

    async def states(self) -> Sequence[ActorState]:
        if self.hangs:
            await asyncio.Event().wait()
        return [ActorState(f"x-{i}", SERVING, "abcdef123456", {"generated_tokens": 10.0}) for i in range(self.size)]


VIEW = {
    "step": 3, "total_steps": 9, "policy_version": 3, "phase": "update",
    "groups": {"running": 2, "ready": 1, "waiting": 0}, "returned": {}, "staleness": {"0": 1},
    "times": {"rollout": 1.5},
}  # fmt: skip


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> JobControl:
    class Gauges:
        def step(self, metrics: Any) -> None: ...

        def view(self, view: Any) -> None: ...

    monkeypatch.setattr("launch.control.TrainerGauges", Gauges)
    pools = {"rollout": Pool(), "search": Pool(1), "reward": Pool(1)}
    return JobControl(tmp_path, pools, Pool(1), lambda: VIEW, name="control-01", make_board=Board, every_s=0.01)


async def ask(control: JobControl, **sizes: Any) -> dict[str, Any]:
    return dict(json.loads(await control._board.plain.ask(json.dumps({"scale": sizes}), 2.0)))


async def test_what_is_asked_from_outside_is_carried_out_and_answered(control: JobControl) -> None:
    async def work() -> list[dict[str, Any]]:
        answers = [await ask(control, rollout=5, search=3)]
        for wrong in ({"rollout": 0}, {"learner": 2}, {"rolout": 2}, {"search": "many"}, {"rollout": 3, "reward": -1}):
            answers.append(await ask(control, **wrong))
        return answers

    good, *refused = await control.beside(work())
    assert good == {"ok": True, "text": "rollout=5, search=3"}
    assert not any(answer["ok"] for answer in refused)
    for answer, says in zip(
        refused, ("rollout=0", "fixed while a run runs", "no such pool", "many", "reward=-1"), strict=True
    ):
        assert says in answer["text"]
    assert control.pools["rollout"].asked == [5], "a command that was refused changed something"  # type: ignore[attr-defined]


async def test_with_an_autoscaler_a_size_outside_its_range_is_refused(control: JobControl) -> None:
    control.autoscale = AutoscaleSettings(1, 4)
    with pytest.raises(ValueError, match="stay within"):
        await control.scale({"rollout": 5})
    assert await control.scale({"rollout": 4}) == "rollout=4"


async def test_the_status_says_where_the_run_is_and_hides_no_pool_that_hangs(
    control: JobControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.control.LOOK_S", 0.05)
    control.pools["search"].hangs = True  # type: ignore[attr-defined]

    async def until_published() -> str:
        for _ in range(1000):
            if text := await control._board.plain.status():
                return str(text)
            await asyncio.sleep(0.01)
        raise AssertionError("nothing was published")

    status = json.loads(await control.beside(until_published()))
    assert status["trainer"] == VIEW and status["pools"]["rollout"]["size"] == 2
    assert status["pools"]["search"] == {"size": 1, "actors": [], "error": "no answer in 0 s"}
    shown = Console(width=160, record=True)
    shown.print(draw(status, {**status, "time": status["time"] - 2}))
    text = shown.export_text()
    assert "step 3 of 9, update" in text and "x-1" in text and "no answer" in text


async def test_a_bug_in_the_watching_ends_the_run_with_its_own_traceback(control: JobControl) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("a bug of ours")

    control.view = broken
    cancelled = asyncio.Event()

    async def training() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        await control.beside(training())
    assert cancelled.is_set()


async def test_a_failed_run_raises_its_own_error(control: JobControl) -> None:
    async def training() -> None:
        raise KeyError("of the run")

    with pytest.raises(KeyError, match="of the run"):
        await control.beside(training())


async def test_the_autoscaler_follows_the_steps(control: JobControl) -> None:
    control.autoscale = AutoscaleSettings(1, 3)
    control.__post_init__()
    for wait in (0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        control.stepped({"time/wait_share": wait, "time/held_share": 0.0})
        await asyncio.sleep(0)
    assert control.pools["rollout"].asked == [3]  # type: ignore[attr-defined]


async def test_a_command_that_nobody_waits_for_is_not_carried_out() -> None:
    board = Control("control-01")
    with pytest.raises(TimeoutError):
        await board.ask("{}", 0.01)
    assert await board.next_command(0.01) is None


async def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="are the most that is kept"):
        await Control("c").publish("x" * (4 * 2**20 + 1))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--scale", "needs pools"),
        ("--scale rollout=many", "whole number"),
        ("rollout=3", "not known"),
        ("--jsn", "--jsn"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, says: str) -> None:
    with pytest.raises(NothingToSee, match=says):
        read(words.split())


def test_names_from_the_job_are_text_and_no_markup() -> None:
    actor = {"name": "[red]x[/red]", "state": "serving", "node": "n", "numbers": {}}
    pool = {"size": 1, "actors": [actor]}
    shown = Console(width=120, record=True)
    shown.print(
        draw({"run_dir": "[bold]r", "time": 0.0, "trainer": {}, "pools": {"rollout": pool}, "learner": pool}, None)
    )
    assert "[red]x[/red]" in shown.export_text()
