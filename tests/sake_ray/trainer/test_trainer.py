"""The training loop: what a step trains on, how a run ends early, and that going on changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sake_ray.config.guard_section import GuardConfig
from sake_ray.trainer.trainer import Best, Collapsed, StopRequested
from tests.sake_ray.trainer import fakes
from tests.sake_ray.trainer.fakes import GROUPS, SETTINGS, Outcome, Run, rows

LOGS = ("metrics.jsonl", "trajectories.jsonl", "eval_trajectories.jsonl", "alerts.jsonl", "timeline.jsonl")


class Crash(Exception):
    """Something broke."""


def crash_at(number: int) -> Callable[[int, str, Run], None]:
    def at(now: int, name: str, run: Run) -> None:
        if now == number:
            raise Crash(name)

    return at


def stop_at(number: int) -> Callable[[int, str, Run], None]:
    def at(now: int, name: str, run: Run) -> None:
        if now == number:
            run.trainer.request_stop()

    return at


def stop_in(event: str, count: int) -> Callable[[int, str, Run], None]:
    """Ask for a stop at the `count`-th event of this name."""

    def at(now: int, name: str, run: Run) -> None:
        if name == event and run.events.count(event) == count:
            run.trainer.request_stop()

    return at


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What six steps without a break leave behind."""
    folder = tmp_path_factory.mktemp("whole")

    async def run() -> None:
        await (await Run.start(folder)).trainer.run()

    asyncio.run(run())
    return Outcome.of(folder)


# --- going on -------------------------------------------------------------------------------------


async def test_the_run_the_others_are_compared_with_is_no_trivial_one(whole: Outcome) -> None:
    assert [row["step"] for row in whole.metrics] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in whole.metrics if "eval/gmner_f1" in row] == [0, 3, 6]
    assert any(row.get("rollout/zero_signal_groups") for row in whole.metrics), "no refill ever happened"
    assert len({row["eval/gmner_f1"] for row in whole.metrics if "eval/gmner_f1" in row}) == 3
    assert whole.state["sampler"]["epoch"] >= 1, "the order of a later epoch never mattered"
    assert [row["name"] for row in whole.alerts] == ["search_died"] and whole.alerts[0]["step"] == 3
    assert whole.state["best"]["step"] == 3, "the best evaluation was the first or the last"


async def test_three_steps_and_three_more_equal_six(tmp_path: Path, whole: Outcome) -> None:
    await (await Run.start(tmp_path, replace(SETTINGS, total_steps=3))).trainer.run()
    second = await Run.start(tmp_path)
    await second.trainer.run()
    assert second.display.steps == [4, 5, 6]
    assert Outcome.of(tmp_path) == whole


@settings(max_examples=25)
@given(crashes=st.lists(st.integers(0, 60), min_size=1, max_size=3), cut=st.integers(0, 40))
async def test_crashes_anywhere_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, whole: Outcome, crashes: list[int], cut: int
) -> None:
    """Rows of steps after the last checkpoint, and half a line at the end of a log, are gone once it goes on."""
    folder = tmp_path_factory.mktemp("crashed")
    half = '{"step": 1, "post": "…'.encode()[: cut or None]
    for number in crashes:
        run = await Run.start(folder, at=crash_at(number))
        try:
            await run.trainer.run()
        except* Crash:
            for name in LOGS:
                with (folder / name).open("ab") as file:
                    file.write(half)
    await (await Run.start(folder)).trainer.run()
    assert Outcome.of(folder) == whole


@settings(max_examples=25)
@given(stops=st.lists(st.integers(0, 60), min_size=1, max_size=4))
async def test_stops_anywhere_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, whole: Outcome, stops: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    for number in stops:
        run = await Run.start(folder, at=stop_at(number))
        try:
            await run.trainer.run()
        except StopRequested:
            continue
    await (await Run.start(folder)).trainer.run()
    left = Outcome.of(folder)
    if left.state["unevaluated"] is not None:  # of the last step: no later checkpoint says what it was evaluated to
        assert left.state["best"]["step"] == 3
        left.state["unevaluated"] = None
    assert left == whole


