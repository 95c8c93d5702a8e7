"""`make train`: ports that are free and never the same twice; a signal at any time leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from launch import make_train
from launch.make_train import STOPPED, TWICE_S, Stop, free_ports
from tests.launch import made_train


def test_taken_ports_are_replaced_by_different_free_ones() -> None:
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        wanted = [one.getsockname()[1], two.getsockname()[1]]
        ports = free_ports(wanted)
    assert len({*ports, *wanted}) == 4


def test_a_signal_sent_twice_at_once_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = Stop()
    stop.check()
    for later in (0.0, 0.01, TWICE_S, 0.01):
        now += later
        stop(signal.SIGINT, None)
    assert stop.asked == 2
    with pytest.raises(SystemExit) as ended:
        stop.check()
    assert ended.value.code == STOPPED


class Client:
    """A job client whose job ends as its status says, or never."""

    def __init__(self, stop: Stop, asked: list[int], ends_when_stopped: bool) -> None:
        self.stop, self.asked, self.ends_when_stopped = stop, asked, ends_when_stopped
        self.submitted = self.stopped = 0

    def submit_job(self, **job: Any) -> str:
        self.submitted += 1
        return "job-1"

    def get_job_status(self, job_id: str) -> Any:
        from ray.job_submission import JobStatus

        self.stop.asked = self.asked.pop(0) if self.asked else self.stop.asked
        return JobStatus.STOPPED if self.stopped and self.ends_when_stopped else JobStatus.RUNNING

    def get_job_info(self, job_id: str) -> Any:
        return type("Info", (), {"message": "stopped"})

    def stop_job(self, job_id: str) -> None:
        self.stopped += 1

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "a line\n"
        await asyncio.sleep(1000 if not self.ends_when_stopped else 0)


@pytest.mark.parametrize(("asked", "ends"), [([0, 1], True), ([0, 1, 1, 2], False)])
def test_a_second_request_no_longer_waits_for_a_job_that_hangs_in_stopping(
    asked: list[int], ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Stop()
    client = Client(stop, asked, ends)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: client)
    status = asyncio.run(asyncio.wait_for(make_train.run("http://head", [], tmp_path, stop), 30))
    assert (status, client.submitted, client.stopped) == (STOPPED, 1, 1)
    assert ("not waiting for the job any longer" in caplog.text) is not ends


def test_a_stop_before_there_is_a_job_submits_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()

    def not_yet(address: str) -> None:
        stop.asked += 1
        raise ConnectionError("the dashboard is not there yet")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", not_yet)
    with pytest.raises(SystemExit) as ended:
        asyncio.run(make_train.run("http://head", [], tmp_path, stop))
    assert (ended.value.code, stop.asked) == (STOPPED, 1)


@pytest.mark.integration
def test_a_signal_while_the_cluster_comes_up_takes_it_down_again(tmp_path: Path) -> None:
    with made_train.make_train(f"run.dir={tmp_path / 'run'}") as made:
        made.wait(lambda: any("gcs_server" in process.name() for process in made.descendants()), timeout_s=60)
        assert made.signal(signal.SIGTERM) == STOPPED, made.said()
        assert made.left_behind() == []
        assert "job:" not in made.said()
