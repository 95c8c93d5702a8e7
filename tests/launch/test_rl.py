"""The RL job around the trainer: which checkpoint it goes on from, and what a signal does at any time.

The job is whole but for its actors, data and cold start, which are the trainer tests' fakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import runpy
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from envs.tools.web_tool import SearchSpent
from launch import rl, run_checkpoints, training
from launch.job_data import DataSet
from launch.pools import Pools
from launch.rl import COLLAPSED, FULL, REFUSED, SPENT, STOPPED, run_job
from launch.run_checkpoints import RunCheckpoints, find_checkpoint
from launch.starting import Start
from sake_ray.config.config import Config
from sake_ray.config.identity import identity
from sake_ray.config.load import resolve
from sake_ray.interfaces import LearnerLost
from sake_ray.trainer.checkpoint import Checkpoint, CheckpointError, CheckpointStore, NoRoom
from sake_ray.trainer.trainer import StopRequested
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Example
from tests.sake_ray.trainer.fakes import (
    HELD_OUT,
    POSTS,
    FakeLearner,
    FakeRewards,
    FakeRollout,
    Outcome,
    share_right,
)

SETTINGS = (
    "preset=mini_fast",
    "rollout.group_size=3",
    "trainer.groups_per_step=2",
    "trainer.total_steps=5",
    "trainer.refill=2",
    "trainer.eval_every=0",
    "trainer.checkpoint_every=2",
    "tracking.backends=",
)


def settings(run_dir: Path, *words: str) -> Config:
    return resolve([*SETTINGS, f"run.dir={run_dir}", *words], job="test")


def learner(weights: int = 1) -> FakeLearner:
    return FakeLearner(lambda name: None, FakeRollout(lambda name: None), weights)


def write_checkpoints(run_dir: Path, *steps: int) -> RunCheckpoints:
    checkpoints = RunCheckpoints(run_dir / "checkpoints", 9, identity(settings(run_dir)))
    for step in steps:
        asyncio.run(checkpoints.save(learner(), {"course": "first"}, step))
    return checkpoints


def damage(run_dir: Path, step: int) -> None:
    (run_dir / "checkpoints" / f"step-{step:06d}" / "learner" / "numbers.json").write_text("[0, 0]")


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def chosen(config: Config) -> Checkpoint:
    found = find_checkpoint(config)
    assert found is not None
    return found


# --- the scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ("rl_twitter15", "subset: twitter15"),
        ("rl_twitter17", "subset: twitter17"),
        ("rl_gmner", "task: gmner"),
        ("rl_fmnerg", "task: fmnerg"),
    ],
)
def test_a_script_takes_its_posts_from_a_data_set_wherever_that_is_named(
    script: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text(f"extends: mini\ndata: {{root: {tmp_path}}}\n")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", f"preset={preset}", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(f"{Path(rl.__file__).parent}/{script}.py", run_name="__main__")
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and f"root: {tmp_path}" in shown and f"  {asked}\n" in shown


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_step_that_is_saved_already_stays_as_it_is(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, 2)
    asyncio.run(checkpoints.save(learner(weights=99), {"course": "second"}, 2))
    found = chosen(settings(tmp_path))
    assert found.state["course"] == "first"
    assert (found.folder / "learner" / "numbers.json").read_text() == "[1, 0]"


def test_a_learner_that_cannot_save_leaves_no_checkpoint(tmp_path: Path) -> None:
    class Full(FakeLearner):
        async def save(self, folder: Path) -> None:
            await super().save(folder)
            raise OSError("no space left on device")

    checkpoints = write_checkpoints(tmp_path, 2)
    with pytest.raises(OSError, match="no space"):
        asyncio.run(checkpoints.save(Full(lambda name: None, FakeRollout(lambda name: None)), {}, 4))
    assert names(tmp_path) == ["step-000002"]


def test_auto_takes_the_newest_or_starts_afresh(tmp_path: Path) -> None:
    assert find_checkpoint(settings(tmp_path)) is None
    write_checkpoints(tmp_path, 2, 10, 4)
    assert chosen(settings(tmp_path)).step == 10
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000010"]


def test_never_refuses_a_folder_that_holds_checkpoints(tmp_path: Path) -> None:
    assert find_checkpoint(settings(tmp_path, "trainer.resume=never")) is None
    write_checkpoints(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"choose another run\.dir"):
        find_checkpoint(settings(tmp_path, "trainer.resume=never"))


def test_a_damaged_checkpoint_makes_way_for_the_one_of_the_step_run_again(tmp_path: Path) -> None:
    """It must neither stand in for the new one nor be kept in place of a good one."""
    write_checkpoints(tmp_path, 2, 4)
    damage(tmp_path, 4)
    assert chosen(settings(tmp_path)).step == 2
    assert names(tmp_path) == ["aside-1-step-000004", "step-000002"]
    last = RunCheckpoints(tmp_path / "checkpoints", 1, identity(settings(tmp_path)))
    asyncio.run(last.save(learner(), {"course": "second"}, 4))
    assert chosen(settings(tmp_path)).state["course"] == "second"


def test_going_back_to_an_older_checkpoint_sets_the_later_ones_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoints(tmp_path, 2, 4, 6)
    back = settings(tmp_path, f"trainer.resume={tmp_path}/checkpoints/step-000002")
    with caplog.at_level(logging.WARNING):
        assert chosen(back).step == 2
    assert "aside-1-step-000006" in caplog.text
    write_checkpoints(tmp_path, 4)
    assert chosen(back).step == 2
    assert names(tmp_path) == ["aside-1-step-000004", "aside-1-step-000006", "aside-2-step-000004", "step-000002"]


def test_another_run_s_checkpoint_is_left_where_it_is(tmp_path: Path) -> None:
    """One of the same step in this run's own folder is another course: it would be taken for this run's."""
    write_checkpoints(tmp_path / "first", 2, 4)
    write_checkpoints(tmp_path / "second", 1, 2)
    found = chosen(settings(tmp_path / "second", f"trainer.resume={tmp_path}/first/checkpoints/step-000002"))
    assert found.folder == tmp_path / "first" / "checkpoints" / "step-000002"
    assert names(tmp_path / "first") == ["step-000002", "step-000004"]
    assert names(tmp_path / "second") == ["aside-1-step-000002", "step-000001"]


# --- other settings -------------------------------------------------------------------------------


def test_a_run_made_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    """Not for the table of a finished run either: it would be shown as that of the new settings."""
    write_checkpoints(tmp_path, 2, 5)
    damage(tmp_path, 5)
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(settings(tmp_path, "reward.preset=release", "learner.lr=0.5"))
    for words in (
        f"{tmp_path}/checkpoints/step-000002",
        "reward.preset=paper (now release)",
        f"learner.lr={settings(tmp_path).learner.lr} (now 0.5)",
        "choose another run.dir, or start anew with trainer.resume=never after removing its checkpoints",
    ):
        assert words in str(refused.value)
    assert str(refused.value).count("(now") == 2
    assert names(tmp_path) == ["step-000002", "step-000005"], "nothing is set aside for a run that does not start"
    with pytest.raises(CheckpointError, match=r"data\.subset=all \(now twitter17\).*model\.path=RUN/policy"):
        chosen(settings(tmp_path / "b", f"trainer.resume={tmp_path}/checkpoints/step-000002", "data.subset=twitter17"))


def test_other_versions_are_named_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoints(tmp_path, 2)
    made_with = chosen(settings(tmp_path)).state["versions"]
    assert {"torch", "ray", "transformers"} <= made_with.keys() and not caplog.records
    monkeypatch.setattr(run_checkpoints, "versions", lambda: {**made_with, "torch": "9.9"})
    assert chosen(settings(tmp_path)).step == 2
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith(f"go on differently: torch {made_with['torch']} → 9.9")


def test_a_flipped_byte_in_the_newest_checkpoint_makes_the_run_go_on_from_the_one_before(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 2, 4)
    file = tmp_path / "checkpoints" / "step-000004" / "learner" / "numbers.json"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert chosen(settings(tmp_path)).step == 2
    assert names(tmp_path) == ["aside-1-step-000004", "step-000002"]
    write_checkpoints(tmp_path, 4)
    assert chosen(settings(tmp_path)).step == 4


@pytest.mark.parametrize("what", ["save", "export"])
def test_a_full_disk_ends_no_run_and_costs_no_other_checkpoint(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(FakeLearner):
        async def save(self, folder: Path) -> None:
            await super().save(folder)
            if what == "save":
                raise RuntimeError("a rank failed: No space left on device")

        async def export(self, folder: Path, dtype: str = "float32") -> None:
            raise RuntimeError("a rank failed: No space left on device")

    write_checkpoints(tmp_path, 2)
    store = RunCheckpoints(tmp_path / "checkpoints", 9, identity(settings(tmp_path)), export_best=True)
    saved = store.save(Full(lambda name: None, FakeRollout(lambda name: None)), {"best": {"step": 4, "value": 0.5}}, 4)
    if what == "save":
        with pytest.raises(NoRoom):
            asyncio.run(saved)
        assert names(tmp_path) == ["step-000002"]
    else:
        asyncio.run(saved)
        assert names(tmp_path) == ["best.json", "step-000002", "step-000004"]
        assert f"python launch/export.py run={tmp_path} which=best" in caplog.text


def test_a_longer_run_on_another_machine_goes_on(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 2)
    free = ("trainer.total_steps=9", "trainer.eval_every=4", "rollout.workers=3", "learner.ranks=2")
    assert chosen(settings(tmp_path, *free, "reward.workers=2", "tracking.backends=tensorboard")).step == 2
    with pytest.raises(CheckpointError, match=r"learner\.decay_steps=\d+ \(now 900\)"):  # other rates than those taken
        chosen(settings(tmp_path, *free, "learner.decay_steps=900"))


def test_a_checkpoint_that_does_not_name_its_settings_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    asyncio.run(store.save(2, {"course": "first"}, lambda folder: learner().save(folder / "learner")))
    with pytest.raises(CheckpointError, match="does not say with which settings it was made"):
        find_checkpoint(config)


def test_a_refused_run_ends_with_one_sentence_before_anything_is_started_or_written(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_ray(**options: Any) -> None:
        raise AssertionError("Ray was started")

    words = [*SETTINGS, f"run.dir={tmp_path}"]
    assert job.run(settings(tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("ray.init", no_ray)
    monkeypatch.setattr(sys, "argv", ["rl_test.py", *words, "reward.preset=release"])
    assert rl.main("test") == REFUSED
    assert capsys.readouterr().err.startswith(
        f"test: checkpoint {tmp_path}/checkpoints/step-000005 was made with other"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert json.loads((tmp_path / "config.json").read_text())["reward"]["preset"] == "paper"


# --- its Ray --------------------------------------------------------------------------------------


class Ray:
    """Ray's beginning and end, as the job asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up, self.cpus, self.folder = False, 0, Path()
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("ray.init", self.begin)
        monkeypatch.setattr("ray.shutdown", self.end)

    def begin(self, **options: Any) -> None:
        self.up, self.cpus, self.folder = True, options["num_cpus"], Path(options["_temp_dir"])

    def end(self) -> None:
        self.up = False