@pytest.mark.parametrize(("count", "step"), [(3, 3), (5, 6)])  # HELD_OUT has two posts
async def test_an_evaluation_that_was_cut_off_is_made_up_for_even_if_the_run_then_breaks(
    tmp_path: Path, whole: Outcome, count: int, step: int
) -> None:
    run = await Run.start(tmp_path, at=stop_in("greedy", count))
    with pytest.raises(StopRequested, match=f"after step {step}, before its evaluation"):
        await run.trainer.run()
    second = await Run.start(tmp_path, at=crash_at(4))
    if step == 3:
        with pytest.raises(Crash):
            await second.trainer.run()
    await (await Run.start(tmp_path)).trainer.run()
    left = Outcome.of(tmp_path)
    assert (left.metrics, left.evaluations, left.learner) == (whole.metrics, whole.evaluations, whole.learner)


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "count", "kept"),
    [
        ("rollout", 1, 0),  # the first step samples: nothing is trained yet
        ("greedy", 3, 3),  # HELD_OUT has two posts: the evaluation after step 3
        ("update", 3, 3),
        ("publish", 5, 4),  # the first one is before step 1
        ("save", 1, 0),  # that of the untrained policy
        ("save", 2, 2),
    ],
)
async def test_a_stop_keeps_every_step_that_has_been_trained(tmp_path: Path, event: str, count: int, kept: int) -> None:
    run = await Run.start(tmp_path, at=stop_in(event, count))
    with pytest.raises(StopRequested):
        await run.trainer.run()
    assert run.learner.updates == kept
    left = Outcome.of(tmp_path)
    assert left.step == kept
    logged = kept + 1 if left.state["unevaluated"] is None else kept  # the row of a step waits for its evaluation
    assert [row["step"] for row in left.metrics] == list(range(logged))
    assert {row["step"] for row in left.trajectories} == set(range(1, kept + 1))


async def test_a_step_whose_rollout_was_stopped_samples_the_same_when_run_again(tmp_path: Path) -> None:
    """The posts that were taken for a step that never happened are not lost."""
    whole = await Run.start(tmp_path / "whole")
    await whole.trainer.run()
    first = await Run.start(tmp_path / "stopped", at=stop_in("rollout", 6))
    with pytest.raises(StopRequested):
        await first.trainer.run()
    kept = len(rows(tmp_path / "stopped" / "trajectories.jsonl")) // GROUPS.group_size
    assert 0 < kept < len(first.rollout.asked)
    second = await Run.start(tmp_path / "stopped")
    await second.trainer.run()
    assert first.rollout.asked[:kept] + second.rollout.asked == whole.rollout.asked


async def test_a_stop_asked_for_between_two_steps_saves_first(tmp_path: Path) -> None:
    run = await Run.start(tmp_path)
    run.trainer.on_step = lambda progress, metrics: run.trainer.request_stop() if progress.step == 1 else None
    with pytest.raises(StopRequested, match="after step 1"):
        await run.trainer.run()
    assert Outcome.of(tmp_path).step == 1


async def test_a_stop_in_the_last_step_leaves_only_its_evaluation_to_do(tmp_path: Path, whole: Outcome) -> None:
    run = await Run.start(tmp_path, at=stop_in("update", 6))
    with pytest.raises(StopRequested):
        await run.trainer.run()
    assert Outcome.of(tmp_path).step == 6
    second = await Run.start(tmp_path)
    await second.trainer.run()
    assert set(second.events) == {"publish", "greedy"}
    assert Outcome.of(tmp_path).metrics == whole.metrics


async def test_a_stop_before_anything_was_trained_or_sampled_starts_over(tmp_path: Path, whole: Outcome) -> None:
    run = await Run.start(tmp_path, at=stop_in("greedy", 1))
    with pytest.raises(StopRequested):
        await run.trainer.run()
    assert not (tmp_path / "checkpoints").exists()
    await (await Run.start(tmp_path)).trainer.run()
    assert Outcome.of(tmp_path) == whole


# --- the guard ------------------------------------------------------------------------------------


