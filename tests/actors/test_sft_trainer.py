"""Supervised runs on Ray Train: one curve however many ranks, and whatever is killed in between.

What would go unseen otherwise: steps trained twice or left out after a restart, rows of a course that was given up,
half a checkpoint taken for a whole one, a policy of other data or settings taken for this one's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from actors import sft_trainer
from actors.sft_files import CHECKPOINTS, METRICS, PLAN, STOP, Outcome
from actors.sft_trainer import SftError, _mend, _Watch, fine_tune
from sake_ray.coldstart.teaching import Demonstration, TaughtTurn
from sake_ray.config.config import Config
from sake_ray.prompts import load_prompts
from sake_ray.trainer.checkpoint import CheckpointError, CheckpointStore
from sake_ray.trainer.trainer import StopRequested
from tests.actors import sft_case as case
from tests.actors.learner_case import free_port
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def quick_ray_train() -> Iterator[None]:
    """Looks at its workers more often than every two seconds, and starts no actor that watches for drained nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sft") / "model")


@pytest.fixture(scope="module")
def whole(local_ray: None, model: Path) -> Path:
    """A run on one rank that nobody disturbed."""
    case.train(case.settings(), model, model.parent / "whole")
    return model.parent / "whole"


def assert_same_curve(one: Path, other: Path, tolerance: float) -> None:
    """Step for step, every value of every row."""
    rows, others = case.curve(one), case.curve(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, another in zip(rows, others, strict=True):
        assert row.keys() == another.keys()
        assert row == pytest.approx(another, abs=tolerance, rel=tolerance)


def train_workers(root: psutil.Process) -> list[psutil.Process]:
    """Ray Train's workers below a process, by rank 0's place last to first started."""
    found = [child for child in root.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline()[:1])]
    return sorted(found, key=lambda process: process.create_time())


def test_an_undisturbed_run_learns_measures_and_leaves_a_policy(whole: Path, model: Path) -> None:
    rows = case.curve(whole)
    total = len(rows) - 1
    assert total >= 10
    assert [row["step"] for row in rows] == list(range(total + 1))
    measured = [row["step"] for row in rows if "eval/loss" in row]
    assert measured == sorted({0, *range(3, total + 1, 3), total})
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"] - 0.5
    assert rows[-1]["train/loss"] < rows[1]["train/loss"] - 0.5
    rates = [row["train/lr"] for row in rows[1:]]
    assert rates == pytest.approx([0.001 * (1 - step / total) for step in range(total)])
    plan = json.loads((whole / PLAN).read_text())
    assert (plan["steps"], plan["trained"], plan["held_out"]) == (total, 10, 2)
    names = [path.name for path in sorted((whole / CHECKPOINTS).glob("step-*"))]
    assert names == [f"step-{total - total % 2 - 2 * (1 - total % 2):06d}", f"step-{total:06d}"]


def test_the_policy_loads_in_transformers_and_differs_from_its_base(whole: Path, model: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    trained, base = (
        dict(Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).named_parameters())
        for folder in (whole / "policy", model)
    )
    assert trained.keys() == base.keys()
    assert not any(torch.equal(trained[name], base[name]) for name in trained if "embed" in name or "mlp" in name)
    assert AutoProcessor.from_pretrained(whole / "policy").tokenizer.eos_token == "<|im_end|>"


def test_a_finished_run_is_not_run_again(whole: Path, model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    told: list[int] = []
    result = case.train(case.settings(), model, whole, on_step=lambda step, total, row: told.append(step))
    assert result.policy == whole / "policy"
    assert (result.steps, result.trained, result.held_out) == (len(case.curve(whole)) - 1, 10, 2)
    assert result.metrics["eval/loss"] == case.curve(whole)[-1]["eval/loss"]
    assert told == []
    left = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.name != PLAN}
    assert left == {path: when for path, when in before.items() if path.name != PLAN}


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_take_the_same_course_as_one(whole: Path, model: Path) -> None:
    """Every step is told once, and the steps that ran again after the kill give the rows they would have given."""
    killed: list[int] = []
    told: list[int] = []

    def on_step(step: int, total: int, row: Mapping[str, float]) -> None:
        told.append(step)
        if step >= 5 and not killed:
            workers = train_workers(psutil.Process())
            assert len(workers) == 2
            workers[-1].send_signal(signal.SIGKILL)
            killed.append(step)

    run_dir = model.parent / "two"
    case.train(case.settings("learner.ranks=2"), model, run_dir, on_step=on_step)
    assert killed and killed[0] < len(case.curve(whole)) - 1, "the kill came too late to show anything"
    assert json.loads((run_dir / PLAN).read_text())["from_step"] > 0
    assert told == [row["step"] for row in case.curve(whole)[1:]]
    assert_same_curve(run_dir, whole, 1e-5)