@pytest.mark.parametrize(
    ("error", "status"), [(None, 0), (SearchSpent("no credit is left"), SPENT), (RuntimeError("a bug"), None)]
)
def test_a_ray_of_its_own_lasts_as_long_as_the_job_however_that_ends(
    error: Exception | None, status: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Ray(monkeypatch)

    async def job(config: Config, resumed: Checkpoint | None) -> int:
        assert started.up and started.folder.is_dir()
        if error is not None:
            raise error
        return 0

    monkeypatch.setattr(rl, "run_job", job)
    words = [*SETTINGS, f"run.dir={tmp_path}", "rollout.workers=1", "rollout.cpus_per_worker=2"]
    monkeypatch.setattr(sys, "argv", ["rl_test.py", *words, "rollout.autoscale=1:1"])
    if status is None:
        with pytest.raises(RuntimeError, match="a bug"):
            rl.main("test")
    else:
        assert rl.main("test") == status
    assert not started.up and not started.folder.exists()
    fixed = started.cpus
    monkeypatch.setattr(sys, "argv", ["rl_test.py", *words, "rollout.autoscale=1:4"])
    with contextlib.suppress(RuntimeError):
        rl.main("test")
    assert started.cpus == fixed + 3 * 2  # room for the workers that may join


# --- stopping -------------------------------------------------------------------------------------


class Ended(Exception):
    """The work's own end."""


@dataclass
class Work:
    """Something to be awaited that says how it ended."""

    cancelled: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # taking down actors takes a while
            self.cancelled = True
            raise
        raise Ended


async def test_a_stop_before_training_cancels_and_waits_for_the_taking_down() -> None:
    stop, training, work = asyncio.Event(), asyncio.Event(), Work()
    stop.set()
    with pytest.raises(StopRequested, match="nothing was trained"):
        await rl._until(stop, training, work.run())
    assert work.cancelled


async def test_a_stop_while_training_leaves_the_end_to_the_trainer() -> None:
    stop, training, work = asyncio.Event(), asyncio.Event(), Work()
    training.set()
    waiting = asyncio.create_task(rl._until(stop, training, work.run()))
    stop.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done() and not work.cancelled
    work.gate.set()
    with pytest.raises(Ended):
        await waiting


async def test_without_a_stop_the_work_s_own_end_counts() -> None:
    work = Work()
    work.gate.set()
    with pytest.raises(Ended):
        await rl._until(asyncio.Event(), asyncio.Event(), work.run())
    await rl._until(asyncio.Event(), asyncio.Event(), asyncio.sleep(0))


# --- the whole job --------------------------------------------------------------------------------


@dataclass
class Job:
    """`run_job` with fakes for what needs Ray; `happening` is called at each of their events."""

    patch: pytest.MonkeyPatch
    events: list[str] = field(default_factory=list)
    running: int = 0

    def run(self, config: Config, happening: Callable[[str], None] = lambda name: None) -> int:
        self.events.clear()

        def note(name: str) -> None:
            self.events.append(name)
            happening(name)

        async def starting_point(config: Config, data: DataSet, display: Any) -> Start:
            note("cold start")
            for _ in range(20):
                await asyncio.sleep(0)
            return Start(Path("model"), data.train, None)

        @asynccontextmanager
        async def running_pools(config: Config, **places: Path) -> AsyncIterator[Pools]:
            rollout = SlowRollout(note)
            self.running += 1
            try:
                yield cast(Pools, _Pools(rollout, FakeRewards(note), FakeLearner(note, rollout)))
            finally:
                self.running -= 1

        for name, stand_in in (
            ("starting_point", starting_point),
            ("running_pools", running_pools),
            ("watched", unwatched),
            ("load_data", lambda config: DataSet(POSTS, HELD_OUT, Path("data"), {})),
            ("draw_curves", lambda rows, path, title: path.write_bytes(b"")),
        ):
            self.patch.setattr(rl, name, stand_in)
        status = asyncio.run(run_job(config, find_checkpoint(config)))
        assert self.running == 0, "actors were left behind"
        return status


class SlowRollout(FakeRollout):
    """Takes enough turns of the event loop for a signal to be noticed before the group is there."""

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        group = await super().rollout(example, seeds=seeds, greedy=greedy)
        for _ in range(20):
            await asyncio.sleep(0)
        return group


@asynccontextmanager
async def unwatched(config: Config, run_dir: Path, pools: Pools) -> AsyncIterator[Any]:
    """As `launch.control.watched`, with nobody there to watch."""

    async def beside(work: Any) -> Any:
        return await work

    yield SimpleNamespace(beside=beside, stepped=lambda metrics: None)


@dataclass
class _Pools:
    rollout: FakeRollout
    rewards: FakeRewards
    learner: FakeLearner
    search: None = None


def signal_at(job: Job, event: str, count: int, number: int) -> Callable[[str], None]:
    """Send this process a signal at the `count`-th event of that name, as `ray job stop` or Ctrl-C would."""

    def happening(name: str) -> None:
        if name == event and job.events.count(event) == count:
            signal.raise_signal(number)

    return happening


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(monkeypatch)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("event", "count", "kept"),
    # "save" is the periodic checkpoint: the signal comes while it is being written.
    [("rollout", 1, 0), ("rollout", 4, 1), ("update", 3, 3), ("save", 1, 2)],
)
def test_a_signal_ends_the_job_with_a_checkpoint_and_the_same_command_goes_on(
    job: Job, tmp_path: Path, event: str, count: int, kept: int, number: int
) -> None:
    assert job.run(settings(tmp_path / "whole")) == 0
    stopped = settings(tmp_path / "stopped")
    assert job.run(stopped, signal_at(job, event, count, number)) == STOPPED
    assert chosen(stopped).step == kept
    assert not (tmp_path / "stopped" / "policy").exists()
    assert job.run(stopped) == 0
    assert Outcome.of(tmp_path / "stopped") == Outcome.of(tmp_path / "whole")
    policies = [(tmp_path / name / "policy" / "weights").read_text() for name in ("whole", "stopped")]
    assert policies[0] == policies[1]