async def test_the_guard_stops_a_run_with_a_checkpoint_and_its_reason(tmp_path: Path) -> None:
    """These episodes never search: three steps of that are a collapse."""
    stopping = GuardConfig(action="stop")
    run = await Run.start(tmp_path, guarded=stopping)
    with pytest.raises(Collapsed, match=r"after step 3 by the guard \(search_died\): 0.0% of the episodes"):
        await run.trainer.run()
    left = Outcome.of(tmp_path)
    assert (left.step, [row["step"] for row in left.metrics]) == (3, [0, 1, 2, 3])
    assert [(row["step"], row["name"], row["action"]) for row in left.alerts] == [(3, "search_died", "stop")]
    assert left.metrics[-1]["train/alerts"] == 1.0
    again = await Run.start(tmp_path, guarded=stopping)
    await again.trainer.run()  # its patience runs out in the last step, which ends the run anyway
    assert [row["step"] for row in Outcome.of(tmp_path).alerts] == [3, 6]


async def test_a_guard_that_warns_changes_nothing_but_the_log(tmp_path: Path, whole: Outcome) -> None:
    run = await Run.start(tmp_path, guarded=GuardConfig(action="off"))
    await run.trainer.run()
    left = Outcome.of(tmp_path)
    assert (left.learner, left.trajectories, left.evaluations) == (
        whole.learner,
        whole.trajectories,
        whole.evaluations,
    )
    assert left.alerts == [] and whole.alerts


async def test_a_step_that_is_not_finite_stops_at_the_checkpoint_before_it(tmp_path: Path) -> None:
    class Diverged(fakes.FakeLearner):
        async def update(self, trajectories: Any) -> Any:
            return {**await super().update(trajectories), "train/grad_norm": float("nan")}

    run = await Run.start(tmp_path, guarded=GuardConfig(action="stop"))
    run.trainer.learner = Diverged(lambda name: None, run.rollout)
    with pytest.raises(Collapsed, match=r"not_finite.*train/grad_norm=nan"):
        await run.trainer.run()
    left = Outcome.of(tmp_path)
    assert (left.step, [row["name"] for row in left.alerts]) == (0, ["not_finite"])


async def test_an_update_that_breaks_on_a_number_leaves_the_reason_on_the_report(tmp_path: Path) -> None:
    class Broken(fakes.FakeLearner):
        async def update(self, trajectories: Any) -> Any:
            raise FloatingPointError("the gradient norm is nan")

    run = await Run.start(tmp_path)
    run.trainer.learner = Broken(lambda name: None, run.rollout)
    with pytest.raises(FloatingPointError):
        await run.trainer.run()
    (alert,) = rows(tmp_path / "alerts.jsonl")
    assert alert["name"] == "not_finite" and "the gradient norm is nan" in alert["message"]


# --- the best checkpoint --------------------------------------------------------------------------


async def test_the_best_evaluation_has_a_checkpoint_of_its_step_that_is_never_pruned(tmp_path: Path) -> None:
    """Step 3 is none of every second one; the newest two are kept besides."""
    run = await Run.start(tmp_path)
    await run.trainer.run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000003",
        "step-000004",
        "step-000006",
    ]
    evaluated = {row["step"]: row["eval/gmner_f1"] for row in Outcome.of(tmp_path).metrics if "eval/gmner_f1" in row}
    assert run.trainer.best == Best(3, max(evaluated.values()))


async def test_of_equal_evaluations_the_earlier_is_the_best(tmp_path: Path) -> None:
    run = await Run.start(tmp_path, replace(SETTINGS, best_by="eval/posts", checkpoint_every=0))
    await run.trainer.run()
    assert run.trainer.best == Best(0, float(len(fakes.HELD_OUT)))
    assert [step for step, name in run.display.phases if name == "checkpoint"] == [6]


async def test_who_was_busy_when_is_written_once_and_in_order(tmp_path: Path) -> None:
    run = await Run.start(tmp_path)
    await run.trainer.run()
    drawn = rows(tmp_path / "timeline.jsonl")
    assert [row["step"] for row in drawn] == sorted(row["step"] for row in drawn)
    by_name = {
        name: [row["step"] for row in drawn if row["name"] == name] for name in ("update", "evaluate", "publish")
    }
    assert by_name == {"update": [1, 2, 3, 4, 5, 6], "evaluate": [0, 3, 6], "publish": [1, 2, 3, 4, 5, 6]}
    assert [row["step"] for row in drawn if row["name"] == "checkpoint"] == [0, 2, 3, 4, 6]
    assert {row["step"] for row in drawn if row["name"] == "score"} == {1, 2, 3, 4, 5, 6}
    assert all(row["begin_s"] <= row["end_s"] for row in drawn)