@pytest.mark.slow
def test_a_job_killed_whole_ends_with_the_curve_of_an_undisturbed_one(
    local_ray: None, whole: Path, model: Path
) -> None:
    run_dir = model.parent / "killed"
    kill_job(model, run_dir)
    assert 3 <= max(case.steps(run_dir)) < len(case.curve(whole)) - 1, "the kill came too late to show anything"
    (run_dir / CHECKPOINTS / sft_trainer._SNAPSHOT).write_text('{"ray_ver')  # killed while writing it
    case.train(case.settings(), model, run_dir)
    assert json.loads((run_dir / PLAN).read_text())["from_step"] >= 2
    assert_same_curve(run_dir, whole, 0.0)


def kill_job(model: Path, run_dir: Path) -> None:
    """Run a job with a Ray of its own, and kill all of it once it has trained a few steps and has a checkpoint."""
    ray_dir = tempfile.mkdtemp(prefix="sr-")
    command = [sys.executable, "-m", "tests.actors.sft_case", str(model), str(run_dir), ray_dir, "1"]
    job = psutil.Popen(command, cwd=case.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(case.steps(run_dir)) < 5 or not list((run_dir / CHECKPOINTS).glob("step-*")):
            assert job.poll() is None and time.monotonic() < deadline, "the job did not get to train"
            time.sleep(0.02)
    finally:
        family = [job, *job.children(recursive=True)]
        for process in family:
            if process.is_running():
                process.send_signal(signal.SIGKILL)
        job.wait()
        psutil.wait_procs(family, timeout=20)
        shutil.rmtree(ray_dir, ignore_errors=True)


# --- without ranks ----------------------------------------------------------------------------------------


def refusal(run_dir: Path, model: Path, *words: str, **options: object) -> str:
    with pytest.raises(SftError) as caught:
        case.train(case.settings(*words), model, run_dir, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_other_settings_data_or_model_are_refused_with_what_differs(whole: Path, model: Path, tmp_path: Path) -> None:
    assert "sft.lr (0.001 then, 0.5 now)" in refusal(whole, model, "sft.lr=0.5")
    assert "other inputs: demonstrations." in refusal(whole, model, taught=case.demonstrations(11))
    other = shutil.copytree(model, tmp_path / "model")
    (other / "generation_config.json").write_text("{}")
    assert "other inputs: model." in refusal(whole, other)
    assert "nothing to learn" in refusal(tmp_path / "run", model, taught=[])


def test_a_folder_of_another_job_is_left_alone(tmp_path: Path, model: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n')
    assert "belongs to another job (metrics.jsonl" in refusal(tmp_path, model)
    assert (tmp_path / METRICS).read_text() == '{"step": 1}\n'
    assert not (tmp_path / "sft.json").exists()


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A rank in this process, and the checkpoints that it reports to a Ray Train that is not there."""
    import torch
    from ray import train

    from actors.learner import start_process_group

    reported: list[str] = []
    monkeypatch.setattr(train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(train, "report", lambda metrics, **_: reported.append(metrics["checkpoint"]))
    threads = torch.get_num_threads()
    start_process_group(0, 1, "127.0.0.1", free_port())
    yield reported
    torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)


def task_of(model: Path, run_dir: Path, *taught: Demonstration) -> sft_trainer.SftTask:
    return sft_trainer.SftTask(case.settings(), model, run_dir, load_prompts("gmner", "compact"), taught, {})


def test_a_stopped_rank_keeps_its_step_and_goes_on_from_there(
    one_rank: list[str], whole: Path, model: Path, tmp_path: Path
) -> None:
    from actors.sft_worker import run_rank

    task = task_of(model, tmp_path, *case.demonstrations())
    (tmp_path / STOP).touch()
    assert run_rank(task) == Outcome(1, stopped=True)
    assert run_rank(task) == Outcome(2, stopped=True)
    assert one_rank == ["step-000001", "step-000001", "step-000002"], "what Ray Train has not heard of is said again"
    assert not (tmp_path / "policy").exists()
    (tmp_path / STOP).unlink()
    assert run_rank(task) == Outcome(len(case.curve(whole)) - 1)
    assert_same_curve(tmp_path, whole, 1e-6)
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_a_demonstration_that_cannot_be_trained_on_is_no_reason_to_try_again(
    one_rank: list[str], model: Path, tmp_path: Path
) -> None:
    """An exception would have Ray Train start the ranks anew, as after a crash."""
    from actors.sft_worker import run_rank

    bad = replace(case.demonstration(0), turns=(TaughtTurn("I would rather not."),))
    outcome = run_rank(task_of(model, tmp_path, *case.demonstrations(), bad))
    assert outcome.refused == "post post-0: the demonstration ends as malformed at turn 1 of 1, not in an answer"
    assert names(tmp_path) == [".lock"]


def test_what_the_ranks_refuse_is_said(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
    answer.set_result(Outcome(refused="post p1: too long"))
    monkeypatch.setattr(sft_trainer, "_start", lambda task: answer)
    assert refusal(tmp_path, model) == "post p1: too long"


def write_checkpoints(folder: Path, *steps: int) -> None:
    store = CheckpointStore(folder, keep=9)
    for step in steps:
        with store.begin(step, {}) as pending:
            (pending / "learner").mkdir()
            (pending / "learner" / "numbers").write_text("1")
    results = [{"checkpoint_dir_name": f"step-{step:06d}", "metrics": {}} for step in steps]
    (folder / sft_trainer._SNAPSHOT).write_text(json.dumps({"checkpoint_results": results}))


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] if "aside" in path.name else path.name for path in folder.iterdir())


def test_what_is_whole_stays_as_it_is(tmp_path: Path) -> None:
    _mend(tmp_path / "nothing")
    write_checkpoints(tmp_path, 2, 4)
    before = names(tmp_path)
    _mend(tmp_path)
    assert names(tmp_path) == before == ["checkpoint_manager_snapshot.json", "step-000002", "step-000004"]


def test_a_damaged_checkpoint_is_set_aside_with_the_snapshot_that_names_it(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 2, 4)
    (tmp_path / "step-000004" / "learner" / "numbers").write_text("0")
    _mend(tmp_path)
    assert names(tmp_path) == ["aside", "aside", "step-000002"]
    (tmp_path / "step-000002" / "learner" / "numbers").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        _mend(tmp_path)


@pytest.mark.parametrize("content", ["", '{"checkpoint_res', "[]", '{"checkpoint_results": [{}]}'])
def test_a_snapshot_that_was_cut_off_is_set_aside(tmp_path: Path, content: str) -> None:
    write_checkpoints(tmp_path, 2)
    (tmp_path / sft_trainer._SNAPSHOT).write_text(content)
    _mend(tmp_path)
    assert names(tmp_path) == ["aside", "step-000002"]


def test_rows_are_told_once_and_whole_ones_only(tmp_path: Path, model: Path) -> None:
    told: list[tuple[int, int, float]] = []
    task = sft_trainer.SftTask(case.settings(), model, tmp_path, None, (), {})  # type: ignore[arg-type]
    watch = _Watch(task, lambda step, total, row: told.append((step, total, row["train/loss"])), None)
    path = tmp_path / METRICS
    path.write_text('{"step": 9, "train/loss": 0.5}\n')  # of an earlier call, not yet cut
    assert not watch._begun()
    (tmp_path / PLAN).write_text('{"steps": 4}')
    assert watch._begun()

    def now(*steps: int, half: str = "") -> None:
        lines = "".join(f'{{"step": {step}, "train/loss": {step}.0}}\n' for step in steps)
        (tmp_path / "new").write_text(lines + half)
        os.replace(tmp_path / "new", path)
        watch._tell()

    now(0, 1, half='{"step": 2, "tr')
    with path.open("a") as file:
        file.write('ain/loss": 2.0}\n')
    watch._tell()
    now(0, 1)  # a restart from step 1
    now(0, 1, 2, 3)
    assert told == [(1, 4, 1.0), (2, 4, 2.0), (3, 4, 3.0)]


def test_a_stop_before_anything_was_trained_waits_for_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
    monkeypatch.setattr(sft_trainer, "_start", lambda task: never)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StopRequested, match="nothing was trained"):
        case.train(case.settings(), model, tmp_path, stop=stop)


async def test_cancelling_asks_for_the_end_and_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def run(config: Config, *, stop: threading.Event, **paths: object) -> None:
        assert stop.wait(10)
        time.sleep(0.1)
        ended.append("with a checkpoint")
        raise StopRequested("stopped")

    monkeypatch.setattr(sft_trainer, "run_sft", run)
    task = asyncio.create_task(fine_tune(case.settings(), model=tmp_path, data=tmp_path, run_dir=tmp_path))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["with a checkpoint"]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors import sft_worker

    monkeypatch.setattr(sft_worker, "LOCK_WAIT_S", 0.2)
    with sft_worker._sole_writer(tmp_path):
        other = sft_worker._sole_writer(tmp_path)
        with pytest.raises(sft_worker.SftRefused, match="another job is training"):
            other.__enter__()
    with sft_worker._sole_writer(tmp_path):
        pass
