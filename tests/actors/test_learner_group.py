"""The learner ranks as Ray actors: named, one answer for all ranks, parameters through the object store."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import ray

from actors.actor_state import LOST, SERVING
from actors.learner import LearnerSettings
from actors.learner_group import LearnerGroup
from actors.placement import Resources
from sake_ray.interfaces import LearnerLost
from sake_ray.trainer.checkpoint import CheckpointStore, NoRoom, lacks_room
from sake_ray.trajectory import Trajectory
from sake_ray.types import Box, Example, ImageRef
from tests.actors import learner_case as lc
from tests.small_disk import small_disk
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if not ray.is_initialized():
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LearnerSettings:
    model = make_tiny_model(tmp_path_factory.mktemp("group") / "model")
    return LearnerSettings(model, lc.LEARNER, lc.ALGORITHM, min_pixels=28 * 28, max_pixels=112 * 112)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def group(cluster: None, settings: LearnerSettings):  # type: ignore[no-untyped-def]
    made = LearnerGroup(settings, ranks=2, resources=Resources(cpus=1))
    await made.start()
    yield made
    made.shutdown()


def trajectories(settings: LearnerSettings) -> list[Trajectory]:
    """Scored trajectories whose pictures are drawn stand-ins, so that any process can read them."""
    made = []
    for sample in lc.make_samples(settings.model, 5):
        images = [
            ImageRef(ref.path, ref.width, ref.height, standin=((Box(2, 2, 40, 40), "PER"),)) for ref in sample.images
        ]
        post = ImageRef("", 56, 56, standin=())
        trajectory = Trajectory(
            sample.id,
            Example("post", "text", post, ()),
            token_ids=sample.token_ids.tolist(),
            loss_mask=sample.loss_mask.astype(int).tolist(),
            logprobs=sample.logprobs.tolist(),
            versions=np.where(sample.loss_mask, 0, -1).tolist(),
            images=images,
            advantage=sample.advantage,
        )
        made.append(trajectory)
    return made


async def test_a_cluster_without_room_says_what_is_needed(cluster: None, settings: LearnerSettings) -> None:
    # First, while no other group holds the names.
    large = LearnerGroup(settings, ranks=1, resources=Resources(cpus=64))
    with pytest.raises(RuntimeError, match=r"64 CPUs .* found no room"):
        await large.start(timeout_s=3)


async def test_a_step_a_checkpoint_and_an_export(
    group: LearnerGroup, settings: LearnerSettings, tmp_path: Path
) -> None:
    batch = trajectories(settings)
    await group.save(tmp_path / "before")
    metrics = await group.update(batch)
    assert metrics["train/tokens"] == sum(t.trained_tokens for t in batch)
    assert {"train/loss", "train/kl", "train/entropy", "train/grad_norm", "train/mismatch_mean"} <= metrics.keys()
    assert [(h["name"], h["step"]) for h in await group.health()] == [("learner-0", 1), ("learner-1", 1)]
    assert ray.get_actor("learner-1") is not None

    reference = await group.full_params()
    assert isinstance(reference, ray.ObjectRef)
    after = ray.get(reference)
    await group.load(tmp_path / "before")
    again = await group.update(batch)
    assert again["train/loss"] == metrics["train/loss"]
    repeated = ray.get(await group.full_params())
    assert all(np.array_equal(after[name], repeated[name]) for name in after)

    await group.export(tmp_path / "export")
    hf, _ = lc.load_plain(tmp_path / "export")
    assert all(np.array_equal(after[name], p.detach().numpy()) for name, p in hf.named_parameters())


async def test_a_supervised_step_takes_samples(group: LearnerGroup, settings: LearnerSettings) -> None:
    samples = lc.make_samples(settings.model, 3, images=False)
    first = await group.sft(samples)
    assert first["train/tokens"] == sum(sample.trained_tokens for sample in samples)
    assert (await group.sft(samples))["train/loss"] < first["train/loss"]
    with pytest.raises(ValueError, match="at least one sample"):
        await group.sft([])


async def test_bad_input_is_refused_before_any_rank_is_called(group: LearnerGroup, settings: LearnerSettings) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        await group.update([])
    unscored = trajectories(settings)[0]
    unscored.advantage = None
    with pytest.raises(ValueError, match="no advantage"):
        await group.update([unscored])


async def test_an_ended_group_leaves_its_names_to_the_next(group: LearnerGroup) -> None:
    group.shutdown()
    await group.start()
    assert [h["step"] for h in await group.health()] == [0, 0]


async def test_a_full_disk_costs_a_checkpoint_and_no_rank(
    group: LearnerGroup, settings: LearnerSettings, tmp_path: Path
) -> None:
    """Checkpoint and export by two ranks; whoever fails, all are ready for the next call."""
    with small_disk(tmp_path / "small", mib=1) as disk:
        store = CheckpointStore(disk / "checkpoints")
        with pytest.raises(NoRoom, match=f"step 1: {store.root} has"):
            await store.save(1, {}, lambda folder: group.save(folder / "learner"))
        assert list(store.root.iterdir()) == []
        with pytest.raises(Exception, match="No space left on device") as raised:
            await group.export(disk / "policy")
        assert lacks_room(raised.value) and [path.name for path in disk.iterdir()] == ["checkpoints"]
    store = CheckpointStore(tmp_path / "checkpoints")
    await store.save(1, {}, lambda folder: group.save(folder / "learner"))
    assert (await group.update(trajectories(settings)))["train/tokens"] > 0


async def test_a_rank_killed_in_a_step_is_told_at_once_and_the_group_goes_on_from_its_checkpoint(
    group: LearnerGroup, settings: LearnerSettings, tmp_path: Path
) -> None:
    work = trajectories(settings)
    await group.save(tmp_path / "before")
    undisturbed = await group.update(work)
    expected = ray.get(await group.full_params())
    pids = [rank["pid"] for rank in await group.health()]
    update = asyncio.ensure_future(group.update(work * 40))
    for _ in range(1000):
        if any(rank["busy"] == "update" for rank in await group.health()):
            break
    os.kill(pids[1], signal.SIGKILL)
    async with asyncio.timeout(60):  # gloo alone would wait for 900 s
        with pytest.raises(LearnerLost, match="a learner rank is gone"):
            await update
        with pytest.raises(LearnerLost):
            await group.update(work)
    assert LOST in {state.state for state in await group.states()}
    await group.restart()
    await group.load(tmp_path / "before")
    assert [state.state for state in await group.states()] == [SERVING, SERVING]
    again = await group.update(work)
    assert again["train/grad_norm"] == undisturbed["train/grad_norm"]
    found = ray.get(await group.full_params())
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