# --- a step ---------------------------------------------------------------------------------------


async def test_every_group_has_its_own_seeds_and_is_sampled_by_the_weights_of_its_step(tmp_path: Path) -> None:
    run = await Run.start(tmp_path, posts=fakes.POSTS[:2])  # a post comes up twice in a step
    await run.trainer.run()
    seeds = [seed for _, _, group in run.rollout.asked for seed in group]
    assert len(seeds) == len(set(seeds)) == GROUPS.group_size * len(run.rollout.asked)
    assert all(t.oldest_version == update for update, batch in enumerate(run.learner.trained) for t in batch), (
        "a step trained on what older weights had sampled"
    )


async def test_new_weights_are_published_before_anything_else_is_sampled(tmp_path: Path) -> None:
    run = await Run.start(tmp_path)
    await run.trainer.run()
    assert run.events[:3] == ["publish", "greedy", "greedy"]
    after_update = [after for before, after in itertools.pairwise(run.events) if before == "update"]
    assert after_update == ["publish"] * 6
    assert [name for step, name in run.display.phases if step == 6] == [
        "rollout",
        "update",
        "publish",
        "eval",
        "checkpoint",
    ]


async def test_advantages_are_those_of_the_trajectory_s_own_group(tmp_path: Path) -> None:
    run = await Run.start(tmp_path, replace(SETTINGS, total_steps=2))
    await run.trainer.run()
    checked = 0
    for batch in run.learner.trained:
        for _, members in itertools.groupby(batch, key=lambda t: t.example.id):
            group = list(members)
            earned = [t.token_ids[-1] / 100 for t in group]
            assert [t.reward.total for t in group if t.reward] == earned
            mean, spread = statistics.mean(earned), statistics.stdev(earned) + 1e-6
            assert [t.advantage for t in group] == pytest.approx([(r - mean) / spread for r in earned])
            checked += len(group)
    assert checked == 2 * GROUPS.groups_per_step * GROUPS.group_size


async def test_groups_without_signal_are_replaced_counted_and_never_trained(tmp_path: Path) -> None:
    run = await Run.start(tmp_path)
    await run.trainer.run()
    for step, batch in enumerate(run.learner.trained, start=1):
        metrics = rows(tmp_path / "metrics.jsonl")[step]
        assert not any(t.example.id.startswith("flat") for t in batch)
        assert len(batch) == GROUPS.groups_per_step * GROUPS.group_size
        logged = [row["example"] for row in rows(tmp_path / "trajectories.jsonl") if row["step"] == step]
        flat = sum(name.startswith("flat") for name in logged)
        assert metrics["rollout/zero_signal_groups"] * GROUPS.group_size == flat
        assert metrics["rollout/groups"] * GROUPS.group_size == len(logged) - flat
        assert metrics["train/skipped"] == 0.0


async def test_a_step_without_any_signal_trains_nothing_and_says_so(tmp_path: Path) -> None:
    flat = [post for post in fakes.POSTS if post.id.startswith("flat")]
    run = await Run.start(tmp_path, replace(SETTINGS, total_steps=2), posts=flat)
    progress = await run.trainer.run()
    assert len(run.rollout.asked) == 2 * (GROUPS.groups_per_step + GROUPS.refills)
    assert (run.learner.updates, run.events.count("update"), run.events.count("publish")) == (0, 0, 1)
    assert (progress.step, progress.policy_version) == (2, 0)
    assert progress.examples_seen == len(run.rollout.asked)
    last = rows(tmp_path / "metrics.jsonl")[-1]
    assert (last["train/skipped"], last["rollout/groups"], last["train/policy_version"]) == (1.0, 0.0, 0.0)