def lose_ranks_at(job: Job, event: str, *counts: int) -> Callable[[str], None]:
    """A rank dies at these of the events of that name, and what the ranks held is gone."""
    seen = [0]

    def happening(name: str) -> None:
        seen[0] += name == event
        if name == event and seen[0] in counts:
            raise LearnerLost(f"learner-1 died in {event}")

    return happening


@pytest.mark.parametrize(
    ("event", "counts"),
    [("update", (1,)), ("update", (2, 5)), ("publish", (4,)), ("save", (1,)), ("update", (3, 4, 5))],
)
def test_lost_ranks_go_on_from_the_last_checkpoint_as_if_nothing_had_happened(
    job: Job, tmp_path: Path, event: str, counts: tuple[int, ...]
) -> None:
    assert job.run(settings(tmp_path / "whole")) == 0
    assert job.run(settings(tmp_path / "lost"), lose_ranks_at(job, event, *counts)) == 0
    assert job.events.count("restart") == len(counts)
    assert job.events.count("cold start") == 1, "the pools were started again"
    assert Outcome.of(tmp_path / "lost") == Outcome.of(tmp_path / "whole")


def test_a_disk_that_stays_full_ends_the_job_with_a_sentence_and_its_own_status(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def happening(name: str) -> None:
        if name == "save" and job.events.count("save") > 1:
            raise NoRoom("no room for a checkpoint")

    config = settings(tmp_path)
    with caplog.at_level(logging.ERROR):
        assert job.run(config, happening) == FULL
    assert "Make room; the same command then goes on" in caplog.text
    assert chosen(config).step == 2
    assert job.run(config) == 0
    assert Outcome.of(tmp_path).step == 5


def test_ranks_that_are_lost_again_and_again_end_the_job(job: Job, tmp_path: Path) -> None:
    with pytest.raises(LearnerLost, match="learner-1 died in update"):
        job.run(settings(tmp_path, "learner.max_restarts=2"), lose_ranks_at(job, "update", *range(3, 99)))
    assert job.events.count("restart") == 2
    assert chosen(settings(tmp_path)).step == 2


def test_a_signal_during_the_cold_start_ends_the_job_at_once(job: Job, tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert job.run(config, signal_at(job, "cold start", 1, signal.SIGTERM)) == STOPPED
    assert job.events == ["cold start"]
    assert find_checkpoint(config) is None


def test_a_first_evaluation_is_not_made_twice(job: Job, tmp_path: Path) -> None:
    """A stop in the first step's rollout leaves a checkpoint of step 0, whose evaluation is in the log already."""
    config = settings(tmp_path, "trainer.eval_every=2")
    assert job.run(config, signal_at(job, "rollout", 1, signal.SIGTERM)) == STOPPED
    assert job.run(config) == 0
    outcome = Outcome.of(tmp_path)
    assert [row["step"] for row in outcome.metrics if "eval/posts" in row] == [0, 2, 4, 5]
    assert [row["step"] for row in outcome.evaluations] == [0, 0, 2, 2, 4, 4, 5, 5]


def test_a_job_that_is_done_says_so_and_trains_nothing_until_it_is_to_be_longer(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path)
    assert job.run(config) == 0
    before = Outcome.of(tmp_path)
    assert "nothing is left to train" not in caplog.text
    with caplog.at_level(logging.INFO):
        assert job.run(config) == 0
    assert "step-000005 is of step 5, trainer.total_steps=5: nothing is left to train" in caplog.text
    assert job.events == ["cold start", "publish"]
    assert Outcome.of(tmp_path) == before
    assert job.run(settings(tmp_path, "trainer.total_steps=7")) == 0
    assert job.run(settings(tmp_path / "whole", "trainer.total_steps=7")) == 0
    longer, whole = Outcome.of(tmp_path), Outcome.of(tmp_path / "whole")
    del longer.state["best"], whole.state["best"]  # the shorter run has evaluated its last step
    assert (longer.learner, longer.state, longer.trajectories) == (whole.learner, whole.state, whole.trajectories)


# --- the best policy and the guard ----------------------------------------------------------------


def best(run_dir: Path) -> dict[str, Any]:
    """What names the best checkpoint, after checking that the policy beside it is that one's."""
    note = json.loads((run_dir / "checkpoints" / "best.json").read_text())
    assert json.loads((run_dir / "best_policy" / "best.json").read_text()) == note
    weights, _ = json.loads((run_dir / "checkpoints" / note["checkpoint"] / "learner" / "numbers.json").read_text())
    assert (run_dir / "best_policy" / "weights").read_text() == str(weights)
    return cast(dict[str, Any], note)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out scores that tell one evaluation from another."""
    monkeypatch.setattr(training, "held_out_scores", share_right)


EVALUATED = ("trainer.eval_every=1", "trainer.checkpoint_every=4", "trainer.keep_checkpoints=1")


@pytest.mark.usefixtures("scores")
def test_the_best_policy_is_that_of_the_best_evaluation_however_the_run_was_cut(job: Job, tmp_path: Path) -> None:
    assert job.run(settings(tmp_path / "whole", *EVALUATED)) == 0
    whole = best(tmp_path / "whole")
    evaluated = {row["step"]: row["eval/gmner_f1"] for row in Outcome.of(tmp_path / "whole").metrics}
    assert set(evaluated) == {0, 1, 2, 3, 4, 5}
    assert whole["value"] == max(evaluated.values()) == evaluated[whole["step"]]
    assert 0 < whole["step"] < 5, "the best was the first or the last"
    assert names(tmp_path / "whole") == ["best.json", whole["checkpoint"], "step-000005"]
    for event, count in (("greedy", 3), ("greedy", 7), ("save", 2), ("update", 3), ("rollout", 7)):
        cut = settings(tmp_path / f"{event}-{count}", *EVALUATED)
        assert job.run(cut, signal_at(job, event, count, signal.SIGTERM)) == STOPPED
        assert job.run(cut) == 0
        assert best(cut.run_dir) == whole


@pytest.mark.usefixtures("scores")
def test_a_run_killed_between_a_checkpoint_and_the_policy_makes_up_for_it(job: Job, tmp_path: Path) -> None:
    config = settings(tmp_path, *EVALUATED)
    assert job.run(settings(tmp_path, *EVALUATED, "trainer.total_steps=1", "trainer.export_best=false")) == 0
    assert not (tmp_path / "best_policy").exists()
    assert chosen(config).state["best"] is not None
    assert job.run(config) == 0
    best(tmp_path)


@pytest.mark.usefixtures("scores")
def test_going_back_before_the_best_takes_its_policy_out_of_the_way(job: Job, tmp_path: Path) -> None:
    config = settings(tmp_path, *EVALUATED, "trainer.keep_checkpoints=9")
    assert job.run(config) == 0
    first = best(tmp_path)
    back = settings(tmp_path, *EVALUATED, "trainer.total_steps=1", f"trainer.resume={tmp_path}/checkpoints/step-000000")
    assert job.run(back) == 0
    assert best(tmp_path)["step"] < first["step"]
    assert json.loads((tmp_path / "aside-1-best_policy" / "best.json").read_text()) == first


def test_a_collapse_ends_the_job_with_its_own_status_and_a_checkpoint(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The episodes never search."""
    config = settings(tmp_path, "guard.action=stop")
    assert job.run(config) == COLLAPSED
    assert "stopped after step 3 by the guard (search_died): 0.0% of the episodes" in caplog.text
    assert chosen(config).step == 3
    (alert,) = (json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines())
    assert (alert["step"], alert["name"], alert["action"]) == (3, "search_died", "stop")


def test_a_warning_is_on_the_run_s_report_and_no_search_is_missed_where_none_is_allowed(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert job.run(settings(tmp_path, "trainer.eval_every=5")) == 0
    (done,) = (message for message in caplog.messages if message.startswith("done: "))
    for words in ("search_died  step 3: 0.0% of the episodes", "cold start", "RL step 5", "best"):
        assert words in done
    without = settings(tmp_path / "b", "episode.text_searches=0", "episode.image_searches=0", "model.path=tests")
    assert job.run(without) == 0
    assert Outcome.of(tmp_path / "b").alerts == []


def test_a_failure_ends_the_job_with_its_error_and_no_actor_left(job: Job, tmp_path: Path) -> None:
    def happening(name: str) -> None:
        if job.events.count("update") == 3:
            raise Ended

    with pytest.raises(Ended):
        job.run(settings(tmp_path), happening)
    assert job.running == 0
    assert chosen(settings(tmp_path)).step == 2