async def test_refill_gives_up_after_a_while_and_trains_on_what_there_is(tmp_path: Path) -> None:
    posts = [fakes.make_post(name) for name in ("a", *(f"flat-{i}" for i in range(40)))]
    run = await Run.start(tmp_path, replace(SETTINGS, total_steps=21), posts=posts)
    await run.trainer.run()
    sizes = [len(batch) for batch in run.learner.trained]
    assert sizes and set(sizes) == {GROUPS.group_size}
    assert run.trainer.progress.policy_version == len(sizes) < 21


async def test_a_step_says_what_its_own_rollout_took_of_the_engines(tmp_path: Path) -> None:
    run = await Run.start(tmp_path)
    await run.trainer.run()
    metrics = rows(tmp_path / "metrics.jsonl")[1:]
    for row in metrics:  # what evaluations sample between the steps is no step's
        groups = row["rollout/groups"] + row["rollout/zero_signal_groups"]
        assert row["rollout/generated_tokens"] == groups * GROUPS.group_size * row["rollout/sampled_tokens"]
    assert sum(row["rollout/generated_tokens"] for row in metrics) < run.rollout.tokens


async def test_the_times_of_a_step_are_whole_the_checkpoint_before_it_included(tmp_path: Path) -> None:
    class Slow(fakes.FakeLearner):
        async def save(self, folder: Path) -> None:
            await asyncio.sleep(0.03)
            await super().save(folder)

    run = await Run.start(tmp_path, replace(SETTINGS, best_by=""))
    run.trainer.learner = Slow(lambda name: None, run.rollout)
    await run.trainer.run()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:]
    assert [row["step"] for row in logged if row.get("time/checkpoint_s", 0.0) >= 0.03] == [3, 5]
    phases = ("rollout", "advantage", "update", "publish", "eval", "checkpoint")
    for row in logged:
        assert row["time/step_s"] == pytest.approx(sum(row.get(f"time/{phase}_s", 0.0) for phase in phases))


async def test_the_checkpoint_rhythm_and_zero_for_only_at_the_end(tmp_path: Path) -> None:
    every = await Run.start(tmp_path / "every", replace(SETTINGS, best_by=""))
    await every.trainer.run()
    assert [step for step, name in every.display.phases if name == "checkpoint"] == [2, 4, 6]
    end = await Run.start(tmp_path / "end", replace(SETTINGS, eval_every=0, checkpoint_every=0))
    await end.trainer.run()
    assert [phase for phase in end.display.phases if phase[1] in ("eval", "checkpoint")] == [
        (6, "eval"),
        (6, "checkpoint"),
    ]
    assert [row["step"] for row in rows(tmp_path / "end" / "metrics.jsonl") if "eval/posts" in row] == [6]


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", fakes.EVENTS)
async def test_a_failure_ends_the_run_with_its_own_error(tmp_path: Path, event: str) -> None:
    def at(now: int, name: str, run: Run) -> None:
        if name == event:
            raise Crash(f"{event} broke")

    run = await Run.start(tmp_path, at=at)
    broke: list[BaseException] = []
    try:
        await run.trainer.run()
    except* Crash as errors:
        broke = list(errors.exceptions)
    assert broke and all(f"{event} broke" in repr(error) for error in broke)


async def test_a_reward_for_fewer_trajectories_than_there_are_ends_the_run(tmp_path: Path) -> None:
    class Short(fakes.FakeRewards):
        async def score(self, trajectories: Any) -> Any:
            return (await super().score(trajectories))[:-1]

    run = await Run.start(tmp_path)
    run.trainer.producer._rewards = Short(lambda name: None)
    with pytest.raises(ValueError):
        await run.trainer.run()
    assert run.learner.updates == 0


async def test_a_step_whose_loss_is_not_a_number_leaves_no_checkpoint(tmp_path: Path) -> None:
    class Diverged(fakes.FakeLearner):
        async def update(self, trajectories: Any) -> Any:
            return {**await super().update(trajectories), "train/loss": float("nan") if self.updates == 4 else 0.0}

    run = await Run.start(tmp_path)
    run.trainer.learner = Diverged(lambda name: None, run.rollout)
    with pytest.raises(ValueError, match="train/loss=nan"):
        await run.trainer.run()
    assert Outcome.of(tmp_path).step == 3
